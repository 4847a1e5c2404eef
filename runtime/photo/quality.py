"""How well a face can be aged: seen from the front, all of it in the photo, large enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeage.errors import EdgeageError
from edgeage.runtime.photo.detect import Face

# Looked at on LFW and UTKFace photos: from a turn of 1 on the nose lies upon the far ear and half a cheek is
# hidden; from 1.5 on the face is a profile (1 in 150 of LFW's), for which the encoder has seen no example.
_FRONTAL, _PROFILE = 0.5, 1.5
_LEAST_INSIDE = 0.5  # share of the face's box in the photo below which there is no face to age
_DOUBTFUL = 0.5
_SMALL_FACE = 32  # pixels; below, the crop holds less than half of what the encoder was trained on


@dataclass(frozen=True)
class Quality:
    """Attributes:
    turn: 0 when the nose tip lies midway between the ears along the line of the eyes, -1 or 1 when it lies
        on the ear at the image's left or right.
    inside: share of the face's box that lies in the photo.
    """

    turn: float
    inside: float

    @property
    def score(self) -> float:
        """0 (refused) to 1 (a whole face from the front); below 0.5 the user is warned."""
        frontal = np.clip((_PROFILE - abs(self.turn)) / (_PROFILE - _FRONTAL), 0, 1)
        return float(frontal * np.clip((self.inside - _LEAST_INSIDE) / (1 - _LEAST_INSIDE), 0, 1))

    def trouble(self) -> str:
        """What lowers the score most."""
        if self.inside < 1 - (1 - _LEAST_INSIDE) / 2 or abs(self.turn) < _FRONTAL:
            return f"cut by the photo's border ({self.inside:.0%} of it is there)"
        side = "left" if self.turn < 0 else "right"
        return f"turned to the image's {side} (turn {abs(self.turn):.1f}, 1.5 is a profile)"


def quality(face: Face, photo_shape: tuple[int, ...]) -> Quality:
    """The quality of a face in a photo of [H, W, ...]."""
    left_eye, right_eye, nose, _, left_ear, right_ear = face.keypoints
    level = right_eye - left_eye
    low, high = left_ear @ level, right_ear @ level
    turn = (2 * (nose @ level) - low - high) / (high - low) if high > low else np.inf
    left, top, right, bottom = face.box
    width = min(right, photo_shape[1]) - max(left, 0)
    height = min(bottom, photo_shape[0]) - max(top, 0)
    return Quality(float(turn), max(width, 0) * max(height, 0) / ((right - left) * (bottom - top)))


def usable(
    faces: Sequence[Face], photo_shape: tuple[int, ...], called: str, *, all_faces: bool
) -> tuple[list[Face], list[str]]:
    """Those of `faces` (the largest first) to age, and what the user should know, one line each.

    Raises EdgeageError if `faces` is empty or none of them can be aged. Without `all_faces` one is left.
    """
    if not faces:
        raise EdgeageError(
            f"no face found in {called}; use a photo in which a face is upright, turned to the "
            "camera and at least 20 pixels wide"
        )
    seen = {id(face): quality(face, photo_shape) for face in faces}
    good = [face for face in faces if seen[id(face)].score > 0]
    if not good:
        trouble = seen[id(faces[0])].trouble()
        raise EdgeageError(f"the face in {called} is {trouble}; use a photo that shows the whole face")
    notes = []
    if left_out := len(faces) - len(good):
        notes.append(f"{left_out} of {len(faces)} faces left out: seen from the side or cut by the border")
    if len(good) > 1 and not all_faces:
        notes.append(f"{len(good)} faces found: the largest is aged; --all-faces ages every one")
        good = good[:1]
    if small := sum(face.size < _SMALL_FACE for face in good):
        notes.append(f"{small} of the aged faces narrower than {_SMALL_FACE} pixels: expect little detail")
    for face in good:
        if (found := seen[id(face)]).score < _DOUBTFUL:
            where = f"the face at {face.box[0]:.0f}, {face.box[1]:.0f}" if len(good) > 1 else "the face"
            notes.append(f"{where} is {found.trouble()}: expect a poor result")
    return good, notes
