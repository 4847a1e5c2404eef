"""Take BlazeFace's eyes to where the middle of the eyes is.

Its eyes follow the gaze and the turn of the head. What the other keypoints say of that turn moves them back:
a linear regression on the mean of the detector's looks, fitted to dlib's eye corners on half of 3,000 UTKFace
crops (ridge 0.3, both eyes mirrored onto each other). `benchmarks/detection.py` measures it on the other
half.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The shift of the eye at the image's left in eye distances, along the line of the eyes and across it, from
# the nose tip, mouth centre, left and right ear (x, y in eye distances from the middle of the eyes) and 1.
_SHIFT = np.array(
    [
        [0.040, -0.114, 0.060, 0.151, 0.236, 0.011, -0.162, -0.027, 0.331],
        [-0.031, -0.151, -0.123, 0.019, -0.035, -0.097, -0.043, -0.003, 0.103],
    ]
)
_MIRRORED = [0, 1, 3, 2]  # nose, mouth, ears


def corrected(keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keypoints [6, 2] (see `Face`) with the eyes moved, the others as they are."""
    left, right = keypoints[:2]
    level = right - left
    distance = max(float(np.hypot(*level)), 1e-9)
    cos, sin = level / distance
    upright = np.array([[cos, sin], [-sin, cos]])
    others = (keypoints[2:] - (left + right) / 2) @ upright.T / distance
    moved: NDArray[np.float64] = keypoints.copy()
    for eye, mirror, seen in ((0, 1, others), (1, -1, others[_MIRRORED] * [-1, 1])):
        shift = _SHIFT @ np.append(seen.ravel(), 1) * [mirror, 1]
        moved[eye] += shift * distance @ upright
    return moved
