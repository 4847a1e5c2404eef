"""From a histogram to a range: where to cut the tail so that the rest gets finer steps.

Every scale is symmetric (TensorRT's rule), so each calibrator looks for one reach t and the range becomes
[max(low, -t), min(high, t)]. min-max never clips; the others trade clipping for resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgeage.calibration.observers import Histogram
from edgeage.calibration.ranges import TensorRange

CODES = 127  # steps to each side
# The entropy calibrator's linear histogram and the fewest of its bins that a range may keep (one a code).
_LINEAR_BINS = 2048
_CANDIDATES = 96  # reaches that the search for the least squared error tries
_SMALLEST_SHARE = 0.125  # of the largest magnitude: cutting deeper never paid

_Floats = NDArray[np.float64]


def minmax(histogram: Histogram) -> float:
    """The largest magnitude seen."""
    return histogram.reach


def percentile(share: float) -> Callable[[Histogram], float]:
    """A calibrator that leaves `share` of the values (per cent, 0..100) inside the range."""

    def calibrate(histogram: Histogram) -> float:
        cumulated = np.cumsum(histogram.counts)
        # the epsilon keeps a share of exactly 100 % from falling beyond the last value
        index = int(np.searchsorted(cumulated, histogram.count * share / 100 - 1e-9))
        return min(float(histogram.edges[index]), histogram.reach)

    return calibrate


def mse(histogram: Histogram) -> float:
    """The reach whose int8 codes have the least squared error: rounding within, clipping beyond."""
    values, counts = _occupied(histogram)
    reaches = histogram.reach * np.geomspace(_SMALLEST_SHARE, 1.0, _CANDIDATES)
    steps = (reaches / CODES)[:, None]
    codes = np.clip(np.rint(values / steps), 0, CODES)
    errors = np.square(values - codes * steps) @ counts
    return float(reaches[int(np.argmin(errors))])


def entropy(histogram: Histogram) -> float:
    """The reach whose 128 levels lose the least information (Kullback-Leibler divergence).

    S. Migacz, "8-bit Inference with TensorRT", GTC 2017: for each reach, the distribution P of the clipped
    magnitudes is compared with Q, the same counts spread evenly over the occupied bins of each level.
    """
    linear = _linear(histogram)
    # exact zeros are represented exactly by every scale and say nothing of the reach (they are a ReLU's)
    linear[0] = 0
    total = linear.sum()
    if total == 0:
        return histogram.reach
    best, kept = np.inf, _LINEAR_BINS
    for bins in range(CODES + 1, _LINEAR_BINS + 1, 8):
        inside = linear[:bins]
        clipped = inside.copy()
        clipped[-1] += total - inside.sum()
        level = np.minimum(np.arange(bins) * (CODES + 1) // bins, CODES)
        occupied = inside > 0
        mass = np.bincount(level, weights=inside, minlength=CODES + 1)
        members = np.bincount(level, weights=occupied, minlength=CODES + 1)
        spread = np.where(occupied, (mass / np.maximum(members, 1))[level], 0.0)
        divergence = _divergence(clipped, spread)
        if divergence < best:
            best, kept = divergence, bins
    return histogram.reach * kept / _LINEAR_BINS


CALIBRATORS: dict[str, Callable[[Histogram], float]] = {
    "minmax": minmax,
    "percentile-99.999": percentile(99.999),
    "percentile-99.99": percentile(99.99),
    "percentile-99.9": percentile(99.9),
    "mse": mse,
    "entropy": entropy,
}


def calibrate(histograms: Mapping[str, Histogram], calibrator: str) -> dict[str, TensorRange]:
    """Range of every tensor by one of `CALIBRATORS`; tensors that are all zero keep the range 0..0."""
    return {name: _range(seen, calibrator) for name, seen in histograms.items()}


def _range(seen: Histogram, calibrator: str) -> TensorRange:
    reach = CALIBRATORS[calibrator](seen) if seen.reach > 0 else 0.0
    low, high = max(seen.low, -reach), min(seen.high, reach)
    beyond = int(seen.counts[np.searchsorted(seen.edges, reach) + 1 :].sum()) if reach < seen.reach else 0
    return TensorRange(low, high, calibrator, beyond / seen.count)


def _occupied(histogram: Histogram) -> tuple[_Floats, _Floats]:
    """Middle of each bin that has values, and how many it has."""
    bins = np.flatnonzero(histogram.counts)
    tops = np.minimum(histogram.edges[bins], histogram.reach)
    bottoms = np.where(bins > 0, histogram.edges[bins - 1], 0.0)
    return (tops + np.minimum(bottoms, histogram.reach)) / 2, histogram.counts[bins].astype(np.float64)


def _linear(histogram: Histogram) -> _Floats:
    """The counts in `_LINEAR_BINS` bins of equal width up to the largest magnitude."""
    cumulated = np.cumsum(histogram.counts)
    edges = np.minimum(histogram.edges, histogram.reach)
    wanted = np.linspace(0, histogram.reach, _LINEAR_BINS + 1)
    return np.diff(np.interp(wanted, edges, cumulated, left=0.0))


def _divergence(p: _Floats, q: _Floats) -> float:
    """KL(P || Q) in nats; a bin that Q lacks counts with the least probability that Q has."""
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    present = p > 0
    q = np.maximum(q[present], q[q > 0].min(initial=1e-12) * 1e-4)
    return float(np.sum(p[present] * np.log(p[present] / q)))
