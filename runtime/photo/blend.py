"""Put a generated face back into its photo, softly and in the photo's resolution.

Pixels outside of the mask are never computed, only kept: they stay byte-identical.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.photo.resample import Matrix, apply, invert, resample

MODES = ("delta", "raw")
# A little more than the generator's own difference: small at 64 px, it drowns in a sharp photo. Fixed on
# validation faces, so that `edgeage evaluate` measures what `edgeage age` does.
USUAL_STRENGTHS = {"delta": 1.1, "raw": 1.0}
STRENGTHS = {"delta": 2.0, "raw": 1.0}  # largest strength; raw is a cross-fade, more than 1 is no image

# The mask: an ellipse in fractions of the crop's side that takes in forehead, chin and ears but leaves
# the crop's corners (background, shoulders) alone; full inside of _FULL of its radius, zero at its rim.
_CENTRE = (0.487, 0.49)
_RADII = (0.475, 0.49)
_FULL = 0.72


@dataclass(frozen=True)
class Place:
    """Where a crop lies in a photo.

    Attributes:
        left, top: of the smallest rectangle of the photo that holds the mask.
        mask: float32 [height, width, 1] in 0..1 over that rectangle.
        crop_of: from the rectangle's coordinates to the crop's.
    """

    left: int
    top: int
    mask: NDArray[np.float32]
    crop_of: Matrix


def place(crop_to_photo: Matrix, size: int, photo_shape: tuple[int, ...]) -> Place:
    """Lay the feathered elliptical mask of a crop of `size` pixels over a photo of [H, W, ...]."""
    # The ellipse's extent: |linear map of the unit circle| along each axis of the photo.
    centre = apply(crop_to_photo, np.array([_CENTRE]) * size)[0]
    reach = np.hypot(*(crop_to_photo[:, :2] * np.array(_RADII) * size).T)
    limit = np.array([photo_shape[1], photo_shape[0]])
    low = np.clip(np.floor(centre - reach), 0, limit).astype(int)
    high = np.clip(np.ceil(centre + reach), low, limit).astype(int)
    left, top = int(low[0]), int(low[1])
    crop_of = invert(crop_to_photo)
    crop_of[:, 2] += crop_of[:, :2] @ low
    x, y = np.arange(high[0] - left) + 0.5, np.arange(high[1] - top) + 0.5
    # Crop coordinates are affine in x and y: two outer sums instead of a list of points.
    u, v = (
        (row[0] * x[None, :] + row[1] * y[:, None] + row[2] - middle * size) / (radius * size)
        for row, middle, radius in zip(crop_of, _CENTRE, _RADII, strict=True)
    )
    ramp = np.clip((1 - np.hypot(u, v)) / (1 - _FULL), 0, 1)
    mask = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)  # smoothstep: no edge at either end
    return Place(left, top, mask[:, :, None], crop_of)


def check_strength(strength: float, mode: str) -> None:
    """EdgeageError unless `mode` is known and `strength` lies in its range."""
    if mode not in MODES:
        raise EdgeageError(f"unknown mode {mode!r}; the modes are {', '.join(MODES)}")
    if not 0 <= strength <= STRENGTHS[mode]:
        raise EdgeageError(f"strength is {strength}; in mode {mode} it goes from 0 to {STRENGTHS[mode]:g}")


def blend_delta(
    photo: NDArray[np.uint8],
    where: Place,
    aged: NDArray[np.float32],
    source: NDArray[np.float32],
    strength: float = 1.0,
) -> NDArray[np.uint8]:
    """The photo plus the difference of two generated faces.

    `aged` and `source` are float32 [S, S, 3] in [-1, 1]: the generator's image at the target group and at
    the photo's own. Their common reconstruction error cancels; equal images return the photo unchanged.
    """
    check_strength(strength, "delta")
    difference = _into(where, (aged - source) * np.float32(127.5 * strength))
    return _write(photo, where, lambda pixels: pixels + where.mask * difference)


def blend_raw(
    photo: NDArray[np.uint8], where: Place, aged: NDArray[np.float32], strength: float = 1.0
) -> NDArray[np.uint8]:
    """The photo with the generated face, float32 [S, S, 3] in [-1, 1], cross-faded in."""
    check_strength(strength, "raw")
    face = _into(where, (aged + 1) * np.float32(127.5))
    fade = where.mask * np.float32(strength)
    return _write(photo, where, lambda pixels: pixels + fade * (face - pixels))


def _into(where: Place, crop: NDArray[np.float32]) -> NDArray[np.float32]:
    """A crop-sized picture as it lies over the place's rectangle, float32 [height, width, 3]."""
    height, width = where.mask.shape[:2]
    if not height or not width:
        return np.zeros((height, width, 3), np.float32)
    return resample(np.ascontiguousarray(crop), where.crop_of, (width, height))


def _write(
    photo: NDArray[np.uint8], where: Place, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.uint8]:
    """A copy of the photo with its pixels under the mask changed."""
    out: NDArray[np.uint8] = photo.copy()
    height, width = where.mask.shape[:2]
    window = out[where.top : where.top + height, where.left : where.left + width]
    changed = np.clip(np.rint(change(window.astype(np.float32))), 0, 255).astype(np.uint8)
    np.copyto(window, changed, where=where.mask > 0)  # a view of `out`
    return out
