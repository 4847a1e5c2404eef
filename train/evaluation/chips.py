"""From aligned faces to the judges' own framing: one constant similarity per judge."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgeage.errors import EdgeageError
from edgeage.runtime.photo.align import similarity

# Where dlib's five points (outer and inner corner of the eye at the image's right, the same at its left,
# base of the nose) lie in a frame, in fractions of the image's side.
#
# "utkface": means over the 21,816 UTKFace aligned crops, found by dlib at 200 px (x / 200 + half a pixel;
# standard deviations 0.015-0.027). The faces are aligned already, so one constant serves all of them, and
# a generated face needs no landmarks of its own, which a judge must not depend on.
LANDMARKS: dict[str, NDArray[np.float64]] = {
    "utkface": np.array(
        [[0.76169, 0.30303], [0.60840, 0.31164], [0.22479, 0.30234], [0.37796, 0.31161], [0.49254, 0.59103]]
    )
}
# The same points in dlib's mean face, the unit square (dlib get_face_chip_details, five landmarks).
_MEAN_FACE = np.array(
    [
        [0.8595674595992, 0.2134981538014],
        [0.6460604764104, 0.2289674387677],
        [0.1205750620789, 0.2137274526848],
        [0.3340850613712, 0.2290642403242],
        [0.4901123135679, 0.6277975316475],
    ]
)


class Chipper:
    """Cuts dlib's face chips of `size` pixels, with `padding` around the mean face, out of aligned images.

    Raises EdgeageError for a frame whose landmarks are not known.
    """

    def __init__(self, frame: str, size: int, padding: float) -> None:
        if frame not in LANDMARKS:
            raise EdgeageError(
                f"the judges know the frame(s) {', '.join(LANDMARKS)}, not {frame!r}; "
                f"measure its landmarks and add them to edgeage.train.evaluation.chips"
            )
        self.size = size
        in_chip = (padding + _MEAN_FACE) / (2 * padding + 1) + 0.5 / size  # dlib counts from pixel centres
        self.image_of = similarity(in_chip, LANDMARKS[frame])

    def cut(self, images: Tensor) -> Tensor:
        """Images [n, 3, S, S] of any size and range -> chips [n, 3, size, size]; borders are repeated.

        Bilinear where the chip is finer than the image, averaged over areas where it is coarser.
        """
        step = math.sqrt(abs(np.linalg.det(self.image_of[:, :2]))) * images.shape[-1] / self.size
        fine = max(math.ceil(step - 0.05), 1)
        side = self.size * fine
        centres = (np.arange(side) + 0.5) / side
        x, y = np.meshgrid(centres, centres)
        points = np.stack([x, y], -1) @ self.image_of[:, :2].T + self.image_of[:, 2]
        grid = torch.from_numpy(2 * points - 1).to(images)[None].expand(len(images), -1, -1, -1)
        chips = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return F.avg_pool2d(chips, fine) if fine > 1 else chips
