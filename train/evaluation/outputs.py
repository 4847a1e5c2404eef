"""What the model makes: reconstructions, aged faces, age differences, as 8-bit pictures like a user's."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from edgeage.train.batches import to_images
from edgeage.train.checkpoint import Checkpoint
from edgeage.train.data.listing import Pixels
from edgeage.train.latent_optimization import Face, RefinementSettings, refine

_BATCH = 32


class Model:
    """A checkpoint's networks over any number of pictures, in batches, with progress."""

    def __init__(self, checkpoint: Checkpoint, *, progress: bool = False) -> None:
        self.encoder, self.generator, self.embedder = (
            checkpoint.networks[name].to(memory_format=torch.channels_last)
            for name in ("encoder", "generator", "embedder")
        )
        self.group_count = len(checkpoint.profile.groups)
        self.latent_size = checkpoint.profile.latent_size
        self._progress = progress

    def condition(self, groups: NDArray[np.int64]) -> Tensor:
        return torch.eye(self.group_count)[torch.from_numpy(groups)]

    @torch.no_grad()
    def encode(self, images: Pixels) -> Tensor:
        """uint8 [n, S, S, 3] -> z [n, latent_size]."""
        parts = [self.encoder(tensors(images[rows])) for rows in self._slices(len(images), "encode")]
        return torch.cat(parts)

    @torch.no_grad()
    def embed(self, images: Pixels, what: str = "embed") -> Tensor:
        """uint8 [n, S, S, 3] -> raw embeddings [n, d] of the checkpoint's own recogniser."""
        return torch.cat([self.embedder(tensors(images[rows])) for rows in self._slices(len(images), what)])

    @torch.no_grad()
    def generate(self, latent: Tensor, groups: NDArray[np.int64], what: str = "generate") -> Tensor:
        """z [n, latent_size] and target groups [n] -> images [n, 3, S, S] in [-1, 1]."""
        conditions = self.condition(groups)
        parts = [self.generator(latent[rows], conditions[rows]) for rows in self._slices(len(latent), what)]
        return torch.cat(parts)

    def refine(
        self,
        images: Pixels,
        groups: NDArray[np.int64],
        latent: Tensor,
        steps: Collection[int],
        settings: RefinementSettings,
    ) -> dict[int, Tensor]:
        """K -> latents after K steps of refinement against the checkpoint's own recogniser."""
        conditions = self.condition(groups)
        parts: list[dict[int, Tensor]] = []
        for rows in self._slices(len(images), f"refine {max(steps)} steps"):
            face = Face.of(tensors(images[rows]), conditions[rows], self.embedder)
            parts.append(refine(self.generator, self.embedder, latent[rows], face, steps, settings))
        return {k: torch.cat([part[k] for part in parts]) for k in steps}

    def _slices(self, count: int, what: str) -> list[slice] | tqdm:
        starts = [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]
        return tqdm(starts, desc=what, unit="batch", leave=False, disable=not self._progress)


def tensors(images: Pixels) -> Tensor:
    """uint8 [n, S, S, 3] -> float32 [n, 3, S, S] in [-1, 1]."""
    return to_images(torch.from_numpy(np.ascontiguousarray(images)))


def pixels(images: Tensor) -> Pixels:
    """Images [n, 3, S, S] in [-1, 1], clipped -> uint8 [n, S, S, 3]."""
    scaled = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().numpy()


def add_difference(images: Pixels, aged: Tensor, source: Tensor, strength: float) -> Pixels:
    """Delta mode without the photo around it: x + strength * (G(z, target) - G(z, source))."""
    return pixels(tensors(images) + strength * (aged - source))
