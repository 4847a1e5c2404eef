"""The lowering table: one entry for each ONNX operator of the closed set.

Versions are the lowest that take int8, so that tflite-runtime 2.14 reads the files too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeage.calibration.graph import attribute, rectifier
from edgeage.errors import EdgeageError
from edgeage.export.tflite.layout import hwc_permutation, nhwc, nhwc_axis
from edgeage.export.tflite.writer import Writer

if TYPE_CHECKING:
    from edgeage.export.tflite.lowering import Lowering

_OP = schema.BuiltinOperator
VERSIONS = {
    _OP.ADD: 2,
    _OP.AVERAGE_POOL_2D: 2,
    _OP.CONCATENATION: 2,
    _OP.CONV_2D: 3,
    _OP.DEPTHWISE_CONV_2D: 3,
    _OP.DEQUANTIZE: 2,
    _OP.FULLY_CONNECTED: 4,
    _OP.LEAKY_RELU: 2,
    _OP.MAX_POOL_2D: 2,
    _OP.MEAN: 2,
    _OP.MUL: 2,
    _OP.PAD: 2,
    _OP.QUANTIZE: 1,
    _OP.RELU6: 2,
    _OP.RESHAPE: 1,
    _OP.RESIZE_NEAREST_NEIGHBOR: 2,
    _OP.SUB: 2,
    _OP.TANH: 2,
}
_ACTIVATION = {
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}


def emit(
    writer: Writer, code: int, inputs: Sequence[int], outputs: Sequence[int], options: Any = None
) -> None:
    writer.operator(code, VERSIONS[code], inputs, outputs, options)


def quantize(writer: Writer, real: int, code: int) -> None:
    """Float tensor -> int8 tensor; only at the boundary of a file with float I/O."""
    emit(writer, _OP.QUANTIZE, [real], [code], schema.QuantizeOptionsT())


def dequantize(writer: Writer, code: int, real: int) -> None:
    emit(writer, _OP.DEQUANTIZE, [code], [real], schema.DequantizeOptionsT())


def _activation(low: Lowering, node: onnx.NodeProto) -> int:
    """The clamp that the node's kernel applies to its output."""
    fused = low.quantization.fused.get(node.output[0])
    code: int = _ACTIVATION[fused[1]] if fused else schema.ActivationFunctionType.NONE
    return code


def _reshape(low: Lowering, source: int, target: int, shape: Sequence[int]) -> None:
    options = schema.ReshapeOptionsT()
    options.newShape = [int(size) for size in shape]
    sizes = low.writer.constant("shape", np.array(shape, dtype=np.int32))
    emit(low.writer, _OP.RESHAPE, [source, sizes], [target], options)


def _concatenate(low: Lowering, sources: Sequence[int], target: int, axis: int) -> None:
    options = schema.ConcatenationOptionsT()
    options.axis = axis
    emit(low.writer, _OP.CONCATENATION, sources, [target], options)


def _pad_or_not(
    low: Lowering, node: onnx.NodeProto, kernel: Sequence[int], *, zeros: bool, cut: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """The input of a windowed operator, padded if TFLite's own padding differs, and the padding mode.

    `cut` rows of taps were taken off the window's top and bottom, and as many of the padding with them.

    SAME puts the smaller half of the padding first; ONNX pads are free. Where they differ, zeros are
    written around the input by a PAD (code 0 is real 0) if the operator may read `zeros` there.
    """
    source = node.input[0]
    given, made = low.view.shapes[source], low.view.shapes[node.output[0]]
    strides = list(attribute(node, "strides", [1, 1]))
    pads = list(attribute(node, "pads", [0] * 4))
    if attribute(node, "ceil_mode", 0) or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        raise EdgeageError(f"{node.op_type} {node.output[0]} uses ceil_mode or auto_pad; write its pads out")
    if any(dilation != 1 for dilation in attribute(node, "dilations", [1, 1])):
        raise EdgeageError(f"{node.op_type} {node.output[0]} is dilated; INT8 engines take dilation 1 only")
    before = [pads[0] - cut[0], pads[1]]
    # rows and columns behind the input that the last window reads; a wider ONNX pad is never read
    after = [max((made[2 + i] - 1) * strides[i] + kernel[i] - given[2 + i] - before[i], 0) for i in range(2)]
    if not any(before) and not any(after):
        return low.tensor(source), schema.Padding.VALID
    same = all(
        made[2 + i] == -(-given[2 + i] // strides[i]) and before[i] == (before[i] + after[i]) // 2
        for i in range(2)
    )
    if same and not (node.op_type == "AveragePool" and attribute(node, "count_include_pad", 0)):
        return low.tensor(source), schema.Padding.SAME
    if not zeros:
        raise EdgeageError(f"{node.op_type} {node.output[0]} has pads {pads} that TFLite cannot express")
    n, c, h, w = given
    shape = (n, h + before[0] + after[0], w + before[1] + after[1], c)
    padded = low.like(f"{node.output[0]}:padded{cut[0]}", source, shape)
    amounts = np.array([[0, 0], [before[0], after[0]], [before[1], after[1]], [0, 0]], dtype=np.int32)
    widths = low.writer.constant("pads", amounts)
    emit(low.writer, _OP.PAD, [low.tensor(source), widths], [padded], schema.PadOptionsT())
    return padded, schema.Padding.VALID


def _conv(low: Lowering, node: onnx.NodeProto) -> None:
    """CONV_2D or DEPTHWISE_CONV_2D; with a depth-to-space behind it, the row-phase form."""
    weights = low.quantization.weights(node)
    filters, per_group = weights.codes.shape[:2]
    groups = attribute(node, "group", 1)
    depthwise = groups > 1
    if depthwise and per_group != 1:
        raise EdgeageError(f"Conv {node.output[0]} has {groups} groups; engines take 1 or depthwise")
    strides = attribute(node, "strides", [1, 1])

    def write(target: int, which: NDArray[np.int64], name: str) -> None:
        """The convolution of the output channels `which` into tensor `target`."""
        codes, cut = weights.codes[which], (0, 0)
        if not depthwise and strides[0] == 1:
            codes, cut = _without_idle_rows(codes, attribute(node, "pads", [0] * 4))
        source, padding = _pad_or_not(low, node, codes.shape[2:], zeros=True, cut=cut)
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding = padding
        options.strideH, options.strideW = strides
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = _activation(low, node)
        if depthwise:
            options.depthMultiplier = filters // groups
        scales = weights.scales[which]
        order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
        weight = low.writer.constant(f"{name}:weight", codes.transpose(order), scales, axis)
        bias = low.writer.constant(f"{name}:bias", weights.bias_codes[which], weights.bias_scales[which])
        code = _OP.DEPTHWISE_CONV_2D if depthwise else _OP.CONV_2D
        emit(low.writer, code, [source, weight, bias], [target], options)

    output = low.quantization.stored_output(node)
    readers = low.view.consumers.get(output, [])
    if len(readers) != 1 or readers[0].op_type != "DepthToSpace" or output in low.view.outputs:
        write(low.tensor(output), np.arange(filters), output)
        return
    if depthwise:
        raise EdgeageError(f"depthwise Conv {node.output[0]} feeds a DepthToSpace; use a full convolution")
    # Depth-to-space without its operator (NPUs refuse it) and without a transpose: one convolution for
    # each row phase a, its channels ordered (column phase, channel), so that its rows are already rows of
    # the result; the row phases are then interleaved by a concat over a unit axis. The reshapes are free.
    block = attribute(readers[0], "blocksize")
    n, _, h, w = low.view.shapes[output]
    channels = filters // block**2
    row = w * block * channels
    rows = []
    for phase in range(block):
        which = np.arange(filters).reshape(channels, block, block)[:, phase, :].T.ravel()
        name = f"{output}:row{phase}"
        columns = low.like(name, output, (n, h, w, block * channels))
        write(columns, which, name)
        rows.append(low.like(f"{name}:flat", output, (n, h, 1, row)))
        _reshape(low, columns, rows[-1], (n, h, 1, row))
    joined = low.like(f"{output}:rows", output, (n, h, block, row))
    _concatenate(low, rows, joined, axis=2)
    result = readers[0].output[0]
    _reshape(low, joined, low.tensor(result), nhwc(low.view.shapes[result]))
    low.done(readers[0])


def _without_idle_rows(
    codes: NDArray[np.int8], pads: Sequence[int]
) -> tuple[NDArray[np.int8], tuple[int, int]]:
    """Kernels [O, I, H, W] without top and bottom rows that are zero in all of them, and how many those are.

    A row phase of an enlarging 3x3 convolution (see `edgeage.export.phase`) uses two of its three rows. No
    more rows go than the padding has, so that the window still starts on the image or in its padding.
    """
    used = np.flatnonzero(codes.any(axis=(0, 1, 3)))
    if not len(used):
        return codes, (0, 0)
    top, bottom = min(int(used[0]), pads[0]), min(codes.shape[2] - 1 - int(used[-1]), pads[2])
    return codes[:, :, top : codes.shape[2] - bottom], (top, bottom)


def _gemm(low: Lowering, node: onnx.NodeProto) -> None:
    weights = low.quantization.weights(node)
    output = low.quantization.stored_output(node)
    codes, bias_codes = weights.codes, weights.bias_codes
    if node.input[0] in low.flat_images:
        codes = codes[:, hwc_permutation(low.flat_images[node.input[0]])]
    if output in low.flat_images:
        rows = hwc_permutation(low.flat_images[output])
        codes, bias_codes = codes[rows], bias_codes[rows]
    weight = low.writer.constant(f"{output}:weight", codes, weights.scales)
    bias = low.writer.constant(f"{output}:bias", bias_codes, weights.bias_scales)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = _activation(low, node)
    inputs = [low.tensor(node.input[0]), weight, bias]
    emit(low.writer, _OP.FULLY_CONNECTED, inputs, [low.tensor(output)], options)


def _operand(low: Lowering, node: onnx.NodeProto, name: str) -> int:
    """An operand of Add, Sub or Mul: an activation, or a constant brought to the layout of the result."""
    if name not in low.view.constants:
        return low.tensor(name)
    codes, scale = low.quantization.constant(name)
    rank = len(low.view.shapes[node.output[0]])
    if codes.size == 1:
        codes = codes.reshape(1)
    else:
        codes = codes.reshape((1,) * (rank - codes.ndim) + codes.shape)
        if rank == 4:
            codes = codes.transpose(0, 2, 3, 1)
    return low.writer.constant(f"{node.output[0]}:{name}", codes, np.array([scale], dtype=np.float32))


def _arithmetic(code: int, make_options: Callable[[], Any]) -> Callable[[Lowering, onnx.NodeProto], None]:
    def lower(low: Lowering, node: onnx.NodeProto) -> None:
        options = make_options()
        options.fusedActivationFunction = _activation(low, node)
        output = low.tensor(low.quantization.stored_output(node))
        emit(low.writer, code, [_operand(low, node, name) for name in node.input], [output], options)

    return lower


def _leaky_relu(low: Lowering, node: onnx.NodeProto) -> None:
    options = schema.LeakyReluOptionsT()
    options.alpha = float(attribute(node, "alpha", 0.01))
    emit(low.writer, _OP.LEAKY_RELU, [low.tensor(node.input[0])], [low.tensor(node.output[0])], options)


def _rectify(low: Lowering, node: onnx.NodeProto) -> None:
    """A rectifier that no kernel before it could absorb.

    ReLU as the sum with zero that an ADD rectifies, which is exact (`decide` ties its scales): XNNPACK
    leaves an int8 RELU to the reference kernels, and 27 of them cut the embedder into 28 partitions.
    """
    kind = rectifier(node, low.view.constants)
    if kind is None:
        raise EdgeageError(f"Clip {node.output[0]} is not a ReLU6; TFLite has no other int8 clamp")
    source, output = low.tensor(node.input[0]), low.tensor(node.output[0])
    if kind == "relu6":
        emit(low.writer, _OP.RELU6, [source], [output])
        return
    scale = np.array([low.quantization.scale(node.input[0])], dtype=np.float32)
    zero = low.writer.constant(f"{node.output[0]}:zero", np.zeros(1, dtype=np.int8), scale)
    options = schema.AddOptionsT()
    options.fusedActivationFunction = _ACTIVATION["relu"]
    emit(low.writer, _OP.ADD, [source, zero], [output], options)


def _tanh(low: Lowering, node: onnx.NodeProto) -> None:
    emit(low.writer, _OP.TANH, [low.tensor(node.input[0])], [low.tensor(node.output[0])])


def _concat(low: Lowering, node: onnx.NodeProto) -> None:
    axis = nhwc_axis(attribute(node, "axis"), len(low.view.shapes[node.output[0]]))
    _concatenate(low, [low.tensor(name) for name in node.input], low.tensor(node.output[0]), axis)


def _reshape_node(low: Lowering, node: onnx.NodeProto) -> None:
    output = node.output[0]
    _reshape(low, low.tensor(node.input[0]), low.tensor(output), nhwc(low.view.shapes[output]))


def _resize(low: Lowering, node: onnx.NodeProto) -> None:
    options = schema.ResizeNearestNeighborOptionsT()  # neither align_corners nor half_pixel_centers
    size = low.writer.constant("size", np.array(low.view.shapes[node.output[0]][2:], dtype=np.int32))
    output = low.tensor(node.output[0])
    emit(low.writer, _OP.RESIZE_NEAREST_NEIGHBOR, [low.tensor(node.input[0]), size], [output], options)


def _pool(low: Lowering, node: onnx.NodeProto) -> None:
    average = node.op_type == "AveragePool"
    kernel = attribute(node, "kernel_shape")
    zeros = average and bool(attribute(node, "count_include_pad", 0))
    source, padding = _pad_or_not(low, node, kernel, zeros=zeros)
    options = schema.Pool2DOptionsT()
    options.padding = padding
    options.filterHeight, options.filterWidth = kernel
    options.strideH, options.strideW = attribute(node, "strides", [1, 1])
    code = _OP.AVERAGE_POOL_2D if average else _OP.MAX_POOL_2D
    emit(low.writer, code, [source], [low.tensor(node.output[0])], options)


def _mean(low: Lowering, node: onnx.NodeProto) -> None:
    """The mean over height and width."""
    options = schema.ReducerOptionsT()
    options.keepDims = bool(attribute(node, "keepdims", 1))
    axes = low.writer.constant("axes", np.array([1, 2], dtype=np.int32))
    emit(low.writer, _OP.MEAN, [low.tensor(node.input[0]), axes], [low.tensor(node.output[0])], options)


def _lone_depth_to_space(low: Lowering, node: onnx.NodeProto) -> None:
    raise EdgeageError(
        f"DepthToSpace {node.output[0]} does not follow a convolution of its own; put activations behind it"
    )


TABLE: dict[str, Callable[[Lowering, onnx.NodeProto], None]] = {
    "Add": _arithmetic(_OP.ADD, schema.AddOptionsT),
    "AveragePool": _pool,
    "Clip": _rectify,
    "Concat": _concat,
    "Conv": _conv,
    "DepthToSpace": _lone_depth_to_space,
    "Gemm": _gemm,
    "LeakyRelu": _leaky_relu,
    "MaxPool": _pool,
    "Mul": _arithmetic(_OP.MUL, schema.MulOptionsT),
    "ReduceMean": _mean,
    "Relu": _rectify,
    "Reshape": _reshape_node,
    "Resize": _resize,
    "Sub": _arithmetic(_OP.SUB, schema.SubOptionsT),
    "Tanh": _tanh,
}
