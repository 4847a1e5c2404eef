"""The Q/DQ form: the float graph with the INT8 decisions written between its nodes, for TensorRT.

Every tensor that the TFLite file stores as int8 passes through QuantizeLinear + DequantizeLinear with
the same scale here, so the two compute the same thing up to rounding. A second placement of the same
decisions quantises only what weighted nodes read. Biases stay float: TensorRT's parser refuses the int32 ones
that onnxruntime's own quantiser writes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeage.calibration.quantization import WEIGHTED, Quantization
from edgeage.export.onnx_graph import clean

_ARITHMETIC = ("Add", "Sub", "Mul")
FLOAT = ".float"  # behind the name of a stored tensor: the same before it is quantised


def to_qdq(quantization: Quantization) -> onnx.ModelProto:
    """Q/DQ model with float32 inputs and outputs of the same names and shapes as the float graph.

    The twin of the TFLite file: what that stores as int8 is quantised here, element-wise nodes and their
    constants too.
    """
    return _Rewrite(quantization, elementwise=True).run()


def to_fusable_qdq(quantization: Quantization) -> onnx.ModelProto:
    """The same with Q/DQ only where TensorRT wants them: at the ports, and at what weighted nodes read.

    Everything else stays float, so that TensorRT makes one kernel of a weighted node and what follows it.
    """
    return _Rewrite(quantization, elementwise=False).run()


class _Rewrite:
    def __init__(self, quantization: Quantization, *, elementwise: bool) -> None:
        self.quantization = quantization
        self.view = view = quantization.view
        self.elementwise = elementwise
        places = {*view.inputs, *view.outputs}
        for node in view.nodes:
            if elementwise:
                places.add(node.output[0])
            elif node.op_type in WEIGHTED and not quantization.is_float(node):
                places.add(node.input[0])
        self.places = {name for name in places if quantization.is_stored(name)}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.reads: dict[str, int] = {}

    def run(self) -> onnx.ModelProto:
        for name in self.view.inputs:
            self._quantize(name, name)
        for node in self.view.nodes:
            self._node(node)
        model = onnx.ModelProto()
        model.CopyFrom(self.view.model)
        del model.graph.node[:]
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.constants.items()
        )
        return clean(model)

    def _node(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        output = node.output[0]
        for index, name in enumerate(node.input):
            if name in self.places:
                copy.input[index] = self._operand(node, name)
        if self.quantization.is_float(node):
            pass  # its constants stay float
        elif node.op_type in WEIGHTED:
            weights = self.quantization.weights(node)
            scales = weights.scales if node.op_type == "Conv" else weights.scales[0]
            copy.input[1] = self._constant(f"{node.output[0]}.weight", weights.codes, scales)
            # the very values that the int8 engines add, as float: TensorRT refuses an int32 bias
            bias = weights.bias_codes * weights.bias_scales.astype(np.float64)
            name = f"{node.output[0]}.stored_bias"
            self.constants[name] = bias.astype(np.float32)
            del copy.input[2:]
            copy.input.append(name)
        elif node.op_type in _ARITHMETIC and self.elementwise:
            for index, name in enumerate(node.input):
                if name in self.view.constants:
                    own = f"{node.output[0]}.operand{index}"
                    codes, scale = self.quantization.constant(node, name)
                    if codes.size > 1:
                        copy.input[index] = self._constant(own, codes, scale)
                    else:  # the same value as float: TensorRT takes a scalar's Q/DQ apart, then objects
                        self.constants[own] = codes * scale
                        copy.input[index] = own
        if output not in self.places:
            self.nodes.append(copy)
            return
        copy.output[0] = f"{output}{FLOAT}"
        self.nodes.append(copy)
        self._quantize(copy.output[0], output)
        if output in self.view.outputs:
            self._dequantize(f"{output}.int8", output, self._parameters(output))

    def _quantize(self, source: str, name: str) -> None:
        scale, zero = self._parameters(name)
        self.nodes.append(helper.make_node("QuantizeLinear", [source, scale, zero], [f"{name}.int8"]))

    def _operand(self, node: onnx.NodeProto, name: str) -> str:
        """What a node reads for a stored tensor: its codes, or between two float nodes the floats."""
        producer = self.view.producer.get(name)
        if producer is not None and self.quantization.is_float(node) and self.quantization.is_float(producer):
            return f"{name}{FLOAT}"
        return self._dequantized(name)

    def _dequantized(self, name: str) -> str:
        """A dequantised copy for one more reader: onnxruntime fuses only around a DQ that is not shared."""
        count = self.reads[name] = self.reads.get(name, 0) + 1
        output = f"{name}.dequantized{count}"
        self._dequantize(f"{name}.int8", output, self._parameters(name))
        return output

    def _parameters(self, name: str) -> tuple[str, str]:
        self.constants[f"{name}.scale"] = np.array(self.quantization.scale(name), dtype=np.float32)
        self.constants["zero_point"] = np.array(0, dtype=np.int8)
        return f"{name}.scale", "zero_point"

    def _constant(self, name: str, codes: NDArray[np.int8], scales: Any) -> str:
        """DequantizeLinear over constant codes; per output channel (axis 0) if there are several scales."""
        values = np.asarray(scales, dtype=np.float32)
        self.constants.update(
            {
                f"{name}.int8": codes,
                f"{name}.scale": values,
                f"{name}.zero_point": np.zeros(values.shape, dtype=np.int8),
            }
        )
        output = f"{name}.dequantized"
        self._dequantize(f"{name}.int8", output, (f"{name}.scale", f"{name}.zero_point"))
        if values.ndim:
            self.nodes[-1].attribute.append(helper.make_attribute("axis", 0))
        return output

    def _dequantize(self, source: str, output: str, parameters: tuple[str, str]) -> None:
        self.nodes.append(helper.make_node("DequantizeLinear", [source, *parameters], [output]))
