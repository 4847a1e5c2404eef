"""The search for a way of stepping, on a linear face whose best latent is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeage.errors import EdgeageError
from edgeage.train.curvature import curvature
from edgeage.train.latent_optimization import Face
from edgeage.train.refinement_tuning import Bench, tune

LATENT, SIZE, FACES = 6, 4, 5
DIFFER = ("preconditioned", "teacher_cosine", "own_cosine", "mse", "score")


class Second:
    """A second net: another projection of the image than the loss's recogniser."""

    def embed(self, images: Tensor) -> np.ndarray:
        return (images.flatten(1) @ _matrix(3, 3 * SIZE**2, 8)).detach().numpy()


def _matrix(seed: int, rows: int, columns: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32))


def generator(z: Tensor, y: Tensor) -> Tensor:
    return 0.1 * (z @ _matrix(1, LATENT, 3 * SIZE**2)).reshape(-1, 3, SIZE, SIZE)


def embedder(images: Tensor) -> Tensor:
    return images.flatten(1) @ _matrix(2, 3 * SIZE**2, 8)


@pytest.fixture
def bench() -> Bench:
    truth = _matrix(7, FACES, LATENT)
    y = torch.eye(6)[torch.arange(FACES)]
    images = generator(truth, y)
    start = truth + 0.6 * _matrix(8, FACES, LATENT)
    second: Any = Second()
    curved = curvature(generator, embedder, start, y)
    return Bench(generator, embedder, second, start, Face.of(images, y, embedder), curved)


def test_steps_bring_the_second_net_and_the_pixels_nearer(bench: Bench) -> None:
    start, refined = (bench.run("normalised", 20.0, sizes) for sizes in ((), (0.3, 0.2, 0.1)))
    assert refined.teacher_cosine > start.teacher_cosine
    assert refined.mse < start.mse
    assert refined.score > start.score


def test_the_best_trial_is_chosen_and_the_first_is_what_was_used_before(bench: Bench) -> None:
    found = tune(bench, steps=3, trials=6, seed=4)
    assert len(found["trials"]) == 6
    rows = found["rows"]
    assert found["trials"][0] == {**rows["before"], **{k: found["trials"][0][k] for k in DIFFER}}
    assert rows["chosen"]["score"] == max(trial["score"] for trial in found["trials"])
    assert found["settings"]["steps"] == 3
    assert found["settings"]["method"] == rows["chosen"]["method"]
    assert rows["free step sizes"]["score"] >= rows["chosen"]["score"]
    assert [row["preconditioned"] for row in rows.values()] == [True, False, True, False, True]
    assert set(found["by_steps"]) == {"1", "3", "5", "8"}
    assert found == tune(bench, steps=3, trials=6, seed=4)


def test_the_preconditioner_that_a_device_gets_is_that_of_the_chosen_pixel_weight(bench: Bench) -> None:
    found = tune(bench, steps=2, trials=3, seed=1)
    read = np.array([row.split() for row in found["preconditioner"]], np.float32)
    wanted = bench.curvature.preconditioner(found["settings"]["pixel_weight"])
    np.testing.assert_allclose(read, wanted, rtol=1e-5, atol=1e-6)  # six digits


@pytest.mark.parametrize(("steps", "trials"), [(0, 5), (3, 0)])
def test_nothing_to_tune_is_refused(bench: Bench, steps: int, trials: int) -> None:
    with pytest.raises(EdgeageError, match="at least one step and one trial"):
        tune(bench, steps, trials, 0)
