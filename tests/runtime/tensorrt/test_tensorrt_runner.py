"""Order, lifetimes, graphs, threads and errors of running plans; numbers are those of ONNX Runtime."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import CUDA_VERSIONS
from fake_tensorrt import TENSORRT_VERSIONS, World

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.engines import Engine, open_engine
from edgeage.runtime.engines.tensorrt.choose import open_tensorrt
from edgeage.runtime.engines.tensorrt.libraries import load_libraries
from edgeage.runtime.engines.tensorrt.pipeline import DevicePipeline
from edgeage.runtime.engines.tensorrt.prepare import Workshop
from edgeage.runtime.engines.tensorrt.runner import TensorrtEngine
from edgeage.runtime.on_device.golden import check_golden, read_golden
from edgeage.runtime.session import load

MODEL = Path(__file__).parents[3] / "models" / "edge64.agebundle"

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


@pytest.mark.parametrize("versions", [("10.3.0", "12.6.0"), ("11.4.0.106", "13.2.0")])
@pytest.mark.parametrize(
    ("name", "precision"), [("encoder", "int8"), ("encoder", "float16"), ("generator", "int8")]
)
def test_typed_files_meet_the_golden_vectors(
    monkeypatch: pytest.MonkeyPatch, workshop: Opener, versions: tuple[str, str], name: str, precision: str
) -> None:
    """Their numbers are those of ONNX Runtime here, whose float16 stands in for TensorRT's."""
    bundle = open_bundle(MODEL)
    if not any("float16" in file.precision for file in bundle.manifest.engines[name].files):
        pytest.skip("SKIPPED, the shipped bundle has no typed files")
    World(*versions).install(monkeypatch)
    engine = open_tensorrt(bundle, name, precision, workshop=workshop())
    assert "strongly typed" in engine.description
    checks = check_golden(bundle, name, engine, precision, read_golden(bundle))
    assert all(check.ok for check in checks), checks


def test_a_plan_with_other_ports_is_refused(world: World, shipped: Bundle, workshop: Opener) -> None:
    from onnx import TensorProto, helper

    from edgeage.runtime.engines.tensorrt.choose import open_onnx

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 4]) for name in ("x", "y")]
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    with pytest.raises(EdgeageError, match="ports must be float32"):
        open_onnx(model.SerializeToString(), "toy", "toy.onnx", workshop())
