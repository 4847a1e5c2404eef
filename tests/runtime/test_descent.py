"""Where faces may end, and by when."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear_face import Checker, Clock, Linear, faces, image_of

from edgeage.runtime.descent import DEADLINE, PIXELS_DRIFTED, REFINED
from edgeage.runtime.refinement import RefinementOptions, refine


@pytest.mark.parametrize(
    ("bad", "best", "flag"), [(0, 3, REFINED), (1, 2, REFINED), (2, 1, REFINED), (3, 0, PIXELS_DRIFTED)]
)
def test_latents_with_far_pixels_are_passed_over(bad: int, best: int, flag: str) -> None:
    """The face rises at each step; the images of the `bad` best latents are off."""
    given, options = faces(off=1.0), RefinementOptions()
    whole = [refine(Linear(), **given, options=RefinementOptions(k)) for k in range(4)]
    assert [one.best_step[0] for one in whole] == [0, 1, 2, 3]
    check = Checker()

    def image(z: np.ndarray, y: np.ndarray) -> np.ndarray:
        made = image_of(z, y)
        far = [any(np.array_equal(row, one.z[0]) for one in whole[4 - bad :]) for row in z]
        return np.where(np.array(far)[:, None, None, None], given["image"] + 10, made)

    check.image_of = image
    found = refine(Linear(), **given, options=options, check=check)
    assert (found.best_step.tolist(), found.flags) == ([best], (flag,))
    assert np.array_equal(found.z, whole[best].z)
    assert len(check.latents) == 2 + max(0, min(bad, 2))  # last, first, and those that were asked about
    assert len({row.tobytes() for row in check.latents}) == len(check.latents)
    assert check.embedded == 1  # the last: the others' embeddings came with their gradients


@pytest.mark.parametrize(("factor", "best"), [(1.49, 1), (1.51, 0)])
def test_the_guard_is_one_and_a_half(factor: float, best: int) -> None:
    given, check = faces(), Checker()
    start = given["z"][0]

    def image(z: np.ndarray, y: np.ndarray) -> np.ndarray:
        apart = [1.0 if np.array_equal(row, start) else math.sqrt(factor) for row in z]
        return given["image"] + np.array(apart, np.float32)[:, None, None, None]

    check.image_of = image
    found = refine(Linear(), **given, options=RefinementOptions(1), check=check)
    assert found.best_step.tolist() == [best]


@pytest.mark.parametrize(
    ("deadline", "expected", "steps", "ms", "flag"),
    [
        (100, None, 3, 40, REFINED),
        (40, 10, 3, 40, REFINED),
        (39, 10, 2, 30, DEADLINE),
        (25, 10, 1, 20, DEADLINE),
        (20, 10, 1, 20, DEADLINE),
        (19, 10, 0, 0, DEADLINE),  # nothing runs
        (19, None, 0, 10, DEADLINE),  # the first run tells that there is no time for another
        (0, 10, 0, 0, DEADLINE),
        (100, 60, 0, 0, DEADLINE),
        (100, 40, 3, 40, REFINED),
    ],
)
def test_deadline(deadline: float, expected: float | None, steps: int, ms: float, flag: str) -> None:
    """A run takes 10 ms, and the last latent of a step must be looked at too."""
    clock, given = Clock(), faces(off=1.0)
    engine = Linear(clock=clock, ms=10)
    options = RefinementOptions(deadline_ms=deadline + 0.5)  # not on the edge, sums of floats are not exact
    found = refine(engine, **given, options=options, expected_ms=expected, clock=clock)
    assert (found.steps_done.tolist(), found.best_step.tolist(), found.flags) == ([steps], [steps], (flag,))
    assert found.milliseconds == pytest.approx(ms)
    assert found.evaluation_ms == pytest.approx(10 if ms else 0)
    assert np.isnan(found.cosine_before[0]) == (ms == 0)
    if not steps:
        assert np.array_equal(found.z, given["z"])


@pytest.mark.parametrize(("deadline", "steps"), [(39, 0), (40, 1), (60, 2)])
def test_faces_of_a_batch_take_one_run(deadline: float, steps: int) -> None:
    """Five faces are two runs of four, and every step keeps two for the last latents."""
    clock = Clock()
    engine, options = Linear(4, clock=clock, ms=10), RefinementOptions(deadline_ms=deadline + 0.5)
    found = refine(engine, **faces(5, off=1.0), options=options, expected_ms=10, clock=clock)
    assert found.steps_done.tolist() == [steps] * 5
    assert found.milliseconds == pytest.approx(20 * (steps + 1) if steps else 0)


@pytest.mark.parametrize(
    ("deadline", "steps", "ms"),
    [(29, 0, 0), (30, 1, 18), (40, 2, 28), (50, 3, 38)],
)
def test_the_checks_are_within_the_deadline(deadline: float, steps: int, ms: float) -> None:
    """A check takes 4 ms and is taken for as slow as a run until it was timed; two checks end the way."""
    clock = Clock()
    found = refine(
        Linear(clock=clock, ms=10),
        **faces(off=1.0),
        options=RefinementOptions(deadline_ms=deadline + 0.5),
        check=Checker(clock, 4),
        expected_ms=10,
        clock=clock,
    )
    assert found.best_step.tolist() == [steps]
    assert found.milliseconds == pytest.approx(ms)


def test_the_slowest_run_is_expected_again() -> None:
    clock = Clock()

    def slow(run: int, outputs: dict[str, np.ndarray]) -> None:
        clock.now += 0.02 if run == 1 else 0

    engine = Linear(spoil=slow, clock=clock, ms=10)
    options = RefinementOptions(8, deadline_ms=101)
    found = refine(engine, **faces(off=1.0), options=options, expected_ms=10, clock=clock)
    # 10, 40, 50: two runs of 30 more would end at 110, so that the last latent is looked at, and that is all
    assert found.milliseconds == pytest.approx(60)
    assert found.evaluation_ms == pytest.approx(30)
    assert found.steps_done.tolist() == [3]


@pytest.mark.parametrize(("check_ms", "flag"), [(4, REFINED), (45, DEADLINE)])
def test_checks_slower_than_expected_end_at_the_given_latent(check_ms: float, flag: str) -> None:
    clock, given = Clock(), faces(off=1.0)
    found = refine(
        Linear(clock=clock, ms=10),
        **given,
        options=RefinementOptions(1, deadline_ms=60),
        check=Checker(clock, check_ms),
        expected_ms=10,
        clock=clock,
    )
    assert found.flags == (flag,)
    assert found.milliseconds <= 60
    assert np.array_equal(found.z, given["z"]) == (flag == DEADLINE)


@given(
    deadline=st.floats(0, 500),
    run_ms=st.floats(1, 50),
    share=st.floats(0.1, 1.0),
    count=st.integers(1, 6),
    batch=st.integers(1, 4),
    checked=st.booleans(),
)
def test_a_deadline_is_held(
    deadline: float, run_ms: float, share: float, count: int, batch: int, checked: bool
) -> None:
    """With steady times that are known: a check takes at most its face's share of a run."""
    clock = Clock()
    found = refine(
        Linear(batch, clock=clock, ms=run_ms),
        **faces(count),
        options=RefinementOptions(6, deadline_ms=deadline),
        check=Checker(clock, share * run_ms / batch) if checked else None,
        expected_ms=run_ms,
        clock=clock,
    )
    assert found.milliseconds <= deadline + 1e-6
    assert DEADLINE in found.flags or (found.steps_done == 6).all()
