"""How a face lies in an aligned image: where a frame expects the keypoints that alignment uses."""

from __future__ import annotations

# Keypoints in fractions of the image side, x right and y down: eye at the image's left, eye at the
# image's right, nose tip, mouth centre.
#
# "utkface" was measured with the runtime's own detector (so that its bias cancels) on 600 random UTKFace
# aligned crops, 599 faces found: the mean keypoints; standard deviations 0.017-0.021 for the eyes and the
# mouth, 0.040 for the nose (it moves as the head turns). The eyes agree with the middle of dlib's eye
# corners on the same crops within 0.005.
FRAMES: dict[str, tuple[tuple[float, float], ...]] = {
    "utkface": ((0.2930, 0.2997), (0.6821, 0.3028), (0.4805, 0.5221), (0.4804, 0.7170)),
}
