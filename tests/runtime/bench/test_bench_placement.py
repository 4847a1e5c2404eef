"""What the runtimes say of their nodes, and a planted operator that XNNPACK does not take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeage.export.tflite import ops
from edgeage.export.tflite.writer import Writer
from edgeage.runtime.bench.load import Plan
from edgeage.runtime.bench.placement import (
    NO_LITERT_PROFILE,
    Placement,
    place,
    place_tflite,
    placement_of_coverage,
    placement_of_events,
)
from edgeage.runtime.bench.results import Subject
from edgeage.runtime.bench.run import measure_interleaved
from edgeage.runtime.bench.subjects import Prepared, feeds_of
from edgeage.runtime.bench.xnnpack import delegation, only_signature
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.engines import open_engine
from edgeage.runtime.engines.litert import open_interpreter
from edgeage.runtime.engines.tensorrt.coverage import Coverage

SHIPPED = Path(__file__).parents[3] / "models" / "edge64.agebundle"


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(SHIPPED)


def with_an_operator_that_stays() -> bytes:
    """An int8 file: an addition that XNNPACK takes, and an L2_NORMALIZATION that it leaves to LiteRT."""
    writer, scale = Writer(), np.float32(1 / 128)
    x, added, out = (writer.activation(name, (1, 8), np.int8, scale) for name in ("x", "added", "out"))
    writer.operator(ops.schema.BuiltinOperator.ADD, 1, [x, x], [added], ops.schema.AddOptionsT())
    code = ops.schema.BuiltinOperator.L2_NORMALIZATION
    writer.operator(code, 2, [added], [out], ops.schema.L2NormOptionsT())
    writer.finish("main", {"x": x}, {"out": out})
    return writer.file.pack()


def shipped_placement(shipped: Bundle, name: str, engine: str, precision: str) -> Placement:
    feeds = feeds_of(shipped, name, open_engine(shipped, name, engine, precision))
    return place(shipped, name, engine, precision, feeds)


@pytest.mark.parametrize("name", ["encoder", "refine_batch"])
def test_xnnpack_takes_a_shipped_engine_as_a_whole(shipped: Bundle, name: str) -> None:
    """refine_batch is the last of the packed file's signatures; interpreters tell the first one's plan."""
    found = shipped_placement(shipped, name, "litert", "int8")
    assert (found.target, found.partitions, found.left, found.fell_back) == ("XNNPACK", 1, {}, False)
    assert found.nodes == found.delegated
    assert found.nodes > (300 if name == "refine_batch" else 9)
    assert found.profile_note == NO_LITERT_PROFILE


def test_one_signature_of_a_packed_file_computes_what_it_did(shipped: Bundle) -> None:
    packed = shipped.read("engines/packed.int8.tflite")
    alone = only_signature(packed, "embed")
    assert len(alone) < len(packed)
    codes = np.random.default_rng(0).integers(-128, 128, (1, 64, 64, 3), np.int8)
    (before,), (after,) = (
        open_interpreter("litert", data, 1, "it").get_signature_runner("embed")(image=codes).values()
        for data in (packed, alone)
    )
    assert np.array_equal(before, after)
    assert only_signature(alone, "embed") is alone


def test_a_planted_fall_back_is_found_and_is_the_verdict() -> None:
    data = with_an_operator_that_stays()
    found = place_tflite(data, "litert", "int8", "main")
    assert (found.nodes, found.delegated, found.left) == (2, 1, {"L2_NORMALIZATION": 1})
    assert found.fell_back

    run = open_interpreter("litert", data, 1, "it").get_signature_runner("main")
    codes = np.ones((1, 8), np.int8)

    def work() -> None:
        run(x=codes)

    subject = Subject("planted", "litert", "int8", 1)
    again = lambda: ready  # noqa: E731
    ready = Prepared(subject, work, lambda: place_tflite(data, "litert", "int8", "main"), False, again)
    (result,) = measure_interleaved([ready], Plan(runs=60)).results
    assert result.verdict.word == "FELL BACK"
    assert result.verdict.reasons[0].endswith(
        "runs 1 of 2 nodes in 1 partition; elsewhere: 1 L2_NORMALIZATION"
    )
    assert result.placement["fell_back"]


def test_onnx_runtime_profiles_the_ten_slowest_nodes(shipped: Bundle) -> None:
    found = shipped_placement(shipped, "embedder", "onnxruntime", "int8")
    assert found.nodes == found.delegated > 100
    assert len(found.profile) == 10
    shares = [row["share"] for row in found.profile]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) < 1
    assert "in float" in found.notes[0]  # ONNX Runtime keeps a part of this INT8 graph in float


def test_the_six_runs_of_a_missing_batch_file_are_placed_by_the_single_one(shipped: Bundle) -> None:
    found = shipped_placement(shipped, "generator_all", "onnxruntime", "float32")
    assert found.target == "CPUExecutionProvider"
    assert not found.fell_back


def event(node: str, operator: str, microseconds: float, provider: str = "CPUExecutionProvider") -> dict:
    args = {"op_name": operator, "provider": provider}
    return {"cat": "Node", "name": f"{node}_kernel_time", "dur": microseconds, "args": args}


def test_a_profile_is_read_by_its_medians_without_first_runs() -> None:
    events = [{"cat": "Session", "name": "model_run", "dur": 9}]
    for conv, add in ((900, 500), (30, 10), (30, 10), (800, 10)):
        events += [event("conv", "Conv", conv), event("add", "Add", add)]
    found = placement_of_events(events, "CPUExecutionProvider", "float32")
    assert [(row["node"], row["us"], row["share"]) for row in found.profile] == [
        ("conv", 30, 0.75),
        ("add", 10, 0.25),
    ]
    assert found.notes == ()


def test_nodes_of_another_provider_fell_back() -> None:
    events = [event("conv", "Conv", 1, "CUDAExecutionProvider"), event("add", "Add", 1)]
    found = placement_of_events(events, "CUDAExecutionProvider", "float32")
    assert (found.fell_back, found.left) == (True, {"Add": 1})


def test_a_profile_without_nodes_is_not_available() -> None:
    found = placement_of_events([], "CPUExecutionProvider", "int8")
    assert (found.nodes, found.fell_back) == (None, False)


def test_tensorrt_tells_its_int8_layers() -> None:
    found = placement_of_coverage(Coverage(20, 8, 6, ("a", "b"), {"int8": 12, "float32": 8}))
    assert (found.nodes, found.fell_back) == (20, False)
    assert found.notes == ("6 of 8 matrix layers compute in INT8",)


def test_the_old_runtime_says_that_it_takes_no_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wheel needs NumPy 1, so LiteRT stands in for it here; tests/shipped runs the real one."""
    from edgeage.runtime.bench import xnnpack

    real = xnnpack.open_interpreter
    monkeypatch.setattr(xnnpack, "open_interpreter", lambda engine, *rest: real("litert", *rest))
    found = place_tflite(with_an_operator_that_stays(), "tflite-runtime", "int8", "main")
    assert "2.14 gives XNNPACK float only" in found.notes[0]
    assert delegation(with_an_operator_that_stays()).partitions == 1
