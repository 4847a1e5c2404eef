"""What a refinement step costs and buys: latency and energy as a + b K beside the judge's score per K.

K = 0 lies on no line: without steps there is no target to embed and no last latent to look at. So lines are
fitted to K >= 1, and K = 0 is told as it was measured.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.bench.results import Result, Run
from edgeage.runtime.bench.statistics import LEVEL, block_length
from edgeage.runtime.refinement import MAX_STEPS

BUDGET_MS = 33.0  # a frame at 30 a second
NOT_RECORDED = "not recorded"
_DRAWS = 1000
_AT_ONCE = 1 << 22  # numbers in one array of the bootstrap

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Line:
    """a + b K by least squares, with what resampling makes of it.

    Attributes:
        a, b: of the measured points.
        draws: [draws, 2], a and b of resampled points.
        steps: K of the points.
        misfit: largest distance of a point from the line, relative to the line.
    """

    a: float
    b: float
    draws: Floats
    steps: tuple[int, ...]
    misfit: float

    def at(self, steps: int) -> tuple[float, float, float]:
        """The line at K with its 95 % interval."""
        value = self.a + self.b * steps
        low, high = _interval(self.draws @ np.array([1.0, steps]))
        return value, min(low, value), max(high, value)

    def largest(self, budget: float) -> int | None:
        """The largest K >= 1 whose whole interval fits the budget, MAX_STEPS at most; None if none does."""
        fits = [steps for steps in range(1, MAX_STEPS + 1) if self.at(steps)[2] <= budget]
        return max(fits, default=None)

    def to_dict(self) -> dict[str, Any]:
        intervals = [list(_interval(column)) for column in self.draws.T]
        return {
            "a": self.a,
            "a_95": intervals[0],
            "b": self.b,
            "b_95": intervals[1],
            "steps": list(self.steps),
            "misfit": self.misfit,
        }


def fit(steps: Sequence[int], values: Sequence[float], draws: Floats) -> Line:
    """Least squares through values [n] at K = steps [n]; `draws` [draws, n] are resampled values.

    ValueError unless there are two different K.
    """
    if len(set(steps)) < 2:
        raise ValueError("a line needs two different K")
    design = np.stack([np.ones(len(steps)), np.asarray(steps, np.float64)], axis=1)
    solve = np.linalg.pinv(design)
    a, b = (float(one) for one in solve @ np.asarray(values, np.float64))
    line = design @ np.array([a, b])
    misfit = float(np.max(np.abs(np.asarray(values) / line - 1)))
    return Line(a, b, draws @ solve.T, tuple(steps), misfit)


def latency_line(results: Sequence[Result], q: float = 50.0, seed: int = 0) -> Line:
    """Milliseconds of the q-th percentile against K, by a moving-block bootstrap of each K's samples.

    Results that were measured in turn are drawn with the same blocks, so that what met all of them cancels.
    """
    rng = np.random.default_rng(seed)
    series = [result.steady_ns / 1e6 for result in results]
    if len({(result.group, one.size) for result, one in zip(results, series, strict=True)}) == 1:
        block = max(map(block_length, series))
        starts = _starts(rng, series[0].size, block)
        draws = [_quantiles(one, starts, block, q) for one in series]
    else:
        draws = []
        for one in series:
            block = block_length(one)
            draws.append(_quantiles(one, _starts(rng, one.size, block), block, q))
    values = [float(np.quantile(one, q / 100)) for one in series]
    return fit([_steps(result) for result in results], values, np.stack(draws, axis=1))


def energy_line(results: Sequence[Result], seed: int = 0) -> Line | None:
    """Millijoules a run against K; None unless two K or more have an energy.

    Their intervals are taken for those of normal distributions, which is what means of many readings have.
    """
    known = [result for result in results if result.energy and "millijoules" in result.energy]
    if len(known) < 2:
        return None
    rng = np.random.default_rng(seed)
    energies = [result.energy or {} for result in known]
    middles = np.array([energy["millijoules"] for energy in energies])
    deviations = np.array([(energy["high"] - energy["low"]) / (2 * 1.96) for energy in energies])
    draws = middles + deviations * rng.standard_normal((_DRAWS, len(known)))
    return fit([_steps(result) for result in known], middles.tolist(), draws)


def pareto(run: Run, budget_ms: float = BUDGET_MS) -> list[dict[str, Any]]:
    """For each subject that was measured at two K >= 1 or more, as JSON values:

    "subject"; "judge" or "not recorded"; "points" (by K: median and p90 in ms with the median's interval,
    millijoules, similarity, verified, and whether no other K is both faster and more like); "p50", "p90" and
    "energy" (lines, see `Line.to_dict`; None without energy); "budget_ms" and "largest_steps" (the largest K
    whose p50 or p90 fits it by its whole interval, with "extrapolated" where no larger K was measured).
    """
    families: dict[tuple[str, str, str, int], list[Result]] = defaultdict(list)
    for result in run.results:
        subject = result.subject
        if subject.steps is not None and result.part_of is None and result.steady_ns.size:
            families[subject.name, subject.engine, subject.precision, subject.threads].append(result)
    found = []
    for results in families.values():
        results.sort(key=_steps)
        stepping = [result for result in results if _steps(result)]
        if len({_steps(result) for result in stepping}) >= 2:
            found.append(_family(results, stepping, run.refinement, budget_ms))
    return found


def _family(
    results: list[Result], stepping: list[Result], refinement: Mapping[str, Any], budget_ms: float
) -> dict[str, Any]:
    lines = {f"p{q:g}": latency_line(stepping, q) for q in (50.0, 90.0)}
    energy = energy_line(stepping)
    qualities = {entry["steps"]: entry for entry in refinement.get("quality", [])}
    points = [_point(result, qualities.get(_steps(result))) for result in results]
    _mark_front(points)
    largest = {}
    for name, line in lines.items():
        steps = line.largest(budget_ms)
        largest[name] = {"steps": steps, "extrapolated": steps is not None and steps > max(line.steps)}
    judges = {entry["judge"] for entry in qualities.values()}
    subject = results[0].subject
    return {
        "subject": f"{subject.name} {subject.engine} {subject.precision}",
        "threads": subject.threads,
        "judge": ", ".join(sorted(judges)) or NOT_RECORDED,
        "points": points,
        **{name: line.to_dict() for name, line in lines.items()},
        "energy": energy.to_dict() if energy else None,
        "budget_ms": budget_ms,
        "largest_steps": largest,
    }


def _point(result: Result, quality: Mapping[str, Any] | None) -> dict[str, Any]:
    middle, tail = result.percentile(50.0), result.percentile(90.0)
    return {
        "steps": _steps(result),
        "median_ms": float(np.median(result.steady_ns)) / 1e6,
        "median_95_ms": [middle.low / 1e6, middle.high / 1e6]
        if middle and middle.low is not None and middle.high is not None
        else None,
        "p90_ms": tail.value / 1e6 if tail and tail.value is not None else None,
        "millijoules": (result.energy or {}).get("millijoules"),
        "similarity": quality["similarity"] if quality else None,
        "verified": quality["verified"] if quality else None,
        "verdict": result.verdict.word,
    }


def _mark_front(points: list[dict[str, Any]]) -> None:
    """Pareto-optimal: no other point is at least as fast and at least as good, and better in one."""
    for one in points:
        if one["similarity"] is None:
            one["optimal"] = None
            continue
        rivals = [other for other in points if other["similarity"] is not None and other is not one]
        one["optimal"] = not any(
            other["median_ms"] <= one["median_ms"]
            and other["similarity"] >= one["similarity"]
            and (other["median_ms"], other["similarity"]) != (one["median_ms"], one["similarity"])
            for other in rivals
        )


def _steps(result: Result) -> int:
    return result.subject.steps or 0


def _starts(rng: np.random.Generator, count: int, block: int) -> NDArray[np.intp]:
    return rng.integers(0, count - block + 1, (_DRAWS, math.ceil(count / block)), dtype=np.intp)


def _quantiles(values: Floats, starts: NDArray[np.intp], block: int, q: float) -> Floats:
    """The q-th percentile of resampled series, one per row of `starts`: the first index of each block."""
    rows = max(_AT_ONCE // (starts.shape[1] * block), 1)
    parts = np.array_split(starts, math.ceil(len(starts) / rows))
    steps = np.arange(block)
    return np.concatenate(
        [
            np.quantile(
                values[(part[..., None] + steps).reshape(len(part), -1)[:, : values.size]], q / 100, 1
            )
            for part in parts
        ]
    )


def _interval(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
