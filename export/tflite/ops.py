"""The lowering table: one entry for each ONNX operator of the closed set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeage.calibration.graph import attribute, rectifier
from edgeage.calibration.quantization import SATURATING
from edgeage.errors import EdgeageError
from edgeage.export.tflite import windows
from edgeage.export.tflite.kernels import (
    ACTIVATION,
    OP,
    activation,
    concatenate,
    constants,
    emit,
    reshape,
)
from edgeage.export.tflite.layout import hwc_permutation, nhwc, nhwc_axis

if TYPE_CHECKING:
    from edgeage.export.tflite.lowering import Lowering


def _gemm(low: Lowering, node: onnx.NodeProto) -> None:
    held = constants(low, node)
    output = low.quantization.stored_output(node)
    weight, bias = held.weight, held.bias
    if node.input[0] in low.flat_images:
        weight = weight[:, hwc_permutation(low.flat_images[node.input[0]])]
    if output in low.flat_images:
        rows = hwc_permutation(low.flat_images[output])
        weight, bias = weight[rows], bias[rows]
    inputs = [
        low.read(node, node.input[0]),
        low.writer.constant(f"{output}:weight", weight, held.scales),
        low.writer.constant(f"{output}:bias", bias, held.bias_scales),
    ]
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = activation(low, node)
    emit(low.writer, OP.FULLY_CONNECTED, inputs, [low.made(node)], options)


def _operand(low: Lowering, node: onnx.NodeProto, name: str) -> int:
    """An operand of Add, Sub or Mul: an activation, or a constant brought to the layout of the result."""
    if name not in low.view.constants:
        return low.read(node, name)
    codes: NDArray[Any]
    scales: NDArray[np.float32] | None
    if low.quantization.is_float(node):
        codes, scales = low.view.constants[name], None
    else:
        codes, scale = low.quantization.constant(node, name)
        scales = np.array([scale], dtype=np.float32)
    rank = len(low.view.shapes[node.output[0]])
    if codes.size == 1:
        codes = codes.reshape(1)
    else:
        codes = codes.reshape((1,) * (rank - codes.ndim) + codes.shape)
        if rank == 4:
            codes = codes.transpose(0, 2, 3, 1)
    return low.writer.constant(f"{node.output[0]}:{name}", codes, scales)


def _arithmetic(code: int, make_options: Callable[[], Any]) -> Callable[[Lowering, onnx.NodeProto], None]:
    def lower(low: Lowering, node: onnx.NodeProto) -> None:
        options = make_options()
        if hasattr(options, "potScaleInt16"):
            options.potScaleInt16 = False  # 16-bit scales are free
        options.fusedActivationFunction = activation(low, node)
        output = low.made(node)
        emit(low.writer, code, [_operand(low, node, name) for name in node.input], [output], options)

    return lower


def _leaky_relu(low: Lowering, node: onnx.NodeProto) -> None:
    options = schema.LeakyReluOptionsT()
    options.alpha = float(attribute(node, "alpha", 0.01))
    emit(low.writer, OP.LEAKY_RELU, [low.read(node, node.input[0])], [low.made(node)], options)


def _rectify(low: Lowering, node: onnx.NodeProto) -> None:
    """A rectifier that no kernel before it could absorb.

    ReLU as the sum with zero that an ADD rectifies, which is exact (`decide` ties its scales): XNNPACK
    leaves an int8 RELU to the reference kernels, and 27 of them cut the embedder into 28 partitions.
    """
    kind = rectifier(node, low.view.constants)
    if kind in (None, *SATURATING):
        raise EdgeageError(f"Clip {node.output[0]} is not a ReLU6; TFLite has no other int8 clamp on its own")
    source, output = low.read(node, node.input[0]), low.made(node)
    if kind == "relu6":
        emit(low.writer, OP.RELU6, [source], [output])
        return
    if low.quantization.is_float(node):
        zero = low.writer.constant(f"{node.output[0]}:zero", np.zeros(1, dtype=np.float32))
    else:
        scale = np.array([low.quantization.scale(node.input[0])], dtype=np.float32)
        zero = low.writer.constant(f"{node.output[0]}:zero", np.zeros(1, dtype=low.dtype), scale)
    options = schema.AddOptionsT()
    options.potScaleInt16 = False
    options.fusedActivationFunction = ACTIVATION["relu"]
    emit(low.writer, OP.ADD, [source, zero], [output], options)


def _tanh(low: Lowering, node: onnx.NodeProto) -> None:
    emit(low.writer, OP.TANH, [low.read(node, node.input[0])], [low.made(node)])


def _concat(low: Lowering, node: onnx.NodeProto) -> None:
    axis = nhwc_axis(attribute(node, "axis"), len(low.view.shapes[node.output[0]]))
    concatenate(low, [low.read(node, name) for name in node.input], low.made(node), axis)


def _reshape_node(low: Lowering, node: onnx.NodeProto) -> None:
    output = node.output[0]
    reshape(low, low.read(node, node.input[0]), low.made(node), nhwc(low.view.shapes[output]))


def _lone_depth_to_space(low: Lowering, node: onnx.NodeProto) -> None:
    raise EdgeageError(
        f"DepthToSpace {node.output[0]} does not follow a convolution of its own; put activations behind it"
    )


TABLE: dict[str, Callable[[Lowering, onnx.NodeProto], None]] = {
    "Add": _arithmetic(OP.ADD, schema.AddOptionsT),
    "AveragePool": windows.pool,
    "Clip": _rectify,
    "Concat": _concat,
    "Conv": windows.conv,
    "DepthToSpace": _lone_depth_to_space,
    "Gemm": _gemm,
    "LeakyRelu": _leaky_relu,
    "MaxPool": windows.pool,
    "Mul": _arithmetic(OP.MUL, schema.MulOptionsT),
    "Pad": windows.pad,
    "ReduceMean": windows.mean,
    "Relu": _rectify,
    "Reshape": _reshape_node,
    "Resize": windows.resize,
    "Sub": _arithmetic(OP.SUB, schema.SubOptionsT),
    "Tanh": _tanh,
}
