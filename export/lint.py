"""Rules that a Q/DQ graph must keep for TensorRT, checked without TensorRT.

TensorRT's own parser is not enough: it accepts a wrong per-channel axis. Each rule is a function in
`RULES` that yields what it objects to; "error" stops an export, "advice" costs speed or accuracy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgeage.calibration.graph import attribute
from edgeage.errors import EdgeageError
from edgeage.export.qdq import FLOAT

_BANNED = frozenset(
    {"QLinearConv", "QLinearMatMul", "QLinearAdd", "QGemm", "ConvInteger", "MatMulInteger"}
    | {"DynamicQuantizeLinear"}
)
_FUSED_BEHIND = frozenset({"Relu", "LeakyRelu", "Clip", "Tanh"})
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_FLOATS = {int(TensorProto.FLOAT), int(TensorProto.FLOAT16)}


@dataclass(frozen=True)
class Finding:
    level: str  # "error" or "advice"
    rule: str
    node: str
    text: str


class _Graph:
    """Look-ups; unlike GraphView it must stand graphs that are wrong.

    Attributes:
        types: element type of each tensor as far as it can be told.
    """

    def __init__(self, model: onnx.ModelProto, floats: Set[str]) -> None:
        self.floats = floats
        self.nodes = list(model.graph.node)
        self.inputs = list(model.graph.input)
        self.constants: dict[str, NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {port.name for port in model.graph.output}
        self.types: dict[str, int] = {port.name: port.type.tensor_type.elem_type for port in self.inputs} | {
            tensor.name: tensor.data_type for tensor in model.graph.initializer
        }
        for node in self.nodes:
            made = self._made(node)
            if made is not None:
                self.types[node.output[0]] = made

    def _made(self, node: onnx.NodeProto) -> int | None:
        if node.op_type == "Cast":
            return int(attribute(node, "to"))
        giver = {"QuantizeLinear": 2, "DequantizeLinear": 1}.get(node.op_type, 0)
        return self.types.get(node.input[giver]) if len(node.input) > giver else None

    def dequantizer(self, name: str) -> onnx.NodeProto | None:
        node = self.producer.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def parameter(self, node: onnx.NodeProto, index: int) -> NDArray[Any] | None:
        return self.constants.get(node.input[index]) if len(node.input) > index else None

    def weighted(self) -> Iterator[onnx.NodeProto]:
        return (node for node in self.nodes if node.op_type in _OUTPUT_AXIS and len(node.input) > 1)

    def quantizers(self) -> Iterator[onnx.NodeProto]:
        return (node for node in self.nodes if node.op_type in _QDQ)


_OUTPUT_AXIS: dict[str, Callable[[onnx.NodeProto, int], int]] = {
    "Conv": lambda node, rank: 0,
    "ConvTranspose": lambda node, rank: 1,
    "Gemm": lambda node, rank: 0 if attribute(node, "transB", 0) else 1,
    "MatMul": lambda node, rank: rank - 1,
}

_Objections = Iterator[tuple[str, str]]  # node, text


def _static_shape(graph: _Graph) -> _Objections:
    for port in graph.inputs:
        if any(not size.HasField("dim_value") for size in port.type.tensor_type.shape.dim):
            yield port.name, "has a dynamic shape, which needs a profile at build time"


def _banned_operator(graph: _Graph) -> _Objections:
    for node in graph.nodes:
        if node.op_type in _BANNED:
            yield node.name, f"{node.op_type} is not imported by TensorRT; use Q/DQ"


def _constant_scale(graph: _Graph) -> _Objections:
    for node in graph.quantizers():
        if graph.parameter(node, 1) is None:
            yield node.name, "its scale is not a constant"


def _positive_scale(graph: _Graph) -> _Objections:
    for node in graph.quantizers():
        scale = graph.parameter(node, 1)
        if scale is not None and not (np.isfinite(scale).all() and (scale > 0).all()):
            yield node.name, "its scale is not finite and above 0"


def _int8(graph: _Graph) -> _Objections:
    for node in graph.quantizers():
        zero = graph.parameter(node, 2)
        if zero is None and node.op_type == "QuantizeLinear":
            yield node.name, "it has no zero point, which means uint8"
        elif zero is not None and zero.dtype != np.int8:
            yield node.name, f"it is {zero.dtype}, TensorRT takes int8"


def _symmetric(graph: _Graph) -> _Objections:
    for node in graph.quantizers():
        zero = graph.parameter(node, 2)
        if zero is not None and zero.any():
            yield node.name, "its zero point is not 0"


def _per_tensor_activation(graph: _Graph) -> _Objections:
    for node in graph.quantizers():
        scale = graph.parameter(node, 1)
        if scale is not None and scale.size > 1 and node.input[0] not in graph.constants:
            yield node.name, "it has one scale per channel on an activation"


def _both_inputs(graph: _Graph) -> _Objections:
    for node in graph.weighted():
        if node.output[0].removesuffix(FLOAT) in graph.floats:
            continue
        quantized = [graph.dequantizer(name) is not None for name in node.input[:2]]
        if not all(quantized):
            parts = zip(("input", "weight"), quantized, strict=True)
            missing = " and ".join(part for part, has in parts if not has)
            yield node.name, f"its {missing} is not quantised, so it would run in float"


def _weight_axis(graph: _Graph) -> _Objections:
    for node in graph.weighted():
        dequantizer = graph.dequantizer(node.input[1])
        if dequantizer is None or dequantizer.input[0] not in graph.constants:
            continue
        scale = graph.parameter(dequantizer, 1)
        rank = graph.constants[dequantizer.input[0]].ndim
        axis = attribute(dequantizer, "axis", 1) % rank
        wanted = _OUTPUT_AXIS[node.op_type](node, rank)
        if scale is not None and scale.size > 1 and axis != wanted:
            yield node.name, f"its weight is quantised along axis {axis}, output channels are axis {wanted}"


def _float_bias(graph: _Graph) -> _Objections:
    for node in graph.weighted():
        if len(node.input) > 2 and graph.dequantizer(node.input[2]) is not None:
            yield node.name, "its bias is quantised, TensorRT wants it float"


def _fusable_activation(graph: _Graph) -> _Objections:
    for node in graph.weighted():
        for quantizer in graph.consumers.get(node.output[0], []):
            if quantizer.op_type != "QuantizeLinear":
                continue
            for dequantizer in graph.consumers.get(quantizer.output[0], []):
                for reader in graph.consumers.get(dequantizer.output[0], []):
                    if reader.op_type in _FUSED_BEHIND:
                        yield node.name, f"Q/DQ before {reader.op_type} keeps the two from being one kernel"


def _needless_quantization(graph: _Graph) -> _Objections:
    for node in graph.quantizers():
        if node.op_type != "QuantizeLinear" or node.input[0] in {port.name for port in graph.inputs}:
            continue
        dequantized = [name for reader in graph.consumers.get(node.output[0], []) for name in reader.output]
        readers = [reader for name in dequantized for reader in graph.consumers.get(name, [])]
        if graph.outputs.isdisjoint(dequantized) and not any(r.op_type in _OUTPUT_AXIS for r in readers):
            yield node.name, "no weighted node reads it; Q/DQ between others keeps them from being one kernel"


def _one_float_type(graph: _Graph) -> _Objections:
    for node in graph.nodes:
        if node.op_type in ("Cast", "DequantizeLinear", "Resize"):  # whose inputs need not be alike
            continue
        types = {graph.types.get(name) for name in node.input} & _FLOATS
        if len(types) > 1:
            yield node.name, "its inputs are float16 and float32; a strongly typed network casts neither"


def _no_float32_island(graph: _Graph) -> _Objections:
    if TensorProto.FLOAT16 not in graph.types.values():
        return
    for node in graph.nodes:
        name = node.output[0]
        if graph.types.get(name) == TensorProto.FLOAT and name not in graph.outputs:
            yield (
                node.name,
                "it makes float32 inside a float16 graph; a strongly typed network computes in it",
            )


RULES: dict[str, tuple[str, Callable[[_Graph], _Objections]]] = {
    "static-shape": ("error", _static_shape),
    "banned-operator": ("error", _banned_operator),
    "constant-scale": ("error", _constant_scale),
    "positive-scale": ("error", _positive_scale),
    "int8": ("error", _int8),
    "symmetric": ("error", _symmetric),
    "per-tensor-activation": ("error", _per_tensor_activation),
    "both-inputs": ("error", _both_inputs),
    "weight-axis": ("error", _weight_axis),
    "float-bias": ("error", _float_bias),
    "one-float-type": ("error", _one_float_type),
    "no-float32-island": ("error", _no_float32_island),
    "fusable-activation": ("advice", _fusable_activation),
    "needless-quantization": ("advice", _needless_quantization),
}


def lint(model: onnx.ModelProto, floats: Set[str] = frozenset()) -> list[Finding]:
    """Everything that the rules object to, in the order of `RULES`.

    Args:
        floats: outputs of the nodes that a mixed plan means to run in float.
    """
    graph = _Graph(model, floats)
    return [
        Finding(level, rule, node, text)
        for rule, (level, check) in RULES.items()
        for node, text in check(graph)
    ]


def require_clean(
    model: onnx.ModelProto, what: str, floats: Set[str] = frozenset(), *, strict: bool = False
) -> None:
    """Raises EdgeageError with the first error that the rules find; `strict`: with the first advice too."""
    errors = [finding for finding in lint(model, floats) if strict or finding.level == "error"]
    if errors:
        first = errors[0]
        raise EdgeageError(
            f"{what} breaks {len(errors)} TensorRT rules, first {first.rule} at {first.node}: {first.text}"
        )
