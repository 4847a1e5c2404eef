"""Counted work against counts made by hand and by another way, and bounds of a machine that is made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeage.runtime.bench.results import Load, Result, Subject, Verdict
from edgeage.runtime.bench.roofline import Machine, convolution, measure_machine, roofline
from edgeage.runtime.bench.sysfs import NotAvailable
from edgeage.runtime.bench.work import Operator, Work, work_of
from edgeage.runtime.bundle import Bundle, open_bundle

SHIPPED = Path(__file__).parents[3] / "models" / "edge64.agebundle"


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(SHIPPED)


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_one_convolution_by_hand(precision: str) -> None:
    (node,) = work_of(convolution(8, 16, 3, precision)).operators
    size = 1 if precision == "int8" else 4
    assert node.kind == "CONV_2D"
    assert node.macs == 8 * 8 * 16 * 16 * 9
    assert node.weights == 16 * 16 * 9 * size + 16 * 4  # and biases of four bytes
    assert node.activations == 2 * 8 * 8 * 16 * size


def macs_of_onnx(content: bytes) -> int:
    """Multiply-accumulates of convolutions and Gemms, from the float ONNX and its inferred shapes."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    graph = model.graph
    known = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    } | {one.name: list(one.dims) for one in graph.initializer}
    total = 0
    for node in graph.node:
        output = int(np.prod(known[node.output[0]])) if node.output[0] in known else 0
        if node.op_type == "Conv":
            total += output * int(np.prod(known[node.input[1]][1:]))
        if node.op_type in ("Gemm", "MatMul"):
            total += output * known[node.input[0]][-1]
    return total


@pytest.mark.parametrize("name", ["encoder", "embedder"])
def test_the_shipped_engines_do_what_their_float_graphs_do(shipped: Bundle, name: str) -> None:
    """Parity with another format: the writer may merge or split, which costs or saves little."""
    counted = work_of(shipped.read(f"engines/{name}.int8.tflite"))
    assert counted.macs == pytest.approx(macs_of_onnx(shipped.read(f"engines/{name}.onnx")), rel=0.1)
    weights = sum(
        np.prod(one.dims)
        for one in onnx.load_from_string(shipped.read(f"engines/{name}.onnx")).graph.initializer
    )
    assert counted.weights == pytest.approx(weights, rel=0.1)


def test_signatures_of_the_packed_file_are_counted_apart(shipped: Bundle) -> None:
    packed = shipped.read("engines/packed.int8.tflite")
    entry = shipped.manifest.engines["refine_batch"].files[0]
    one, four = (work_of(packed, name) for name in ("refine", entry.signature))
    assert four.macs == pytest.approx(4 * one.macs, rel=0.01)
    assert four.weights == pytest.approx(one.weights, rel=0.01)  # shared by the faces
    with pytest.raises(NotAvailable, match="no signature"):
        work_of(packed, "other")


MACHINE = Machine(1, {"int8": 100.0, "float32": 10.0}, ((1000, 100.0), (100_000, 1.0)))


def test_a_bound_is_the_longer_time_of_each_operator() -> None:
    work = Work((Operator("CONV_2D", 10**6, 400, 400), Operator("ADD", 0, 0, 200)))
    bound, memory = MACHINE.bound_ms(work, "int8")
    assert bound == pytest.approx(10**6 / 1e11 * 1e3 + 200 / 1e11 * 1e3)
    assert memory == pytest.approx(200 / 1e11 * 1e3 / bound)
    assert MACHINE.bound_ms(work, "float32")[0] > 9 * bound
    assert MACHINE.bytes_a_second(10_000) == pytest.approx(10e9)  # half-way on logarithmic axes
    assert MACHINE.bytes_a_second(10**9) == pytest.approx(1e9)


def test_each_engine_is_held_against_the_machine(shipped: Bundle) -> None:
    def took(name: str, precision: str = "int8") -> Result:
        samples = tuple([1_000_000] * 40)
        subject = Subject(name, "litert", precision, 1)
        return Result(subject, Load(), samples, tuple(range(40)), 0, (), Verdict("VALID"))

    results = [took("encoder"), took("encoder", "float32"), took("pipeline")]
    found = roofline(shipped, results, lambda threads: MACHINE)
    int8, float32 = found["engines"]  # the pipeline is no single engine
    assert int8["gmacs"] == pytest.approx(int8["macs"] / 1e6)  # in 1 ms
    assert int8["distance"] == pytest.approx(1 / int8["bound_ms"])
    assert float32["weight_bytes"] == 4 * int8["weight_bytes"]
    assert "not available" in roofline(shipped, results[2:], lambda threads: MACHINE)


def test_this_machine_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeage.runtime.bench.roofline._SECONDS", 0.02)
    machine = measure_machine(2)
    assert machine.peaks["int8"] > 0.1
    assert machine.peaks["float32"] > 0.1
    assert all(rate > 0.01 for _, rate in machine.bandwidth)
