"""A graph in half precision, with float32 only where the host sees it.

For TensorRT's strongly typed networks: there the file alone says what type every layer computes in, which is the
one way that TensorRT 10 and 11 share (11 has no precision flags). Everything is float16 but the ports:

- a float graph is cast behind each input and before each output;
- a Q/DQ graph needs no cast: the QuantizeLinear that reads a port keeps its float32 scale, and the
  DequantizeLinear behind it gives float16. So the codes at the ports are those of the float32 graph.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeage.calibration.graph import GraphView, rectifier
from edgeage.errors import EdgeageError
from edgeage.export.onnx_graph import clean

# The least opset whose QuantizeLinear and DequantizeLinear take float16. The parsers of TensorRT 10.0 to 10.3 read
# opsets 9 to 20 (onnx-tensorrt, docs/operators.md), those of TensorRT 11 up to 24. Of our operators opset 19 changes
# no other but in what else they may take.
OPSET = 19
LARGEST = float(np.finfo(np.float16).max)
# In the place of a mask's factor beyond float16 (`edgeage.export.refine.rules.STEEP`): what lies between 0 and
# 2^-15 then gets a part of the mask. A product beyond float16 is infinite, which the mask's Clip cuts off.
STEEP = 2.0**15


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same float or Q/DQ graph (float32, canonical) in float16; same ports, float32.

    Raises EdgeageError if a constant lies beyond float16.
    """
    return _Rewrite(model).run()


class _Rewrite:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.view = GraphView(model)
        self.nodes: list[onnx.NodeProto] = []
        self.halves: dict[str, NDArray[np.float16]] = {}
        self.steep = _steep_factors(self.view)

    def run(self) -> onnx.ModelProto:
        for name in self.view.inputs:
            if any(node.op_type != "QuantizeLinear" for node in self.view.consumers[name]):
                self._cast(name, _half(name), TensorProto.FLOAT16)
        for node in self.view.nodes:
            self._node(node)
        model = onnx.ModelProto()
        model.CopyFrom(self.view.model)
        del model.graph.node[:]
        del model.graph.value_info[:]
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.halves.items()
        )
        return clean(model, OPSET)

    def _node(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        self.nodes.append(copy)
        output = node.output[0]
        if node.op_type == "QuantizeLinear" and node.input[0] in self.view.inputs:
            return
        if output in self.view.outputs:
            if node.op_type == "DequantizeLinear":
                return
            copy.output[0] = _half(output)
            self._cast(_half(output), output, TensorProto.FLOAT)
        for index, name in enumerate(node.input):
            if name in self.view.inputs or name in self.view.outputs:
                copy.input[index] = _half(name)
            elif name in self.view.constants and self.view.constants[name].dtype == np.float32:
                if node.op_type != "Resize":  # its factors are float32 whatever it enlarges
                    copy.input[index] = self._constant(name)

    def _constant(self, name: str) -> str:
        values = self.view.constants[name]
        if name in self.steep:
            values = np.minimum(values, np.float32(STEEP))
        if not float(np.abs(values).max(initial=0)) <= LARGEST:
            reach = float(np.abs(values).max())
            raise EdgeageError(f"constant {name} reaches {reach:.4g}, float16 ends at {LARGEST:.0f}")
        self.halves[_half(name)] = values.astype(np.float16)
        return _half(name)

    def _cast(self, source: str, name: str, to: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [name], to=to))


def _half(name: str) -> str:
    return f"{name}.float16"


def _steep_factors(view: GraphView) -> set[str]:
    """Constants that a mask's Clip has before it."""
    masks = [node for node in view.nodes if rectifier(node, view.constants) == "mask"]
    products = [view.producer.get(node.input[0]) for node in masks]
    return {name for node in products if node is not None and node.op_type == "Mul" for name in node.input}
