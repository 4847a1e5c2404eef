"""Latent optimisation z* = argmin_z loss(G(z, y), x): the float reference of what the engines do.

Two ways: a few steps of fixed size along the sign of the gradient, which a device can do without autograd,
and L-BFGS, the article's offline reference. Both start at E(x). Refine with the recogniser of the
checkpoint (its "embedder"), never with the net of the training loss: that one's score rises alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from edgeage.errors import EdgeageError

Generator = Callable[[Tensor, Tensor], Tensor]
Embedder = Callable[[Tensor], Tensor]
Mode = Literal["pixelwise", "identity", "combined"]
MODES: tuple[Mode, ...] = ("pixelwise", "identity", "combined")


@dataclass(frozen=True)
class RefinementSettings:
    """What refinement minimises and how it steps.

    Attributes:
        identity: "cosine" for 1 - cos(e, e_target), "euclidean" for ||e - e_target||^2 of raw embeddings
            (the form inside the engines).
        pixel_weight: of the mean squared error of images in [-1, 1].
        step: first change of each latent dimension; z has unit scale.
        decay: factor from one step to the next.
    """

    identity: Literal["cosine", "euclidean"] = "cosine"
    pixel_weight: float = 10.0
    step: float = 0.2
    decay: float = 0.85

    def __post_init__(self) -> None:
        if self.identity not in ("cosine", "euclidean"):
            raise EdgeageError(f"refinement compares by cosine or euclidean, not {self.identity!r}")
        for name, value, good in (
            ("step", self.step, 0 < self.step < float("inf")),
            ("decay", self.decay, 0 < self.decay <= 1),
            ("pixel_weight", self.pixel_weight, 0 <= self.pixel_weight < float("inf")),
        ):
            if not good:
                raise EdgeageError(
                    f"refinement cannot use {name} {value}; the usual is {RefinementSettings()}"
                )


@dataclass(frozen=True)
class Face:
    """What a latent is refined for: images [n, 3, S, S] in [-1, 1], y [n, groups], raw embeddings [n, d]."""

    images: Tensor
    conditions: Tensor
    target: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, images: Tensor, conditions: Tensor, embedder: Embedder) -> Face:
        return cls(images, conditions, embedder(images))


def losses(
    generator: Generator,
    embedder: Embedder,
    latent: Tensor,
    face: Face,
    settings: RefinementSettings,
    mode: Mode = "combined",
) -> tuple[Tensor, Tensor]:
    """Loss and cosine to the target embedding, each [n]; a face's loss does not depend on the others."""
    images = generator(latent, face.conditions)
    embedding = embedder(images)
    cosine = F.cosine_similarity(embedding, face.target, dim=1)
    pixel = (images - face.images).pow(2).mean((1, 2, 3))
    if mode == "pixelwise":
        return pixel, cosine
    identity = 1 - cosine if settings.identity == "cosine" else (embedding - face.target).pow(2).sum(1)
    return (identity if mode == "identity" else identity + settings.pixel_weight * pixel), cosine


def refine(
    generator: Generator,
    embedder: Embedder,
    latent: Tensor,
    face: Face,
    steps: Collection[int],
    settings: RefinementSettings | None = None,
) -> dict[int, Tensor]:
    """Truncated refinement: K -> latents [n, d] for each K in `steps`, from one way down.

    `z -= step * decay**k * sign(gradient)`; after K steps each face keeps the best, by cosine, of the K + 1
    latents it has been at. K = 0 gives `latent` itself.
    """
    settings = settings or RefinementSettings()
    if not steps or min(steps) < 0:
        raise EdgeageError(f"refinement steps must be 0 or more, not {sorted(steps)}")
    z = latent.detach()
    best = z.clone()
    best_cosine = torch.full((len(z),), -torch.inf, device=z.device, dtype=z.dtype)
    found: dict[int, Tensor] = {}
    for k in range(max(steps) + 1):
        z = z.detach().requires_grad_(k < max(steps))
        with torch.set_grad_enabled(k < max(steps)):
            loss, cosine = losses(generator, embedder, z, face, settings)
        better = cosine.detach() > best_cosine
        best = torch.where(better[:, None], z.detach(), best)
        best_cosine = torch.where(better, cosine.detach(), best_cosine)
        if k in steps:
            found[k] = best.clone()
        if k < max(steps):
            (gradient,) = torch.autograd.grad(loss.sum(), z)
            z = z - settings.step * settings.decay**k * gradient.sign()
    return found


def optimise(
    generator: Generator,
    embedder: Embedder,
    latent: Tensor,
    face: Face,
    mode: Mode,
    settings: RefinementSettings | None = None,
    iterations: int = 40,
    progress: str | None = None,
) -> Tensor:
    """L-BFGS with a strong Wolfe line search, each face by itself; latents [n, d] of the least loss seen.

    "pixelwise" and "identity" are the article's two objectives, "combined" is their weighted sum.
    """
    if mode not in MODES:
        raise EdgeageError(f"unknown mode {mode!r} of latent optimisation; the modes are {', '.join(MODES)}")
    settings = settings or RefinementSettings()
    found = []
    for row in tqdm(range(len(latent)), desc=progress, unit="face", leave=False, disable=progress is None):
        one = Face(face.images[row, None], face.conditions[row, None], face.target[row, None])
        found.append(_lbfgs(generator, embedder, latent[row, None], one, mode, settings, iterations))
    return torch.cat(found) if found else latent.detach()


def _lbfgs(
    generator: Generator,
    embedder: Embedder,
    latent: Tensor,
    face: Face,
    mode: Mode,
    settings: RefinementSettings,
    iterations: int,
) -> Tensor:
    z = latent.detach().clone().requires_grad_()
    search = torch.optim.LBFGS([z], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        loss = losses(generator, embedder, z, face, settings, mode)[0].sum()
        (z.grad,) = torch.autograd.grad(loss, z)
        return loss.detach()

    search.step(closure)  # ends on the least loss of its last line search, and these only fall
    return z.detach()
