"""Put a generated face back into its photo, softly and in the photo's resolution.

Pixels outside of the mask keep their bytes. The work is done in bands of rows, so that a face of many
megapixels needs little more memory for it than a small one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
_BAND = 128  # rows that are in work at a time
_FINE = 1.5  # samples per crop pixel and axis when a crop is turned into the photo's axes


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
    crop_of = invert(crop_to_photo)
    crop_of[:, 2] += crop_of[:, :2] @ low
    width, height = (high - low).tolist()
    return Place(int(low[0]), int(low[1]), _mask(crop_of, size, width, height), crop_of)


def _mask(crop_of: Matrix, size: int, width: int, height: int) -> NDArray[np.float32]:
    mask = np.empty((height, width, 1), np.float32)
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    for band in _bands(height):
        # Crop coordinates are affine in x and y: outer sums instead of a list of points.
        u, v = (
            ((row[0] * x + row[2] - middle * size) / (radius * size)).astype(np.float32)
            + (row[1] * y[band, None] / (radius * size)).astype(np.float32)
            for row, middle, radius in zip(crop_of, _CENTRE, _RADII, strict=True)
        )
        u *= u
        v *= v
        u += v
        ramp = (1 - np.sqrt(u, out=u)) / np.float32(1 - _FULL)
        np.clip(ramp, 0, 1, out=ramp)
        mask[band, :, 0] = ramp * ramp * (3 - 2 * ramp)  # smoothstep: no edge at either end
    return mask


def _bands(height: int) -> Iterator[slice]:
    for top in range(0, height, _BAND):
        yield slice(top, min(top + _BAND, height))


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
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """The photo plus the difference of two generated faces.

    `aged` and `source` are float32 [S, S, 3] in [-1, 1]: the generator's image at the target group and at
    the photo's own. Their common reconstruction error cancels; equal images return the photo unchanged.
    `out`: where to write, may be `photo`; a copy of it unless given.
    """
    check_strength(strength, "delta")
    out = photo.copy() if out is None else out
    if strength and not np.array_equal(aged, source):
        for pixels, mask, change in _under(out, where, (aged - source) * np.float32(127.5 * strength)):
            change *= mask
            change += pixels
            _store(change, pixels)
    return out


def blend_raw(
    photo: NDArray[np.uint8],
    where: Place,
    aged: NDArray[np.float32],
    strength: float = 1.0,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """The photo with the generated face, float32 [S, S, 3] in [-1, 1], cross-faded in; `out` as above."""
    check_strength(strength, "raw")
    out = photo.copy() if out is None else out
    for pixels, mask, face in _under(out, where, (aged + 1) * np.float32(127.5)):
        face -= pixels
        face *= mask * np.float32(strength)
        face += pixels
        _store(face, pixels)
    return out


def _under(
    photo: NDArray[np.uint8], where: Place, crop: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]]:
    """Bands of the photo (a view), of the mask and of a crop-sized picture as it lies there, float32."""
    height, width = where.mask.shape[:2]
    if not height or not width:
        return
    # Turned into the photo's axes at little more than the crop's own density, then enlarged along them, which
    # takes a tenth of the time of turning every pixel of the photo.
    density = _FINE * math.sqrt(abs(np.linalg.det(where.crop_of[:, :2])))
    across, down = (min(math.ceil(length * density), length) for length in (width, height))
    to_photo = np.array([[width / across], [height / down]])
    turned = where.crop_of.copy()
    turned[:, :2] *= to_photo.T
    planes = [
        Image.fromarray(np.ascontiguousarray(plane))
        for plane in resample(np.ascontiguousarray(crop), turned, (across, down)).transpose(2, 0, 1)
    ]
    for band in _bands(height):
        rows = band.stop - band.start
        box = (0, band.start * down / height, across, band.stop * down / height)
        laid = np.empty((rows, width, 3), np.float32)
        for channel, plane in enumerate(planes):
            laid[:, :, channel] = np.asarray(plane.resize((width, rows), Image.Resampling.BICUBIC, box))
        window = photo[where.top + band.start : where.top + band.stop, where.left : where.left + width]
        yield window, where.mask[band], laid


def _store(values: NDArray[np.float32], pixels: NDArray[np.uint8]) -> None:
    """Rounded into 0..255. Where the mask is 0, `values` are the pixels' own."""
    np.rint(values, out=values)
    np.clip(values, 0, 255, out=values)
    pixels[:] = values
