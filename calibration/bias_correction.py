"""What rounding the weights adds to each output channel in the mean, taken off the bias.

A channel's few weights do not round to zero in sum; with inputs of mean E[x] its output moves by
sum (W_int8 - W) E[x]. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.2, with means that were measured. Borders count as if the image went on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeage.calibration.graph import attribute
from edgeage.calibration.observers import Histogram
from edgeage.calibration.quantization import WEIGHTED, Quantization


def correct(quantization: Quantization, histograms: Mapping[str, Histogram]) -> dict[str, list[float]]:
    """Correction of each weighted int8 node's bias, by the node's output; one value a channel."""
    corrections: dict[str, list[float]] = {}
    for node in quantization.view.nodes:
        if node.op_type not in WEIGHTED or quantization.is_float(node):
            continue
        stored = quantization.weights(node)
        weight = np.asarray(quantization.view.constants[node.input[1]], dtype=np.float64)
        scales = stored.scales.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
        # [outputs, inputs of the group]: every tap of a channel meets the same mean
        lost = (weight - stored.codes * scales).reshape(*weight.shape[:2], -1).sum(axis=2)
        means = _means_met(histograms[node.input[0]].means, len(weight), attribute(node, "group", 1))
        corrections[node.output[0]] = [float(value) for value in (lost * means).sum(axis=1)]
    return corrections


def _means_met(means: NDArray[np.float64], outputs: int, groups: int) -> NDArray[np.float64]:
    """[outputs, inputs of the group]: the mean of each input that an output channel reads."""
    return np.repeat(means.reshape(groups, -1), outputs // groups, axis=0)
