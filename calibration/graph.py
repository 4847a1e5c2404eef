"""A read-only view of an ONNX graph: who makes a tensor, who reads it, its shape, its constant value."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeage.errors import EdgeageError

# A mask is min(max(y * STEEP, 0), 1): 1 wherever y is above 0. A power of two, so that it is exact; INT8
# writers put a factor of their own in its place (`edgeage.calibration.quantization`).
STEEP = 2.0**30


class GraphView:
    """Look-ups over `model`, a static-shape float32 graph.

    Attributes:
        nodes: in execution order.
        inputs, outputs: names, in order.
        constants: initializers by name.
        producer: node by the name of its (single) output.
        consumers: nodes by the name of a tensor they read; a node that reads it twice is there twice.
        shapes: shape by tensor name.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.constants: dict[str, NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        self.inputs = [port.name for port in graph.input if port.name not in self.constants]
        self.outputs = [port.name for port in graph.output]
        self.producer: dict[str, onnx.NodeProto] = {}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            self.producer[node.output[0]] = node
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.shapes: dict[str, tuple[int, ...]] = {k: v.shape for k, v in self.constants.items()}
        for port in [*graph.input, *graph.value_info, *graph.output]:
            dimensions = port.type.tensor_type.shape.dim
            if any(not d.HasField("dim_value") for d in dimensions):
                raise EdgeageError(f"tensor {port.name} has no static shape; export with fixed sizes")
            self.shapes[port.name] = tuple(d.dim_value for d in dimensions)

    @property
    def activations(self) -> list[str]:
        """Every tensor that is computed or fed, inputs first, in execution order."""
        return [*self.inputs, *(node.output[0] for node in self.nodes)]

    def op_counts(self) -> Counter[str]:
        return Counter(node.op_type for node in self.nodes)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute; text as str."""
    for item in node.attribute:
        if item.name == name:
            value = onnx.helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def rectifier(node: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> str | None:
    """ "relu", "relu6" (a Clip to 0..6), "mask" (a Clip to 0..c, c at most 2) or "sign" (-1..1), else None.

    The last two stand behind a product with `STEEP` (c where the input is above 0, else 0; the sign), or
    behind the sum of such a mask and a constant.
    """
    if node.op_type == "Relu":
        return "relu"
    if node.op_type == "Clip" and len(node.input) == 3:
        low, high = (constants.get(name) for name in node.input[1:])
        if low is not None and high is not None and (low.item(), high.item()) == (-1, 1):
            return "sign"
        if low is not None and high is not None and low.item() == 0:
            if 0 < high.item() <= 2:
                return "mask"
            return "relu6" if high.item() == 6 else None
    return None


def steps(view: GraphView) -> set[str]:
    """Tensors that are constant but for steps: masks, signs and what is computed of them alone."""
    found: set[str] = set()
    for node in view.nodes:
        operands = [name for name in node.input if name and name not in view.constants]
        maker = view.producer.get(node.input[0])
        steep = maker is not None and is_steep(view, maker)
        if (steep and node.op_type == "Clip") or (operands and found.issuperset(operands)):
            found.add(node.output[0])
    return found


def is_steep(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether the node multiplies by the constant of a mask or of a sign."""
    factors = [view.constants[name] for name in node.input if name in view.constants]
    return node.op_type == "Mul" and any(value.size == 1 and value.item() >= STEEP for value in factors)


def zero_padding(view: GraphView, node: onnx.NodeProto) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of a Pad that puts zeros around images [n, C, H, W], else None."""
    amounts = view.constants.get(node.input[1])
    optional = [name for name in node.input[2:] if name]
    value = view.constants.get(optional[0]) if optional else np.zeros(1)
    plain = attribute(node, "mode", "constant") == "constant" and len(node.input) < 4
    if not plain or amounts is None or amounts.size != 8 or value is None or value.any():
        return None
    before, after = amounts.reshape(2, 4).tolist()
    if any(before[:2] + after[:2]) or min(before + after) < 0:
        return None
    return before[2], before[3], after[2], after[3]
