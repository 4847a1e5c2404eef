"""The TensorRT rules: our own graphs are clean, and each rule is seen to object to a planted fault."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeage.calibration.observers import observe
from edgeage.calibration.quantization import decide
from edgeage.errors import EdgeageError
from edgeage.export.lint import RULES, lint, require_clean
from edgeage.export.onnx_graph import clean
from edgeage.export.qdq import to_qdq


@pytest.fixture
def qdq() -> onnx.ModelProto:
    """conv (per-channel, float bias) -> leaky ReLU -> conv, with Q/DQ."""
    random = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(random.normal(size=(4, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(random.normal(size=4).astype(np.float32), "b"),
        numpy_helper.from_array(random.normal(size=(2, 4, 1, 1)).astype(np.float32), "v"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("LeakyRelu", ["c"], ["a"], alpha=0.2),
        helper.make_node("Conv", ["a", "v"], ["y"], kernel_shape=[1, 1]),
    ]
    ports = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 4, 4]),
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2, 4, 4]),
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model = clean(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    return to_qdq(decide(model, observe(model, [{"x": np.ones((1, 3, 4, 4), np.float32)}])))


def _node(model: onnx.ModelProto, op: str, output: str = "") -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.op_type == op and n.output[0].startswith(output))


def _set(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def _dynamic_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"


def _banned(model: onnx.ModelProto) -> None:
    _node(model, "Conv").op_type = "ConvInteger"


def _computed_scale(model: onnx.ModelProto) -> None:
    _node(model, "QuantizeLinear").input[1] = "elsewhere"


def _zero_scale(model: onnx.ModelProto) -> None:
    _set(model, "x.scale", np.float32(0))


def _uint8(model: onnx.ModelProto) -> None:
    _set(model, "zero_point", np.uint8(0))


def _no_zero_point(model: onnx.ModelProto) -> None:
    del _node(model, "QuantizeLinear").input[2]


def _asymmetric(model: onnx.ModelProto) -> None:
    _set(model, "zero_point", np.int8(3))


def _channels_on_activation(model: onnx.ModelProto) -> None:
    _set(model, "x.scale", np.ones(3, np.float32))


def _float_weight(model: onnx.ModelProto) -> None:
    _node(model, "Conv").input[1] = "c.weight.int8"


def _wrong_axis(model: onnx.ModelProto) -> None:
    for attribute in _node(model, "DequantizeLinear", "c.weight").attribute:
        attribute.i = 1


def _int_bias(model: onnx.ModelProto) -> None:
    _node(model, "Conv").input[2] = "c.weight.dequantized"


FAULTS: list[tuple[str, Callable[[onnx.ModelProto], None]]] = [
    ("static-shape", _dynamic_shape),
    ("banned-operator", _banned),
    ("constant-scale", _computed_scale),
    ("positive-scale", _zero_scale),
    ("int8", _uint8),
    ("int8", _no_zero_point),
    ("symmetric", _asymmetric),
    ("per-tensor-activation", _channels_on_activation),
    ("both-inputs", _float_weight),
    ("weight-axis", _wrong_axis),
    ("float-bias", _int_bias),
]


def test_our_graph_has_no_error_and_says_what_costs_speed(qdq: onnx.ModelProto) -> None:
    findings = lint(qdq)
    assert [finding.level for finding in findings] == ["advice"]
    # TFLite has no conv fused with a leaky ReLU, and the two files are to agree
    assert findings[0].rule == "fusable-activation"
    require_clean(qdq, "the graph")


@pytest.mark.parametrize(("rule", "fault"), FAULTS, ids=[fault.__name__ for _, fault in FAULTS])
def test_each_rule_sees_its_fault(
    qdq: onnx.ModelProto, rule: str, fault: Callable[[onnx.ModelProto], None]
) -> None:
    fault(qdq)
    assert rule in {finding.rule for finding in lint(qdq)}
    with pytest.raises(EdgeageError, match=r"breaks .* TensorRT rules"):
        require_clean(qdq, "the graph")


def test_no_rule_is_untested() -> None:
    assert {rule for rule, _ in FAULTS} | {"fusable-activation"} == set(RULES)


def test_a_node_that_a_mixed_plan_left_in_float_is_no_error(qdq: onnx.ModelProto) -> None:
    conv = _node(qdq, "Conv")
    conv.input[1] = "w_float"
    qdq.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w_float"))
    assert "both-inputs" in {finding.rule for finding in lint(qdq)}
    assert "both-inputs" not in {finding.rule for finding in lint(qdq, {"c"})}
