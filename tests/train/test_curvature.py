"""The curvature of the refinement's loss against autograd's own second derivatives."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgeage.train.curvature import DAMPING, Curvature, curvature
from edgeage.train.latent_optimization import Face, RefinementSettings, losses

LATENT, SIZE, FACES = 5, 4, 3
_RANDOM = np.random.default_rng(3)
TO_IMAGE, TO_EMBEDDING = (
    torch.from_numpy(_RANDOM.normal(size=shape)) for shape in ((LATENT, 3 * SIZE**2), (3 * SIZE**2, 8))
)


def generator(z: Tensor, y: Tensor) -> Tensor:
    return torch.tanh(0.1 * z @ TO_IMAGE).reshape(-1, 3, SIZE, SIZE)


def embedder(images: Tensor) -> Tensor:
    return images.flatten(1) @ TO_EMBEDDING


def test_where_the_loss_is_zero_it_is_the_hessian() -> None:
    """Gauss-Newton leaves out what residuals times second derivatives add; at the target that is nothing."""
    z, y = torch.from_numpy(_RANDOM.normal(size=(FACES, LATENT))), torch.eye(6, dtype=torch.float64)[:FACES]
    found = curvature(generator, embedder, z, y)
    face = Face.of(generator(z, y), y, embedder)

    def loss(weight: float, mode: str) -> np.ndarray:
        settings = RefinementSettings("euclidean", weight)

        def of_one(latent: Tensor, row: int) -> Tensor:
            one = Face(face.images[row, None], y[row, None], face.target[row, None])
            return losses(generator, embedder, latent[None], one, settings, mode)[0].sum()  # type: ignore[arg-type]

        each = [torch.func.hessian(of_one)(z[row], row) for row in range(FACES)]
        return np.asarray(torch.stack(each).mean(0))

    np.testing.assert_allclose(found.identity, loss(0.0, "identity"), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.pixels, loss(1.0, "pixelwise"), rtol=1e-9, atol=1e-9)


def test_a_preconditioned_step_goes_further_where_the_loss_is_flat() -> None:
    curved = Curvature(np.diag([1.0, 100.0]), np.zeros((2, 2)))
    matrix = curved.preconditioner(20.0)
    assert np.isclose(np.trace(matrix) / 2, 1)
    assert np.isclose(matrix[0, 0] / matrix[1, 1], (100 + 50.5 * DAMPING) / (1 + 50.5 * DAMPING))
    assert matrix[0, 1] == matrix[1, 0] == 0
