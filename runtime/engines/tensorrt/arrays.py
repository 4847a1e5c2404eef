"""Arrays that lie on the device already: torch, cupy, jax tensors, by address and without a copy.

`__cuda_array_interface__` (version 3, as Numba defines it) is asked first, then DLPack (dmlc/dlpack, the
unversioned struct, which all of them still give).
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.runtime.engines.tensorrt.libraries import checked
from edgeage.runtime.manifest import Port

_ON_CUDA = (2, 13)  # DLPack's device types: CUDA, CUDA managed
_FLOAT = 2  # DLPack's type code


@dataclass(frozen=True)
class DeviceArray:
    """float32, C order, on the device; torch.as_tensor and cupy.asarray take it without a copy.

    Attributes:
        shape: sizes; address: on the device; owner: what keeps the memory.
    """

    shape: tuple[int, ...]
    address: int
    owner: Any

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        # no "stream": what wrote it was synchronised
        return {"shape": self.shape, "typestr": "<f4", "data": (self.address, False), "version": 3}


def is_on_device(value: Any) -> bool:
    """Whether it says that it lies on a CUDA device."""
    if hasattr(type(value), "__cuda_array_interface__"):
        # torch raises for tensors of the CPU
        return getattr(value, "__cuda_array_interface__", None) is not None
    return hasattr(value, "__dlpack_device__") and int(value.__dlpack_device__()[0]) in _ON_CUDA


def borrow(value: Any, port: Port, cuda: Any, stream: Any) -> DeviceArray:
    """The array's memory, readable in the order of `stream` for as long as the result lives.

    Raises EdgeageError unless it is float32, of the port's shape, and in C order.
    """
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None:
        array, kind, strides = _of_interface(value, interface, cuda)
    else:
        array, kind, strides = _of_dlpack(value, stream)
    if kind != "float32" or array.shape != port.shape:
        raise EdgeageError(
            f"the engine's input {port.name} is float32 {list(port.shape)}; "
            f"it was given {kind} {list(array.shape)} on the device"
        )
    if strides is not None and strides != _c_strides(port.shape):
        raise EdgeageError(f"the engine's input {port.name} must be contiguous; make it so: x.contiguous()")
    return array


def _of_interface(
    value: Any, interface: dict[str, Any], cuda: Any
) -> tuple[DeviceArray, str, tuple[int, ...] | None]:
    shape = tuple(interface["shape"])
    if (producing := interface.get("stream")) is not None:  # what still writes to it must end first
        checked(cuda, cuda.cudaStreamSynchronize(producing))
    kind = {"<f4": "float32", "|f4": "float32"}.get(interface["typestr"], interface["typestr"])
    strides = interface.get("strides")
    elements = None if strides is None else tuple(stride // 4 for stride in strides)
    return DeviceArray(shape, int(interface["data"][0]), value), kind, elements


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _of_dlpack(value: Any, stream: Any) -> tuple[DeviceArray, str, tuple[int, ...] | None]:
    """Reads the capsule without consuming it: the tensor is given back when the capsule dies."""
    capsule = value.__dlpack__(stream=int(stream))
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    if tensor.device_type not in _ON_CUDA:
        raise EdgeageError("the array is not on a CUDA device; give a NumPy array, or move it there")
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
    plain = (tensor.code, tensor.bits, tensor.lanes) == (_FLOAT, 32, 1)
    kind = "float32" if plain else f"type {tensor.code} of {tensor.bits} bits"
    return DeviceArray(shape, (tensor.data or 0) + tensor.byte_offset, capsule), kind, strides


def _c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """In elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
