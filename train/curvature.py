"""How steep the refinement's loss is in each direction of the latent space, and steps that make up for it.

The loss curves twenty times more along some directions than along others, and so do the steps that a gradient
asks for. One matrix, the same for every face, undoes the mean of that: the inverse of the Gauss-Newton
matrix (Nocedal and Wright, Numerical Optimization, 2006, section 10.3) averaged over faces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import jvp, vmap
from tqdm import tqdm

from edgeage.train.latent_optimization import Embedder, Generator

# What is added to every direction's curvature, in mean curvatures: an even start of the inverse.
DAMPING = 0.7


@dataclass(frozen=True)
class Curvature:
    """Mean Gauss-Newton matrices [L, L] of the loss's two terms, symmetric.

    Attributes:
        identity: of ||FR(G(z, y)) - target||^2; pixels: of mean((G(z, y) - x)^2).
    """

    identity: NDArray[np.float64]
    pixels: NDArray[np.float64]

    def preconditioner(self, pixel_weight: float) -> NDArray[np.float32]:
        """[L, L], symmetric and positive definite, with a mean eigenvalue of 1.

        A gradient times it is the direction of a (damped) Newton step on the mean loss.
        """
        whole = self.identity + pixel_weight * self.pixels
        mean = np.trace(whole) / len(whole)
        inverse = np.linalg.inv(whole + DAMPING * mean * np.eye(len(whole)))
        return np.asarray((inverse + inverse.T) * (len(inverse) / (2 * np.trace(inverse))), np.float32)


def curvature(
    generator: Generator, embedder: Embedder, latents: Tensor, conditions: Tensor, *, progress: bool = False
) -> Curvature:
    """Mean curvature at latents [n, L] under conditions [n, groups]; exact derivatives, face by face."""
    directions = torch.eye(latents.shape[1], dtype=latents.dtype)
    identity, pixels = torch.zeros_like(directions), torch.zeros_like(directions)
    pairs = zip(latents[:, None], conditions[:, None], strict=True)
    for latent, condition in tqdm(pairs, "curvature", len(latents), leave=False, disable=not progress):

        def forward(z: Tensor, y: Tensor = condition) -> tuple[Tensor, Tensor]:
            image = generator(z, y)
            return embedder(image), image

        derivatives = vmap(partial(_along, forward, latent))(directions)
        embeddings, images = (found.detach().flatten(1) for found in derivatives)
        identity += 2 * embeddings @ embeddings.T
        pixels += 2 / images.shape[1] * images @ images.T
    mean = (matrix.double().numpy() / len(latents) for matrix in (identity, pixels))
    return Curvature(*mean)


def _along(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], z: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Directional derivatives of both results at z [1, L]."""
    derivatives: tuple[Tensor, Tensor] = jvp(function, (z,), (direction[None],))[1]
    return derivatives
