"""`edgeage age`, `inspect` and `doctor` as a user runs them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests_support import edgeage

from edgeage.commands.doctor import examine
from edgeage.groups import AGE_GROUPS
from edgeage.runtime.engines import packages
from edgeage.runtime.photo import write

NAMES = {"strip.png", *(f"age-{group}.png" for group in AGE_GROUPS)}


@pytest.fixture
def age(run, built_bundle: Path, sample: Path, tmp_path: Path):
    """`edgeage age` on the sample into tmp_path/out with ONNX Runtime, unless told otherwise."""

    def run_age(
        *more: object, photo: Path = sample, bundle: Path = built_bundle, engine: str = "onnxruntime"
    ):
        out = tmp_path / "out"
        return run("age", photo, "--out", out, "--bundle", bundle, "--engine", engine, *more)

    return run_age


def test_writes_photos_and_strip(age, tmp_path: Path, portrait: np.ndarray) -> None:
    code, out, _ = age()
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == NAMES
    assert "K=0" in out
    assert str(tmp_path / "out" / "strip.png") in out.replace("\n", "")
    for stage in ("read", "detect", "align", "encode", "refine", "generate", "blend", "write"):
        assert stage in out
    pictures = {group: np.asarray(Image.open(tmp_path / "out" / f"age-{group}.png")) for group in AGE_GROUPS}
    assert np.array_equal(pictures["30-39"], portrait)  # its own group: lossless and unchanged
    assert not np.array_equal(pictures["60+"], portrait)
    with Image.open(tmp_path / "out" / "strip.png") as strip:
        assert strip.width > 6 * strip.height * 0.8


def test_json_and_choices(age, tmp_path: Path) -> None:
    code, out, _ = age(
        "--json", "--groups", "60+, 50-59", "--from", "34", "--mode", "raw", "--precision", "float32"
    )
    document = json.loads(out)
    assert code == 0
    assert document["groups"] == ["60+", "50-59"]
    assert (document["source_group"], document["source_decided"]) == ("30-39", "given")
    assert document["refinement"]["steps"] == 0
    assert {Path(path).name for path in document["files"]} == {"age-60+.png", "age-50-59.png", "strip.png"}
    assert all(Path(path).is_file() for path in document["files"])
    assert document["timings_ms"]["write"] > 0


def test_refinement_is_shown(age, refining_bundle: Path) -> None:
    code, out, _ = age("--steps", "2", "--deadline-ms", "60000", bundle=refining_bundle)
    shown = " ".join(out.split())
    assert code == 0
    assert "K=2: sign steps" in shown
    assert "cosine 0." in shown
    code, out, _ = age("--force", "--json", bundle=refining_bundle)
    document = json.loads(out)
    assert document["refinement"]["steps"] == 3
    assert document["refinement"]["faces"][0]["steps_done"] == 3
    assert "K=0" in age("--force", "--steps", "0", bundle=refining_bundle)[1]
    hasty = age("--force", "--deadline-ms", "0", bundle=refining_bundle)[1]
    assert "deadline" in hasty
    assert "cosine" not in hasty


def test_going_on_without_refinement_is_a_choice(age) -> None:
    code, _, err = age("--steps", "3")
    assert code == 2
    assert "--allow-unrefined" in err
    code, out, err = age("--steps", "3", "--allow-unrefined")
    assert code == 0
    assert "K=0" in out
    assert "not refined, though 3 steps are asked for" in " ".join(err.split())


def test_existing_pictures_need_force(age, tmp_path: Path) -> None:
    old = tmp_path / "out" / "age-60+.png"
    old.parent.mkdir()
    old.write_text("precious")
    code, _, err = age()
    assert code == 2
    assert "age-60+.png already" in err
    assert [path.read_text() for path in old.parent.iterdir()] == ["precious"]
    assert age("--force")[0] == 0
    assert {path.name for path in old.parent.iterdir()} == NAMES


def test_several_faces_are_said(age, tmp_path: Path, portrait: np.ndarray) -> None:
    path = tmp_path / "two.png"
    Image.fromarray(np.hstack([portrait[:256, 96:352]] * 2)).save(path)
    assert "2 faces found: the largest" in " ".join(age(photo=path)[2].split())
    assert len(json.loads(age("--json", "--force", "--all-faces", photo=path)[1])["faces"]) == 2


def corrupt(path: Path) -> Path:
    file = path / "engines" / "encoder.qdq.onnx"
    file.write_bytes(file.read_bytes() + b"x")
    return path


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no face", "no face found"),
        ("no picture", "not a picture"),
        ("damaged", "is damaged"),
        ("huge", "megapixels"),
        ("no photo", "No such file"),
        ("group", "unknown age group '61+'"),
        ("strength", "strength is 9"),
        ("steps", "33 refinement steps are too many"),
        ("mode", "unknown mode"),
        ("engine", "unknown engine"),
        ("not installed", 'pip install "edgeage[tflite-runtime]"'),
        ("no flavour", "no tflite int8 file"),
        ("no bundle", "no bundle at"),
        ("changed bundle", "was changed"),
        ("missing file", "lacks MODEL_CARD.md"),
        ("foreign file", "holds poem.txt"),
        ("out is a file", "is a file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    age,
    tmp_path: Path,
    sample: Path,
    bundle_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    said: str,
) -> None:
    photo, more, options = tmp_path / "photo.png", [], {}
    if fault == "no face":
        Image.new("RGB", (200, 100), "green").save(photo)
    elif fault == "no picture":
        photo.write_text("Roses are red")
    elif fault == "damaged":
        photo.write_bytes(sample.read_bytes()[:30_000])
    elif fault == "huge":
        Image.new("1", (10_000, 9_000)).save(photo)
    elif fault != "no photo":
        photo = sample
    if fault == "group":
        more = ["--groups", "60+,61+"]
    elif fault == "strength":
        more = ["--strength", "9"]
    elif fault == "steps":
        more = ["--steps", "33"]
    elif fault == "mode":
        more = ["--mode", "both"]
    elif fault in ("engine", "no flavour", "not installed"):
        options["engine"] = {"engine": "abacus", "no flavour": "litert"}.get(fault, "tflite-runtime")
    elif fault == "no bundle":
        options["bundle"] = tmp_path / "gone.agebundle"
    elif fault == "changed bundle":
        options["bundle"] = corrupt(bundle_path)
    elif fault == "missing file":
        (bundle_path / "MODEL_CARD.md").unlink()
        options["bundle"] = bundle_path
    elif fault == "foreign file":
        (bundle_path / "poem.txt").write_text("roses")
        options["bundle"] = bundle_path
    if fault == "not installed":
        monkeypatch.setattr(packages, "installed_version", lambda name: None)
        monkeypatch.setattr("edgeage.runtime.engines.choose_file", lambda name, entry, *_: entry.files[0])
    target = tmp_path / "out"
    if fault == "out is a file":
        target.write_text("mine")
    code, out, err = age(*more, photo=photo, **options)
    assert code == 2
    assert out == ""
    assert err.startswith("edgeage: error: ")
    assert err.count("\n") == 1
    assert said in err
    assert target.read_text() == "mine" if fault == "out is a file" else not target.exists()


def test_a_full_disk_leaves_nothing(age, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "replace", replace)
    code, _, err = age()
    assert code == 2
    assert "No space left on device" in err
    assert not (tmp_path / "out").exists()


def test_inspect(run, built_bundle: Path, bundle_path: Path) -> None:
    code, out, _ = run("inspect", built_bundle)
    assert code == 0
    for fact in ("all 5 files verified", "tiny", "K=0", "encoder.psnr: 30.5", "made for tests"):
        assert fact in out
    document = json.loads(run("inspect", built_bundle, "--json")[1])
    assert document["verified"]
    assert document["sizes"].keys() == document["files"].keys()
    code, out, err = run("inspect", corrupt(bundle_path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "encoder.qdq.onnx was changed" in err


def test_inspect_shows_the_usual_refinement(run, refining_bundle: Path) -> None:
    _, out, _ = run("inspect", refining_bundle)
    assert "refinement: K=3, sign steps from 0.05, decay 0.85; towards the face" in " ".join(out.split())
    refinement = json.loads(run("inspect", refining_bundle, "--json")[1])["refinement"]
    assert (refinement["steps"], refinement["method"]) == (3, "sign")


def test_doctor(run, built_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGE_BUNDLE", str(built_bundle))
    monkeypatch.setattr(packages, "installed_version", {"onnxruntime": "1.24.0", "numpy": "2.0"}.get)
    code, out, _ = run("doctor")
    assert code == 0
    assert "engine onnxruntime: onnxruntime 1.24.0 quantises wrongly" in out
    assert (
        'engine litert: the engine litert is not installed; add it with: pip install "edgeage[litert]"' in out
    )
    monkeypatch.undo()
    monkeypatch.setenv("EDGEAGE_BUNDLE", os.devnull)
    code, out, _ = run("doctor", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["engines"]["onnxruntime"]["works"]
    assert not document["bundle"]["works"]
    assert examine()["python"] == document["python"]


def test_help_has_examples_and_in_a_process_of_its_own() -> None:
    for verb in ("age", "inspect", "doctor"):
        done = edgeage(verb, "--help")
        assert done.returncode == 0
        assert f"edgeage {verb}" in done.stdout.partition("Examples:")[2]
