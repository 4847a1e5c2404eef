"""Find faces: BlazeFace (short range) on the whole photo, on tiles and, again, on each face found.

The network sees 128x128 pixels and finds faces that fill about a tenth to two thirds of them. So the
photo is shown at several scales, and every face once more, upright and zoomed in, which makes small and
very large faces as exact as others and drops what does not look like a face from close by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeage.runtime.engines import ENGINE_FORMATS, check_engine_name
from edgeage.runtime.photo.resample import Matrix, apply, resample

_INPUT = 128
_FIRST_SCORE = 0.5  # a candidate worth a closer look
# What makes a face, seen upright and zoomed in. Of 300 faces each, 1 in 100 of UTKFace's scores less than
# 0.70, of LFW's less than 0.72. Small squares look at ten times as much that is no face.
_FINAL_SCORE = 0.6
_FINAL_SCORE_SMALL = 0.7
_SAME_FACE = 0.3  # intersection over union above which two boxes are one face
_INSIDE = 0.6  # share of the smaller box in a better one above which it is a part of that face
_WORKING_SIDE = 1024  # the photo's longer side in the search; closer looks use all pixels
_FACE_SHARE = 0.4  # side of the face's box in the closer look, as a share of the picture's

# Sides of the search's squares as shares of the photo's longer side. A square larger than the photo
# shrinks it: that finds faces that fill the photo. The last is for small faces.
_SQUARES = (1.8, 1.0, 0.55)
_SMALL_SQUARES = (0.28,)

Network = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]

# Faces inside this module are rows of 17 numbers: score, centre x y, width, height, six keypoints x y.
_Rows = NDArray[np.float64]


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
        self._network = _open_network(engine, threads)

    def find(self, photo: NDArray[np.uint8], *, all_faces: bool = False) -> list[Face]:
        """Faces of a photo, uint8 RGB [H, W, 3], the largest first; [] if there is none.

        Small faces are searched for if no others are found, or with `all_faces`.
        """
        working, scale = _shrink(photo)
        faces = self._closer(photo, self._search(working, _SQUARES) * scale, _FINAL_SCORE)
        if all_faces or not len(faces):
            candidates = self._search(working, _SMALL_SQUARES) * scale
            small = self._closer(photo, candidates, _FINAL_SCORE_SMALL)
            faces = _distinct(np.concatenate([faces, small]))
        return sorted(map(_face, faces), key=lambda face: -face.size)

    def _search(self, photo: NDArray[np.uint8], squares: tuple[float, ...]) -> _Rows:
        """Candidates from squares of several sizes laid over the photo."""
        views = _views(photo.shape[1], photo.shape[0], squares)
        found = [self._look(photo, view, oversampling=1) for view in views]  # coarse: twice as fast
        return _distinct(np.concatenate(found))

    def _closer(self, photo: NDArray[np.uint8], candidates: _Rows, least: float) -> _Rows:
        """Candidates that are still faces when seen upright and zoomed in (score >= `least`), placed anew."""
        faces = np.empty((0, 17))
        for candidate in candidates:
            for _ in range(2):  # the second look starts from the first one's exacter place
                view = _upright(candidate)
                seen = self._look(photo, view)
                offset = np.hypot(*(seen[:, 1:3] - candidate[1:3]).T)
                seen = seen[(seen[:, 0] >= least) & (offset < candidate[3] / 2)]
                if not len(seen):
                    break
                candidate = seen[0]
            else:
                faces = np.concatenate([faces, candidate[None]])
        return _distinct(faces)

    def _look(self, photo: NDArray[np.uint8], view: Matrix, oversampling: int = 4) -> _Rows:
        """Candidates in the 128x128 picture that `view` cuts from the photo, in photo coordinates."""
        picture = resample(photo, view, (_INPUT, _INPUT), fill=0, oversampling=oversampling)
        regressors, logits = self._network(picture[None].astype(np.float32) / np.float32(127.5) - 1)
        scores = 1 / (1 + np.exp(-np.clip(logits.reshape(-1).astype(np.float64), -80, 80)))
        keep = scores >= _FIRST_SCORE
        # 16 numbers per anchor in pixels: centre, size, keypoints; places are relative to the anchor.
        numbers = regressors.reshape(-1, 8, 2)[keep].astype(np.float64)
        places = np.delete(numbers, 1, axis=1) + _anchors()[keep, None]
        zoom = math.sqrt(abs(np.linalg.det(view[:, :2])))
        moved = apply(view, places.reshape(-1, 2)).reshape(-1, 14)
        rows = np.column_stack([scores[keep], moved[:, :2], numbers[:, 1] * zoom, moved[:, 2:]])
        return _distinct(rows, average=True)


@cache
def _anchors() -> NDArray[np.float64]:
    """Anchor centres in pixels of the network's picture, [896, 2]: 16x16 cells of 2, then 8x8 of 6."""
    grids = []
    for cells, each in ((16, 2), (8, 6)):
        centres = (np.arange(cells) + 0.5) * (_INPUT / cells)
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), each, axis=0))
    return np.concatenate(grids)


def _shrink(photo: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The photo at searching size, and the factors that take rows from there to the photo."""
    height, width = photo.shape[:2]
    share = _WORKING_SIDE / max(height, width)
    if share >= 1:
        return photo, np.ones(17)
    size = max(round(width * share), 1), max(round(height * share), 1)
    small = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BOX))
    return small, np.concatenate([[1.0], np.tile([width / size[0], height / size[1]], 8)])


def _views(width: int, height: int, squares: tuple[float, ...]) -> Iterator[Matrix]:
    """Matrices from the network's picture to squares that cover the photo, overlapping by half."""

    def starts(length: int, side: float) -> list[float]:
        if side >= length:
            return [(length - side) / 2]
        count = math.ceil((length - side) / (side / 2)) + 1
        return [float(start) for start in np.linspace(0, length - side, count)]

    for square in squares:
        side = square * max(width, height)
        zoom = side / _INPUT
        for top in starts(height, side):
            for left in starts(width, side):
                yield np.array([[zoom, 0, left], [0, zoom, top]])


def _upright(row: NDArray[np.float64]) -> Matrix:
    """The view in which the face's eyes are level and its box has a fixed share of the picture."""
    left, right = row[5:7], row[7:9]
    angle = math.atan2(right[1] - left[1], right[0] - left[0])
    zoom = row[3] / (_FACE_SHARE * _INPUT)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([linear, row[1:3] - linear @ np.full(2, _INPUT / 2)])


def _distinct(rows: _Rows, *, average: bool = False) -> _Rows:
    """One row per face, best score first. `average` weighs what overlaps by score (weighted NMS)."""
    rows = rows[np.argsort(-rows[:, 0], kind="stable")]
    low, high = rows[:, 1:3] - rows[:, 3:5] / 2, rows[:, 1:3] + rows[:, 3:5] / 2
    areas = rows[:, 3] * rows[:, 4]
    left, faces = np.ones(len(rows), bool), []
    while left.any():
        best = int(np.argmax(left))
        shared = np.clip(np.minimum(high, high[best]) - np.maximum(low, low[best]), 0, None).prod(axis=1)
        same = shared > _SAME_FACE * (areas + areas[best] - shared)
        same[best] = True
        inside = shared > _INSIDE * np.minimum(areas, areas[best])
        face = rows[best].copy()
        if average:
            group = rows[same & left]
            face[1:] = np.average(group[:, 1:], axis=0, weights=group[:, 0])
        faces.append(face)
        left &= ~(same | inside)
    return np.stack(faces) if faces else np.empty((0, 17))


def _face(row: NDArray[np.float64]) -> Face:
    x, y, width, height = (float(number) for number in row[1:5])
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Face(box, row[5:].reshape(6, 2).copy(), float(row[0]))


def _open_network(engine: str, threads: int) -> Network:
    """BlazeFace's raw function: picture [1, 128, 128, 3] in [-1, 1] -> regressors, logits of 896 anchors."""
    kind = ENGINE_FORMATS[check_engine_name(engine)]
    name = f"blazeface_short_range.{kind}"
    content = resources.files("edgeage.runtime.photo").joinpath(name).read_bytes()
    if engine == "tensorrt":
        from edgeage.runtime.engines.tensorrt.choose import open_onnx

        plan = open_onnx(content, "detector", name)

        def run_plan(picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            results = plan.run({"input": picture})
            return results["regressors"], results["classificators"]

        return run_plan
    if kind == "onnx":
        from edgeage.runtime.engines.onnxruntime import open_session

        session = open_session(content, threads, name)

        def run_onnx(picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            regressors, logits = session.run(["regressors", "classificators"], {"input": picture})
            return regressors, logits

        return run_onnx

    from edgeage.runtime.engines.litert import open_interpreter

    interpreter = open_interpreter(engine, content, threads, name)
    source = interpreter.get_input_details()[0]["index"]
    places = {port["name"]: port["index"] for port in interpreter.get_output_details()}

    def run_tflite(picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        interpreter.set_tensor(source, picture)
        interpreter.invoke()
        return interpreter.get_tensor(places["regressors"]), interpreter.get_tensor(places["classificators"])

    return run_tflite
