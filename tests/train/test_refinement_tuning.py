"""The search for a way of stepping, on a linear face whose best latent is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeage.errors import EdgeageError
from edgeage.train.latent_optimization import Face, RefinementSettings
from edgeage.train.refinement_tuning import Bench, constant_preconditioner, tune

LATENT, SIZE, FACES = 6, 4, 5


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
    return Bench(generator, embedder, second, start, Face.of(images, y, embedder))


def test_steps_bring_the_second_net_and_the_pixels_nearer(bench: Bench) -> None:
    start, refined = (bench.run("normalised", 20.0, sizes) for sizes in ((), (0.3, 0.2, 0.1)))
    assert refined.teacher_cosine > start.teacher_cosine
    assert refined.mse < start.mse
    assert refined.score > start.score


def test_the_best_trial_is_chosen_and_the_first_is_what_was_used_before(bench: Bench) -> None:
    found = tune(bench, steps=3, trials=6, seed=4)
    assert len(found["trials"]) == 6
    assert found["trials"][0] == found["before"]
    assert found["chosen"]["score"] == max(trial["score"] for trial in found["trials"])
    assert found["settings"]["steps"] == 3
    assert found["settings"]["method"] == found["chosen"]["method"]
    assert found["free step sizes"]["score"] >= found["chosen"]["score"]
    assert set(found["by_steps"]) == {"1", "3", "5", "8"}
    assert found == tune(bench, steps=3, trials=6, seed=4)


def test_the_preconditioner_evens_out_the_gradients(bench: Bench) -> None:
    gradient, _ = bench.gradient(bench.latent, RefinementSettings("euclidean", 20.0))
    spread = [
        np.linalg.cond(g.T @ g + 1e-6 * np.eye(LATENT))
        for g in (gradient, gradient @ constant_preconditioner(bench, 20.0))
    ]
    assert spread[1] < spread[0]


@pytest.mark.parametrize(("steps", "trials"), [(0, 5), (3, 0)])
def test_nothing_to_tune_is_refused(bench: Bench, steps: int, trials: int) -> None:
    with pytest.raises(EdgeageError, match="at least one step and one trial"):
        tune(bench, steps, trials, 0)
