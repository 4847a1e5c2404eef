"""What the entries of the lowering table share: versions, operators that only move data, constants.

Versions are the lowest that take int8, so that tflite-runtime 2.14 reads the files too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeage.export.tflite.writer import Writer

if TYPE_CHECKING:
    from edgeage.export.tflite.lowering import Lowering

OP = schema.BuiltinOperator
VERSIONS = {
    OP.ADD: 2,
    OP.AVERAGE_POOL_2D: 2,
    OP.CONCATENATION: 2,
    OP.CONV_2D: 3,
    OP.DEPTHWISE_CONV_2D: 3,
    OP.DEQUANTIZE: 2,
    OP.FULLY_CONNECTED: 4,
    OP.LEAKY_RELU: 2,
    OP.MAX_POOL_2D: 2,
    OP.MEAN: 2,
    OP.MUL: 2,
    OP.PAD: 2,
    OP.QUANTIZE: 1,
    OP.RELU6: 2,
    OP.RESHAPE: 1,
    OP.RESIZE_NEAREST_NEIGHBOR: 2,
    OP.SPLIT: 2,
    OP.SUB: 2,
    OP.TANH: 2,
}
# With 16-bit activations; what is not here has the same version.
WIDE_VERSIONS = {
    OP.ADD: 3,
    OP.CONCATENATION: 3,
    OP.CONV_2D: 4,
    OP.DEPTHWISE_CONV_2D: 5,
    OP.FULLY_CONNECTED: 7,
    OP.MUL: 4,
    OP.PAD: 3,
    OP.SPLIT: 4,
    OP.SUB: 5,
    OP.TANH: 3,
}
ACTIVATION = {
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
    "mask": schema.ActivationFunctionType.RELU,  # the scale of its output ends at its upper clamp
    "sign": schema.ActivationFunctionType.NONE,  # and here at both
}


def emit(
    writer: Writer, code: int, inputs: Sequence[int], outputs: Sequence[int], options: Any = None
) -> None:
    version = WIDE_VERSIONS.get(code, VERSIONS[code]) if writer.wide else VERSIONS[code]
    writer.operator(code, version, inputs, outputs, options)


def quantize(writer: Writer, real: int, code: int) -> None:
    """Float tensor -> int8 tensor; only at the boundary of a file with float I/O."""
    emit(writer, OP.QUANTIZE, [real], [code], schema.QuantizeOptionsT())


def dequantize(writer: Writer, code: int, real: int) -> None:
    emit(writer, OP.DEQUANTIZE, [code], [real], schema.DequantizeOptionsT())


def activation(low: Lowering, node: onnx.NodeProto) -> int:
    """The clamp that the node's kernel applies to its output."""
    fused = low.quantization.fused.get(node.output[0])
    code: int = ACTIVATION[fused[1]] if fused else schema.ActivationFunctionType.NONE
    return code


def reshape(low: Lowering, source: int, target: int, shape: Sequence[int]) -> None:
    options = schema.ReshapeOptionsT()
    options.newShape = [int(size) for size in shape]
    sizes = low.writer.constant("shape", np.array(shape, dtype=np.int32))
    emit(low.writer, OP.RESHAPE, [source, sizes], [target], options)


def concatenate(low: Lowering, sources: Sequence[int], target: int, axis: int) -> None:
    options = schema.ConcatenationOptionsT()
    options.axis = axis
    emit(low.writer, OP.CONCATENATION, sources, [target], options)


def split(low: Lowering, source: int, targets: Sequence[int], axis: int) -> None:
    """Equal parts of a tensor."""
    options = schema.SplitOptionsT()
    options.numSplits = len(targets)
    along = low.writer.constant("axis", np.array(axis, dtype=np.int32))
    emit(low.writer, OP.SPLIT, [along, source], targets, options)


@dataclass(frozen=True)
class Constants:
    """What a weighted node multiplies by and adds, in ONNX layout: codes with scales, or floats without."""

    weight: NDArray[Any]
    scales: NDArray[np.float32] | None
    bias: NDArray[Any]
    bias_scales: NDArray[np.float32] | None


def constants(low: Lowering, node: onnx.NodeProto) -> Constants:
    if not low.quantization.is_float(node):
        stored = low.quantization.weights(node)
        return Constants(stored.codes, stored.scales, stored.bias_codes, stored.bias_scales)
    weight = low.view.constants[node.input[1]]
    bias = np.zeros(len(weight), dtype=np.float32)
    if len(node.input) > 2:
        bias = bias + low.view.constants[node.input[2]].reshape(-1)
    return Constants(weight, None, bias, None)
