"""Between pictures, uint8 [n, H, W, 3], and what networks take and give: float32 [n, 3, H, W] in [-1, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_networks(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 RGB [n, S, S, 3] -> float32 [n, 3, S, S] in [-1, 1]."""
    return np.ascontiguousarray((pixels.astype(np.float32) / np.float32(127.5) - 1).transpose(0, 3, 1, 2))


def to_pixels(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 [n, 3, S, S] in [-1, 1], clipped -> uint8 RGB [n, S, S, 3]."""
    levels = np.clip(np.rint((images + 1) * np.float32(127.5)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
