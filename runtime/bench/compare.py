"""Is B slower than A: two subjects that take turns, or two files of results.

Subjects take turns round by round and are loaded anew several times, because where an interpreter's memory
comes to lie is worth some percent for as long as it lives. Each time gives one ratio of medians; the interval
is that of the median over the times by order statistics, which asks nothing of their distribution. Results of
two files were measured apart, so their interval does not hold what changed on the machine in between.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from edgeage.errors import EdgeageError
from edgeage.runtime.bench.load import Goal, Plan, Series, in_turn
from edgeage.runtime.bench.results import VALID, Result, Run
from edgeage.runtime.bench.statistics import LEVEL, THRESHOLD, Comparison, compare, find_warmup
from edgeage.runtime.bench.subjects import Prepared

LOADS = 15
FEWEST_LOADS = 6  # 2 * 0.5^6 is below 5 %
ROUNDS = 60


@dataclass(frozen=True)
class Pair:
    """
    Attributes:
        baseline, subject: labels.
        baseline_ms, subject_ms: medians.
        comparison: see `statistics.Comparison`.
        warnings: what makes the ratio less than it seems, one line each.
        ratios: of each load, of subjects that took turns; else empty.
    """

    baseline: str
    subject: str
    baseline_ms: float
    subject_ms: float
    comparison: Comparison
    warnings: tuple[str, ...] = ()
    ratios: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "comparison": self.comparison.to_dict(),
            "warnings": list(self.warnings),
            "ratios": list(self.ratios),
        }


@dataclass(frozen=True)
class Compared:
    """Pairs of two runs, what of them has no partner, and what was different around them."""

    pairs: tuple[Pair, ...]
    unmatched: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "pairs": [pair.to_dict() for pair in self.pairs],
            "unmatched": list(self.unmatched),
            "differences": list(self.differences),
        }


def take_turns(
    make: Callable[[], tuple[Prepared, Prepared]],
    *,
    loads: int = LOADS,
    rounds: int = ROUNDS,
    threshold: float = THRESHOLD,
    seed: int = 0,
    tick: Callable[[int], None] = lambda done: None,
) -> Pair:
    """Measure two subjects in turn, `loads` times anew, at least `rounds` rounds each after the warm-up.

    `make`: prepares baseline and subject, both afresh. EdgeageError for too few loads to bound a median.
    """
    if loads < FEWEST_LOADS:
        raise EdgeageError(
            f"{loads} loads bound no ratio; give --loads {FEWEST_LOADS} or more ({LOADS} is usual)"
        )
    draw = np.random.default_rng(seed)
    ratios, medians = list[float](), list[tuple[float, float]]()
    plan = Plan(percentile=50.0, runs=rounds, max_seconds=30.0)
    unsettled = 0
    for load in range(loads):
        ballast = np.ones(int(draw.integers(1, 1 << 22)), np.uint8)  # shifts where engines come to lie
        prepared = make()
        del ballast
        series = [Series(by_parts=one.cold) for one in prepared]
        warms_up = not all(one.cold for one in prepared)
        goal = Goal(plan, subjects=2, warms_up=warms_up)
        in_turn([one.work for one in prepared], series, goal, seed=random.Random(seed + load).getrandbits(32))
        values = [one.values() for one in series]
        warmups = [find_warmup(one) for one in values] if warms_up else []
        unsettled += any(not warmup.settled for warmup in warmups)
        count = max((warmup.count for warmup in warmups), default=0)
        base, other = (float(np.median(one[count:])) / 1e6 for one in values)
        medians.append((base, other))
        ratios.append(other / base)
        tick(load + 1)
    warnings = [f"{unsettled} of {loads} loads were still warming up at their middle"] if unsettled else []
    base_ms, other_ms = (float(one) for one in np.median(np.array(medians), axis=0))
    names = [one.subject.label for one in prepared]
    notes = dict.fromkeys(note for one in prepared for note in one.subject.notes)
    return Pair(
        names[0],
        names[1],
        base_ms,
        other_ms,
        compare_loads(ratios, threshold),
        (*warnings, *notes),
        tuple(ratios),
    )


def compare_loads(ratios: Sequence[float], threshold: float = THRESHOLD) -> Comparison:
    """The median of ratios, with the order statistics that enclose it with 95 % confidence or a bit more."""
    ordered = sorted(ratios)
    below = median_rank(len(ordered))
    low, high = ordered[below], ordered[-1 - below]
    outcome = "slower" if low > 1 + threshold else "faster" if high < 1 - threshold else "inconclusive"
    return Comparison(float(np.median(ordered)), low, high, threshold, outcome, paired=True)


def median_rank(count: int) -> int:
    """The largest k so that the k-th smallest (from 0) and k-th largest of `count` enclose the median."""
    tail, k = 0.0, 0
    while (tail := tail + comb(count, k) / 2.0**count) <= (1 - LEVEL) / 2:
        k += 1
    return max(k - 1, 0)


def compare_runs(baseline: Run, subject: Run, threshold: float = THRESHOLD) -> Compared:
    """Compare two runs subject by subject.

    Same name and K on another engine, precision or number of threads is compared too, and told, where it
    is the only one.

    Raises EdgeageError if the runs are of two bundles or have no subject in common.
    """
    if baseline.bundle_sha256 != subject.bundle_sha256:
        raise EdgeageError(
            f"the files are of two bundles, {baseline.bundle} ({baseline.bundle_sha256[:12]}) and "
            f"{subject.bundle} ({subject.bundle_sha256[:12]}): other networks, other work; measure on one"
        )
    pairs, unmatched = [], []
    left = list(subject.results)
    exact = {result.subject.label: result for result in subject.results}
    for mine in baseline.results:
        theirs = exact.get(mine.subject.label) or _only_alike(mine, baseline.results, left)
        if theirs is None:
            unmatched.append(f"{mine.subject.label}: only in the first")
            continue
        if theirs in left:
            left.remove(theirs)
        if (reason := _incomparable(mine, theirs)) is not None:
            unmatched.append(f"{mine.subject.label}: {reason}")
            continue
        pairs.append(_pair(mine, theirs, threshold))
    unmatched += [f"{result.subject.label}: only in the second" for result in left]
    if not pairs:
        raise EdgeageError(f"nothing to compare: {'; '.join(unmatched) or 'the files hold no results'}")
    return Compared(tuple(pairs), tuple(unmatched), tuple(differences(baseline, subject)))


def _only_alike(mine: Result, ours: Sequence[Result], left: Sequence[Result]) -> Result | None:
    """The one result of the same name and K, if each side has one such."""

    def alike(other: Result) -> bool:
        return (other.subject.name, other.subject.steps) == (mine.subject.name, mine.subject.steps)

    theirs = [one for one in left if alike(one)]
    return theirs[0] if len(theirs) == 1 and sum(map(alike, ours)) == 1 else None


def _incomparable(a: Result, b: Result) -> str | None:
    loads = [(one.load.shape, one.load.rate_hz, one.load.concurrency) for one in (a, b)]
    if loads[0] != loads[1]:
        return f"measured under different loads ({loads[0]} and {loads[1]})"
    if not a.steady_ns.size or not b.steady_ns.size:
        return "no runs after the warm-up"
    return None


def _pair(a: Result, b: Result, threshold: float) -> Pair:
    warnings = []
    if a.subject.label != b.subject.label:
        warnings.append("not the same engine, precision or threads")
    for place, one in (("first", a), ("second", b)):
        if one.verdict.word != VALID:
            warnings.append(f"the {place} is {one.verdict.word}: {'; '.join(one.verdict.reasons)}")
    return Pair(
        a.subject.label,
        b.subject.label,
        float(np.median(a.steady_ns)) / 1e6,
        float(np.median(b.steady_ns)) / 1e6,
        compare(a.steady_ns, b.steady_ns, paired=False, threshold=threshold),
        tuple(warnings),
    )


_AROUND = ("device", "system", "python", "cpu", "governor", "boost", "affinity", "container", "jetson")


def differences(a: Run, b: Run) -> list[str]:
    """What was not the same around two runs, one line each."""
    found = []
    if a.edgeage_version != b.edgeage_version:
        found.append(f"edgeage: {a.edgeage_version}, then {b.edgeage_version}")
    before = [run.environment.get("before", {}) for run in (a, b)]
    for key in _AROUND:
        one, other = (_lasting(found_there.get(key)) for found_there in before)
        if one != other:
            found.append(f"{key}: {_short(one)}, then {_short(other)}")
    return found


def _lasting(value: Any) -> Any:
    """Without the counter of throttled periods, which rises by itself."""
    return {**value, "throttled": None} if isinstance(value, dict) and "throttled" in value else value


def _short(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"not available"}:
        return "not available"
    text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
