"""The page's modules beside the Python functions that they follow."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeage.runtime.directions import Directions, fault
from edgeage.runtime.photo.align import similarity
from edgeage.runtime.photo.blend import blend_delta, place
from edgeage.runtime.photo.detect import Face
from edgeage.runtime.photo.landmarks import corrected
from edgeage.runtime.photo.quality import quality
from edgeage.runtime.photo.resample import invert, resample
from edgeage.runtime.provenance import png
from edgeage.runtime.provenance.claim import Claim
from edgeage.runtime.provenance.texts import Texts
from edgeage.runtime.provenance.xmp import make_xmp

Call = Callable[..., Any]


def turned(zoom: float, degrees: float, x: float, y: float) -> np.ndarray:
    cos, sin = zoom * np.cos(np.radians(degrees)), zoom * np.sin(np.radians(degrees))
    return np.array([[cos, -sin, x], [sin, cos, y]])


def test_similarity(call: Call):
    rng = np.random.default_rng(0)
    points = [(rng.normal(size=(4, 2)) * 50, rng.normal(size=(4, 2)) * 9) for _ in range(30)]
    body = "const { similarity } = await module('affine'); return points.map((one) => similarity(...one));"
    found = call(body, points=[[source.tolist(), target.tolist()] for source, target in points])
    for (source, target), matrix in zip(points, found, strict=True):
        expected = similarity(source, target)
        if np.linalg.matrix_rank(expected[:, :2]) == 2:
            np.testing.assert_allclose(np.reshape(matrix, (2, 3)), expected, atol=1e-9)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    ("zoom", "degrees", "black", "oversampling"),
    [(0.3, 5, False, 4), (0.99, -40, True, 1), (1.7, 10, True, 0.75), (3.0, 0, True, 1), (9, 20, False, 2)],
)
def test_resampling_gives_pillows_bytes(
    call: Call,
    photo: np.ndarray,
    zoom: float,
    degrees: float,
    black: bool,
    oversampling: float,
    channels: int,
):
    """To the bit: the detector amplifies a difference in the last one to a tenth of a pixel."""
    matrix = turned(zoom, degrees, 170.3, -20.2)
    expected = resample(photo, matrix, (96, 80), fill=0 if black else None, oversampling=oversampling)
    given = photo if channels == 3 else np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    body = """const { resample } = await module("resample");
        return resample(picture(photo), matrix, [96, 80], { black, oversampling }).data;"""
    found = call(body, photo=given, matrix=matrix.ravel().tolist(), black=black, oversampling=oversampling)
    np.testing.assert_array_equal(found.reshape(80, 96, 3), expected)


def test_resampling_of_floats(call: Call):
    crop = np.random.default_rng(1).normal(size=(64, 64, 3)).astype("f4") * 50
    matrix = turned(0.3, 12, -3, 4)
    body = """const { resample } = await module("resample");
        return resample(picture(crop), matrix, [150, 140]).data;"""
    found = call(body, crop=crop, matrix=matrix.ravel().tolist())
    # Pillow's filters keep floats, these keep doubles between the two axes
    np.testing.assert_allclose(found.reshape(140, 150, 3), resample(crop, matrix, (150, 140)), atol=2e-3)


@pytest.mark.parametrize("size", [(71, 71), (128, 120), (233, 218), (457, 428)])
def test_shrinking_gives_pillows_bytes(call: Call, photo: np.ndarray, size: tuple[int, int]):
    part = np.ascontiguousarray(photo[:480])
    expected = Image.fromarray(part).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    body = "const { shrunk } = await module('resize'); return shrunk(picture(photo), ...size).data;"
    found = call(body, photo=part, size=list(size))
    np.testing.assert_array_equal(found.reshape(size[1], size[0], 3), np.asarray(expected))


def test_corrected_eyes(call: Call):
    keypoints = np.random.default_rng(2).normal(size=(20, 6, 2)) * 30 + 100
    body = "const { corrected } = await module('landmarks'); return keypoints.map(corrected);"
    found = call(body, keypoints=keypoints.tolist())
    np.testing.assert_allclose(found, [corrected(one) for one in keypoints], atol=1e-9)


@pytest.mark.parametrize(
    ("method", "momentum"), [("sign", 0.0), ("normalised", 0.0), ("normalised", 0.7), ("adam", 0.0)]
)
def test_directions(call: Call, method: str, momentum: float):
    gradients = np.random.default_rng(3).normal(size=(4, 100)).astype("f4")
    reference = Directions(method, (1, 100), momentum)
    expected = [reference(one[None], np.array([0]), step)[0] for step, one in enumerate(gradients)]
    body = """const { directionsOf } = await module("refine");
        const directions = directionsOf({ method, momentum });
        return gradients.map((gradient, step) => directions(gradient, step));"""
    found = call(body, gradients=list(gradients), method=method, momentum=momentum)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_gradients_without_a_direction(call: Call):
    rng = np.random.default_rng(4)
    usual = rng.normal(size=100).astype("f4")
    clipped = np.where(rng.random(100) < 0.7, 3.0, 1.0).astype("f4") * np.sign(usual)
    few = np.zeros(100, "f4")
    few[:3] = 2
    broken = usual.copy()
    broken[7] = np.nan
    gradients = [usual, clipped, few, np.zeros(100, "f4"), broken]
    expected = [fault(one) for one in gradients]
    assert len(set(expected)) == 4
    body = "const { faultOf } = await module('refine'); return gradients.map((one) => faultOf(one));"
    assert call(body, gradients=gradients) == expected


@pytest.mark.parametrize(
    "matrix",
    [turned(2.6, 8, 150, 40), turned(0.4, -30, 200, 200), turned(5, 3, -90, 300), turned(1, 0, 2000, 0)],
    ids=["usual", "small", "over the border", "outside"],
)
def test_blending(call: Call, photo: np.ndarray, matrix: np.ndarray):
    rng = np.random.default_rng(5)
    aged, source = (rng.uniform(-1, 1, (64, 64, 3)).astype("f4") for _ in range(2))
    expected = blend_delta(photo, place(matrix, 64, photo.shape), aged, source, 1.1)
    body = """const { blendDelta, place } = await module("blend");
        const out = picture(photo);
        blendDelta(out, place(matrix, 64, out), aged, source, 1.1);
        return out.data;"""
    found = call(body, photo=photo, matrix=matrix.ravel().tolist(), aged=aged, source=source)
    apart = np.abs(found.reshape(photo.shape).astype(int) - expected)
    # floats there, doubles here: a value half-way between two bytes may fall to either
    assert apart.max(initial=0) <= 1
    assert np.count_nonzero(apart) <= 1e-3 * np.count_nonzero(expected != photo)


def test_equal_faces_leave_every_byte(call: Call, photo: np.ndarray):
    face = np.random.default_rng(6).uniform(-1, 1, (64, 64, 3)).astype("f4")
    body = """const { blendDelta, place } = await module("blend");
        const out = picture(photo);
        blendDelta(out, place(matrix, 64, out), face, face, 2);
        return out.data;"""
    found = call(body, photo=photo, matrix=turned(3, 5, 90, 40).ravel().tolist(), face=face)
    np.testing.assert_array_equal(found.reshape(photo.shape), photo)


def test_maps_are_undone(call: Call):
    matrix = turned(2.5, 33, 12, -7)
    found = call("return (await module('affine')).invert(map);", map=matrix.ravel().tolist())
    np.testing.assert_allclose(np.reshape(found, (2, 3)), invert(matrix), atol=1e-12)


def test_quality_of_faces(call: Call):
    rng = np.random.default_rng(8)
    faces = []
    for _ in range(60):
        x, y = rng.uniform(-40, 200, 2)
        keypoints = np.array([(30, 40), (70, 40), (50, 60), (50, 80), (10, 50), (90, 50)], float)
        keypoints += rng.normal([x, y], 18, (6, 2))
        faces.append(Face((x, y, x + 100, y + 100), keypoints, 0.9))
    expected = [quality(face, (220, 240, 3)) for face in faces]
    assert 5 < sum(one.score == 0 for one in expected) < 55
    given = [[list(face.box), face.keypoints.tolist()] for face in faces]
    body = """const { quality, usable } = await module("quality");
        const photo = { width: 240, height: 220 };
        const all = faces.map(([box, keypoints]) => ({ box, keypoints }));
        const scores = all.map((face) => quality(face, photo).score);
        const refused = all.filter((_, i) => scores[i] === 0);
        let told = "";
        try { usable(refused, photo); } catch (error) { told = error.message; }
        return { scores, left: usable(all, photo).length, told };"""
    found = call(body, faces=given)
    np.testing.assert_allclose(found["scores"], [one.score for one in expected], atol=1e-9)
    assert found["left"] == sum(one.score > 0 for one in expected)
    assert found["told"].endswith("Use a photo that shows the whole face.")


def test_halves_round_to_even(call: Call):
    values = [0.5, 1.5, 2.5, -0.5, -1.5, 2.4999, 7.0]
    body = "const { roundEven } = await module('numbers'); return values.map(roundEven);"
    assert call(body, values=values) == [round(value) for value in values]


@pytest.mark.parametrize(
    "claim",
    [
        Claim("edge64", "4bf5" * 16, ("60+",), "30-39", "delta", 1.1),
        Claim('a<b>&"c" \u00e9\u6f22\U0001f600', "0" * 64, ("0-18",), "60+", "delta", 2.0, "1.2.3"),
        Claim("a\x00b\ufffe", "f" * 64, ("0-18",), "60+", "delta", 0.05),
    ],
    ids=["usual", "other letters", "letters that XML forbids"],
)
def test_saved_pictures_carry_the_label_that_python_writes(call: Call, photo: np.ndarray, claim: Claim):
    stream = io.BytesIO()
    Image.fromarray(photo[:40, :50]).save(stream, "PNG")
    body = """const { labelled } = await module("label");
        return new Uint8ClampedArray(labelled(Uint8Array.from(png), claim));"""
    given = {
        "bundle": claim.bundle,
        "bundleSha256": claim.bundle_sha256,
        "group": claim.groups[0],
        "ownGroup": claim.own_group,
        "strength": claim.strength,
        "version": claim.version,
    }
    found = call(body, png=np.frombuffer(stream.getvalue(), np.uint8), claim=given).tobytes()
    texts = Texts(make_xmp(claim), claim.label, f"edgeage {claim.version}")
    assert found == png.insert(stream.getvalue(), texts)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found))), photo[:40, :50])
