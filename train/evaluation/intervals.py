"""95 % intervals of figures over faces."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_Z = 1.959964  # of a two-sided 95 % interval


def of_share(yes: NDArray[np.bool_]) -> tuple[float, float]:
    """Wilson's interval of a share: honest at 0 and 1, where resampling would say certainty."""
    count, share = len(yes), float(yes.mean())
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def of_mean(values: NDArray[np.floating], seed: int = 0, resamples: int = 1000) -> tuple[float, float]:
    """Percentile bootstrap of a mean over faces."""
    picks = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    return _middle(values[picks].mean(1))


def of_statistic(
    statistic: Callable[[NDArray[np.int64]], float], count: int, seed: int = 0, resamples: int = 200
) -> tuple[float, float]:
    """Percentile bootstrap of any figure of the faces at given indices."""
    rng = np.random.default_rng(seed)
    return _middle(np.array([statistic(rng.integers(0, count, count)) for _ in range(resamples)]))


def _middle(samples: NDArray[np.floating]) -> tuple[float, float]:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)
