"""Which faces are aged, which with a warning, and which are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeage.errors import EdgeageError
from edgeage.runtime.photo.detect import Detector, Face
from edgeage.runtime.photo.landmarks import corrected
from edgeage.runtime.photo.quality import quality, usable

SHAPE = (400, 500, 3)
KEYPOINTS = np.array([[-20.0, -15], [20, -15], [0, 5], [0, 25], [-42, -5], [42, -5]])


def face(nose: float = 0.0, x: float = 250, y: float = 200, angle: float = 0.0) -> Face:
    """A face 100 pixels wide whose nose lies `nose` half ear distances from the middle."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    keypoints = KEYPOINTS.copy()
    keypoints[2, 0] = nose * 42
    return Face((x - 50, y - 50, x + 50, y + 50), keypoints @ turn.T + [x, y], 0.9)


@given(st.floats(-2, 2), st.floats(-math.pi, math.pi))
def test_the_turn_is_read_from_the_nose_at_any_tilt(nose: float, angle: float) -> None:
    seen = quality(face(nose, angle=angle), SHAPE)
    assert seen.turn == pytest.approx(nose, abs=1e-6)
    assert seen.inside == 1
    assert 0 <= seen.score <= 1
    assert (seen.score == 1) == (abs(nose) <= 0.5 + 1e-9)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (face(1.7), "turned to the image's right"),
        (face(-1.7), "turned to the image's left"),
        (face(x=-10), "cut by the photo's border"),
        (face(y=410), "cut by the photo's border"),
    ],
)
def test_profiles_and_halves_are_refused(one: Face, said: str) -> None:
    with pytest.raises(EdgeageError, match=said) as caught:
        usable([one], SHAPE, "me.jpg", all_faces=False)
    assert "me.jpg" in str(caught.value)


def test_doubtful_faces_are_aged_with_a_warning() -> None:
    for one, said in ((face(1.2), "turned"), (face(x=15), "cut")):
        faces, notes = usable([one], SHAPE, "it", all_faces=False)
        assert faces == [one]
        assert said in notes[0]
        assert "poor" in notes[0]
    assert usable([face(0.3)], SHAPE, "it", all_faces=False)[1] == []


def test_the_largest_usable_face_is_taken() -> None:
    faces, notes = usable([face(1.9), face(0.1), face(0.2)], SHAPE, "it", all_faces=False)
    assert quality(faces[0], SHAPE).turn == pytest.approx(0.1)
    assert notes[0].startswith("1 of 3 faces left out")
    assert "2 faces found: the largest is aged" in notes[1]
    assert len(usable([face(1.9), face(0.1), face(0.2)], SHAPE, "it", all_faces=True)[0]) == 2


def test_a_face_cut_by_the_border_is_still_found(portrait: np.ndarray) -> None:
    """A third of the face beyond the left border, then all but a sliver."""
    detector = Detector()
    (found,) = detector.find(np.ascontiguousarray(portrait[:, 205:]))
    assert found.box[0] < 0
    assert 0.5 < quality(found, (512, 307, 3)).inside < 0.9
    for left in (235, 255):
        faces = detector.find(np.ascontiguousarray(portrait[:, left:]))
        assert all(quality(one, (512, 512 - left, 3)).score < 0.5 for one in faces)


@given(st.floats(-math.pi, math.pi), st.floats(0.1, 50), st.floats(-500, 500))
def test_the_correction_turns_and_scales_with_the_face(angle: float, scale: float, shift: float) -> None:
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    keypoints = KEYPOINTS + np.random.default_rng(0).normal(0, 3, (6, 2))
    np.testing.assert_allclose(
        corrected(keypoints @ turn.T + shift), corrected(keypoints) @ turn.T + shift, atol=1e-6 * scale + 1e-7
    )


def test_the_correction_mirrors_with_the_face() -> None:
    keypoints = KEYPOINTS + np.random.default_rng(1).normal(0, 3, (6, 2))
    swapped = [1, 0, 2, 3, 5, 4]
    mirrored = (keypoints * [-1, 1])[swapped]
    np.testing.assert_allclose(corrected(mirrored), (corrected(keypoints) * [-1, 1])[swapped], atol=1e-9)
    moved = np.hypot(*(corrected(keypoints) - keypoints).T)
    assert moved[:2].max() < 4
    assert moved[2:].max() == 0
