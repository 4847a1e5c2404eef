"""From a photo with a face somewhere in it to the training image, as the runtime aligns it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeage.frames import FRAMES
from edgeage.runtime.photo.align import align, photo_to_crop
from edgeage.runtime.photo.detect import Detector, Face
from edgeage.runtime.photo.resample import invert
from edgeage.train.data.decode import UnusableImage, open_image
from edgeage.train.data.listing import Box, BoxOf, Pixels

# The detector sees the labelled box and this share of its side on each side: enough for the whole head,
# little enough that the neighbours stay out.
_SURROUNDINGS = 0.75
# Intersection over union with the labelled box from which on a detected face is the labelled one. The
# boxes come from two detectors and differ; neighbouring faces do not overlap this much.
_SAME_FACE = 0.2


@dataclass(frozen=True)
class Aligner:
    """Finds the face (BlazeFace, one thread) and lays it into a frame; picklable, opened where it is used."""

    image_size: int
    frame: str

    @cached_property
    def detector(self) -> Detector:
        return Detector("litert", threads=1)

    def __call__(self, data: bytes, box: BoxOf | None) -> Pixels:
        """Decode to uint8 RGB [image_size, image_size, 3] with the eyes where the frame has them.

        Args:
            data: bytes of an image file.
            box: gives the labelled face's box for a (width, height); without it the image must show one face.

        Raises UnusableImage with a short reason.
        """
        photo = np.asarray(open_image(data))
        height, width = photo.shape[:2]
        labelled = None if box is None else box((width, height))
        if box is not None and labelled is None:
            raise UnusableImage("face box outside the image")
        matrix = photo_to_crop(self._find(photo, labelled), FRAMES[self.frame], self.image_size)
        if np.linalg.det(matrix[:, :2]) > 1:  # the crop would have to be enlarged
            raise UnusableImage(f"smaller than {self.image_size} px")
        return align(photo, invert(matrix), self.image_size)

    def _find(self, photo: NDArray[np.uint8], labelled: Box | None) -> Face:
        height, width = photo.shape[:2]
        left, top, right, bottom = 0, 0, width, height
        if labelled is not None:
            more = _SURROUNDINGS * (labelled[2] - labelled[0])
            left, top = max(0, round(labelled[0] - more)), max(0, round(labelled[1] - more))
            right, bottom = min(width, round(labelled[2] + more)), min(height, round(labelled[3] + more))
            if right - left < 1 or bottom - top < 1:
                raise UnusableImage("face box outside the image")
        found = [_moved(face, left, top) for face in self.detector.find(photo[top:bottom, left:right])]
        if not found:
            raise UnusableImage("no face detected")
        if labelled is not None:
            found = [face for face in found if _overlap(face.box, labelled) >= _SAME_FACE]
            if not found:
                raise UnusableImage("no face detected in its box")
        if len(found) > 1:
            raise UnusableImage("several faces detected")
        return found[0]


def _moved(face: Face, x: int, y: int) -> Face:
    left, top, right, bottom = face.box
    keypoints = face.keypoints + np.array([x, y])
    return Face((left + x, top + y, right + x, bottom + y), keypoints, face.score)


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared)
