"""The TensorRT rules: our own graphs are clean, and each rule is seen to object to a planted fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeage.calibration.observers import observe
from edgeage.calibration.quantization import Quantization, decide
from edgeage.errors import EdgeageError
from edgeage.export.float16 import to_float16
from edgeage.export.lint import RULES, lint, require_clean
from edgeage.export.onnx_graph import clean
from edgeage.export.qdq import to_fusable_qdq, to_qdq


@pytest.fixture
def decided() -> Quantization:
    """conv (per-channel, float bias) -> leaky ReLU -> conv, with its INT8 decisions."""
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
    return decide(model, observe(model, [{"x": np.ones((1, 3, 4, 4), np.float32)}]))


@pytest.fixture
def qdq(decided: Quantization) -> onnx.ModelProto:
    return to_qdq(decided)


@pytest.fixture
def typed(decided: Quantization) -> onnx.ModelProto:
    """Strongly typed: float16 between Q/DQ."""
    return to_float16(to_fusable_qdq(decided))


def _node(model: onnx.ModelProto, op: str, output: str = "") -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.op_type == op and n.output[0].startswith(output))


def _insert(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    before: Sequence[onnx.NodeProto] = (),
    behind: Sequence[onnx.NodeProto] = (),
) -> None:
    at = list(model.graph.node).index(node)
    for one in reversed(behind):
        model.graph.node.insert(at + 1, one)
    for one in reversed(before):
        model.graph.node.insert(at, one)


def _value(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == name))


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


def _float32_scale(model: onnx.ModelProto) -> None:
    """Of the QuantizeLinear that reads the leaky ReLU's float16."""
    name = _node(model, "QuantizeLinear", "a.int8").input[1]
    assert _value(model, name).dtype == np.float16
    _set(model, name, np.float32(0.1))


def _float32_bias(model: onnx.ModelProto) -> None:
    name = _node(model, "Conv").input[2]
    assert _value(model, name).dtype == np.float16
    _set(model, name, _value(model, name).astype(np.float32))


def _float32_between(model: onnx.ModelProto) -> None:
    """The leaky ReLU in float32, cast to and fro: types match, and yet it is an island."""
    activation = _node(model, "LeakyRelu")
    there = helper.make_node("Cast", [activation.input[0]], ["wide"], to=onnx.TensorProto.FLOAT)
    back = helper.make_node("Cast", ["wide_a"], [activation.output[0]], to=onnx.TensorProto.FLOAT16)
    activation.input[0], activation.output[0] = "wide", "wide_a"
    _insert(model, activation, before=[there], behind=[back])


def _vanished_scale(model: onnx.ModelProto) -> None:
    """What is left in float16 of a scale of 1e-9."""
    _set(model, _node(model, "QuantizeLinear", "a.int8").input[1], np.float16(1e-9))


def _int32_bias(model: onnx.ModelProto) -> None:
    """As onnxruntime's own quantiser writes it."""
    conv = _node(model, "Conv")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.int32), "bias_codes"))
    model.graph.initializer.append(numpy_helper.from_array(np.float16(0.1), "bias_scale"))
    dequantizer = helper.make_node("DequantizeLinear", ["bias_codes", "bias_scale"], ["bias_values"])
    _insert(model, conv, before=[dequantizer])
    conv.input[2] = "bias_values"


def _channels_on_half(model: onnx.ModelProto) -> None:
    _set(model, _node(model, "QuantizeLinear", "a.int8").input[1], np.ones(4, np.float16))


def _quantized_output(model: onnx.ModelProto) -> None:
    """Q/DQ between the convolution and its activation."""
    activation = _node(model, "LeakyRelu")
    scale, zero = _node(model, "QuantizeLinear", "a.int8").input[1:]
    there = helper.make_node("QuantizeLinear", [activation.input[0], scale, zero], ["c.int8"])
    back = helper.make_node("DequantizeLinear", ["c.int8", scale, zero], ["c.dequantized"])
    _insert(model, activation, before=[there, back])
    activation.input[0] = "c.dequantized"


# Faults of strongly typed graphs, and the rule that must name each.
TYPED_FAULTS: list[tuple[str, Callable[[onnx.ModelProto], None]]] = [
    ("weight-axis", _wrong_axis),
    ("int8", _uint8),
    ("symmetric", _asymmetric),
    ("float-bias", _int32_bias),
    ("per-tensor-activation", _channels_on_half),
    ("one-float-type", _float32_scale),
    ("one-float-type", _float32_bias),
    ("no-float32-island", _float32_between),
    ("positive-scale", _vanished_scale),
    ("fusable-activation", _quantized_output),
    ("needless-quantization", _quantized_output),
]

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
    # TFLite has no conv fused with a leaky ReLU, and the two files are to agree
    assert [(one.level, one.rule) for one in findings] == [
        ("advice", "fusable-activation"),
        ("advice", "needless-quantization"),
    ]
    require_clean(qdq, "the graph")
    with pytest.raises(EdgeageError, match="first fusable-activation at Conv:c"):
        require_clean(qdq, "the graph", strict=True)


def test_the_typed_graph_is_clean_to_the_last_advice(typed: onnx.ModelProto) -> None:
    assert lint(typed) == []


@pytest.mark.parametrize(("rule", "fault"), TYPED_FAULTS)
def test_each_fault_of_a_typed_graph_is_named(
    typed: onnx.ModelProto, rule: str, fault: Callable[[onnx.ModelProto], None]
) -> None:
    fault(typed)
    assert rule in {finding.rule for finding in lint(typed)}
    with pytest.raises(EdgeageError, match="TensorRT rules, first"):
        require_clean(typed, "the graph", strict=True)


@pytest.mark.parametrize(("rule", "fault"), FAULTS, ids=[fault.__name__ for _, fault in FAULTS])
def test_each_rule_sees_its_fault(
    qdq: onnx.ModelProto, rule: str, fault: Callable[[onnx.ModelProto], None]
) -> None:
    fault(qdq)
    assert rule in {finding.rule for finding in lint(qdq)}
    with pytest.raises(EdgeageError, match=r"breaks .* TensorRT rules"):
        require_clean(qdq, "the graph")


def test_no_rule_is_untested() -> None:
    assert {rule for rule, _ in FAULTS + TYPED_FAULTS} == set(RULES)


def test_a_node_that_a_mixed_plan_left_in_float_is_no_error(qdq: onnx.ModelProto) -> None:
    conv = _node(qdq, "Conv")
    conv.input[1] = "w_float"
    qdq.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w_float"))
    assert "both-inputs" in {finding.rule for finding in lint(qdq)}
    assert "both-inputs" not in {finding.rule for finding in lint(qdq, {"c"})}
