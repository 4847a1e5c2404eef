"""Streaming histograms and the calibrators that read them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeage.calibration.calibrators import CALIBRATORS, calibrate, entropy, mse, percentile
from edgeage.calibration.observers import Histogram

BIN = 2.0**-8  # relative width of a bin


def histogram(*parts: np.ndarray) -> Histogram:
    seen = Histogram()
    for part in parts:
        seen.update(np.asarray(part, dtype=np.float32).reshape(1, -1))
    return seen


def same(a: Histogram, b: Histogram) -> bool:
    ends = (a.low, a.high, a.count) == (b.low, b.high, b.count)
    arrays = zip((a.counts, a.means, a.reaches), (b.counts, b.means, b.reaches), strict=True)
    return ends and all(np.array_equal(x, y) for x, y in arrays)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), parts=st.integers(2, 6), size=st.integers(1, 50))
def test_neither_order_nor_division_of_the_samples_matters(seed: int, parts: int, size: int) -> None:
    random = np.random.default_rng(seed)
    data = [
        random.normal(size=(1, size)).astype(np.float32) * 10.0 ** random.integers(-9, 6)
        for _ in range(parts)
    ]
    straight = histogram(*data)
    shuffled = histogram(*[data[i] for i in random.permutation(parts)])
    merged = histogram(*data[:1]).merge(histogram(*data[1:]))
    assert same(straight, shuffled)
    assert same(straight, merged)
    for calibrator in CALIBRATORS:
        assert calibrate({"x": straight}, calibrator) == calibrate({"x": shuffled}, calibrator)


def test_ten_thousand_values_take_the_memory_of_one() -> None:
    assert histogram(np.ones(1)).counts.nbytes == histogram(*np.ones((10_000, 1))).counts.nbytes


def test_channels_keep_their_own_mean_and_reach() -> None:
    seen = Histogram()
    seen.update(np.array([[[1.0, -3.0], [5.0, 5.0]]], dtype=np.float32))
    seen.update(np.array([[[0.0, 2.0], [1.0, 1.0]]], dtype=np.float32))
    assert seen.means.tolist() == [0.0, 3.0]
    assert seen.reaches.tolist() == [3.0, 5.0]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([50.0, 90.0, 99.0, 99.9, 100.0]),
)
def test_percentile_against_sorted_values(seed: int, share: float) -> None:
    """To the width of a bin: the histogram knows no more."""
    values = np.abs(np.random.default_rng(seed).standard_cauchy(2000)).astype(np.float32)
    exact = np.sort(values)[int(np.ceil(len(values) * share / 100)) - 1]
    found = percentile(share)(histogram(values))
    assert exact <= found * (1 + 1e-6)
    assert found <= exact * (1 + BIN) * (1 + 1e-6)


@pytest.mark.parametrize("draw", ["normal", "laplace", "uniform"])
def test_mse_is_the_best_of_a_search_over_the_values_themselves(draw: str) -> None:
    values = getattr(np.random.default_rng(0), draw)(size=20_000).astype(np.float32)

    def error(reach: float) -> float:
        step = reach / 127
        return float(np.square(values - np.clip(np.rint(values / step), -127, 127) * step).mean())

    reaches = np.abs(values).max() * np.geomspace(0.125, 1, 96)
    # bins stand for their values in the search; 2 % is what that costs at most
    assert error(mse(histogram(values))) <= min(map(error, reaches)) * 1.02


def test_entropy_cuts_a_far_outlier_and_keeps_an_even_range() -> None:
    random = np.random.default_rng(0)
    even = random.uniform(-1, 1, 50_000)
    assert entropy(histogram(even)) > 0.95
    with_outlier = np.append(random.normal(size=50_000), 60.0)
    assert entropy(histogram(with_outlier)) < 12
    # FINDINGS of others: an entropy calibrator that equals min-max calibrates nothing
    assert CALIBRATORS["minmax"](histogram(with_outlier)) == 60


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_ranges_stay_inside_the_values_and_tell_what_they_clip(calibrator: str) -> None:
    values = np.append(np.random.default_rng(0).normal(size=30_000) ** 3, 0.0).astype(np.float32)
    chosen = calibrate({"x": histogram(values)}, calibrator)["x"]
    assert values.min() <= chosen.low <= chosen.high <= values.max()
    assert chosen.chosen_by == calibrator
    reach = max(-chosen.low, chosen.high)
    assert chosen.clipped == pytest.approx(np.mean(np.abs(values) > reach), abs=2e-4)
    if calibrator == "minmax":
        assert chosen.clipped == 0


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("value", [0.0, 2.5, -1e-30, 3e38])
def test_constant_tensors_have_a_range(calibrator: str, value: float) -> None:
    chosen = calibrate({"x": histogram(np.full(10, value))}, calibrator)["x"]
    assert np.isfinite(chosen.ends).all()
    assert max(map(abs, chosen.ends)) == pytest.approx(abs(np.float32(value)), rel=BIN)
