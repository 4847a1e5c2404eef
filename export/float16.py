"""A graph in half precision, with float32 only where the host sees it.

For TensorRT's strongly typed networks: there the file alone says what type every layer computes in, which is
the one way that TensorRT 10 and 11 share (11 has no precision flags). Everything is float16 but the ports:

- a float graph is cast behind each input and before each output;
- a Q/DQ graph needs no cast: the QuantizeLinear that reads a port keeps its float32 scale, and the
  DequantizeLinear behind it gives float16. So the codes at the ports are those of the float32 graph.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeage.calibration.graph import GraphView, is_steep
from edgeage.errors import EdgeageError
from edgeage.export.onnx_graph import clean

# The least opset whose QuantizeLinear and DequantizeLinear take float16. The parser of TensorRT 10.0 reads
# opsets 9 to 20, that of 11.2 up to 24 (onnx-tensorrt, docs/operators.md; 10.3 adds none); below 19, it would
# cast the scales itself. Our other operators are the same in 18 and 19.
OPSET = 19
LARGEST = float(np.finfo(np.float16).max)
LEAST = np.float16(2.0**-24)
# Of an activation: below it, float16 itself has no 128 steps from 0 to the scale, and less than 8 bits of the
# scale. A trained network is far above it; one whose gradient fades is not.
LEAST_SCALE = 2.0**-17
# In the place of a mask's factor beyond float16 (`edgeage.calibration.graph.STEEP`): what lies between 0
# and 2^-15 then gets a part of the mask. A product beyond float16 is infinite; the Clip cuts it off.
STEEP = 2.0**15
_INDEX = np.int64(0)  # what is no float32 constant


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same float or Q/DQ graph (float32, canonical) in float16; same ports, float32.

    Raises BeyondFloat16 if a constant is too large or an activation's scale too small.
    """
    return _Rewrite(model).run()


class BeyondFloat16(EdgeageError):
    """The network has numbers that float16 does not."""


class _Rewrite:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.view = GraphView(model)
        self.nodes: list[onnx.NodeProto] = []
        self.halves: dict[str, NDArray[np.float16]] = {}
        self.steep = {n for node in self.view.nodes if is_steep(self.view, node) for n in node.input}
        self.scales = {node.input[1] for node in self.view.nodes if node.op_type == "QuantizeLinear"}
        self.weight_scales = {
            node.input[1]
            for node in self.view.nodes
            if node.op_type == "DequantizeLinear" and node.input[0] in self.view.constants
        }

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
            elif node.op_type != "Resize" and self.view.constants.get(name, _INDEX).dtype == np.float32:
                copy.input[index] = self._constant(name)  # a Resize has float32 factors in any type

    def _constant(self, name: str) -> str:
        values = self.view.constants[name]
        if name in self.steep:
            values = np.minimum(values, np.float32(STEEP))
        if not float(np.abs(values).max(initial=0)) <= LARGEST:
            reach = float(np.abs(values).max())
            raise BeyondFloat16(f"constant {name} reaches {reach:.4g}, float16 ends at {LARGEST:.0f}")
        if name in self.scales and not float(values.min()) >= LEAST_SCALE:
            raise BeyondFloat16(
                f"{name} is {values.min():.1e}, too fine for float16 (least {LEAST_SCALE:.1e})"
            )
        halves = values.astype(np.float16)
        # of a channel whose weights are all but 0, TensorRT takes no scale of 0
        self.halves[_half(name)] = np.maximum(halves, LEAST) if name in self.weight_scales else halves
        return _half(name)

    def _cast(self, source: str, name: str, to: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [name], to=to))


def _half(name: str) -> str:
    return f"{name}.float16"


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float16 graph for ONNX Runtime's CPU: float32 operators, each result rounded to float16.

    Given the graph itself, it computes in float32 for want of float16 kernels and leaves out the roundings
    between them; its numbers would be better than those of any device.
    """
    view = GraphView(model)
    halves = {info.name for info in view.model.graph.value_info if _is_half(info.type.tensor_type.elem_type)}
    nodes: list[onnx.NodeProto] = []
    for node in view.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
        name = node.output[0]
        if node.op_type == "Cast":  # to float32 and from it; its result is rounded as any other
            copy.CopyFrom(helper.make_node("Identity", node.input, node.output))
        if name in halves:
            copy.output[0] = f"{name}.exact"
            nodes.append(helper.make_node("Cast", [copy.output[0]], [f"{name}.half"], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.node[:]
    del wide.graph.value_info[:]
    wide.graph.node.extend(nodes)
    for tensor in wide.graph.initializer:
        if _is_half(tensor.data_type):
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return clean(wide, OPSET)


def _is_half(element_type: int) -> bool:
    return element_type == int(TensorProto.FLOAT16)
