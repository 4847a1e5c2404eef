"""Observing ranges and keeping them: order does not matter, broken tables are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeage.calibration.observers import observe
from edgeage.calibration.ranges import RangeTable, TensorRange, read_tables, write_tables
from edgeage.errors import EdgeageError

DIGEST = "0" * 64


def _network() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.array([[1, -2], [3, 4]], dtype=np.float32), "w")
    bias = numpy_helper.from_array(np.array([0.5, 0], dtype=np.float32), "b")
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["out"]),
    ]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight, bias])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


TENSORS = {"x": TensorRange(-1.0, 0.1, "mse", 0.001), "out": TensorRange(0.0, 1e-30)}


def test_a_table_of_another_network_is_refused() -> None:
    table = RangeTable(DIGEST, DIGEST, 1, TENSORS)
    table.require(DIGEST, "encoder.onnx")
    with pytest.raises(EdgeageError, match=r"of another network .* than encoder\.onnx"):
        table.require("f" * 64, "encoder.onnx")


def test_ranges_cover_inputs_outputs_and_between_whatever_the_order() -> None:
    feeds = [{"x": np.array([[a, b]], dtype=np.float32)} for a, b in ((1, 0), (-3, 2), (0.5, 0.25))]
    expected = {"x": (-3.0, 2.0), "hidden": (-6.5, 2.5), "out": (0.0, 3.0)}
    ranges = observe(_network(), feeds)
    assert set(ranges) == set(expected)
    values = [feed["x"] @ np.array([[1, 3], [-2, 4]]) + [0.5, 0] for feed in feeds]
    assert ranges["x"] == (-3.0, 2.0)
    assert ranges["hidden"] == (np.min(values), np.max(values))
    assert ranges["out"] == (0.0, np.max(values))
    assert observe(_network(), reversed(feeds)) == ranges
    assert observe(_network(), feeds * 3) == ranges


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_network_that_is_not_finite_is_refused(bad: float) -> None:
    feeds = [{"x": np.zeros((1, 2), np.float32)}, {"x": np.array([[0, bad]], dtype=np.float32)}]
    with pytest.raises(EdgeageError, match="not finite on calibration input 2"):
        observe(_network(), feeds)


def test_no_feed_is_refused() -> None:
    with pytest.raises(EdgeageError, match="no calibration input"):
        observe(_network(), [])


def test_tables_survive_the_disk(tmp_path: Path) -> None:
    tables = {"encoder": RangeTable(DIGEST, "1" * 64, 300, TENSORS, {"h": [0.5]}, ["out"])}
    write_tables(tmp_path / "ranges.json", tables)
    assert read_tables(tmp_path / "ranges.json") == tables


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "abc"}, "network is 'abc'"),
        ({"calibration": None}, "calibration is None"),
        ({"count": 0}, "count is 0"),
        ({"count": True}, "count is True"),
        ({"tensors": {}}, "no ranges"),
        ({"tensors": {"x": [1, 0, "mse", 0]}}, "range 1.0..0.0"),
        ({"tensors": {"x": [0, "NaN", "mse", 0]}}, "tensor x"),
        ({"tensors": {"x": [0]}}, "not a range table"),
        ({"tensors": {"x": [0, "much", "mse", 0]}}, "not a range table"),
        ({"tensors": [1]}, "not a range table"),
        ({"tensors": {"x": [0, 1, "mse", 1.5]}}, "clips 1.5"),
        ({"corrections": {"x": ["NaN"]}}, "correction of x"),
        ({"floats": None}, "not a range table"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    good = RangeTable(DIGEST, DIGEST, 1, TENSORS).to_dict()
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps({"schema": 2, "tables": {"encoder": {**good, **change}}}))
    with pytest.raises(EdgeageError, match=message):
        read_tables(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1, "tables": {}}', "{"])
def test_foreign_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ranges.json").write_text(text)
    with pytest.raises(EdgeageError):
        read_tables(tmp_path / "ranges.json")
