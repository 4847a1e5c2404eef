"""Intervals hold what they promise, also for samples that resemble their neighbours."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import signal, stats

from edgeage.runtime.bench import statistics as own
from edgeage.runtime.bench.statistics import (
    compare,
    drift,
    find_warmup,
    independent_count,
    percentile,
    percentiles,
    smallest_count,
)

SPREAD = 0.1


def series(rng: np.random.Generator, count: int, correlation: float = 0.0) -> np.ndarray:
    """Log-normal latencies around 1 whose neighbours resemble each other (AR(1) of their logarithms)."""
    noise = rng.standard_normal(count) * math.sqrt(1 - correlation**2)
    noise[0] /= math.sqrt(1 - correlation**2)
    values = signal.lfilter([1.0], [1.0, -correlation], noise)
    return np.exp(SPREAD * values)


def truth(q: float) -> float:
    return math.exp(SPREAD * NormalDist().inv_cdf(q / 100))


@pytest.mark.parametrize(("q", "count"), [(50, 6), (90, 36), (95, 72), (99, 368), (99.9, 3688), (1, 368)])
def test_a_percentile_is_bounded_from_its_smallest_count_on(q: float, count: int) -> None:
    assert smallest_count(q) == count
    rng = np.random.default_rng(0)
    assert percentile(rng.uniform(size=count), q).estimable
    short = percentile(rng.uniform(size=count - 1), q)
    assert (short.estimable, short.value, short.low, short.high) == (False, None, None, None)
    assert (short.needed, short.samples) == (count, count - 1)


@pytest.mark.parametrize("count", [36, 100, 999, 5000])
@pytest.mark.parametrize("q", [50.0, 90.0])
def test_ranks_are_those_of_the_binomial_distribution(count: int, q: float) -> None:
    """Against SciPy: the interval misses with at most 2.5 % on each side, and one rank nearer does not."""
    low, high = own._ranks(count, q, 0.95)
    below = stats.binom(count, q / 100)
    assert below.cdf(low - 1) <= 0.025 < below.cdf(low)
    assert below.sf(high - 1) <= 0.025 < below.sf(high - 2)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("q", [50.0, 90.0])
def test_intervals_cover_the_truth(correlation: float, q: float) -> None:
    """Nominal is 95 %; of 300 draws at 93 % fewer than 88 % hold it once in 1000 times."""
    rng = np.random.default_rng(1)
    found = [percentile(series(rng, 1500, correlation), q) for _ in range(300)]
    held = [one.low <= truth(q) <= one.high for one in found]
    assert np.mean(held) >= 0.88


def test_plain_order_statistics_would_not_cover_it() -> None:
    """What counting independent samples is for: without it, intervals are far too narrow."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        ordered = np.sort(series(rng, 1500, 0.9))
        low, high = own._ranks(1500, 50.0, 0.95)
        held += ordered[low - 1] <= truth(50) <= ordered[high - 1]
    assert held / 200 < 0.6


def test_independent_samples_are_counted_as_theory_says() -> None:
    """The sign of an AR(1) series has autocorrelations 2/pi asin(rho^k) (the arcsine law)."""
    rng, rho = np.random.default_rng(2), 0.8
    time = 1 + 2 * sum(2 / math.pi * math.asin(rho**k) for k in range(1, 200))
    found = np.mean([independent_count(series(rng, 4000, rho)) for _ in range(20)])
    assert found == pytest.approx(4000 / time, rel=0.15)
    assert np.mean([independent_count(series(rng, 4000)) for _ in range(20)]) == pytest.approx(4000, rel=0.02)


def test_nothing_is_clipped_and_a_stall_is_seen() -> None:
    samples = np.full(1000, 0.4) + np.random.default_rng(3).uniform(0, 0.01, 1000)
    samples[300:315] = 13.25
    p50, p90, p99 = percentiles(samples)
    assert p50.value < 0.41
    assert p90.value < 0.42
    assert p99.value == samples.max() == 13.25


@given(
    arrays(np.int64, st.integers(36, 120), elements=st.integers(1, 10**9)),
    st.sampled_from([50.0, 75.0, 90.0]),
)
@settings(max_examples=60)
def test_an_interval_is_made_of_samples_and_holds_the_value(samples: np.ndarray, q: float) -> None:
    found = percentile(samples, q)
    if found.estimable:
        assert found.low <= found.value <= found.high
        assert {found.low, found.value, found.high} <= set(samples.tolist())
        assert found.value == np.quantile(samples, q / 100, method="inverted_cdf")
    else:
        assert found.independent < found.needed


@given(arrays(np.int64, st.integers(40, 80), elements=st.integers(1, 10**6)), st.integers(2, 1000))
@settings(max_examples=30)
def test_units_do_not_matter(samples: np.ndarray, factor: int) -> None:
    here, there = percentile(samples, 90), percentile(samples * factor, 90)
    assert (there.value, there.low, there.high) == tuple(
        None if value is None else value * factor for value in (here.value, here.low, here.high)
    )


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_same_subject_twice_is_inconclusive_and_five_percent_are_found(correlation: float) -> None:
    """In turn: what the machine does meets both. At least 95 of 100 each; the series drift by a fifth."""
    rng = np.random.default_rng(4)
    quiet = found = same = 0
    for _ in range(100):
        machine = series(rng, 400, correlation) * np.linspace(1, 1.2, 400)
        first, second = machine * series(rng, 400) ** 0.5, machine * series(rng, 400) ** 0.5
        again = compare(first, second, paired=True)
        quiet += again.outcome == "inconclusive"
        same += again.same
        found += compare(first, second * 1.05, paired=True).outcome == "slower"
    assert quiet >= 95
    assert found >= 95
    assert same >= 50


@pytest.mark.parametrize("paired", [True, False])
def test_a_ratio_is_covered(paired: bool) -> None:
    """Nominal 95 %, of 150 draws; bootstrap intervals of autocorrelated series run a little short."""
    rng, held = np.random.default_rng(5), 0
    for _ in range(150):
        machine = series(rng, 600, 0.8)
        other = machine if paired else series(rng, 600, 0.8)
        found = compare(machine * series(rng, 600), other * series(rng, 600) * 1.1, paired=paired)
        held += found.low <= 1.1 <= found.high
    assert held / 150 >= 0.85


def test_a_sequential_comparison_of_a_drifting_machine_is_told_apart() -> None:
    """In turn the drift cancels; one after the other it would be taken for the subject's."""
    rng = np.random.default_rng(6)
    machine = np.linspace(1, 1.3, 800)
    interleaved = compare(machine[::2] * series(rng, 400), machine[1::2] * series(rng, 400), paired=True)
    apart = compare(machine[:400] * series(rng, 400), machine[400:] * series(rng, 400), paired=False)
    assert interleaved.outcome == "inconclusive"
    assert apart.outcome == "slower"
    assert not apart.paired


def test_a_comparison_of_a_series_with_itself_is_one() -> None:
    values = series(np.random.default_rng(7), 100)
    found = compare(values, values, paired=True)
    assert (found.ratio, found.low, found.high, found.same) == (1.0, 1.0, 1.0, True)


def test_long_series_are_thinned_not_refused() -> None:
    rng = np.random.default_rng(8)
    found = compare(rng.uniform(1, 2, 90_001), rng.uniform(1, 2, 90_001) * 1.1, paired=True)
    assert found.outcome == "slower"
    assert found.low < 1.1 < found.high


@pytest.mark.parametrize(("base", "other"), [([], [1.0]), ([1.0], []), ([1.0, 2.0], [1.0])])
def test_a_comparison_needs_samples(base: list[float], other: list[float]) -> None:
    with pytest.raises(ValueError, match="samples"):
        compare(base, other, paired=True)


def test_warm_up_ends_where_the_series_settles() -> None:
    rng = np.random.default_rng(9)
    counts = []
    for _ in range(100):
        samples = series(rng, 600)
        samples[:40] *= 1 + 3 * np.exp(-np.arange(40) / 8)
        warmup = find_warmup(samples)
        assert warmup.settled
        counts.append(warmup.count)
    # 3 exp(-k / 8) falls into the spread of 0.1 between k = 20 and k = 35
    assert 15 <= np.median(counts) <= 35


def test_a_series_without_warm_up_loses_next_to_nothing() -> None:
    rng = np.random.default_rng(10)
    counts = [
        find_warmup(series(rng, 600, correlation)).count for correlation in (0.0, 0.8) for _ in range(100)
    ]
    assert np.mean(counts) < 3


def test_a_stall_is_not_taken_for_warm_up() -> None:
    samples = series(np.random.default_rng(11), 600)
    samples[200:230] *= 20
    assert find_warmup(samples).count < 20


@pytest.mark.parametrize("count", [0, 1, 31])
def test_a_few_samples_have_not_settled(count: int) -> None:
    assert not find_warmup(np.ones(count)).settled


def test_drift_is_told_by_its_interval() -> None:
    rng = np.random.default_rng(12)
    assert drift(series(rng, 600) * np.linspace(1, 1.3, 600), 0.05).outcome == "slower"
    assert drift(series(rng, 600) * np.linspace(1.3, 1, 600), 0.05).outcome == "faster"
    steady = [drift(series(rng, 600, 0.8), 0.05).outcome for _ in range(50)]
    assert steady.count("inconclusive") >= 49


def test_constant_samples_are_no_trouble() -> None:
    """Clocks tick coarsely: many samples may be equal."""
    assert percentile(np.full(400, 7), 99).high == 7
    assert independent_count(np.full(400, 7)) == 400
    assert find_warmup(np.full(400, 7)).count == 0
