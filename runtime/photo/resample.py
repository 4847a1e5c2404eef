"""Map images through affine transforms with area quality: no aliasing when shrinking, bicubic when growing.

Coordinates are continuous: pixel i of a row covers [i, i + 1), so its centre lies at i + 0.5.
A matrix is float64 [2, 3] and maps column vectors: (x', y') = M[:, :2] @ (x, y) + M[:, 2].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Matrix = NDArray[np.float64]
_Pixel = TypeVar("_Pixel", np.uint8, np.float32)


def invert(matrix: Matrix) -> Matrix:
    """The affine transform that undoes `matrix`."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def apply(matrix: Matrix, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Transformed points, float64 [n, 2]."""
    moved: NDArray[np.float64] = np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return moved


def resample(
    pixels: NDArray[_Pixel],
    source_of: Matrix,
    size: tuple[int, int],
    fill: int | None = None,
    oversampling: float = 4,
) -> NDArray[_Pixel]:
    """Look up an output image of `size` (width, height) in `pixels` [H, W, 3].

    `source_of` maps output coordinates to coordinates of `pixels`. Outside of `pixels` the nearest border
    pixel is taken, or the constant `fill`. Where the transform shrinks, the source is averaged over each
    output pixel's area; where it grows, it is interpolated bicubically. `oversampling`: grid points per
    output pixel and axis that are left to that average, less is faster and coarser; below 1 it softens.
    Gives [height, width, 3] of the same type (uint8 rounded, float32 not).
    """
    step = math.sqrt(abs(np.linalg.det(source_of[:, :2])))  # source pixels per output pixel
    patch, source_of = _cut(pixels, source_of, size, step, fill)
    # Strong shrinking: first average whole blocks (cheap), so that about `oversampling` remain.
    block = max(int(step / oversampling), 1)
    if block > 1:
        patch = _per_channel(patch, lambda image: image.reduce(block))
        source_of = source_of / block
    # The rest on a finer grid that is then averaged: an area filter that also holds under rotation.
    fine = max(math.ceil(step / block - 1e-6), 1)
    grid = source_of.copy()
    grid[:, :2] /= fine
    width, height = size[0] * fine, size[1] * fine
    coefficients = tuple(grid.reshape(-1).tolist())
    sampling = Image.Resampling.BICUBIC if fine == 1 else Image.Resampling.BILINEAR

    def look_up(image: Image.Image) -> Image.Image:
        found = image.transform((width, height), Image.Transform.AFFINE, coefficients, sampling)
        return found.reduce(fine) if fine > 1 else found

    return _per_channel(patch, look_up)


def _cut(
    pixels: NDArray[_Pixel], source_of: Matrix, size: tuple[int, int], step: float, fill: int | None
) -> tuple[NDArray[_Pixel], Matrix]:
    """The part of `pixels` that the output can see, padded where it sees beyond, and the matrix into it."""
    width, height = size
    corners = apply(source_of, np.array([(0, 0), (width, 0), (0, height), (width, height)]))
    margin = 2 * step + 3  # what the filters reach beyond the outermost sample, and rounding
    low = np.floor(corners.min(axis=0) - margin).astype(int)
    high = np.ceil(corners.max(axis=0) + margin).astype(int)
    limit = np.array([pixels.shape[1], pixels.shape[0]])
    start = np.clip(low, 0, limit - 1)
    stop = np.clip(high, start + 1, limit)
    before, after = np.maximum(start - low, 0), np.maximum(high - stop, 0)
    patch = pixels[start[1] : stop[1], start[0] : stop[0]]
    pads = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    if before.any() or after.any():
        patch = (
            np.pad(patch, pads, mode="edge")
            if fill is None
            else np.pad(patch, pads, mode="constant", constant_values=fill)
        )
    shifted = source_of.copy()
    shifted[:, 2] -= start - before
    return patch, shifted


def _per_channel(pixels: NDArray[_Pixel], change: Callable[[Image.Image], Image.Image]) -> NDArray[_Pixel]:
    """Apply an image operation to [H, W, 3]: at once for uint8, channel by channel for float32."""
    if pixels.dtype == np.uint8:
        return np.asarray(change(Image.fromarray(pixels)), dtype=pixels.dtype)
    planes = [np.ascontiguousarray(pixels[:, :, channel]) for channel in range(pixels.shape[2])]
    changed = [np.asarray(change(Image.fromarray(plane))) for plane in planes]
    return np.stack(changed, axis=-1).astype(pixels.dtype, copy=False)
