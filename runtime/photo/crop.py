"""From a photo to the face as the networks see it, in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.photo.align import align, photo_to_crop
from edgeage.runtime.photo.detect import Detector
from edgeage.runtime.photo.read import Source, read_photo
from edgeage.runtime.photo.resample import invert


def face_crop(
    photo: Source, detector: Detector, frame: Sequence[tuple[float, float]], size: int
) -> NDArray[np.uint8]:
    """The largest face of a photo, aligned to `frame`: uint8 RGB [size, size, 3].

    Raises EdgeageError if the photo cannot be read (see `read_photo`) or shows no face.
    """
    pixels = read_photo(photo).pixels
    faces = detector.find(pixels)
    if not faces:
        called = os.fspath(photo) if isinstance(photo, str | os.PathLike) else "the picture"
        raise EdgeageError(f"no face found in {called}; leave it out, or give a photo of an upright face")
    return align(pixels, invert(photo_to_crop(faces[0], frame, size)), size)
