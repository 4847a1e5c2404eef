"""How a face lies in an aligned image: where a frame expects the keypoints that alignment uses."""

from __future__ import annotations

# Keypoints in fractions of the image side, x right and y down: eye at the image's left, eye at the
# image's right, nose tip, mouth centre. Means over UTKFace's aligned crops.
FRAMES: dict[str, tuple[tuple[float, float], ...]] = {
    "utkface": ((0.295, 0.33), (0.68, 0.33), (0.49, 0.55), (0.49, 0.74)),
}
