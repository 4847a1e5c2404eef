"""Order, lifetimes, graphs, threads and errors of running plans; numbers are those of ONNX Runtime."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import CUDA_VERSIONS, TENSORRT_VERSIONS, World

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines import Engine, open_engine
from edgeage.runtime.engines.tensorrt.arrays import DeviceArray
from edgeage.runtime.engines.tensorrt.choose import open_tensorrt
from edgeage.runtime.engines.tensorrt.libraries import load_libraries
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


@pytest.mark.parametrize("tensorrt", TENSORRT_VERSIONS)
@pytest.mark.parametrize("cuda", CUDA_VERSIONS)
def test_every_pair_of_versions_builds_and_runs(
    monkeypatch: pytest.MonkeyPatch, folder: Path, shipped: Bundle, tensorrt: str, cuda: str
) -> None:
    """The fakes have the recorded names only: whatever the code touches is there."""
    world = World(tensorrt, cuda).install(monkeypatch)
    engine = open_engine(shipped, "encoder", "tensorrt")
    expected = open_engine(shipped, "encoder", "onnxruntime").run({"image": image()})
    np.testing.assert_array_equal(engine.run({"image": image()})["z"], expected["z"])
    assert f"in TensorRT {tensorrt} on Orin, int8" in engine.description
    assert "CUDA graph" in engine.description
    assert world.builds == 1


def test_the_order_of_a_run(world: World, encoder: TensorrtEngine) -> None:
    names = world.names()
    start = names.index("create_execution_context")
    assert names[start:] == [
        "create_execution_context",
        "set_tensor_address", "set_tensor_address",
        "execute_async_v3", "cudaStreamSynchronize",  # warm-up, before the capture
        "cudaStreamBeginCapture", "execute_async_v3", "cudaStreamEndCapture", "cudaGraphInstantiate",
    ]  # fmt: skip
    world.calls.clear()
    encoder.run({"image": image()})
    assert world.names() == [
        "cudaMemcpyAsync", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaStreamSynchronize"
    ]  # fmt: skip
    up, down = (call for call in world.calls if call[0] == "cudaMemcpyAsync")
    assert (up[4].name, down[4].name) == ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost")
    assert (up[3], down[3]) == (3 * 64 * 64 * 4, 400)


def test_memory_is_allocated_once_and_outputs_are_copies(world: World, encoder: TensorrtEngine) -> None:
    first = encoder.run({"image": image(1)})["z"]
    kept = first.copy()
    world.calls.clear()
    second = encoder.run({"image": image(2)})["z"]
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)
    assert not {"cudaMalloc", "cudaHostAlloc", "create_execution_context"} & set(world.names())


def test_what_is_on_the_device_already_is_not_sent_again(world: World, encoder: TensorrtEngine) -> None:
    encoder.run({"image": image(1)})
    world.calls.clear()
    same = encoder.run({"image": image(1).copy()})
    assert world.count()["cudaMemcpyAsync"] == 1  # the output
    assert np.array_equal(same["z"], encoder.run({"image": image(1)})["z"])
    encoder.run({"image": image(2)})
    assert world.count()["cudaMemcpyAsync"] == 4


def test_what_a_network_wrote_over_is_sent_again(world: World, shipped: Bundle, workshop: Opener) -> None:
    """z is the encoder's output and the generator's input: one buffer."""
    pipeline = DevicePipeline(shipped, "int8", workshop())
    z = np.ones((1, 100), np.float32)
    pipeline.z.upload(z, pipeline._stream)
    pipeline._encode.launch()
    world.calls.clear()
    pipeline.z.upload(z, pipeline._stream)
    assert world.count()["cudaMemcpyAsync"] == 1
    pipeline.close()


def test_everything_is_freed_in_order_when_it_closes(world: World, encoder: TensorrtEngine) -> None:
    assert len(world.memory) == 4
    world.calls.clear()
    encoder.close()
    gc.collect()
    assert world.names() == [
        "cudaGraphExecDestroy", "cudaGraphDestroy", "context deleted", "cudaStreamDestroy",
        "cudaFreeHost", "cudaFree", "cudaFreeHost", "cudaFree",
    ]  # fmt: skip
    assert not world.memory
    encoder.close()  # twice is once


def test_an_engine_that_is_dropped_frees_itself(world: World, shipped: Bundle, workshop: Opener) -> None:
    engine = open_tensorrt(shipped, "encoder", "int8", workshop=workshop())
    assert world.memory
    del engine
    gc.collect()
    assert not world.memory


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaHostAlloc", "cudaStreamCreate"])
@pytest.mark.parametrize("succeed", [0, 1])
def test_what_was_allocated_is_freed_when_the_rest_fails(
    world: World, shipped: Bundle, workshop: Opener, function: str, succeed: int
) -> None:
    world.fail[function] = 0 if function == "cudaStreamCreate" else succeed
    with pytest.raises(EdgeageError, match=r"cudaErrorMemoryAllocation \(out of memory\).*memory is full"):
        open_tensorrt(shipped, "encoder", "int8", workshop=workshop())
    gc.collect()
    assert not world.memory


@pytest.mark.parametrize(
    ("refused", "said"), [("context", "no memory for the encoder"), ("enqueue", "invalid")]
)
def test_tensorrt_refuses_to_run(
    world: World, shipped: Bundle, workshop: Opener, refused: str, said: str
) -> None:
    world.refuse.add(refused)
    with pytest.raises(EdgeageError, match=said):
        open_tensorrt(shipped, "encoder", "int8", workshop=workshop())
    gc.collect()
    assert not world.memory
    assert world.count()["cudaStreamCreate"] == world.count()["cudaStreamDestroy"]


@pytest.mark.parametrize("how", ["capture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_without_a_graph_it_runs_all_the_same_and_says_so(
    world: World, shipped: Bundle, workshop: Opener, how: str
) -> None:
    if how == "capture":
        world.refuse.add(how)
    else:
        world.fail[how] = 0
    engine = open_tensorrt(shipped, "encoder", "int8", workshop=workshop())
    assert "no CUDA graph (" in engine.description
    assert world.count()["cudaStreamEndCapture"] == 1  # the stream must not stay in capture
    assert world.count()["cudaGetLastError"] == 1
    expected = open_engine(shipped, "encoder", "onnxruntime").run({"image": image()})["z"]
    assert np.array_equal(engine.run({"image": image()})["z"], expected)
    assert world.count()["cudaGraphLaunch"] == 0


def test_a_run_that_fails_is_told_and_the_next_one_works(world: World, encoder: TensorrtEngine) -> None:
    world.fail["cudaStreamSynchronize"] = 0
    with pytest.raises(EdgeageError, match="CUDA"):
        encoder.run({"image": image()})
    del world.fail["cudaStreamSynchronize"]
    assert encoder.run({"image": image()})["z"].shape == (1, 100)


def test_each_thread_has_a_context_and_memory_of_its_own(world: World, encoder: TensorrtEngine) -> None:
    expected = [encoder.run({"image": image(seed)})["z"] for seed in range(4)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(20):
            if not np.array_equal(encoder.run({"image": image(seed)})["z"], expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert world.count()["create_execution_context"] == 5
    assert len({call[1] for call in world.calls if call[0] == "execute_async_v3"}) == 5
    encoder.close()
    gc.collect()
    assert not world.memory


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "takes image"),
        ({"image": np.zeros((1, 64, 64, 3), np.float32)}, "float32"),
        ({"image": np.full((1, 3, 64, 64), np.nan, np.float32)}, "NaN"),
    ],
)
def test_wrong_feeds_are_refused(encoder: TensorrtEngine, feeds: dict, said: str) -> None:
    with pytest.raises(EdgeageError, match=said):
        encoder.run(feeds)


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


# Opening ----------------------------------------------------------------------------------------


def test_without_tensorrt_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, shipped: Bundle) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EdgeageError, match=r"not installed.*system-site-packages.*never pip install"):
        open_engine(shipped, "encoder", "tensorrt")


def test_without_cuda_python_the_error_names_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "cuda.cudart")
    with pytest.raises(EdgeageError, match="cuda-python is missing"):
        load_libraries()


def test_without_a_driver_it_is_one_line(
    world: World, monkeypatch: pytest.MonkeyPatch, shipped: Bundle, folder: Path
) -> None:
    def no_driver(self: object) -> None:  # what cuda-python 12.2 and 12.6 raise here
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(type(world.cuda), "_cudaGetDeviceCount", no_driver)
    with pytest.raises(EdgeageError, match=r"CUDA does not start: Failed to dlopen libcuda.so.1"):
        open_engine(shipped, "encoder", "tensorrt")


def test_a_photo_is_aged_through_the_session(
    world: World, shipped: Bundle, folder: Path, sample: Path
) -> None:
    """The detector too: a Jetson needs no other engine."""
    made = load(shipped, engine="tensorrt").age(sample, source_group="30-39")
    expected = load(shipped, engine="onnxruntime").age(sample, source_group="30-39")
    assert "TensorRT 10.3.0 on Orin" in made.engines["encoder"]
    assert np.array_equal(made.aged["60+"], expected.aged["60+"])
    again: Engine = load(shipped, engine="tensorrt").engine("encoder")
    assert "plan from the cache" in again.description


def test_a_plan_with_other_ports_is_refused(world: World, shipped: Bundle, workshop: Opener) -> None:
    from onnx import TensorProto, helper

    from edgeage.runtime.engines.tensorrt.choose import open_onnx

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 4]) for name in ("x", "y")]
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    with pytest.raises(EdgeageError, match="ports must be float32"):
        open_onnx(model.SerializeToString(), "toy", "toy.onnx", workshop())
