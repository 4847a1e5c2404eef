"""Metrics against oracles, brute force and what must hold for any input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from edgeage.train.evaluation import intervals, metrics

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=30, deadline=None)
AGES = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(6)), elements=st.floats(0, 80))


def pictures(seed: int, count: int = 3, side: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@FEW
@given(SEEDS, st.integers(1, 255))
def test_psnr_and_ssim_are_scikit_images(seed: int, noise: int):
    a = pictures(seed)
    b = (a.astype(int) + np.random.default_rng(seed + 1).integers(-noise, noise + 1, a.shape)).clip(0, 255)
    b = b.astype(np.uint8)
    expected = [peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(a, b, strict=True)]
    assert metrics.psnr(a, b) == pytest.approx(expected)
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = [structural_similarity(x, y, channel_axis=-1, **how) for x, y in zip(a, b, strict=True)]
    assert metrics.ssim(a, b) == pytest.approx(expected, abs=1e-9)


def test_equal_pictures():
    a = pictures(0)
    assert np.isinf(metrics.psnr(a, a)).all()
    assert metrics.ssim(a, a) == pytest.approx(np.ones(3))


def test_sharpness_is_the_laplacian_of_the_centre():
    picture = np.full((1, 64, 64, 3), 100, np.uint8)
    picture[0, 32, 32] = 150  # a dot answers with -200 once and 50 four times
    values = np.zeros(40 * 40)
    values[:5] = [-200, 50, 50, 50, 50]
    assert metrics.sharpness(picture) == pytest.approx([values.var()])
    outside = np.full((1, 64, 64, 3), 100, np.uint8)
    outside[0, 5, 5] = 255
    assert metrics.sharpness(outside) == pytest.approx([0.0])


def test_sharpness_takes_the_same_part_of_larger_pictures():
    picture = np.full((1, 128, 128, 3), 100, np.uint8)
    picture[0, 22, 64] = 200  # its neighbour below is at 23; the centre begins at 24
    assert metrics.sharpness(picture) == pytest.approx([0.0])
    picture[0, 23, 64] = 200
    assert metrics.sharpness(picture)[0] > 0


@FEW
@given(SEEDS, st.integers(2, 12))
def test_impostors_are_all_pairs_of_different_persons(seed: int, count: int):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(count, 3))
    people, kind = rng.integers(-1, 3, count), rng.integers(0, 2, count)
    expected = sorted(
        np.linalg.norm(embeddings[i] - embeddings[j])
        for i in range(count)
        for j in range(i)
        if (people[i] != people[j] or people[i] < 0) and kind[i] == kind[j]
    )
    assert sorted(metrics.impostor_distances(embeddings, people, [kind])) == pytest.approx(expected)


@FEW
@given(SEEDS, st.floats(0.001, 0.2))
def test_the_threshold_keeps_its_promise(seed: int, rate: float):
    impostors = np.random.default_rng(seed).random(3000)
    threshold = metrics.threshold_at(impostors, rate)
    if rate * 3000 < 10:
        assert math.isnan(threshold)
        return
    assert (impostors < threshold).mean() <= rate + 1e-9
    assert (impostors <= threshold).mean() > rate + 1e-9  # and is the largest that does


def test_judged_ages_fall_into_groups_after_rounding():
    ages = np.array([0.25, 18.4, 18.6, 29.4, 29.5, 39.6, 49.9, 59.4, 59.6, 80])
    assert metrics.judged_groups(ages).tolist() == [0, 0, 1, 1, 2, 3, 4, 4, 5, 5]


@FEW
@given(AGES)
def test_monotonicity_is_scipys_spearman(ages: np.ndarray):
    for row, value in zip(ages, metrics.monotonicity(ages), strict=True):
        assert -1 - 1e-9 <= value <= 1 + 1e-9
        if len(set(row)) > 1:
            assert value == pytest.approx(stats.spearmanr(row, np.arange(6)).statistic)
        else:
            assert value == 0


@FEW
@given(AGES)
def test_only_the_order_of_ages_counts(ages: np.ndarray):
    ages = np.rint(ages)  # so that the cube keeps ties and order
    assert metrics.monotonicity(ages**3) == pytest.approx(metrics.monotonicity(ages))
    assert metrics.monotonicity(-ages) == pytest.approx(-metrics.monotonicity(ages))


@given(st.floats(0, 1), st.floats(0, 100))
def test_harmonic_consistency(same: float, difference: float):
    value = metrics.harmonic_consistency(same, difference)
    age = max(100 - 2.5 * difference, 0)
    assert min(100 * same, age) - 1e-9 <= value <= max(100 * same, age) + 1e-9
    assert value <= 2 * min(100 * same, age) + 1e-9  # one bad side cannot be bought back
    assert metrics.harmonic_consistency(1.0, 0.0) == 100
    assert metrics.harmonic_consistency(0.8, 10.0) == pytest.approx(2 * 80 * 75 / 155)
    assert metrics.harmonic_consistency(0.0, 40.0) == 0


@FEW
@given(SEEDS, st.integers(2, 8))
def test_kernel_distance_is_its_definition(seed: int, count: int):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, count, 4))
    unit = np.sqrt(np.square(b).sum(1).mean())
    x, y = a / unit, b / unit
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    expected = np.mean(
        [(x[i] @ x[j] + 1) ** 3 + (y[i] @ y[j] + 1) ** 3 - 2 * (x[i] @ y[j] + 1) ** 3 for i, j in pairs]
    )
    assert metrics.kernel_distance(a, b) == pytest.approx(expected)


def test_kernel_distance_tells_a_shift_and_not_a_second_draw():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 400, 8)) / np.sqrt(8)
    assert metrics.kernel_distance(one, one) == pytest.approx(0)
    assert abs(metrics.kernel_distance(one, other)) < 0.05
    assert metrics.kernel_distance(one + 0.3, other) > 0.2
    assert math.isnan(metrics.kernel_distance(one[:1], other[:1]))


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(1)
    shares = means = 0
    for seed in range(400):
        low, high = intervals.of_share(rng.random(50) < 0.9)
        shares += low <= 0.9 <= high
        low, high = intervals.of_mean(rng.exponential(2.0, 60), seed, 200)
        means += low <= 2.0 <= high
    assert 0.92 <= shares / 400 <= 0.99
    assert 0.88 <= means / 400 <= 0.98


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_interval_of_a_share_holds_it_and_stays_in_range(count: int, share: float):
    yes = np.arange(count) < round(share * count)
    low, high = intervals.of_share(yes)
    assert 0 <= low <= yes.mean() + 1e-12
    assert yes.mean() - 1e-12 <= high <= 1
    assert high - low > 0  # never certain


def test_the_bootstrap_of_a_mean_is_that_of_a_statistic():
    values = np.random.default_rng(2).normal(size=80)
    low, high = intervals.of_mean(values)
    statistic = intervals.of_statistic(lambda faces: float(values[faces].mean()), 80, resamples=1000)
    assert statistic == pytest.approx((low, high), abs=0.03)


def test_cosines_are_row_by_row_and_know_no_length():
    a = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    b = np.array([[5.0, 0.0], [4.0, 3.0], [0.0, -0.5]])
    assert metrics.cosines(a, b) == pytest.approx([1, 0.96, -1])
