"""Drawing batches and varying images. Every step draws from its own seed, so resuming needs no state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgeage.train.data.store import ShardedImages


@dataclass(frozen=True)
class Batch:
    """Images [n, 3, S, S] in [-1, 1], one-hot y [n, groups], and labels [n].

    Teacher embeddings [n, d] and person numbers [n] are None where the data or the recipe has none.
    """

    images: Tensor
    conditions: Tensor
    groups: Tensor
    teacher: Tensor | None
    identities: Tensor | None


def to_images(pixels: Tensor) -> Tensor:
    """uint8 [n, S, S, 3] -> float32 [n, 3, S, S] in [-1, 1], channels last in memory."""
    images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    return images.contiguous(memory_format=torch.channels_last)


class _ImagesOnDisk:
    """Images of a store, indexed as a tensor is: what is asked for is read, the rest stays on disk."""

    def __init__(self, images: ShardedImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return torch.from_numpy(self.images[rows.numpy() if isinstance(rows, Tensor) else rows])


class Sampler:
    """Draws part of each batch evenly over the age groups, the rest as the data lie."""

    def __init__(
        self,
        images: NDArray[np.uint8] | ShardedImages,
        groups: NDArray[np.int64],
        teacher: NDArray[np.float32] | None,
        identities: NDArray[np.int64] | None,
        group_count: int,
        device: torch.device,
    ) -> None:
        self.images = (
            torch.from_numpy(np.ascontiguousarray(images))
            if isinstance(images, np.ndarray)
            else _ImagesOnDisk(images)
        )
        self.groups = torch.from_numpy(np.ascontiguousarray(groups))
        self.teacher = None if teacher is None else torch.from_numpy(teacher)
        self.identities = None if identities is None else torch.from_numpy(np.array(identities))
        self.eye = torch.eye(group_count)
        self.members = [np.flatnonzero(groups == group) for group in range(group_count)]
        self.filled = [group for group, members in enumerate(self.members) if len(members)]
        self.device = device

    def draw(self, size: int, balanced: float, rng: np.random.Generator, *, flip: bool = True) -> Batch:
        even = round(size * balanced)
        natural = rng.integers(0, len(self.images), size - even)
        wanted = rng.choice(self.filled, even)
        picked = [self.members[group][rng.integers(0, len(self.members[group]))] for group in wanted]
        index = torch.from_numpy(np.concatenate([natural, np.array(picked, dtype=np.int64)]))
        images = to_images(self.images[index].to(self.device, non_blocking=True))
        if flip:
            mirrored = torch.from_numpy(rng.random(size) < 0.5).to(self.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        groups = self.groups[index].to(self.device)
        return Batch(
            images=images.contiguous(memory_format=torch.channels_last),
            conditions=self.eye.to(self.device)[groups],
            groups=groups,
            teacher=None if self.teacher is None else self.teacher[index].to(self.device),
            identities=None if self.identities is None else self.identities[index].to(self.device),
        )


def rng_for(seed: int, stage: int, step: int, shard: int = 0) -> np.random.Generator:
    """The generator of one shard of a step; also seeds torch (noise, dropout, augmentation) for it."""
    rng = np.random.default_rng((seed, stage, step, shard))
    torch.manual_seed(int(rng.integers(0, 2**62)))
    return rng


def vary_geometry(images: Tensor, shift: float, scale: float, *, mirror: bool, rotate: float = 0.0) -> Tensor:
    """Random shift and scale (full widths, in fractions of the image), rotation in radians, and mirroring."""
    count = len(images)
    size = 1 + (torch.rand(count) - 0.5) * scale
    angle = (torch.rand(count) - 0.5) * rotate
    sign = 1 - 2 * (torch.rand(count) < 0.5).float() if mirror else torch.ones(count)
    rows = torch.zeros(count, 2, 3)
    rows[:, 0, 0] = size * angle.cos() * sign
    rows[:, 0, 1] = -size * angle.sin()
    rows[:, 1, 0] = size * angle.sin() * sign
    rows[:, 1, 1] = size * angle.cos()
    rows[:, :, 2] = (torch.rand(count, 2) - 0.5) * 2 * shift
    grid = F.affine_grid(rows.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def vary_light(images: Tensor, brightness: float, contrast: float, tint: float = 0.0) -> Tensor:
    count, device = len(images), images.device
    gain = 1 + (torch.rand(count, 1, 1, 1, device=device) - 0.5) * contrast
    offset = (torch.rand(count, 1, 1, 1, device=device) - 0.5) * brightness
    colour = (torch.rand(count, 3, 1, 1, device=device) - 0.5) * tint
    return images * gain + offset + colour


def vary(images: Tensor) -> Tensor:
    """Shift, scale, mirror, brightness: what a classifier must not be fooled by."""
    varied = vary_light(vary_geometry(images, 0.08, 0.12, mirror=True), 0.2, 0.4)
    return varied.contiguous(memory_format=torch.channels_last)


def degrade(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur, low resolution and noise on random parts of the batch, as generated and camera faces have."""
    count = len(images)
    order = torch.from_numpy(rng.permutation(count))
    quarter = max(count // 4, 1)
    blurred, small, noisy = order[:quarter], order[quarter : 2 * quarter], order[2 * quarter : 3 * quarter]
    images = images.clone()
    images[blurred] = gaussian_blur(images[blurred], float(rng.uniform(0.4, 2.0)))
    side = int(rng.integers(20, 52))
    full = images.shape[-1]
    low = F.interpolate(
        images[small], size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )
    images[small] = F.interpolate(low, size=(full, full), mode="bilinear", align_corners=False)
    images[noisy] += torch.randn_like(images[noisy]) * float(rng.uniform(0, 0.08))
    return images


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Separable blur, radius 3 pixels, edges repeated."""
    offsets = torch.arange(-3, 4, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, 7)
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    with torch.autocast(images.device.type, enabled=False):  # images stay float32 in mixed precision
        rows = F.conv2d(padded, kernel, groups=images.shape[1])
        return F.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1])
