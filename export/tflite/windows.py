"""Windowed operators: convolutions, pooling, padding, means and enlarging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeage.calibration.graph import attribute, zero_padding
from edgeage.errors import EdgeageError
from edgeage.export.tflite.kernels import OP, activation, concatenate, constants, emit, reshape, split
from edgeage.export.tflite.layout import nhwc

if TYPE_CHECKING:
    from edgeage.export.tflite.lowering import Lowering

_CHANNEL_TILE = 16  # output channels that int8 kernels compute at once
_FAST_DEPTHWISE = 3  # taps; up to here XNNPACK has a kernel of its own, then the next one is for 9


def _pad_or_not(
    low: Lowering, node: onnx.NodeProto, kernel: Sequence[int], *, zeros: bool, cut: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """The input of a windowed operator, padded if TFLite's own padding differs, and the padding mode.

    `cut` rows and columns of taps were taken off the window's top and left, and as many of the padding.

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
    before = [pads[0] - cut[0], pads[1] - cut[1]]
    # rows and columns behind the input that the last window reads; a wider ONNX pad is never read
    after = [max((made[2 + i] - 1) * strides[i] + kernel[i] - given[2 + i] - before[i], 0) for i in range(2)]
    if not any(before) and not any(after):
        return low.read(node, source), schema.Padding.VALID
    same = all(
        made[2 + i] == -(-given[2 + i] // strides[i]) and before[i] == (before[i] + after[i]) // 2
        for i in range(2)
    )
    if same and not (node.op_type == "AveragePool" and attribute(node, "count_include_pad", 0)):
        return low.read(node, source), schema.Padding.SAME
    if not zeros:
        raise EdgeageError(f"{node.op_type} {node.output[0]} has pads {pads} that TFLite cannot express")
    n, c, h, w = given
    shape = (n, h + before[0] + after[0], w + before[1] + after[1], c)
    padded = low.like(node, f"{node.output[0]}:padded{before}{after}", source, shape)
    _pad(low, node, padded, (*before, *after))
    return padded, schema.Padding.VALID


def conv(low: Lowering, node: onnx.NodeProto) -> None:
    """CONV_2D or DEPTHWISE_CONV_2D; with a depth-to-space behind it, the row-phase form."""
    held = constants(low, node)
    filters, per_group = held.weight.shape[:2]
    groups = attribute(node, "group", 1)
    depthwise = groups > 1
    if depthwise and per_group != 1:
        raise EdgeageError(f"Conv {node.output[0]} has {groups} groups; engines take 1 or depthwise")
    strides = attribute(node, "strides", [1, 1])

    def write(target: int, which: NDArray[np.int64], name: str, copies: int = 1) -> None:
        """The convolution of the output channels `which` into tensor `target`.

        A depthwise one reads its input `copies` times, side by side.
        """
        kernels, cut = held.weight[which], (0, 0)
        if strides[0] == 1:
            trimmed = _without_idle_taps(kernels, attribute(node, "pads", [0] * 4))
            if not depthwise or trimmed[0][0].size <= _FAST_DEPTHWISE:
                kernels, cut = trimmed
        source, padding = _pad_or_not(low, node, kernels.shape[2:], zeros=True, cut=cut)
        if copies > 1:
            source = _side_by_side(low, node, source, copies)
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding = padding
        options.strideH, options.strideW = strides
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = activation(low, node)
        if depthwise:
            options.depthMultiplier = len(which) // (groups * copies)
        order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
        scales, units = (None if s is None else s[which] for s in (held.scales, held.bias_scales))
        weight = low.writer.constant(f"{name}:weight", kernels.transpose(order), scales, axis)
        bias = low.writer.constant(f"{name}:bias", held.bias[which], units)
        code = OP.DEPTHWISE_CONV_2D if depthwise else OP.CONV_2D
        emit(low.writer, code, [source, weight, bias], [target], options)

    output = low.quantization.stored_output(node)
    readers = low.view.consumers.get(output, [])
    if len(readers) != 1 or readers[0].op_type != "DepthToSpace" or output in low.view.outputs:
        write(low.made(node), np.arange(filters), output)
        return
    # Depth-to-space without its operator (NPUs refuse it) and without a transpose: one convolution for
    # each row phase a, its channels ordered (column phase, channel), so that its rows are already rows of
    # the result; the row phases are then interleaved by a concat over a unit axis. The reshapes are free.
    # Where each column phase alone has fewer taps (an enlarged 3x3: 2x2 of 3x3), it is a convolution too.
    block = attribute(readers[0], "blocksize")
    n, _, h, w = low.view.shapes[output]
    channels = filters // block**2
    row = w * block * channels
    rows = []
    by_phase = np.arange(filters).reshape(channels, block, block)
    pads = attribute(node, "pads", [0] * 4)
    widths = [_without_idle_taps(held.weight[by_phase[:, 0, b]], pads)[0].shape[3] for b in range(block)]
    few = not depthwise and block * channels < _CHANNEL_TILE
    if few:  # kernels would fill each row phase up to a whole tile of channels: one convolution, then split
        whole = low.like(node, f"{output}:phases", output, (n, h, w, filters))
        write(whole, by_phase.transpose(1, 2, 0).ravel(), output)
        names = [f"{output}:row{phase}" for phase in range(block)]
        pieces = [low.like(node, name, output, (n, h, w, block * channels)) for name in names]
        split(low, whole, pieces, axis=3)
    for phase in range(block):
        name = f"{output}:row{phase}"
        columns = pieces[phase] if few else low.like(node, name, output, (n, h, w, block * channels))
        if few:
            pass
        elif depthwise:  # each channel's column phases lie a whole image row of channels apart
            write(columns, by_phase[:, phase, :].T.ravel(), name, copies=block)
        elif max(widths) < held.weight.shape[3]:
            parts = [low.like(node, f"{name}{b}", output, (n, h, w, channels)) for b in range(block)]
            for b, part in enumerate(parts):
                write(part, by_phase[:, phase, b], f"{name}{b}")
            concatenate(low, parts, columns, axis=3)
        else:
            write(columns, by_phase[:, phase, :].T.ravel(), name)
        rows.append(low.like(node, f"{name}:flat", output, (n, h, 1, row)))
        reshape(low, columns, rows[-1], (n, h, 1, row))
    joined = low.like(node, f"{output}:rows", output, (n, h, block, row))
    concatenate(low, rows, joined, axis=2)
    reshape(low, joined, low.made(readers[0]), nhwc(low.view.shapes[readers[0].output[0]]))
    low.done(readers[0])


def _side_by_side(low: Lowering, node: onnx.NodeProto, source: int, copies: int) -> int:
    """A tensor with the channels of `source` several times over."""
    n, h, w, channels = low.writer.shape(source)
    wide = low.like(node, f"{node.output[0]}:wide", node.input[0], (n, h, w, channels * copies))
    concatenate(low, [source] * copies, wide, axis=3)
    return wide


def _without_idle_taps(kernels: NDArray[Any], pads: Sequence[int]) -> tuple[NDArray[Any], tuple[int, int]]:
    """Kernels [O, I, H, W] without outer rows and columns that are zero in all; how many went (top, left).

    A phase of an enlarging 3x3 convolution (see `edgeage.export.phase`) uses 2x2 of its 3x3 taps. No more go
    than the padding has, so that the window still starts on the image or in its padding.
    """
    kept, cut = [], []
    for axis, (before, after) in enumerate(((pads[0], pads[2]), (pads[1], pads[3]))):
        used = np.flatnonzero(kernels.any(axis=(0, 1, 3 - axis)))
        size = kernels.shape[2 + axis]
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, size - 1)
        cut.append(min(first, before))
        kept.append(slice(cut[axis], size - min(size - 1 - last, after)))
    return kernels[:, :, kept[0], kept[1]], (cut[0], cut[1])


def pad(low: Lowering, node: onnx.NodeProto) -> None:
    """Zeros around images."""
    amounts = zero_padding(low.view, node)
    if amounts is None:
        raise EdgeageError(f"Pad {node.output[0]} is not zeros around images; engines know no other")
    _pad(low, node, low.made(node), amounts)


def _pad(low: Lowering, node: onnx.NodeProto, target: int, amounts: Sequence[int]) -> None:
    top, left, bottom, right = amounts
    widths = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], dtype=np.int32)
    inputs = [low.read(node, node.input[0]), low.writer.constant("pads", widths)]
    emit(low.writer, OP.PAD, inputs, [target], schema.PadOptionsT())


def resize(low: Lowering, node: onnx.NodeProto) -> None:
    options = schema.ResizeNearestNeighborOptionsT()  # neither align_corners nor half_pixel_centers
    size = low.writer.constant("size", np.array(low.view.shapes[node.output[0]][2:], dtype=np.int32))
    output = low.made(node)
    emit(low.writer, OP.RESIZE_NEAREST_NEIGHBOR, [low.read(node, node.input[0]), size], [output], options)


def pool(low: Lowering, node: onnx.NodeProto) -> None:
    average = node.op_type == "AveragePool"
    kernel = attribute(node, "kernel_shape")
    zeros = average and bool(attribute(node, "count_include_pad", 0))
    source, padding = _pad_or_not(low, node, kernel, zeros=zeros)
    options = schema.Pool2DOptionsT()
    options.padding = padding
    options.filterHeight, options.filterWidth = kernel
    options.strideH, options.strideW = attribute(node, "strides", [1, 1])
    code = OP.AVERAGE_POOL_2D if average else OP.MAX_POOL_2D
    emit(low.writer, code, [source], [low.made(node)], options)


def mean(low: Lowering, node: onnx.NodeProto) -> None:
    """The mean over height and width."""
    options = schema.ReducerOptionsT()
    options.keepDims = bool(attribute(node, "keepdims", 1))
    axes = low.writer.constant("axes", np.array([1, 2], dtype=np.int32))
    emit(low.writer, OP.MEAN, [low.read(node, node.input[0]), axes], [low.made(node)], options)
