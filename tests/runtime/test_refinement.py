"""The refinement loop on a linear face whose gradient and cosines are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear_face import LATENT, Checker, Linear, at, cosine_of, faces, same, set_to

from edgeage.errors import EdgeageError
from edgeage.runtime.descent import FLAGS, NEVER_ROSE, NO_STEPS, REFINED
from edgeage.runtime.directions import CONVERGED, METHODS, NOT_FINITE, SATURATED
from edgeage.runtime.refinement import MAX_STEPS, Refined, RefinementOptions, refine, unrefined


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("check", [None, Checker()])
def test_every_method_rises(method: str, check: Checker | None) -> None:
    given = faces(5)
    found = refine(Linear(2), **given, options=RefinementOptions(method=method), check=check, trace=True)
    assert (found.cosine_after > found.cosine_before + 0.01).all()
    assert found.flags == (REFINED,) * 5
    np.testing.assert_allclose(found.cosine_before, cosine_of(given["z"], given), rtol=1e-6)
    np.testing.assert_allclose(found.cosine_after, cosine_of(found.z, given), rtol=1e-6)
    assert found.trace.shape == (4, 5)
    assert np.array_equal(found.trace.max(axis=0), found.cosine_after)
    assert np.array_equal(found.trace.argmax(axis=0), found.best_step)
    assert (found.steps_done == 3).all()
    assert found.z.dtype == np.float32
    assert refine(Linear(), **given, options=RefinementOptions()).trace is None


@pytest.mark.parametrize("method", METHODS)
def test_the_first_step_has_the_asked_size(method: str) -> None:
    given = faces()
    options = RefinementOptions(steps=1, step=0.125, method=method)
    found = refine(Linear(), **given, options=options)
    change = given["z"] - found.z
    assert found.best_step.tolist() == [1]
    assert np.sqrt(np.square(change).mean()) == pytest.approx(0.125, rel=1e-4)
    if method != "normalised":
        gradient = Linear().run(given)["gradient"]
        np.testing.assert_allclose(change, 0.125 * np.sign(gradient), rtol=1e-4)


def test_steps_decay() -> None:
    one, two = (refine(Linear(), **faces(), options=RefinementOptions(k, 0.2, 0.5)) for k in (1, 2))
    assert two.best_step.tolist() == [2]
    np.testing.assert_allclose(np.abs(two.z - one.z), 0.1, rtol=1e-4)


@pytest.mark.parametrize(("check", "runs"), [(None, 4), (Checker(), 3)])
def test_the_last_latent_is_looked_at(check: Checker | None, runs: int) -> None:
    engine = Linear()
    found = refine(engine, **faces(off=1.0), options=RefinementOptions(), check=check)
    assert engine.runs == found.evaluations == runs
    assert found.best_step.tolist() == [3]


def test_no_steps_run_nothing() -> None:
    engine, given = Linear(), faces(2)
    found = refine(engine, **given, options=RefinementOptions(steps=0))
    assert engine.runs == found.evaluations == 0
    assert found.flags == (NO_STEPS,) * 2
    assert same(found, unrefined(given["z"]))
    assert np.array_equal(found.z, given["z"])


def test_of_all_latents_the_best_is_kept() -> None:
    given = faces(8, off=0.3)
    found = refine(Linear(), **given, options=RefinementOptions(6, 0.4, 1.0), trace=True)
    assert set(found.best_step.tolist()) & {1, 2, 3, 4, 5}  # some go past it and do not come back
    assert np.array_equal(found.cosine_after, found.trace.max(axis=0))
    np.testing.assert_allclose(found.cosine_after, cosine_of(found.z, given), rtol=1e-6)


def test_a_cosine_that_never_rises_changes_nothing() -> None:
    def uphill(run: int, outputs: dict[str, np.ndarray]) -> None:
        outputs["gradient"] *= -1

    given = faces(2)
    found = refine(Linear(spoil=uphill), **given, options=RefinementOptions(), check=(check := Checker()))
    assert found.flags == (NEVER_ROSE,) * 2
    assert np.array_equal(found.z, given["z"])
    assert np.array_equal(found.cosine_after, found.cosine_before)
    assert found.best_step.tolist() == [0, 0]
    assert len(check.latents) == 2  # the last ones; no image is needed


def test_a_target_of_zeros_is_like_nothing() -> None:
    given = faces()
    given["target"][:] = 0
    found = refine(Linear(), **given, options=RefinementOptions())
    assert found.flags == (NEVER_ROSE,)
    assert found.cosine_after.tolist() == [0.0]


STUCK = np.where(np.arange(LATENT) % 3, 1, -0.5).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "value", "flag", "best"),
    [
        ("gradient", np.nan, NOT_FINITE, 1),
        ("gradient", np.inf, NOT_FINITE, 1),
        ("embedding", np.nan, NOT_FINITE, 0),
        ("gradient", STUCK, SATURATED, 1),
        ("gradient", 0.0, CONVERGED, 1),
    ],
)
@pytest.mark.parametrize("check", [None, Checker()])
def test_a_face_stops_where_it_has_no_way_on(
    name: str, value: float | np.ndarray, flag: str, best: int, check: Checker | None
) -> None:
    given, options = faces(3), RefinementOptions()
    engine = Linear(4, at(1, set_to(name, value, row=1)))
    found, whole = (refine(e, **given, options=options, check=check, trace=True) for e in (engine, Linear(4)))
    assert found.flags == (REFINED, flag, REFINED)
    assert found.best_step[1] == best
    assert found.steps_done.tolist() == [3, 1, 3]
    assert np.isnan(found.trace[2:, 1]).all()
    assert found.cosine_after[1] == whole.trace[best, 1]
    for neighbour in (0, 2):
        assert np.array_equal(found.z[neighbour], whole.z[neighbour])


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("gradient", np.nan, NOT_FINITE),
        ("embedding", np.nan, NOT_FINITE),
        ("gradient", STUCK, SATURATED),
        ("gradient", 0.0, CONVERGED),
    ],
)
def test_a_face_can_stop_at_once(name: str, value: float | np.ndarray, flag: str) -> None:
    engine, given, check = Linear(spoil=at(0, set_to(name, value))), faces(), Checker()
    found = refine(engine, **given, options=RefinementOptions(), check=check)
    assert found.flags == (flag,)
    assert np.array_equal(found.z, given["z"])
    assert (engine.runs, check.latents, found.steps_done.tolist()) == (1, [], [0])
    assert np.isnan(found.cosine_before[0]) == (name == "embedding")


def test_the_last_embedding_may_fail() -> None:
    found = refine(
        Linear(spoil=at(3, set_to("embedding", np.nan))), **faces(), options=RefinementOptions(), trace=True
    )
    assert found.flags == (NOT_FINITE,)
    assert np.isnan(found.trace[3, 0])
    assert found.cosine_after[0] == np.nanmax(found.trace)


def test_tolerance_ends_slow_rises() -> None:
    given = faces(off=0.3)
    whole = refine(Linear(), **given, options=RefinementOptions(8), trace=True)
    rises = np.diff(whole.trace[:, 0])
    limit = float(rises[0] / 4)
    first_slow = int(np.argmax(rises < limit)) + 1
    assert 1 < first_slow < 8
    found = refine(Linear(), **given, options=RefinementOptions(8, tolerance=limit))
    assert found.steps_done.tolist() == [first_slow]
    assert found.flags == (CONVERGED,)
    assert found.cosine_after[0] == whole.trace[: first_slow + 1].max()
    none = refine(
        Linear(spoil=lambda run, out: set_to("gradient", -out["gradient"][0])(out)),
        **given,
        options=RefinementOptions(8, tolerance=0.0),
    )
    assert (none.flags, none.steps_done.tolist()) == ((NEVER_ROSE,), [1])


@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 6),
    batch=st.integers(1, 4),
    method=st.sampled_from(METHODS),
    checked=st.booleans(),
    nan_face=st.integers(0, 5),
)
def test_neighbours_do_not_matter(
    seed: int, count: int, batch: int, method: str, checked: bool, nan_face: int
) -> None:
    """Faces together, in any batch, give bit for bit what each gives alone, again and again."""
    given = faces(count, seed)
    if nan_face < count:
        given["target"][nan_face] = 0
    options = RefinementOptions(4, 0.3, method=method, tolerance=0.002)

    def run(batch: int, rows: slice) -> Refined:
        some = {name: values[rows] for name, values in given.items()}
        return refine(Linear(batch), **some, options=options, check=Checker() if checked else None)

    together = run(batch, slice(None))
    assert same(together, run(batch, slice(None)))
    assert set(together.flags) <= set(FLAGS)
    for face in range(count):
        alone = run(1, slice(face, face + 1))
        assert np.array_equal(together.z[face], alone.z[0])
        assert together.flags[face] == alone.flags[0]
        assert together.cosine_after[face] == alone.cosine_after[0]


@pytest.mark.parametrize(("count", "batch", "runs"), [(5, 4, 2), (4, 4, 1), (1, 4, 1), (3, 1, 3)])
def test_faces_are_cut_into_batches(count: int, batch: int, runs: int) -> None:
    engine = Linear(batch)
    refine(engine, **faces(count), options=RefinementOptions(2), check=Checker())
    assert engine.runs == 2 * runs


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": -1}, "whole number"),
        ({"steps": 2.0}, "whole number"),
        ({"steps": True}, "whole number"),
        ({"steps": MAX_STEPS + 1}, "33 refinement steps are too many; give 32 or fewer"),
        ({"step": 0}, "step is 0"),
        ({"step": float("inf")}, "step is inf"),
        ({"step": "big"}, "step is 'big'"),
        ({"decay": 0}, "decay is 0"),
        ({"decay": 1.1}, "decay is 1.1"),
        ({"method": "newton"}, "sign, normalised, adam"),
        ({"deadline_ms": -1}, "deadline_ms is -1"),
        ({"deadline_ms": float("nan")}, "deadline_ms is nan"),
        ({"tolerance": -0.1}, "tolerance is -0.1"),
    ],
)
def test_options_are_checked(options: dict, said: str) -> None:
    with pytest.raises(EdgeageError, match=said) as caught:
        RefinementOptions(**options)
    assert "\n" not in str(caught.value)


def test_options_of_a_manifest() -> None:
    assert RefinementOptions(MAX_STEPS).steps == 32
    stated = {"steps": 5, "step": 0.1, "decay": 0.9, "method": "adam", "note": "x", "pixel_weight": 20}
    assert RefinementOptions.from_manifest(stated) == RefinementOptions(5, 0.1, 0.9, "adam")
    assert RefinementOptions.from_manifest({"steps": 0}) == RefinementOptions(0)
    with pytest.raises(EdgeageError, match="too many"):
        RefinementOptions.from_manifest({"steps": 99})


@pytest.mark.parametrize("name", ["z", "y", "target", "image"])
def test_inputs_of_other_shapes_are_refused(name: str) -> None:
    given = faces(2)
    given[name] = given[name][..., :-1] if name != "z" else given[name][:, :-1]
    with pytest.raises(EdgeageError, match=f"refinement takes {name} as .* for n = 2 faces"):
        refine(Linear(), **given, options=RefinementOptions())
    given = faces(2)
    given[name] = np.concatenate([given[name], given[name]])
    with pytest.raises(EdgeageError, match="for n ="):
        refine(Linear(), **given, options=RefinementOptions())


def test_inputs_that_are_not_finite_are_refused() -> None:
    given = faces(2)
    given["target"][1] = np.nan
    with pytest.raises(EdgeageError, match="input target holds NaN"):
        refine(Linear(), **given, options=RefinementOptions())
