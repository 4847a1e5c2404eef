"""Nearest 2x + conv 5x5 or 3x3 as one conv 3x3 to four phases + depth-to-space: exact, and no enlarging.

An enlarged image repeats every pixel, so output pixel (2i + a, 2j + b) meets each small pixel with the
sum of the kernel taps that fall on its copies. For a 5x5 kernel with padding 2 these sums form, for each
phase (a, b), a 3x3 kernel with padding 1: 4 * 9 = 36 taps per small pixel where the direct form has
4 * 25 = 100. Of a 3x3 kernel only 2x2 sums remain in each phase, the rest of the 3x3 are zeros: what is
gained is that no engine has to enlarge (XNNPACK has no int8 kernel for it and would split the graph there).
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeage.calibration.graph import GraphView, attribute
from edgeage.export.onnx_graph import clean

_KERNELS = (3, 5)


def decompose(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Rewrite every nearest-2x + conv of a canonical graph; returns the graph and how many there were."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    view = GraphView(model)
    nodes: list[onnx.NodeProto] = []
    found = 0
    replaced: set[str] = set()
    for node in view.nodes:
        source = view.producer.get(node.input[0])
        if source is None or not _is_pair(view, source, node):
            nodes.append(node)
            continue
        found += 1
        replaced.add(source.output[0])
        output = node.output[0]
        weight = view.constants[node.input[1]]
        bias = view.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        names = [f"{output}.phase_weight", f"{output}.phase_bias"]
        for name, value in zip(names, (phase_kernels(weight), np.repeat(bias, 4)), strict=True):
            result.graph.initializer.append(numpy_helper.from_array(value, name))
        phases = f"{output}.phases"
        nodes.append(
            onnx.helper.make_node(
                "Conv", [source.input[0], *names], [phases], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1]
            )
        )
        nodes.append(onnx.helper.make_node("DepthToSpace", [phases], [output], blocksize=2, mode="CRD"))
    del result.graph.node[:]
    result.graph.node.extend(node for node in nodes if node.output[0] not in replaced)
    return clean(result), found


def phase_kernels(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """[O, I, K, K] -> [4 * O, I, 3, 3], output channel o * 4 + a * 2 + b for phase (a, b) (CRD order)."""
    kernel = weight.shape[2]
    # which[a, small, tap]: on phase a, tap `tap` (offset tap - K // 2) falls on small pixel `small` - 1
    which = np.zeros((2, 3, kernel))
    for phase in range(2):
        for tap in range(kernel):
            which[phase, (phase + tap - kernel // 2) // 2 + 1, tap] = 1
    kernels = np.einsum("oiuv,apu,bqv->oabipq", weight.astype(np.float64), which, which)
    outputs, inputs = weight.shape[:2]
    stacked: NDArray[np.float32] = kernels.reshape(4 * outputs, inputs, 3, 3).astype(np.float32)
    return stacked


def _is_pair(view: GraphView, source: onnx.NodeProto, node: onnx.NodeProto) -> bool:
    """Whether `source` -> `node` is a nearest 2x enlargement read only by a plain 'same' conv 3x3 or 5x5."""
    if source.op_type != "Resize" or node.op_type != "Conv" or len(view.consumers[source.output[0]]) != 1:
        return False
    (_, _, height, width), (_, _, tall, wide) = view.shapes[source.input[0]], view.shapes[source.output[0]]
    kernel = view.shapes[node.input[1]][2]
    return (
        (tall, wide) == (2 * height, 2 * width)
        and kernel in _KERNELS
        and view.shapes[node.input[1]][2:] == (kernel, kernel)
        and list(attribute(node, "pads", [0] * 4)) == [kernel // 2] * 4
        and list(attribute(node, "strides", [1, 1])) == [1, 1]
        and attribute(node, "group", 1) == 1
    )
