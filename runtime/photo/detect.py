"""Find faces: BlazeFace on the whole photo at several scales and, again, on each face found.

The network sees 128x128 pixels and finds faces that fill about a tenth to two thirds of them. So the photo is
shown at several scales, and every face once more, upright and zoomed in, which makes small and very large
faces as exact as others and drops what does not look like a face from close by. What is left is looked at in
several tilts and in the mirror: the mean of these looks is a quarter nearer to where the eyes are than one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeage.runtime.photo.blazeface import INPUT, BlazeFace, Rows, distinct, moved
from edgeage.runtime.photo.landmarks import corrected
from edgeage.runtime.photo.resample import Matrix, resample

# What makes a face: the mean score of the looks that place it. Of 500 photos each, the best face of 1 in 200
# has less than 0.75 in UTKFace and 0.79 in LFW. Small squares look at ten times as much that is no face.
_FINAL_SCORE = 0.65
_FINAL_SCORE_SMALL = 0.7
_FOLLOWED_SCORE = 0.5  # a face that was there a moment ago
_WORKING_SIDE = 512  # the photo's longer side in the search, at least; closer looks use all pixels

# Sides of the search's squares as shares of the photo's longer side. A square larger than the photo
# shrinks it: that finds faces that fill the photo. The last is for small faces.
_SQUARES = (1.8, 1.0, 0.55)
_SMALL_SQUARES = (0.28,)

# Side of the face's box as a share of the picture, and tilt in degrees: of the look that decides, and of
# those that place the face. Tilts differ more in their errors than scales do.
_DECIDING = (0.4, 0.0)
_PLACING = ((0.4, -10.0), (0.4, 10.0), (0.5, 0.0))
_SOFT = 0.75  # see `resample`: half of the time of a sharp look


@dataclass(frozen=True)
class Face:
    """One face in photo coordinates (pixels, x right, y down, pixel i covers [i, i + 1)).

    Attributes:
        box: left, top, right, bottom; eyebrows to chin; may leave the photo.
        keypoints: float64 [6, 2]: eye at the image's left, eye at its right, nose tip, mouth centre, ear at
            its left, ear at its right.
        score: 0..1.
    """

    box: tuple[float, float, float, float]
    keypoints: NDArray[np.float64]
    score: float

    @property
    def size(self) -> float:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]


class Detector:
    """BlazeFace behind one of the engines "litert", "tflite-runtime", "onnxruntime" or "tensorrt"."""

    def __init__(self, engine: str = "litert", threads: int = 1) -> None:
        self.blazeface = BlazeFace(engine, threads)

    def find(self, photo: NDArray[np.uint8], *, all_faces: bool = False) -> list[Face]:
        """Faces of a photo, uint8 RGB [H, W, 3], the largest first; [] if there is none.

        Small faces are searched for if no others are found, or with `all_faces`.
        """
        working = _shrink(photo)
        rows = self._placed(photo, self._search(working, photo.shape, _SQUARES), _FINAL_SCORE)
        if all_faces or not len(rows):
            candidates = self._search(working, photo.shape, _SMALL_SQUARES)
            small = self._placed(photo, candidates, _FINAL_SCORE_SMALL)
            rows = distinct(np.concatenate([rows, small]))
        return sorted(map(_face, rows), key=lambda face: -face.size)

    def follow(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[Face]:
        """Faces of the picture before this one, found anew near their places; those gone are left out.

        A tenth of the time of `find`; finds no face that was not there before.
        """
        rows = np.array([_row(face) for face in faces]).reshape(-1, 17)
        return sorted(map(_face, self._placed(photo, rows, _FOLLOWED_SCORE)), key=lambda face: -face.size)

    def _search(self, working: Image.Image, shape: tuple[int, ...], squares: tuple[float, ...]) -> Rows:
        """Candidates from squares of several sizes laid over a photo of [H, W, ...], in its coordinates."""
        found = []
        for square in squares:
            zoom = square * max(shape[:2]) / INPUT
            size = max(round(shape[1] / zoom), 1), max(round(shape[0] / zoom), 1)
            small = np.asarray(working.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
            for left, top, picture in _tiles(small):
                across, down = shape[1] / size[0], shape[0] / size[1]
                view = np.array([[across, 0, left * across], [0, down, top * down]])
                found.append(moved(self.blazeface.look(picture), view))
        return distinct(np.concatenate(found))

    def _closer(self, photo: NDArray[np.uint8], candidates: Rows) -> Rows:
        """Candidates that are seen again, upright and zoomed in."""
        faces: list[NDArray[np.float64]] = []
        for row in candidates:
            for first in self._looks(photo, row, *_DECIDING, (False,)):
                # the second look starts from the first one's exacter place
                faces += self._looks(photo, first, *_DECIDING, (False,))
        return distinct(np.array(faces).reshape(-1, 17))

    def _placed(self, photo: NDArray[np.uint8], candidates: Rows, least: float) -> Rows:
        """Faces among the candidates with a score >= `least`; score and place are means of several looks."""
        faces = []
        for row in self._closer(photo, candidates):
            looks = [look for way in _PLACING for look in self._looks(photo, row, *way, (False, True))]
            face = np.mean(looks or [row], axis=0)
            face[0] *= len(looks) / (2 * len(_PLACING))
            if face[0] >= least:
                faces.append(face)
        return distinct(np.array(faces).reshape(-1, 17))

    def _looks(
        self,
        photo: NDArray[np.uint8],
        row: NDArray[np.float64],
        share: float,
        tilt: float,
        mirrored: tuple[bool, ...],
    ) -> Iterator[NDArray[np.float64]]:
        """What is seen in a row's place, if anything, when its box has `share` of the picture."""
        view = _upright(row, share, tilt)
        picture = resample(photo, view, (INPUT, INPUT), fill=0, oversampling=_SOFT)
        for mirror in mirrored:
            seen = moved(self.blazeface.look(picture, mirrored=mirror), view)
            offset = np.hypot(*(seen[:, 1:3] - row[1:3]).T)
            yield from seen[offset < row[3] / 2][:1]


def _shrink(photo: NDArray[np.uint8]) -> Image.Image:
    """The photo at searching size, averaged over blocks; in bands, so that no second one is in memory."""
    block = max(photo.shape[:2]) // _WORKING_SIDE
    if block < 2:
        return Image.fromarray(photo)
    height, rows = photo.shape[0], 64 * block
    bands = [
        np.asarray(Image.fromarray(photo[top : top + rows]).reduce(block)) for top in range(0, height, rows)
    ]
    return Image.fromarray(np.concatenate(bands))


def _tiles(photo: NDArray[np.uint8]) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Left, top and pixels of 128x128 pictures that cover a photo, overlapping by half; black beyond it."""

    def starts(length: int) -> list[int]:
        if length <= INPUT:
            return [-((INPUT - length) // 2)]
        count = math.ceil((length - INPUT) / (INPUT / 2)) + 1
        return [round(start) for start in np.linspace(0, length - INPUT, count)]

    height, width = photo.shape[:2]
    for top in starts(height):
        for left in starts(width):
            picture = np.zeros((INPUT, INPUT, 3), np.uint8)
            part = photo[max(top, 0) : top + INPUT, max(left, 0) : left + INPUT]
            down, across = max(-top, 0), max(-left, 0)
            picture[down : down + part.shape[0], across : across + part.shape[1]] = part
            yield left, top, picture


def _upright(row: NDArray[np.float64], share: float, tilt: float) -> Matrix:
    """The view in which the eyes lie `tilt` degrees from level and the box has `share` of the picture."""
    left, right = row[5:7], row[7:9]
    angle = math.atan2(right[1] - left[1], right[0] - left[0]) + math.radians(tilt)
    zoom = row[3] / (share * INPUT)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([linear, row[1:3] - linear @ np.full(2, INPUT / 2)])


def _face(row: NDArray[np.float64]) -> Face:
    x, y, width, height = (float(number) for number in row[1:5])
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Face(box, corrected(row[5:].reshape(6, 2)), float(row[0]))


def _row(face: Face) -> NDArray[np.float64]:
    left, top, right, bottom = face.box
    box = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return np.array([face.score, *box, *face.keypoints.ravel()])
