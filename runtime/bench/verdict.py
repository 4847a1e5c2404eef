"""One word on whether a result can be relied on, and why: the rules, each with its number.

FELL BACK   a node of the engine runs elsewhere than on its target (XNNPACK, TensorRT, the provider)
THROTTLED   the machine said during the measurement that it was slowing itself down
DRIFTING    the median of the last third is more than 5 % from that of the first, by its whole interval
TOO SHORT   the asked percentile is not bounded by the samples, the series never settled, or it was cut off
NOISY       the median's interval is wider than 5 % to a side; or p99 is more than 3 times the median; or
            runs of more than 5 times the median hold more than 5 % of the time
VALID       none of these

The first that applies is the verdict; the reasons of all that apply are told. A slope makes every sample
resemble its neighbours, so DRIFTING stands before TOO SHORT: measuring longer would not help.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.bench.placement import Placement
from edgeage.runtime.bench.results import VALID, VERDICTS, Verdict
from edgeage.runtime.bench.statistics import Warmup, drift, percentile

DRIFT = 0.05
WIDE = 0.05
FAR = 3.0
STALL = 5.0
STALLED = 0.05

# 1 is a crash and 2 bad input, as everywhere in edgeage; the larger, the less the result says.
EXIT_CODES = {VALID: 0, "NOISY": 10, "TOO SHORT": 11, "DRIFTING": 12, "THROTTLED": 13, "FELL BACK": 14}
EXIT_REQUIREMENT = 3
EXIT_INTERRUPTED = 130


def judge(
    samples: NDArray[np.int64],
    warmup: Warmup,
    asked: float,
    *,
    placement: Placement | None = None,
    throttled: Sequence[str] = (),
    interrupted: bool = False,
) -> Verdict:
    """The verdict on one subject's samples [n], warm-up included, in nanoseconds.

    `asked`: the percentile that must be bounded. `throttled`: what the machine said, one line each.
    """
    steady = samples[warmup.count :]
    found = {
        "FELL BACK": _fell_back(placement),
        "THROTTLED": list(throttled),
        "DRIFTING": _drifting(steady),
        "TOO SHORT": _too_short(steady, warmup, asked, interrupted),
        "NOISY": _noisy(steady),
    }
    word = next((word for word in VERDICTS if found.get(word)), VALID)
    return Verdict(word, tuple(reason for word in VERDICTS for reason in found.get(word, ())))


def worst(verdicts: Sequence[Verdict]) -> str:
    """The word that says most against relying on all of them; VALID for none."""
    return min((verdict.word for verdict in verdicts), key=VERDICTS.index, default=VALID)


def _fell_back(placement: Placement | None) -> list[str]:
    return [placement.summary] if placement and placement.fell_back else []


def _too_short(steady: NDArray[np.int64], warmup: Warmup, asked: float, interrupted: bool) -> list[str]:
    reasons = ["interrupted"] if interrupted else []
    if not warmup.settled:
        reasons.append("still warming up in the middle of the run" if steady.size else "no runs")
    if steady.size:
        bound = percentile(steady, asked)
        if not bound.estimable:
            reasons.append(
                f"p{asked:g} needs {bound.needed} independent runs; {bound.samples} runs are worth "
                f"{bound.independent}"
            )
    return reasons


def _drifting(steady: NDArray[np.int64]) -> list[str]:
    if steady.size < 30:
        return []
    change = drift(steady, DRIFT)
    if change.outcome == "inconclusive":
        return []
    return [
        f"the last third is {change.ratio - 1:+.1%} beside the first ({_interval(change.low, change.high)})"
    ]


def _noisy(steady: NDArray[np.int64]) -> list[str]:
    reasons: list[str] = []
    if not steady.size:
        return reasons
    middle, tail = percentile(steady, 50), percentile(steady, 99)
    median = float(np.median(steady))
    if middle.low is not None and middle.high is not None:
        wide = max(middle.high - median, median - middle.low) / median
        if wide > WIDE:
            reasons.append(f"the median is known to {wide:.0%} only")
    if tail.value is not None and tail.value > FAR * median:
        reasons.append(f"p99 is {tail.value / median:.1f} times the median")
    stalls = steady[steady > STALL * median]
    share = float(stalls.sum() / steady.sum())
    if share > STALLED:
        reasons.append(
            f"{stalls.size} of {steady.size} runs took more than {STALL:g} times the median and {share:.0%} "
            f"of the time; the longest {steady.max() / 1e6:.1f} ms"
        )
    return reasons


def _interval(low: float, high: float) -> str:
    return f"95 %: {low - 1:+.1%} to {high - 1:+.1%}"
