"""Reverse rules: from the gradient of a node's output to those of its inputs, by forward operators alone.

One entry an operator, in `RULES`. What a rule writes is in the closed set of `edgeage.export.onnx_graph`, so
a gradient runs wherever the network itself runs: no autograd, no transposed convolution, no custom operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeage.calibration.graph import STEEP, GraphView, attribute, rectifier, steps
from edgeage.errors import EdgeageError
from edgeage.export.refine import kernels

FEW_CHANNELS = 16  # before a depth-to-space; see `_depth_to_space`

Gradients = dict[str, str]  # input -> its gradient


class Reverse:
    """The reverse pass through a forward graph, from given gradients to those of one input.

    Attributes:
        view: the forward graph.
        needed: tensors that depend on the input whose gradient is asked for, other than by steps.
        nodes, constants: what the rules have written so far.
        gains: output -> factor by which its gradient must still be multiplied; a weighted rule absorbs it.
    """

    def __init__(self, view: GraphView, wanted: str) -> None:
        self.view = view
        self.wanted = wanted
        self.needed = {wanted}
        flat = steps(view)  # their gradient is 0
        for node in view.nodes:
            if self.needed & set(node.input):
                self.needed |= set(node.output) - flat
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.gains: dict[str, float] = {}
        self._arrived: dict[str, list[str]] = {}
        self._absorbed: set[str] = set()

    def seed(self, tensor: str, gradient: str, gain: float = 1.0) -> None:
        """Say that `gradient`, times `gain`, is (a part of) the gradient of `tensor`."""
        self._arrived.setdefault(tensor, []).append(gradient)
        self.gains[tensor] = gain

    def run(self) -> str:
        """Write the reverse pass; returns the gradient of the wanted input.

        Raises NoReverseRule, by its name, for a node on the way that has no rule.
        """
        for node in reversed(self.view.nodes):
            output = node.output[0]
            if output not in self.needed or output not in self._arrived or output in self._absorbed:
                continue
            rule = RULES.get(node.op_type)
            if rule is None:
                raise no_rule(node, f"rules exist for {', '.join(sorted(RULES))}")
            for name, gradient in rule(self, node, self._sum(output)).items():
                if name in self.needed:
                    self._arrived.setdefault(name, []).append(gradient)
        if self.wanted not in self._arrived:
            raise EdgeageError(f"nothing that is optimised depends on {self.wanted}; it has no gradient")
        return self._sum(self.wanted)

    def op(self, kind: str, inputs: list[str], like: str, **attributes: Any) -> str:
        """Write a node; its output is named after the forward tensor `like`."""
        stem = f"{like}.reverse"
        name = f"{stem}{sum(node.output[0].startswith(stem) for node in self.nodes) or ''}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, name: str, value: Any, dtype: type[np.generic] = np.float32) -> str:
        self.constants[name] = np.ascontiguousarray(np.asarray(value, dtype=dtype))
        return name

    def weight(self, node: onnx.NodeProto) -> NDArray[np.float64]:
        """A weighted node's constant, with the gain of its output."""
        return np.asarray(self.view.constants[node.input[1]], np.float64) * self.gains.pop(
            node.output[0], 1.0
        )

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.view.shapes[tensor]

    def absorb(self, tensor: str) -> None:
        """Say that the node that makes `tensor` has been reversed together with another."""
        self._absorbed.add(tensor)

    def _sum(self, tensor: str) -> str:
        first, *rest = self._arrived[tensor]
        for other in rest:
            first = self.op("Add", [first, other], tensor)
        gain = self.gains.get(tensor, 1.0)
        maker = self.view.producer.get(tensor)
        if gain != 1.0 and (maker is None or maker.op_type not in ("Conv", "Gemm")):
            del self.gains[tensor]
            return self.op("Mul", [first, self.constant(f"{tensor}.gain", gain)], tensor)
        return first


class NoReverseRule(EdgeageError):
    """The network has an operator whose gradient these rules cannot write."""


def no_rule(node: onnx.NodeProto, why: str) -> NoReverseRule:
    return NoReverseRule(f"refinement has no reverse rule for {node.op_type} (node {node.output[0]}): {why}")


def mask(rev: Reverse, tensor: str, upper: float = 1.0) -> str:
    """`upper` where a forward tensor is above 0, else 0."""
    steep = rev.constant("steep", STEEP)
    product = rev.op("Mul", [tensor, steep], f"{tensor}.mask")
    ends = [rev.constant("mask.low", 0.0), rev.constant(f"mask.high{upper:g}", upper)]
    return rev.op("Clip", [product, *ends], f"{tensor}.mask")


def _conv(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    """A convolution of the gradient with the flipped kernel; with a stride, one for each phase."""
    given, made = rev.shape(node.input[0]), rev.shape(node.output[0])
    strides, pads = attribute(node, "strides", [1, 1]), attribute(node, "pads", [0] * 4)
    groups, weight = attribute(node, "group", 1), rev.weight(node)
    stride = strides[0]
    if strides[0] != strides[1] or any(d != 1 for d in attribute(node, "dilations", [1, 1])):
        raise no_rule(node, "it is dilated or has two strides")
    if groups > 1 and (groups != given[1] or weight.shape[0] != groups):
        raise no_rule(node, f"it has {groups} groups; 1 and depthwise have rules")
    if any(size % stride for size in given[2:]):
        raise no_rule(node, f"its stride {stride} does not divide its input {given[2:]}")
    if made[2:] == (1, 1) and groups > 1 and not any(pads) and weight.shape[2:] == given[2:]:
        # one window over the whole image: every pixel gets its own weight's share
        window = _even_channels(rev, gradient, weight.transpose(1, 0, 2, 3))
        name = rev.constant(f"{node.output[0]}.reverse_weight", window)
        return {node.input[0]: rev.op("Mul", [gradient, name], node.input[0])}
    kernel, around = kernels.conv_reverse(weight, stride, pads, given[2:], made[2:], depthwise=groups > 1)
    if min(around) < 0:
        raise no_rule(node, f"its pads {pads} are wider than its kernel {weight.shape[2:]}")
    name = rev.constant(f"{node.output[0]}.reverse_weight", kernel)
    result = rev.op(
        "Conv",
        [gradient, name],
        node.input[0],
        kernel_shape=kernel.shape[2:],
        pads=around,
        strides=[1, 1],
        group=groups,
    )
    if stride > 1:
        result = rev.op("DepthToSpace", [result], node.input[0], blocksize=stride, mode="CRD")
    return {node.input[0]: result}


def _even_channels(rev: Reverse, gradient: str, window: NDArray[np.float64]) -> NDArray[np.float64]:
    """`window` [1, C, H, W] with all channels reaching 1; their sizes go into the dense layer before it.

    A constant operand of a product has one INT8 scale for all channels. Unchanged if `gradient` does not
    come from a dense layer of the reverse pass.
    """
    makers = {node.output[0]: node for node in rev.nodes}
    moved = makers.get(gradient)
    dense = makers.get(moved.input[0]) if moved is not None and moved.op_type == "Reshape" else None
    if dense is None or dense.op_type != "Gemm":
        return window
    reach = np.maximum(np.abs(window).max(axis=(0, 2, 3)), 1e-12)
    rev.constant(dense.input[1], rev.constants[dense.input[1]] * reach[:, None])
    return window / reach[:, None, None]


def _depth_to_space(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    """With the convolution before it: one convolution whose stride is the block size.

    For few channels (an image) the gradient is brought into the form before the depth-to-space instead, and
    the convolution is reversed as any other: kernels fill up few channels with zeros, tap by tap.
    """
    conv = rev.view.producer.get(node.input[0])
    block = attribute(node, "blocksize")
    plain = (
        conv is not None
        and conv.op_type == "Conv"
        and list(attribute(conv, "strides", [1, 1])) == [1, 1]
        and attribute(conv, "group", 1) == 1
        and all(d == 1 for d in attribute(conv, "dilations", [1, 1]))
        and len(rev.view.consumers[node.input[0]]) == 1
    )
    if conv is None or not plain or attribute(node, "mode", "DCR") != "CRD":
        raise no_rule(node, "it must follow a convolution of its own, stride 1, mode CRD")
    if rev.shape(node.input[0])[1] <= FEW_CHANNELS:
        return {node.input[0]: _before_depth_to_space(rev, gradient, node, {})}
    kernel, around = kernels.enlarging_reverse(
        np.asarray(rev.view.constants[conv.input[1]], np.float64),
        block,
        attribute(conv, "pads", [0] * 4),
        rev.shape(conv.input[0])[2:],
        rev.shape(node.output[0])[2:],
    )
    if min(around) < 0:
        raise no_rule(conv, "its pads are wider than its kernel")
    rev.absorb(conv.output[0])
    name = rev.constant(f"{node.output[0]}.reverse_weight", kernel)
    attributes = {"kernel_shape": kernel.shape[2:], "pads": around, "strides": [block] * 2}
    return {conv.input[0]: rev.op("Conv", [gradient, name], conv.input[0], **attributes)}


def _before_depth_to_space(rev: Reverse, tensor: str, node: onnx.NodeProto, known: dict[str, str]) -> str:
    """The elements of `tensor`, of the shape of `node`'s output, where they lie before the depth-to-space.

    Sums and products of what the reverse pass wrote are written again on the other side; a depth-to-space
    that ends it vanishes; anything else passes a convolution of ones, which only moves elements.
    """
    if tensor in known:
        return known[tensor]
    channels, block = rev.shape(node.output[0])[1], attribute(node, "blocksize")
    maker = next((own for own in rev.nodes if own.output[0] == tensor), None)
    if maker is not None and maker.op_type == "DepthToSpace" and attribute(maker, "blocksize") == block:
        known[tensor] = maker.input[0]
    elif maker is not None and maker.op_type in ("Add", "Sub", "Mul"):
        scalars = [name for name in maker.input if name in rev.constants and rev.constants[name].size == 1]
        operands = [
            name if name in scalars else _before_depth_to_space(rev, name, node, known)
            for name in maker.input
        ]
        known[tensor] = rev.op(maker.op_type, operands, f"{tensor}.phases")
    else:
        ones = np.zeros((channels * block**2, channels, block, block))
        for channel, a, b in np.ndindex(channels, block, block):
            ones[channel * block**2 + a * block + b, channel, a, b] = 1
        name = rev.constant(f"{node.output[0]}.phases_of_image", ones)
        sizes = {"kernel_shape": [block] * 2, "strides": [block] * 2, "pads": [0] * 4}
        known[tensor] = rev.op("Conv", [tensor, name], f"{tensor}.phases", **sizes)
    return known[tensor]


def _gemm(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    """The transposed weight; behind a concat, the columns of each of its inputs alone."""
    weight, source = rev.weight(node), node.input[0]
    joined = rev.view.producer.get(source)
    parts = [source]
    if joined is not None and joined.op_type == "Concat" and len(rev.view.consumers[source]) == 1:
        rev.absorb(source)
        parts = list(joined.input)
    found: Gradients = {}
    start = 0
    for part in parts:
        width = rev.shape(part)[1]
        if part in rev.needed:
            columns = weight[:, start : start + width]
            name = rev.constant(f"{node.output[0]}.{part}.reverse_weight", columns.T)
            found[part] = rev.op("Gemm", [gradient, name], part, transB=1)
        start += width
    return found


def _leaky_relu(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    alpha = float(attribute(node, "alpha", 0.01))
    rise = mask(rev, node.output[0], 1 - alpha)
    slope = rev.op("Add", [rise, rev.constant(f"slope{alpha:g}", alpha)], f"{node.output[0]}.slope")
    return {node.input[0]: rev.op("Mul", [gradient, slope], node.input[0])}


def _rectifier(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    kind, output = rectifier(node, rev.view.constants), node.output[0]
    if kind not in ("relu", "relu6"):
        raise no_rule(node, "only clips to 0..6 have one")
    passed = rev.op("Mul", [gradient, mask(rev, output)], node.input[0])
    if kind == "relu6":
        below = rev.op("Sub", [rev.constant("six", 6.0), output], f"{output}.below")
        passed = rev.op("Mul", [passed, mask(rev, below)], node.input[0])
    return {node.input[0]: passed}


def _tanh(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    output = node.output[0]
    square = rev.op("Mul", [output, output], f"{output}.square")
    slope = rev.op("Sub", [rev.constant("one", 1.0), square], f"{output}.slope")
    return {node.input[0]: rev.op("Mul", [gradient, slope], node.input[0])}


def _add(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    first, second = node.input
    _require_whole(rev, node)
    if node.op_type == "Sub" and second in rev.needed:
        minus = rev.op("Mul", [gradient, rev.constant("minus", -1.0)], second)
        if first == second:
            raise no_rule(node, "it subtracts a tensor from itself")
        return {first: gradient, second: minus}
    if first == second:
        return {first: rev.op("Add", [gradient, gradient], first)}
    return {first: gradient, second: gradient}


def _mul(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    first, second = node.input
    _require_whole(rev, node)
    found: Gradients = {}
    for own, other in ((first, second), (second, first)):
        if own in rev.needed and own not in found:
            found[own] = rev.op("Mul", [gradient, other], own)
    if first == second:
        found[first] = rev.op("Add", [found[first], found[first]], first)
    return found


def _require_whole(rev: Reverse, node: onnx.NodeProto) -> None:
    """Refuse a broadcast operand that needs a gradient: it would be a sum over what it is broadcast to."""
    for name in node.input:
        if name in rev.needed and rev.shape(name) != rev.shape(node.output[0]):
            raise no_rule(node, f"its operand {name} is broadcast and depends on {rev.wanted}")


def _reshape(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    source = node.input[0]
    shape = rev.constant(f"{source}.reverse_shape", rev.shape(source), np.int64)
    return {source: rev.op("Reshape", [gradient, shape], source)}


def _resize(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    """Nearest enlargement by whole factors: the sum over what each pixel became."""
    given, made = rev.shape(node.input[0]), rev.shape(node.output[0])
    factors = [made[axis] // given[axis] for axis in (2, 3)]
    if factors[0] != factors[1]:
        raise no_rule(node, f"it enlarges by {factors}, not by one factor")
    return {node.input[0]: _windows(rev, node, gradient, np.ones(factors), factors)}


def _windows(rev: Reverse, node: onnx.NodeProto, gradient: str, one: Any, strides: list[int]) -> str:
    """A depthwise convolution of the gradient with the same window for each channel."""
    channels = rev.shape(node.input[0])[1]
    kernel = np.broadcast_to(one, (channels, 1, *np.shape(one)))
    name = rev.constant(f"{node.output[0]}.reverse_weight", kernel)
    attributes = {"kernel_shape": np.shape(one), "pads": [0] * 4, "strides": strides, "group": channels}
    return rev.op("Conv", [gradient, name], node.input[0], **attributes)


def _reduce_mean(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    """Height and width: every pixel gets an equal share."""
    n, channels, height, width = rev.shape(node.input[0])
    if len(rev.shape(node.output[0])) == 2:
        shape = rev.constant(f"{node.output[0]}.reverse_shape", (n, channels, 1, 1), np.int64)
        gradient = rev.op("Reshape", [gradient, shape], node.output[0])
    share = np.full((1, channels, height, width), 1 / (height * width))
    name = rev.constant(f"{node.output[0]}.share", share)
    return {node.input[0]: rev.op("Mul", [gradient, name], node.input[0])}


def _average_pool(rev: Reverse, node: onnx.NodeProto, gradient: str) -> Gradients:
    """As the depthwise convolution that it is; without padding, or with padding that counts."""
    size, pads = attribute(node, "kernel_shape"), attribute(node, "pads", [0] * 4)
    if any(pads) and not attribute(node, "count_include_pad", 0):
        raise no_rule(node, "its windows at the border have fewer pixels; set count_include_pad")
    channels = rev.shape(node.input[0])[1]
    window = np.full((channels, 1, *size), 1 / np.prod(size), np.float32)
    twin = onnx.helper.make_node(
        "Conv",
        [node.input[0], f"{node.output[0]}.window"],
        list(node.output),
        kernel_shape=size,
        pads=pads,
        strides=attribute(node, "strides", [1, 1]),
        group=channels,
    )
    rev.view.constants[twin.input[1]] = window
    return _conv(rev, twin, gradient)


RULES: dict[str, Callable[[Reverse, onnx.NodeProto, str], Gradients]] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "Clip": _rectifier,
    "Conv": _conv,
    "DepthToSpace": _depth_to_space,
    "Gemm": _gemm,
    "LeakyRelu": _leaky_relu,
    "Mul": _mul,
    "ReduceMean": _reduce_mean,
    "Relu": _rectifier,
    "Reshape": _reshape,
    "Resize": _resize,
    "Sub": _add,
    "Tanh": _tanh,
}
