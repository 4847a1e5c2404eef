"""Refinement's line a + b K, the largest K of a budget, and which K are worth their time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeage.runtime.bench.pareto import MAX_STEPS, energy_line, fit, latency_line, pareto
from edgeage.runtime.bench.results import Load, Result, Run, Subject, Verdict
from edgeage.runtime.bench.statistics import percentiles


def result(steps: int, milliseconds: np.ndarray, *, group: str = "0", energy: Any = None) -> Result:
    samples = (milliseconds * 1e6).astype(int)
    return Result(
        subject=Subject("refinement", "litert", "int8", 1, steps),
        load=Load(),
        samples_ns=tuple(samples.tolist()),
        starts_ns=tuple(range(samples.size)),
        warmup=0,
        percentiles=percentiles(samples),
        verdict=Verdict("VALID"),
        group=group,
        energy=energy,
    )


def series(a: float, b: float, seed: int, *, shared: bool = True, count: int = 300) -> list[Result]:
    """K = 1, 3, 5, 8 with lasting noise that all K share (measured in turn) or not (one after the other)."""
    rng = np.random.default_rng(seed)
    found, met = [], None
    for place, steps in enumerate((1, 3, 5, 8)):
        if met is None or not shared:
            noise = rng.normal(0, 0.05, count + 20)
            met = np.convolve(noise, np.ones(20) / 4.5, "valid")[:count]
        times = (a + b * steps) * np.exp(met + rng.normal(0, 0.01, count))
        found.append(result(steps, times, group="0" if shared else str(place)))
    return found


@given(a=st.floats(0.1, 50), b=st.floats(0.01, 20))
def test_points_on_a_line_give_that_line(a: float, b: float) -> None:
    steps = (1, 3, 8)
    values = [a + b * k for k in steps]
    line = fit(steps, values, np.tile(values, (10, 1)))
    assert line.a == pytest.approx(a, rel=1e-6, abs=1e-6)
    assert line.b == pytest.approx(b, rel=1e-6)
    assert line.misfit == pytest.approx(0, abs=1e-9)
    budget = a + 5.5 * b
    assert line.largest(budget) == 5
    assert line.largest(a) is None
    assert line.largest(1e9) == MAX_STEPS


@pytest.mark.parametrize("shared", [True, False])
def test_intervals_of_the_slope_cover(shared: bool) -> None:
    hits = sum(
        low <= 2.0 <= high
        for seed in range(24)
        for low, high in [latency_line(series(3.0, 2.0, seed, shared=shared, count=1000)).to_dict()["b_95"]]
    )
    assert hits >= 19  # nominally 23 of 24; some 50 independent runs each, of which blocks cover less


def test_a_series_with_another_k_than_one_is_needed() -> None:
    with pytest.raises(ValueError, match="two different K"):
        fit((3, 3), (1.0, 2.0), np.ones((4, 2)))


def test_energy_is_a_line_too_where_it_is_known() -> None:
    def metered(steps: int) -> Result:
        middle = 4.0 + 3.0 * steps
        return result(
            steps, np.ones(40), energy={"millijoules": middle, "low": middle - 1, "high": middle + 1}
        )

    line = energy_line([metered(k) for k in (1, 3, 5)])
    assert line is not None
    assert line.b == pytest.approx(3.0)
    low, high = line.to_dict()["b_95"]
    assert 0.5 < high - low < 1.0  # 2 * 1.96 * (1 / 1.96) / sqrt(8)
    assert energy_line([metered(1), result(3, np.ones(40), energy={"not available": "no sensor"})]) is None


def run_with(quality: list[dict[str, Any]], results: list[Result]) -> Run:
    recorded = {"steps": 3, "quality": quality} if quality else {"steps": 3}
    return Run("edge64", "0" * 64, "0.1.0", "2026-01-01T00:00:00Z", True, tuple(results), refinement=recorded)


def test_the_judge_stands_beside_the_latency_and_k_0_off_the_line() -> None:
    zero = result(0, np.full(300, 0.01))
    scores = {0: 0.70, 1: 0.80, 3: 0.90, 5: 0.89, 8: 0.92}
    quality = [{"steps": k, "similarity": s, "verified": s - 0.1, "judge": "J"} for k, s in scores.items()]
    (found,) = pareto(run_with(quality, [*series(3.0, 2.0, 0), zero]), budget_ms=33.0)
    assert found["judge"] == "J"
    assert [point["steps"] for point in found["points"]] == [0, 1, 3, 5, 8]
    assert [point["optimal"] for point in found["points"]] == [True, True, True, False, True]
    assert found["p50"]["steps"] == [1, 3, 5, 8]
    assert found["p50"]["b"] == pytest.approx(2.0, rel=0.05)
    assert found["energy"] is None
    largest = found["largest_steps"]
    assert largest["p50"]["extrapolated"]
    assert 13 <= largest["p50"]["steps"] <= 15
    assert largest["p90"]["steps"] <= largest["p50"]["steps"]


def test_older_bundles_record_no_judge() -> None:
    (found,) = pareto(run_with([], series(3.0, 2.0, 0)))
    assert found["judge"] == "not recorded"
    assert {point["similarity"] for point in found["points"]} == {None}


def test_one_k_is_no_line() -> None:
    assert pareto(run_with([], series(3.0, 2.0, 0)[:1])) == []
