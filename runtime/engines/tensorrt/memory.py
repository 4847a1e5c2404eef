"""Memory of a port: pinned on the host, twin on the device, allocated once."""

from __future__ import annotations

import ctypes
import math
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.engines.tensorrt.libraries import checked

_BYTES = 4  # all ports are float32


class Buffer:
    """float32 of one shape, on the host and on the device.

    Attributes:
        shape: of the port.
        device: address on the device.
        host: pinned memory; what `download` brought, or `upload` took.
        uploads: copies to the device that were made; an upload of what is there already is none.
    """

    def __init__(self, cuda: Any, shape: tuple[int, ...], stack: ExitStack) -> None:
        """Freed when `stack` closes."""
        self.shape, self.uploads = shape, 0
        self._cuda, self._bytes = cuda, math.prod(shape) * _BYTES
        self.device: int = checked(cuda, cuda.cudaMalloc(self._bytes))
        stack.callback(cuda.cudaFree, self.device)
        pinned: int = checked(cuda, cuda.cudaHostAlloc(self._bytes, cuda.cudaHostAllocDefault))
        stack.callback(cuda.cudaFreeHost, pinned)
        view = (ctypes.c_float * math.prod(shape)).from_address(int(pinned))
        self.host: NDArray[np.float32] = np.frombuffer(memoryview(view), np.float32).reshape(shape)
        self._pinned = pinned
        self._held = False  # the device holds what the host does

    def upload(self, values: NDArray[np.float32], stream: Any) -> None:
        """Values to the device, in the order of `stream`; nothing moves if they are there already."""
        if self._held and np.array_equal(self.host, values):
            return
        self.host[...] = values
        direction = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        result = self._cuda.cudaMemcpyAsync(self.device, self._pinned, self._bytes, direction, stream)
        checked(self._cuda, result)
        self.uploads += 1
        self._held = True

    def download(self, stream: Any) -> None:
        """The device's values to `host`, which has them (and is equal) once the stream is synchronised."""
        direction = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        result = self._cuda.cudaMemcpyAsync(self._pinned, self.device, self._bytes, direction, stream)
        checked(self._cuda, result)
        self._held = True

    def written(self) -> None:
        """A network has written to the device: the host's values are old."""
        self._held = False
