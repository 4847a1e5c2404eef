"""BlazeFace (short range): a 128x128 picture in, the faces in it out.

Source: Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.engines import ENGINE_FORMATS, check_engine_name
from edgeage.runtime.photo.resample import Matrix, apply

INPUT = 128
_SAME_FACE = 0.3  # intersection over union above which two boxes are one face
_INSIDE = 0.6  # share of the smaller box in a better one above which it is a part of that face
_SWAPPED = [1, 0, 2, 3, 5, 4]  # the keypoints of a mirrored face

# Faces are rows of 17 numbers: score, centre x y, width, height, six keypoints x y.
Rows = NDArray[np.float64]
Network = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]


class BlazeFace:
    """The network behind one of the engines "litert", "tflite-runtime", "onnxruntime" or "tensorrt"."""

    def __init__(self, engine: str = "litert", threads: int = 1) -> None:
        self.network = open_network(engine, threads)

    def look(self, picture: NDArray[np.uint8], *, mirrored: bool = False) -> Rows:
        """Faces of a picture, uint8 RGB [128, 128, 3], in its pixels, best first.

        `mirrored` shows the network the mirror image; the rows are of the picture all the same.
        """
        shown = picture[:, ::-1] if mirrored else picture
        regressors, logits = self.network(shown[None].astype(np.float32) / np.float32(127.5) - 1)
        keep = logits.reshape(-1) >= 0  # scores of 0.5 and more; below, an anchor saw nothing
        if not keep.any():
            return np.empty((0, 17))
        scores = 1 / (1 + np.exp(-np.minimum(logits.reshape(-1)[keep].astype(np.float64), 80)))
        # 16 numbers per anchor in pixels: centre, size, keypoints; places are relative to the anchor.
        numbers = regressors.reshape(-1, 8, 2)[keep].astype(np.float64)
        places = np.delete(numbers, 1, axis=1) + _anchors()[keep, None]
        if mirrored:
            places[:, :, 0] = INPUT - places[:, :, 0]
            places[:, 1:] = places[:, 1:][:, _SWAPPED]
        rows = np.column_stack([scores, places[:, 0], numbers[:, 1], places[:, 1:].reshape(-1, 12)])
        return distinct(rows, average=True)


def moved(rows: Rows, view: Matrix) -> Rows:
    """Rows of a picture in the coordinates that `view` maps its pixels to."""
    zoom = np.sqrt(abs(np.linalg.det(view[:, :2])))
    places = np.concatenate([rows[:, 1:3], rows[:, 5:]], axis=1).reshape(-1, 2)
    there = apply(view, places).reshape(-1, 14)
    return np.column_stack([rows[:, 0], there[:, :2], rows[:, 3:5] * zoom, there[:, 2:]])


def distinct(rows: Rows, *, average: bool = False) -> Rows:
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


@cache
def _anchors() -> NDArray[np.float64]:
    """Anchor centres in pixels of the network's picture, [896, 2]: 16x16 cells of 2, then 8x8 of 6."""
    grids = []
    for cells, each in ((16, 2), (8, 6)):
        centres = (np.arange(cells) + 0.5) * (INPUT / cells)
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), each, axis=0))
    return np.concatenate(grids)


def open_network(engine: str, threads: int) -> Network:
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
