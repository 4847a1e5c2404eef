"""The reverse pass with channels of like size, so that one int8 scale suits all of a gradient's channels.

What evens out a forward tensor makes its gradient uneven: a channel that is divided by f has a gradient f
times as large. The reverse pass has weights of its own, and between two of its convolutions channels may be
scaled anew (`edgeage.calibration.equalisation`). How large each will be follows from its weights alone: the
variances of independent channels add up.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeage.calibration.equalisation import equalise
from edgeage.calibration.graph import GraphView, attribute

_Sizes = NDArray[np.float64]


def even_out(model: onnx.ModelProto, reverse: Collection[str]) -> onnx.ModelProto:
    """The refinement step `model`, equal in exact arithmetic. Args: reverse: tensors of its reverse pass."""
    view = GraphView(model)
    squares: dict[str, _Sizes] = {}
    for node in view.nodes:
        if node.output[0] in reverse:
            squares[node.output[0]] = _expected(view, node, squares)
    return equalise(model, {name: np.sqrt(values) for name, values in squares.items()})[0]


def _expected(view: GraphView, node: onnx.NodeProto, squares: dict[str, _Sizes]) -> _Sizes:
    """Mean square of each channel of the node's output, on a scale of its own; 1 where a gradient begins."""
    channels = view.shapes[node.output[0]][1]
    met = [squares[name] for name in node.input if name in squares]
    if not met:
        return np.ones(channels)
    given = met[0]
    if node.op_type in ("Add", "Sub"):
        return np.sum(met, axis=0)
    constants = [view.constants[name].astype(np.float64) for name in node.input if name in view.constants]
    if node.op_type in ("Conv", "Gemm"):
        weight = np.square(constants[0]).reshape(*constants[0].shape[:2], -1).sum(2)
        if attribute(node, "group", 1) > 1:
            return weight[:, 0] * np.repeat(given, len(weight) // len(given))
        return weight @ given
    if node.op_type == "Mul" and constants and constants[0].ndim > 2:
        factor = np.square(constants[0]).reshape(-1, *constants[0].shape[-2:]).mean((1, 2))
        return given * factor
    if len(given) > channels:  # a depth-to-space, or flat values that become images
        return given.reshape(channels, -1).mean(1)
    return np.repeat(given, channels // len(given))  # slopes and tanh treat all channels alike
