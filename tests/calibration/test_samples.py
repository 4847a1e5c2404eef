"""The calibration pick: balanced, reproducible, apart from validation, and loud about poor sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeage.calibration import samples
from edgeage.errors import EdgeageError


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 150), min_size=6, max_size=6).filter(lambda s: sum(s) >= 120),
    seed=st.integers(0, 2**32 - 1),
)
def test_parts_are_disjoint_and_as_even_as_the_groups_allow(sizes: list[int], seed: int) -> None:
    groups = np.repeat(np.arange(6), sizes)
    chosen = samples.pick(groups, count=300, validation=60, seed=seed)
    assert not set(chosen.calibration) & set(chosen.validation)
    assert len(chosen.calibration) + len(chosen.validation) == min(360, sum(sizes))
    assert len(chosen.calibration) >= samples.MINIMUM
    together = np.concatenate([chosen.calibration, chosen.validation])
    taken = np.bincount(groups[together], minlength=6)
    fullest = taken.max()
    for size, count in zip(sizes, taken, strict=True):
        assert count == size or count >= fullest - 1


def test_same_input_gives_the_same_pick_and_another_seed_another() -> None:
    groups = np.random.default_rng(3).integers(0, 6, 900)
    one = samples.pick(groups, seed=5, data_fingerprint="a")
    two = samples.pick(groups, seed=5, data_fingerprint="a")
    assert np.array_equal(one.calibration, two.calibration)
    assert one.fingerprint == two.fingerprint
    assert samples.pick(groups, seed=6, data_fingerprint="a").fingerprint != one.fingerprint
    assert samples.pick(groups, seed=5, data_fingerprint="b").fingerprint != one.fingerprint


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ([], {}, "empty"),
        ([0, 1, 2, 3, 4, 5] * 16, {}, "96 images; give at least 119"),
        ([0, 1, 2, 3, 4, 5] * 19, {}, "114 images"),
        ([0, 1, 2, 3, 4] * 60, {}, "no image of group 60\\+"),
        ([0, 1, 2, 3, 4, 5] * 60, {"count": 99}, "99 calibration images are too few"),
        ([0, 1, 2, 3, 4, 6] * 60, {}, "0..6, but there are 6 groups"),
    ],
)
def test_poor_sets_are_refused(groups: list[int], options: dict[str, int], message: str) -> None:
    with pytest.raises(EdgeageError, match=message):
        samples.pick(np.array(groups, dtype=np.int64), **options)


def test_a_missing_group_can_be_allowed() -> None:
    groups = np.tile(np.arange(5), 60)
    assert len(samples.pick(groups, allow_missing=True).calibration) == 250


def test_balanced_takes_evenly_and_no_more_than_there_is() -> None:
    groups = np.array([0] * 50 + [1] * 3 + [2] * 50)
    rows = samples.balanced(groups, 33, seed=1)
    assert np.bincount(groups[rows]).tolist() == [15, 3, 15]
    assert len(set(rows.tolist())) == 33
    assert len(samples.balanced(groups, 1000)) == 103
