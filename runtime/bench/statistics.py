"""Statistics of latencies that survive review: order statistics, autocorrelation, blocks, nothing clipped.

Latencies are skewed, have outliers that matter, and successive runs resemble each other. So there are no
means and no standard deviations here. Percentiles come with intervals from order statistics (David and
Nagaraja, Order Statistics, 2003, 7.1), counted in independent samples; ratios with intervals from a
moving-block bootstrap (Kuensch 1989), whose blocks are as long as the autocorrelation asks for (Politis and
White 2004, with the correction of Patton, Politis and White 2009). Samples may be in any unit; results are
in the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
PERCENTILES = (50.0, 90.0, 99.0)
THRESHOLD = 0.02  # a ratio nearer to 1 than this is of no practical interest
_DRAWS = 1000
_MOST = 20_000  # samples of a series that are resampled
_AT_ONCE = 1 << 22  # numbers in one array of the bootstrap


@dataclass(frozen=True)
class Percentile:
    """A percentile with its 95 % interval, or the statement that the samples do not bound it.

    Attributes:
        q: 0 < q < 100.
        value, low, high: in the samples' unit; None where the samples are too few to bound it on both sides.
        samples: how many there were.
        independent: how many independent samples they are worth.
        needed: independent samples from which on it is bounded.
    """

    q: float
    value: float | None
    low: float | None
    high: float | None
    samples: int
    independent: int
    needed: int

    @property
    def estimable(self) -> bool:
        return self.value is not None

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Warmup:
    """How many samples at the start are warm-up.

    Attributes:
        count: of leading samples that belong to it; at most half.
        settled: whether the samples after it are like those of the second half.
    """

    count: int
    settled: bool


@dataclass(frozen=True)
class Comparison:
    """The ratio of two medians, subject / baseline, with its 95 % interval.

    Attributes:
        ratio, low, high: above 1 the subject is slower.
        threshold: ratios within 1 - threshold .. 1 + threshold are of no practical interest.
        outcome: "slower" if the whole interval is above 1 + threshold, "faster" if it is below 1 - threshold,
            else "inconclusive".
        paired: whether the two were measured in turn, round by round. If not, the interval does not hold
            what changed on the machine between them.
    """

    ratio: float
    low: float
    high: float
    threshold: float
    outcome: str
    paired: bool

    @property
    def same(self) -> bool:
        """Whether the whole interval is within the threshold: not a failure to find a difference."""
        return self.low >= 1 - self.threshold and self.high <= 1 + self.threshold

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "same": self.same}


def smallest_count(q: float, level: float = LEVEL) -> int:
    """Independent samples from which on a percentile is bounded on both sides: 36 for p90, 368 for p99."""
    share = max(q, 100 - q) / 100
    return math.ceil(math.log((1 - level) / 2) / math.log(share))


def percentile(samples: ArrayLike, q: float, level: float = LEVEL) -> Percentile:
    """The q-th percentile of samples in the order of measuring, with an interval from order statistics.

    Rank r of n independent samples lies below the percentile with a binomial probability, whatever the
    distribution. Samples that resemble their neighbours bound it as fewer independent ones would:
    ranks are taken for `independent_count` and stretched to all of them.
    """
    values = np.asarray(samples, np.float64)
    ordered, count = np.sort(values), values.size
    needed = smallest_count(q, level)
    independent = independent_count(values, q)
    if independent < needed:
        return Percentile(q, None, None, None, count, independent, needed)
    value = float(ordered[max(math.ceil(count * q / 100), 1) - 1])
    below, above = _ranks(independent, q, level)
    stretch = count / independent
    low = ordered[max(math.floor(below * stretch), 1) - 1]
    high = ordered[min(math.ceil(above * stretch), count) - 1]
    return Percentile(q, value, float(low), float(high), count, independent, needed)


def percentiles(samples: ArrayLike, qs: Sequence[float] = PERCENTILES) -> tuple[Percentile, ...]:
    values = np.asarray(samples, np.float64)
    return tuple(percentile(values, q) for q in qs)


@cache
def _ranks(count: int, q: float, level: float) -> tuple[int, int]:
    """1-based ranks of the order statistics that hold the q-th percentile with the probability `level`."""
    share, tail = q / 100, (1 - level) / 2
    k = np.arange(count + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    chances = logs[-1] - logs - logs[::-1] + k * math.log(share) + (count - k) * math.log1p(-share)
    at_most = np.cumsum(np.exp(chances))  # P(B <= k), B samples of all below the percentile
    low = int(np.searchsorted(at_most, tail, side="right"))
    high = int(np.searchsorted(at_most, 1 - tail, side="left")) + 1
    return low, min(high, count)


def independent_count(samples: ArrayLike, q: float = 50.0) -> int:
    """Independent samples that bound the q-th percentile as well as these do.

    Their number over the integrated autocorrelation time of "is at most the percentile", which is what a
    percentile's variance depends on.
    """
    values = np.asarray(samples, np.float64)
    if values.size < 2:
        return int(values.size)
    at_most = (values <= np.quantile(values, q / 100, method="inverted_cdf")).astype(np.float64)
    time, _ = _dependence(at_most)
    return max(int(values.size / max(time, 1.0)), 1)


def _dependence(series: Floats) -> tuple[float, int]:
    """Integrated autocorrelation time of a series, and the block length for its bootstrap.

    Politis and White: autocovariances under a flat-top window that ends at twice the lag after which
    none is significant.
    """
    count = series.size
    longest = max(math.ceil(min(3 * math.sqrt(count), count / 3)), 1)
    centred = series - series.mean()
    if count < 8 or not centred.any():
        return 1.0, min(longest, 8)
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(centred, size)) ** 2
    covariance = np.fft.irfft(spectrum, size)[:count] / count
    quiet = max(5, math.ceil(math.sqrt(math.log10(count))))
    lags = min(count - 1, longest + quiet)
    loud = np.abs(covariance[1 : lags + 1] / covariance[0]) >= 2 * math.sqrt(math.log10(count) / count)
    last = next((k for k in range(lags - quiet + 1) if not loud[k : k + quiet].any()), lags // 2)
    width = min(max(2 * last, 1), count - 1)
    k = np.arange(1, width + 1)
    weighted = np.clip(2 * (1 - k / width), 0, 1) * covariance[1 : width + 1]
    spread = covariance[0] + 2 * weighted.sum()  # the spectrum at frequency 0
    slope = 2 * (k * weighted).sum()
    if spread <= 0:  # neighbours alternate: blocks of any length do
        return 1.0, 1
    block = math.ceil((2 * slope**2 / (4 / 3 * spread**2)) ** (1 / 3) * count ** (1 / 3))
    return float(spread / covariance[0]), min(max(block, 1), longest)


def block_length(samples: ArrayLike) -> int:
    """Samples of one block of the bootstrap of a median, from the autocorrelation of its sign series.

    Twice what is best for estimating a variance: intervals of short, correlated series then hold what they
    should in 93 instead of 91 of 100 simulated cases, and are 5 % wider.
    """
    values = np.asarray(samples, np.float64)
    block = _dependence((values <= np.median(values)).astype(np.float64))[1]
    return 1 if block == 1 else min(2 * block, max(values.size // 4, 1))


def bootstrap_medians(samples: ArrayLike, starts: NDArray[np.intp], block: int) -> Floats:
    """Medians of resampled series, one per row of `starts`: the first index of each of its blocks."""
    values = np.asarray(samples, np.float64)
    rows = max(_AT_ONCE // (starts.shape[1] * block), 1)
    steps = np.arange(block)
    return np.concatenate(
        [
            np.median(
                values[(part[..., None] + steps).reshape(len(part), -1)[:, : values.size]],
                axis=1,
                overwrite_input=True,
            )
            for part in np.array_split(starts, math.ceil(len(starts) / rows))
        ]
    )


def compare(
    baseline: ArrayLike,
    subject: ArrayLike,
    *,
    paired: bool,
    threshold: float = THRESHOLD,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """The ratio of the medians, subject / baseline, with the interval of a moving-block bootstrap.

    `paired`: sample i of both was measured in the same round, so that both series are drawn with the same
    blocks and what met both of them cancels. ValueError if paired series differ in length or one is empty.
    """
    base, other = np.asarray(baseline, np.float64), np.asarray(subject, np.float64)
    if not base.size or not other.size:
        raise ValueError("a comparison needs samples of both")
    if paired and base.size != other.size:
        raise ValueError(f"paired series have {base.size} and {other.size} samples")
    ratio = float(np.median(other) / np.median(base))
    # of millions, every k-th is enough: the interval is no narrower than that of so many
    base, other = (series[:: math.ceil(series.size / _MOST)] for series in (base, other))
    rng = np.random.default_rng(seed)
    if paired:
        block = max(block_length(base), block_length(other))
        starts = _starts(rng, base.size, block)
        ratios = bootstrap_medians(other, starts, block) / bootstrap_medians(base, starts, block)
    else:
        drawn = []
        for series in (base, other):
            block = block_length(series)
            drawn.append(bootstrap_medians(series, _starts(rng, series.size, block), block))
        ratios = drawn[1] / drawn[0]
    low, high = (float(end) for end in np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2]))
    low, high = min(low, ratio), max(high, ratio)
    outcome = "slower" if low > 1 + threshold else "faster" if high < 1 - threshold else "inconclusive"
    return Comparison(ratio, low, high, threshold, outcome, paired)


def _starts(rng: np.random.Generator, count: int, block: int) -> NDArray[np.intp]:
    return rng.integers(0, count - block + 1, (_DRAWS, math.ceil(count / block)), dtype=np.intp)


_RUN = 8  # samples by which the warm-up's end is recognised


def find_warmup(samples: ArrayLike) -> Warmup:
    """Where the warm-up ends: at the first sample from which on the series looks as in its second half.

    That is the first whose value is at most the second half's 95th percentile, and the median of it and
    the next 7 at most the 95th percentile of such medians there. A stall after that is none of the
    warm-up's, and a series that is still falling at its middle has not settled.
    """
    values = np.asarray(samples, np.float64)
    half = values.size // 2
    if half < 2 * _RUN:
        return Warmup(0, False)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(values, _RUN), axis=1)
    usual, usual_median = np.quantile(values[half:], 0.95), np.quantile(medians[half:], 0.95)
    like_later = (values[: half + 1] <= usual) & (medians[: half + 1] <= usual_median)
    if not like_later.any():
        return Warmup(half, False)
    count = int(like_later.argmax())
    return Warmup(count, count < half)


def drift(samples: ArrayLike, threshold: float) -> Comparison:
    """The last third of a series against its first; "slower" if it slowed down by more than `threshold`."""
    values = np.asarray(samples, np.float64)
    third = max(values.size // 3, 1)
    return compare(values[:third], values[-third:], paired=False, threshold=threshold)
