"""Arrays and faces that stay on the device."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import numpy as np
import pytest
from fake_tensorrt import World

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines.tensorrt.arrays import DeviceArray
from edgeage.runtime.engines.tensorrt.choose import open_tensorrt
from edgeage.runtime.engines.tensorrt.pipeline import DevicePipeline
from edgeage.runtime.engines.tensorrt.prepare import Workshop
from edgeage.runtime.engines.tensorrt.runner import TensorrtEngine
from edgeage.runtime.refinement import RefinementOptions
from edgeage.runtime.session import load

Opener = Callable[[], Workshop]


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)


@pytest.fixture
def encoder(world: World, shipped: Bundle, workshop: Opener) -> TensorrtEngine:
    return open_tensorrt(shipped, "encoder", "int8", workshop=workshop())


# Arrays on the device --------------------------------------------------------------------------


class OnDevice:
    """As torch and cupy show an array; its memory is the fake device's."""

    def __init__(self, world: World, values: np.ndarray, **changes: object) -> None:
        self.values = np.ascontiguousarray(values)
        address = self.values.ctypes.data
        world.memory[address] = self.values.view(np.uint8).reshape(-1)
        self.interface = {
            "shape": values.shape, "typestr": "<f4", "data": (address, False), "version": 3, **changes
        }  # fmt: skip

    @property
    def __cuda_array_interface__(self) -> dict:
        return self.interface


def test_an_array_on_the_device_is_read_where_it_is(world: World, encoder: TensorrtEngine) -> None:
    expected = encoder.run({"image": image(1)})["z"]
    encoder.run({"image": image(2)})
    given = OnDevice(world, image(1), stream=7)
    world.calls.clear()
    made = encoder.run_on_device({"image": given})["z"]
    assert world.count()["cudaMemcpyAsync"] == 0
    assert ("cudaStreamSynchronize", 7) in world.calls  # what writes to it has ended
    bound = [call[2] for call in world.calls if call[0] == "set_tensor_address"]
    assert bound[0] == given.values.ctypes.data
    assert bound[-1] != bound[0]  # the engine's own memory again
    names = world.names()  # it has ended before the address changes back
    last = len(names) - 1 - names[::-1].index("set_tensor_address")
    assert names[names.index("execute_async_v3") : last] == ["execute_async_v3", "cudaStreamSynchronize"]
    assert isinstance(made, DeviceArray)
    there = np.ctypeslib.as_array((ctypes.c_float * 100).from_address(made.address))
    assert np.array_equal(there, expected[0])
    assert made.__cuda_array_interface__["shape"] == (1, 100)
    # and the graph still runs on the engine's own memory
    assert np.array_equal(encoder.run({"image": image(1)})["z"], expected)


def test_arrays_go_from_engine_to_engine_on_the_device(
    world: World, shipped: Bundle, workshop: Opener
) -> None:
    shop = workshop()
    encoder = open_tensorrt(shipped, "encoder", "int8", workshop=shop)
    generator = open_tensorrt(shipped, "generator", "int8", workshop=shop)
    y = np.eye(6, dtype=np.float32)[:1]
    z = encoder.run({"image": image()})["z"]
    expected = generator.run({"z": z, "y": y})["image"]
    world.calls.clear()
    made = generator.run_on_device({"z": encoder.run_on_device({"image": image()})["z"], "y": y})["image"]
    down = [call for call in world.calls if call[0] == "cudaMemcpyAsync" and "ToHost" in call[4].name]
    assert down == []
    there = np.ctypeslib.as_array((ctypes.c_float * expected.size).from_address(made.address))
    assert np.array_equal(there, expected.ravel())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"typestr": "<f2"}, "given <f2"),
        ({"shape": (1, 64, 64, 3)}, r"given float32 \[1, 64, 64, 3\]"),
        ({"strides": (4, 4, 768, 12)}, "contiguous"),
    ],
)
def test_arrays_that_do_not_fit(world: World, encoder: TensorrtEngine, changes: dict, said: str) -> None:
    with pytest.raises(EdgeageError, match=said):
        encoder.run_on_device({"image": OnDevice(world, image(), **changes)})


def test_contiguous_strides_are_taken(world: World, encoder: TensorrtEngine) -> None:
    given = OnDevice(world, image(3), strides=(49152, 16384, 256, 4))
    encoder.run_on_device({"image": given})


class ByDlpack:
    """A tensor with DLPack alone, as jax gives it; `device` 2 is CUDA."""

    def __init__(self, values: np.ndarray, device: int = 2) -> None:
        self.values, self.device, self.streams = values, device, list[int]()
        self.shape = (ctypes.c_int64 * values.ndim)(*values.shape)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int) -> object:
        from edgeage.runtime.engines.tensorrt.arrays import _Tensor

        self.streams.append(stream)
        address = self.values.ctypes.data
        self.tensor = _Tensor(
            data=address, device_type=self.device, ndim=4, code=2, bits=32, lanes=1, shape=self.shape
        )
        make = ctypes.pythonapi.PyCapsule_New
        make.restype = ctypes.py_object
        make.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return make(ctypes.addressof(self.tensor), b"dltensor", None)


def test_dlpack_is_read_in_the_order_of_the_stream(world: World, encoder: TensorrtEngine) -> None:
    expected = encoder.run({"image": image(1)})["z"]
    given = ByDlpack(image(1))
    world.memory[given.values.ctypes.data] = given.values
    made = encoder.run_on_device({"image": given})["z"]
    there = np.ctypeslib.as_array((ctypes.c_float * 100).from_address(made.address))
    assert np.array_equal(there, expected[0])
    assert given.streams == [int(world.cuda._streams[next(iter(world.cuda._streams))])]


def test_dlpack_of_the_cpu_is_refused(world: World, encoder: TensorrtEngine) -> None:
    with pytest.raises(EdgeageError, match="not on a CUDA device"):
        encoder.run_on_device({"image": ByDlpack(image(), device=1)})


# A face on the device ---------------------------------------------------------------------------


def test_the_pipeline_is_the_session_without_the_round_trips(
    world: World, shipped: Bundle, workshop: Opener
) -> None:
    face = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    session = load(shipped, engine="tensorrt")
    z = session.encode(face)
    refined = session.refine(z, [2], face[None])
    expected = session.generate(refined.z).transpose(0, 3, 1, 2)
    pipeline = DevicePipeline(shipped, "int8", workshop())
    given = face[None].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1
    pipeline.age(given, 2)
    world.calls.clear()
    made = pipeline.age(given, 2)
    assert np.array_equal(made.refined.z, refined.z)
    assert np.array_equal(made.images, expected)
    moved = [call for call in world.calls if call[0] == "cudaMemcpyAsync"]
    up = [call[3] for call in moved if "ToDevice" in call[4].name]
    assert 3 * 64 * 64 * 4 not in up  # the face was there; z of each step is all that went up
    assert max(up) <= 6 * 100 * 4
    down = [call[3] for call in moved if "ToHost" in call[4].name]
    assert down.count(6 * 3 * 64 * 64 * 4) == 1
    pipeline.close()


def test_a_new_face_goes_up_once(world: World, shipped: Bundle, workshop: Opener) -> None:
    pipeline = DevicePipeline(shipped, "int8", workshop())
    world.calls.clear()
    pipeline.age(image(1), 0, RefinementOptions(steps=3))
    up = [call[3] for call in world.calls if call[0] == "cudaMemcpyAsync" and "ToDevice" in call[4].name]
    assert up.count(3 * 64 * 64 * 4) == 1
    unrefined = pipeline.age(image(1), 0, RefinementOptions(steps=0))
    assert unrefined.refined.evaluations == 0
    pipeline.close()
    gc.collect()


def test_a_pipeline_that_cannot_open_frees_what_it_has(
    world: World, shipped: Bundle, workshop: Opener
) -> None:
    shop = workshop()
    for name in ("encoder", "embedder", "generator", "generator_all", "refine"):
        shop.prepare(shipped, name, "int8")
    world.refuse.add("context")
    with pytest.raises(EdgeageError, match="no memory"):
        DevicePipeline(shipped, "int8", shop)
    gc.collect()
    assert not world.memory
