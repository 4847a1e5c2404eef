"""The whole way of a photo on the page beside Python's.

INT8 engines give the same bits. The face detector is a float network: where the browser's kernels add in
another order than this machine's, its keypoints differ in the last digits, and all that follows with them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from page_support import SAMPLE, jpeg
from PIL import Image

from edgeage.demo.headless import golden_values
from edgeage.demo.site import PACKED
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines import open_engine
from edgeage.runtime.photo.align import photo_to_crop
from edgeage.runtime.photo.blend import blend_delta, place
from edgeage.runtime.photo.detect import Detector
from edgeage.runtime.photo.resample import invert
from edgeage.runtime.session import Session

Call = Callable[..., Any]
# of the face's width; detection repeats within a tenth of this when the last bit of a pixel changes
KEYPOINTS_APART = 0.01

WHOLE = """
    const { openPipeline } = await module("pipeline");
    const { readPhoto } = await module("photo");
    const pipeline = await openPipeline();
    const { picture: photo } = await readPhoto(new Blob([file]));
    const faces = await pipeline.findFaces(photo);
    const encoded = await pipeline.encode(photo, faces[0]);
    const made = await pipeline.generate(encoded, steps, encoded.nearest);
    const blended = made.ages.map((_, i) => pipeline.blend(photo, encoded.map, made, i, 1.1).data);
    const { crop, z, nearest, map } = encoded;
    return { photo: photo.data, faces, map, crop: crop.data, z, nearest, made, blended };
"""


@pytest.fixture(scope="module")
def page(call: Call) -> dict[str, Any]:
    """What the page makes of the sample photo."""
    found: dict[str, Any] = call(WHOLE, file=np.frombuffer(SAMPLE.read_bytes(), np.uint8), steps=3)
    return found


def rgb(data: np.ndarray, like: np.ndarray) -> np.ndarray:
    return data.reshape(*like.shape[:2], 4)[..., :3]


def test_the_photo_is_read_alike(page: dict[str, Any], photo: np.ndarray):
    apart = np.abs(rgb(page["photo"], photo).astype(int) - photo)
    assert apart.max() <= 3  # both decode with libjpeg-turbo, whose versions may round otherwise
    assert apart.mean() <= 0.1


def test_the_face_is_found_in_the_same_place(page: dict[str, Any], photo: np.ndarray):
    (face,) = Detector().find(photo)
    (found,) = page["faces"]
    assert np.abs(np.array(found["keypoints"]) - face.keypoints).max() <= KEYPOINTS_APART * face.size
    assert np.abs(np.array(found["box"]) - face.box).max() <= 2 * KEYPOINTS_APART * face.size
    assert found["score"] == pytest.approx(face.score, abs=0.02)


def test_from_equal_keypoints_all_is_equal(
    page: dict[str, Any], photo: np.ndarray, session: Session, bundle: Bundle
):
    """Crop, latent and six ages to the bit, given the page's face and its decoded photo."""
    (found,) = page["faces"]
    pixels = np.ascontiguousarray(rgb(page["photo"], photo))
    size = session.profile.image_size

    class Seen:
        keypoints = np.array(found["keypoints"])

    way = invert(photo_to_crop(Seen, bundle.manifest.frame_keypoints, size))  # type: ignore[arg-type]
    np.testing.assert_allclose(np.reshape(page["map"], (2, 3)), way, atol=1e-9)
    crop = page["crop"].reshape(size, size, 3)
    z = session.encode(np.ascontiguousarray(crop))
    np.testing.assert_array_equal(page["z"], z[0])
    refined = session.refine(z, [page["nearest"]], crop[None])
    made = page["made"]
    np.testing.assert_array_equal(made["z"], refined.z[0])
    assert made["bestStep"] == refined.best_step[0]
    assert made["cosineBefore"] == pytest.approx(refined.cosine_before[0], abs=1e-9)
    assert made["cosineAfter"] == pytest.approx(refined.cosine_after[0], abs=1e-9)
    assert made["flag"] == refined.flags[0]
    generated = session.generate(refined.z)
    np.testing.assert_array_equal(np.array(made["ages"]).reshape(generated.shape), generated)
    where = place(way, size, pixels.shape)
    for group, blended in enumerate(page["blended"]):
        expected = blend_delta(pixels, where, generated[group], generated[page["nearest"]], 1.1)
        apart = np.abs(rgb(blended, photo).astype(int) - expected)
        assert apart.max() <= 1  # doubles on the page, floats in Python
        assert apart.mean() <= 1e-3


def test_the_whole_chain_is_within_the_stated_tolerance(
    page: dict[str, Any], photo: np.ndarray, session: Session
):
    """docs/browser.md states it: another CPU may place the face otherwise by a hundredth of its width."""
    result = session.age(SAMPLE)
    assert result.source_group == session.profile.groups[page["nearest"]]
    for group, blended in zip(session.profile.groups, page["blended"], strict=True):
        apart = np.abs(rgb(blended, photo).astype(int) - result.aged[group])
        assert apart.mean() <= 0.2
        assert apart.max() <= 24


@pytest.mark.parametrize("steps", [0, 1, 8])
def test_other_numbers_of_steps(page: dict[str, Any], call: Call, session: Session, steps: int):
    found = call(WHOLE, file=np.frombuffer(SAMPLE.read_bytes(), np.uint8), steps=steps)
    crop = page["crop"].reshape(64, 64, 3)
    options = session.plan(steps=steps).refinement
    refined = session.refine(
        session.encode(np.ascontiguousarray(crop)), [page["nearest"]], crop[None], options
    )
    np.testing.assert_array_equal(found["made"]["z"], refined.z[0])
    assert found["made"]["flag"] == refined.flags[0]


def scene(name: str) -> Image.Image:
    sample = Image.open(SAMPLE)
    if name == "turned":
        return sample.rotate(14, Image.Resampling.BICUBIC)
    if name == "large":
        return sample.resize((2900, 2900), Image.Resampling.BICUBIC)
    if name == "wide and small":
        wide = Image.new("RGB", (1500, 700), (90, 120, 150))
        wide.paste(sample.resize((300, 300), Image.Resampling.LANCZOS), (1100, 300))
        return wide
    return sample.crop((170, 40, 480, 300))  # at the border


@pytest.mark.parametrize("name", ["turned", "large", "wide and small", "at the border"])
def test_other_photos_show_the_same_faces(call: Call, name: str):
    content = jpeg(scene(name))
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    expected = Detector().find(pixels)
    assert expected
    body = """const { openPipeline } = await module("pipeline");
        const { readPhoto } = await module("photo");
        const { picture: photo } = await readPhoto(new Blob([file]));
        return (await openPipeline()).findFaces(photo);"""
    found = call(body, file=np.frombuffer(content, np.uint8))
    assert len(found) == len(expected)
    for one, face in zip(found, expected, strict=True):
        apart = np.abs(np.array(one["keypoints"]) - face.keypoints).max()
        assert apart <= 2 * KEYPOINTS_APART * face.size


def test_every_engine_gives_the_bits_of_native_litert(bundle: Bundle, browser: Any, site: dict[str, bytes]):
    """Through the packed file, which the page uses; `edgeage conformance` runs the others."""
    rng = np.random.default_rng(7)
    vectors, expected = {}, {}
    for name, entry in bundle.manifest.engines.items():
        file = next(one for one in entry.files if one.format == "tflite" and one.io == "float32")
        feeds = {port.name: rng.uniform(-1, 1, port.shape).astype("f4") for port in entry.inputs}
        expected[name] = open_engine(bundle, name, "litert", "int8", 1).run(feeds)
        stored = zip(file.inputs, map(as_stored, feeds.values()), strict=True)
        inputs = {port.name: values.tolist() for port, values in stored}
        vectors[name] = {"file": PACKED, "signature": file.signature, "inputs": inputs}
    found = golden_values(bundle.path, vectors, browser)
    for name, outputs in expected.items():
        for port, values in outputs.items():
            np.testing.assert_array_equal(np.float32(found[name][port]), as_stored(values), f"{name}/{port}")


def as_stored(values: np.ndarray) -> np.ndarray:
    """NCHW values flat in the order of a TFLite file."""
    return (values.transpose(0, 2, 3, 1) if values.ndim == 4 else values).ravel()
