"""From a photo to aged photos, in Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from PIL import Image

import edgeage
from edgeage.errors import EdgeageError
from edgeage.groups import AGE_GROUPS
from edgeage.runtime.aged import STAGES
from edgeage.runtime.bundle import open_bundle
from edgeage.runtime.session import Session, load


@pytest.fixture(scope="module")
def session(built_bundle: Path) -> Session:
    return load(built_bundle, engine="onnxruntime")


def brightness(pixels: np.ndarray, session: Session, photo: np.ndarray) -> float:
    """Mean of the photo's face region."""
    return float(pixels[100:150, 205:245].mean())


def test_every_group_and_the_facts(session: Session, sample: Path, portrait: np.ndarray) -> None:
    result = session.age(sample)
    assert tuple(result.aged) == AGE_GROUPS
    assert np.array_equal(result.photo, portrait)
    means = [brightness(pixels, session, portrait) for pixels in result.aged.values()]
    assert means == sorted(means)
    assert means[-1] - means[0] > 40
    assert result.source_decided == "searched"
    assert result.source_group == AGE_GROUPS[int(np.argmin(np.abs(tiny_bundle.BRIGHTNESS)))]
    assert np.array_equal(result.aged[result.source_group], portrait)
    assert tuple(result.timings) == STAGES
    assert all(result.timings[stage] > 0 for stage in STAGES)
    assert result.refinement["steps"] == 0
    assert "K=0" in result.refinement["note"]
    assert set(result.engines) == {"encoder", "generator_all"}
    (face,) = result.faces
    assert face.crop.shape == (64, 64, 3)
    assert face.generated.shape == (6, 64, 64, 3)
    assert result.warnings == ()
    json.dumps(result.summary())


def test_sources_are_alike(session: Session, sample: Path, portrait: np.ndarray) -> None:
    by_path = session.age(sample, ["60+"]).aged["60+"]
    assert np.array_equal(session.age(portrait, ["60+"]).aged["60+"], by_path)
    assert np.array_equal(session.age(Image.fromarray(portrait), ["67"]).aged["60+"], by_path)


def test_a_given_source_group_comes_back_unchanged(session: Session, portrait: np.ndarray) -> None:
    result = session.age(portrait, ["50-59", "60+"], source_group="60+")
    assert (result.source_group, result.source_decided) == ("60+", "given")
    assert np.array_equal(result.aged["60+"], portrait)
    assert not np.array_equal(result.aged["50-59"], portrait)


def test_raw_pastes_the_generated_face(session: Session, portrait: np.ndarray) -> None:
    result = session.age(portrait, mode="raw")
    own = result.aged[result.source_group].astype(int)
    assert np.abs(own - portrait).max() > 20  # the blurred reconstruction
    assert np.abs(own - portrait).mean() < 2
    assert np.array_equal(session.age(portrait, mode="raw", strength=0).aged["60+"], portrait)


def test_strength(session: Session, portrait: np.ndarray) -> None:
    changes = [
        np.abs(session.age(portrait, ["0-18"], strength=strength).aged["0-18"].astype(int) - portrait).sum()
        for strength in (0.0, 0.5, 1.0)
    ]
    assert changes[0] == 0
    assert changes[1] == pytest.approx(changes[2] / 2, rel=0.05)


def test_float32_says_that_it_runs_six_times(built_bundle: Path, portrait: np.ndarray) -> None:
    result = load(built_bundle, engine="onnxruntime", precision="float32").age(portrait, ["60+"])
    assert "run 6 times" in result.engines["generator_all"]


def test_of_several_faces_the_largest_is_aged_and_said(session: Session, couple: np.ndarray) -> None:
    result = session.age(couple, ["60+"])
    assert len(result.faces) == 1
    assert any("2 faces found: the largest" in warning for warning in result.warnings)
    assert np.array_equal(result.aged["60+"][:, 350:], couple[:, 350:])
    assert not np.array_equal(result.aged["60+"][:, :350], couple[:, :350])


def test_all_faces(session: Session, couple: np.ndarray) -> None:
    result = session.age(couple, ["60+"], all_faces=True)
    assert len(result.faces) == 2
    assert result.faces[0].size > result.faces[1].size
    assert not np.array_equal(result.aged["60+"][:, 350:], couple[:, 350:])
    assert not np.array_equal(result.aged["60+"][:, :350], couple[:, :350])


def test_a_small_face_is_said(session: Session, portrait: np.ndarray) -> None:
    small = np.asarray(Image.fromarray(portrait).resize((128, 128), Image.Resampling.BOX))
    assert any("narrower than 32" in warning for warning in session.age(small, ["60+"]).warnings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups": ["60"]}, None),
        ({"groups": ["sixty"]}, "unknown age group 'sixty'"),
        ({"groups": []}, "no age group"),
        ({"source_group": "old"}, "unknown age group 'old'"),
        ({"strength": 3.0}, "strength is 3.0"),
        ({"strength": 1.5, "mode": "raw"}, "strength is 1.5"),
        ({"mode": "both"}, "unknown mode 'both'"),
    ],
)
def test_options(session: Session, portrait: np.ndarray, options: dict, said: str | None) -> None:
    if said is None:
        session.age(portrait, **options)
        return
    with pytest.raises(EdgeageError, match=said):
        session.age(portrait, **options)


def test_no_face(session: Session) -> None:
    with pytest.raises(EdgeageError, match="no face found in the picture"):
        session.age(np.full((64, 64, 3), 128, np.uint8))


def test_load(built_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert edgeage.load(open_bundle(built_bundle)).profile == tiny_bundle.PROFILE
    monkeypatch.setenv("EDGEAGE_BUNDLE", str(built_bundle))
    assert edgeage.load(engine="onnxruntime").bundle.path == built_bundle
    for options, said in (
        ({"engine": "abacus"}, "unknown engine"),
        ({"precision": "int4"}, "unknown precision"),
    ):
        with pytest.raises(EdgeageError, match=said):
            load(built_bundle, **options)


@pytest.mark.parametrize("opened", [False, True])
def test_importing_is_light(built_bundle: Path, opened: bool) -> None:
    """Neither the import nor opening a bundle brings an engine or anything heavy."""
    program = "import sys, edgeage.runtime, edgeage.runtime.session as s\n"
    if opened:
        program += f"s.load({str(built_bundle)!r})\n"
    program += "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    heavy = {
        "torch", "onnx", "onnxruntime", "ai_edge_litert", "tflite_runtime", "scipy", "rich", "click",
        "skimage", "tensorrt", "msgspec", "cv2", "matplotlib",
    }  # fmt: skip
    assert not heavy & set(loaded.split())
