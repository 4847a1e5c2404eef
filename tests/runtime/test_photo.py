"""Resampling, alignment, detection and blending."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeage.errors import EdgeageError
from edgeage.export.detector import convert_detector, largest_difference
from edgeage.frames import FRAMES
from edgeage.runtime import photo as photo_package
from edgeage.runtime.photo.align import align, photo_to_crop, similarity
from edgeage.runtime.photo.blend import blend_delta, blend_raw, check_strength, place
from edgeage.runtime.photo.detect import Detector
from edgeage.runtime.photo.resample import apply, invert, resample

angles, shifts = st.floats(-math.pi, math.pi), st.floats(-100, 100)


def transform(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cos, -sin, x], [sin, cos, y]])


# Resampling -----------------------------------------------------------------------------------


@given(angles, st.floats(0.1, 10), shifts, shifts)
def test_similarity_finds_the_transform(angle: float, scale: float, x: float, y: float) -> None:
    points = np.array(FRAMES["utkface"]) * 64
    matrix = transform(angle, scale, x, y)
    np.testing.assert_allclose(similarity(points, apply(matrix, points)), matrix, atol=1e-8)
    np.testing.assert_allclose(apply(invert(matrix), apply(matrix, points)), points, atol=1e-8)


def test_similarity_never_mirrors() -> None:
    points = np.array(FRAMES["utkface"])
    assert np.linalg.det(similarity(points, points * [-1, 1])[:, :2]) > 0


@given(st.integers(0, 6), st.integers(0, 6))
def test_whole_shifts_move_pixels_exactly(x: int, y: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    out = resample(pixels, np.array([[1.0, 0, x], [0, 1, y]]), (16, 12))
    assert np.array_equal(out, pixels[y : y + 12, x : x + 16])


@pytest.mark.parametrize("factor", [2, 3, 8, 25])
def test_shrinking_averages_areas(factor: int) -> None:
    pixels = np.random.default_rng(1).uniform(0, 255, (factor * 8, factor * 8, 3)).astype(np.float32)
    out = resample(pixels, np.diag([factor, factor, 0])[:2].astype(float), (8, 8))
    mean = pixels.reshape(8, factor, 8, factor, 3).mean(axis=(1, 3))
    assert np.abs(out - mean).mean() < 0.4 * np.abs(mean - 127.5).mean()  # the rest is the filter's soft rim
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255  # one pixel wide: without averaging they come out as moire
    fine = resample(stripes, transform(0.1, factor, 30, 30), (8, 8))
    assert np.abs(fine.astype(int) - 127).max() < 127 / factor + 4  # that of a perfect average: 127 / factor


def test_beyond_the_border() -> None:
    pixels = np.full((10, 10, 3), 200, np.uint8)
    pixels[:, :1] = 50
    outside = np.array([[1.0, 0, -40], [0, 1, -40]])
    assert np.all(resample(pixels, outside, (8, 8)) == 50)
    assert np.all(resample(pixels, outside, (8, 8), fill=0) == 0)


# Detection ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["litert", "onnxruntime"])
def detector(request: pytest.FixtureRequest) -> Detector:
    return Detector(request.param)


def test_sample_photo(detector: Detector, portrait: np.ndarray) -> None:
    (face,) = detector.find(portrait)
    left, right, nose, mouth, *_ = face.keypoints
    np.testing.assert_allclose(
        [left, right, nose, mouth], [[204, 103], [246, 106], [223, 131], [222, 150]], atol=4
    )
    assert face.box[0] < left[0] < right[0] < face.box[2]
    assert face.score > 0.7
    assert 90 < face.size < 115


@pytest.mark.parametrize("width", [64, 128, 320, 512, 2400])
def test_any_size(detector: Detector, portrait: np.ndarray, width: int) -> None:
    """From a face 16 pixels wide to one of 470; keypoints stay in place relative to the photo."""
    pixels = np.asarray(Image.fromarray(portrait[:320, 64:384]).resize((width, width), Image.Resampling.BOX))
    face = detector.find(pixels)[0]
    expected = (np.array([[204, 103], [246, 106], [223, 131], [222, 150]]) - [64, 0]) / 320
    np.testing.assert_allclose(face.keypoints[:4] / width, expected, atol=0.025)


def test_a_face_that_fills_the_photo(detector: Detector, portrait: np.ndarray) -> None:
    assert len(detector.find(np.ascontiguousarray(portrait[68:188, 168:282]))) == 1


@pytest.mark.parametrize("angle", [-60, -30, 30, 60])
def test_tilted_faces_are_aligned_alike(detector: Detector, portrait: np.ndarray, angle: int) -> None:
    def crop(pixels: np.ndarray) -> np.ndarray:
        face = detector.find(pixels)[0]
        return align(pixels, invert(photo_to_crop(face, FRAMES["utkface"], 64)), 64).astype(float)

    tilted = np.asarray(Image.fromarray(portrait).rotate(angle, Image.Resampling.BICUBIC))
    inner = slice(12, 52)
    assert np.abs(crop(tilted) - crop(portrait))[inner, inner].mean() < 12


def test_small_face_in_a_large_photo_and_several_faces(detector: Detector, portrait: np.ndarray) -> None:
    canvas = np.full((900, 1200, 3), 90, np.uint8)
    small = np.asarray(Image.fromarray(portrait[:256, 96:352]).resize((96, 96), Image.Resampling.BOX))
    canvas[700:796, 1000:1096] = small
    (face,) = detector.find(canvas)
    assert 30 < face.size < 50
    canvas[100:356, 200:456] = portrait[:256, 96:352]
    faces = detector.find(canvas, all_faces=True)
    assert [round(face.size, -1) for face in faces] == [100, 40]


def test_no_face(detector: Detector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for pixels in (noise, np.zeros((1, 1, 3), np.uint8), np.full((50, 2000, 3), 255, np.uint8)):
        assert detector.find(pixels, all_faces=True) == []


def test_the_onnx_detector_is_the_tflite_one(portrait: np.ndarray) -> None:
    folder = Path(next(iter(photo_package.__path__)))
    tflite = (folder / "blazeface_short_range.tflite").read_bytes()
    shipped = (folder / "blazeface_short_range.onnx").read_bytes()
    assert convert_detector(tflite).SerializeToString() == shipped
    picture = np.asarray(Image.fromarray(portrait).resize((128, 128)), np.float32)[None] / 127.5 - 1
    assert largest_difference(tflite, shipped, iter([picture, picture[:, ::-1].copy()])) < 1e-5


# Blending -------------------------------------------------------------------------------------

CROP_TO_PHOTO = transform(0.2, 1.9, 60, 40)


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    return tuple(random.uniform(-1, 1, (64, 64, 3)).astype(np.float32) for _ in range(2))  # type: ignore[return-value]


def test_only_pixels_under_the_mask_change(portrait: np.ndarray, faces: tuple) -> None:
    where = place(CROP_TO_PHOTO, 64, portrait.shape)
    mask = np.zeros(portrait.shape[:2], bool)
    height, width = where.mask.shape[:2]
    mask[where.top : where.top + height, where.left : where.left + width] = where.mask[..., 0] > 0
    assert 0.3 < mask.sum() / (64 * 1.9) ** 2 < 0.9
    before = portrait.copy()
    for out in (blend_delta(portrait, where, *faces), blend_raw(portrait, where, faces[0])):
        assert np.array_equal(out[~mask], portrait[~mask])
        assert (out[mask] != portrait[mask]).mean() > 0.5
    assert np.array_equal(portrait, before)


def test_the_mask_is_soft(portrait: np.ndarray) -> None:
    mask = place(CROP_TO_PHOTO, 64, portrait.shape).mask[..., 0]
    assert mask.max() == 1
    steps = max(np.abs(np.diff(mask, axis=0)).max(), np.abs(np.diff(mask, axis=1)).max())
    assert steps < 0.15
    assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) < 0.02


def test_delta_of_the_same_group_or_strength_0_returns_the_photo(portrait: np.ndarray, faces: tuple) -> None:
    where = place(CROP_TO_PHOTO, 64, portrait.shape)
    assert np.array_equal(blend_delta(portrait, where, faces[0], faces[0], 2), portrait)
    assert np.array_equal(blend_delta(portrait, where, *faces, 0), portrait)
    assert np.array_equal(blend_raw(portrait, where, faces[0], 0), portrait)


def test_strength_scales_the_delta() -> None:
    grey = np.full((200, 200, 3), 100, np.uint8)
    where = place(transform(0, 2, 30, 30), 64, grey.shape)
    dark, light = (np.full((64, 64, 3), value, np.float32) for value in (0, 0.2))
    for strength in (0.5, 1.0, 2.0):
        out = blend_delta(grey, where, light, dark, strength)
        assert out[94, 92, 0] == round(100 + 0.2 * 127.5 * strength)


def test_raw_in_the_middle_is_the_generated_face(portrait: np.ndarray) -> None:
    where = place(CROP_TO_PHOTO, 64, portrait.shape)
    out = blend_raw(portrait, where, np.full((64, 64, 3), -1, np.float32))
    x, y = apply(CROP_TO_PHOTO, np.array([[31.0, 31.0]]))[0].astype(int)
    assert out[y, x].tolist() == [0, 0, 0]


@pytest.mark.parametrize("x", [-500, -60, 480, 900])
def test_faces_at_and_beyond_the_border(portrait: np.ndarray, faces: tuple, x: int) -> None:
    where = place(transform(0, 2, x, 100), 64, portrait.shape)
    assert blend_delta(portrait, where, *faces).shape == portrait.shape
    assert blend_raw(portrait, where, faces[0]).shape == portrait.shape


@pytest.mark.parametrize(
    ("strength", "mode"), [(-0.1, "delta"), (2.1, "delta"), (1.1, "raw"), (float("nan"), "raw"), (1, "magic")]
)
def test_bad_strength_and_mode(strength: float, mode: str) -> None:
    with pytest.raises(EdgeageError, match=r"strength is|unknown mode"):
        check_strength(strength, mode)
