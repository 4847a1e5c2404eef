"""A checkpoint becomes a bundle: whole, chained by hashes, checked; or nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from tests_support import edgeage

from edgeage.calibration.ranges import read_tables
from edgeage.commands.export import command
from edgeage.errors import EdgeageError
from edgeage.export import verify
from edgeage.export.calibrated import Options
from edgeage.export.engines import TRAITS, Traits
from edgeage.export.lint import lint
from edgeage.export.model_card import read_evaluation
from edgeage.export.pipeline import Report, export_bundle, mean_faces
from edgeage.files import sha256
from edgeage.groups import AGE_GROUPS
from edgeage.runtime.bundle import open_bundle
from edgeage.train.checkpoint import load_checkpoint

Faces = tuple[np.ndarray, np.ndarray]
OPTIONS: dict[str, Any] = {"name": "tiny", "source": "procedural", "fingerprint": "f", "quiet": True}
HALF = {"float16.onnx", "qdq-float16.onnx"}
FLAVOURS = {"int8.tflite", "int8-float-io.tflite", "onnx", "qdq.onnx", *HALF}


@pytest.fixture(scope="module")
def report(tiny_folder: Path, tiny_images: Faces, tmp_path_factory: pytest.TempPathFactory) -> Report:
    out = tmp_path_factory.mktemp("bundles") / "tiny.agebundle"
    return export_bundle(load_checkpoint(tiny_folder), *tiny_images, out, **OPTIONS)


def test_the_bundle_is_whole(report: Report) -> None:
    bundle = open_bundle(report.path)
    bundle.verify()
    expected = {f"engines/{e}.{f}" for e in ("encoder", "embedder", "generator") for f in FLAVOURS}
    expected |= {f"engines/generator_all.{f}" for f in FLAVOURS - {"onnx"}}
    # the gradient of random weights fades below float16
    expected |= {f"engines/refine.{f}" for f in FLAVOURS - {"onnx"} - HALF}
    expected |= {f"engines/packed.{f}" for f in ("int8.tflite", "int8-float-io.tflite")}
    assert set(bundle.manifest.files) == expected | {"ranges.json", "golden.npz", "MODEL_CARD.md"}
    assert set(report.sizes) == expected
    assert bundle.manifest.refinement["steps"] == 3
    assert bundle.manifest.refinement["embedder"] == bundle.manifest.lineage["onnx"]["embedder"]
    several = {file.file for file in bundle.manifest.engines["refine_batch"].files}
    assert several == {f"engines/packed.{f}" for f in ("int8.tflite", "int8-float-io.tflite")}
    assert bundle.manifest.profile.groups == AGE_GROUPS
    all_ages = bundle.manifest.engines["generator_all"]
    assert all_ages.outputs[0].shape == (6, 3, 16, 16)
    int8 = next(file for file in all_ages.files if file.io == "int8")
    assert int8.signature == "generate_all"
    assert int8.outputs[0].shape == (6, 16, 16, 3)
    assert int8.outputs[0].scale == 1 / 128


def test_hashes_chain_from_the_checkpoint_to_the_engines(report: Report, tiny_folder: Path) -> None:
    lineage = report.manifest.lineage
    assert lineage["checkpoint"] == sha256(tiny_folder / "weights.safetensors")
    assert lineage["ranges"] == sha256(report.path / "ranges.json")
    tables = read_tables(report.path / "ranges.json")
    for engine in ("encoder", "embedder", "generator"):
        digest = sha256(report.path / f"engines/{engine}.onnx")
        assert lineage["onnx"][engine] == tables[engine].network == digest
        made = lineage["calibration"]["networks"][engine]
        assert tables[engine].calibration == made["fingerprint"]
        assert tables[engine].count == made["samples"] >= 100
    assert lineage["onnx"]["generator_all"] == lineage["onnx"]["generator"]
    assert tables["generator"].ranges["y"] == (0.0, 1.0)
    assert {"image", "z"} <= set(tables["encoder"].ranges)


def test_half_precision_has_the_ports_and_the_figures_of_every_form(report: Report) -> None:
    """Bytes of the files, and how far each is from the float network and from the INT8 file."""
    for engine, entry in report.manifest.engines.items():
        halves = {file.precision: file for file in entry.files if "float16" in file.precision}
        told = {name: report.manifest.compilers[engine][f"tensorrt-rtx {name}"] for name in HALF}
        if TRAITS[engine].is_gradient:
            assert not halves
            reason = "for CPUs" if TRAITS[engine].for_cpus else "too fine for float16"
            assert all(reason in one["not run"] for one in told.values())
            continue
        assert set(halves) == {"float16", "int8-float16"}
        wide = next(file for file in entry.files if (file.format, file.precision) == ("onnx", "int8"))
        for file in halves.values():
            assert (file.inputs, file.outputs) == (wide.inputs, wide.outputs)
            assert report.sizes[file.file] == (report.path / file.file).stat().st_size
        typed = onnx.load(report.path / halves["int8-float16"].file)
        assert lint(typed) == []
        port = entry.outputs[0].name
        figures = report.manifest.parity["golden"][engine][port]
        assert figures["onnx -> float16"]["cosine"] > 0.99
        # one quantisation less of what lies between two weighted nodes
        assert figures["onnx -> qdq-float16"]["sqnr_db"] > figures["onnx -> int8"]["sqnr_db"] - 3
        assert {"sqnr_db", "lsb_max"} <= set(figures["qdq-float16 -> int8"])


def test_golden_vectors_are_what_the_files_compute(report: Report) -> None:
    golden = np.load(report.path / "golden.npz", allow_pickle=False)
    for engine, entry in report.manifest.engines.items():
        for file in entry.files:
            if file.format != "tflite" or file.io != "int8":
                continue
            assert file.signature is not None
            running = verify.TfliteFile((report.path / file.file).read_bytes(), file.signature)
            got = running.run({port.name: golden[f"{engine}.int8/in/{port.name}"] for port in entry.inputs})
            for port in entry.outputs:
                wanted = golden[f"{engine}.int8/out/{port.name}"]
                assert wanted.dtype == np.int8
                assert wanted.shape == port.shape == golden[f"{engine}/out/{port.name}"].shape
                assert np.array_equal(got[port.name], wanted)


def test_quality_is_measured_and_the_card_says_what_was_not(report: Report) -> None:
    for engine in report.manifest.engines:
        quality = report.manifest.quality[engine]
        if TRAITS[engine].is_gradient:
            assert min(quality["cosine"], quality["twin_cosine"]) >= verify.MIN_GRADIENT_COSINE
        else:
            assert quality["lsb_max"] <= TRAITS[engine].codes[1]
        # 20 faces; three latents of each, one by one or four by four, where they are refined
        assert quality["count"] == {"generator_all": 4, "refine": 60, "refine_batch": 15}.get(engine, 20)
        assert ("psnr_db" in quality) == engine.startswith("generator")
    card = (report.path / "MODEL_CARD.md").read_text()
    assert "not run" in card
    assert "no terms of others" in card
    assert report.manifest.lineage["checkpoint"] in card
    assert "TRANSPOSE" not in card


def test_the_whole_chain_is_measured_beside_what_no_model_gives(report: Report, tiny_images: Faces) -> None:
    whole = report.manifest.quality["end_to_end"]
    assert whole["count"] == 20
    # INT8 follows the float chain; random weights rebuild nothing, which the mean face shows
    assert abs(whole["psnr_int8_db"] - whole["psnr_float_db"]) < 1
    assert whole["aging_int8_levels"] == pytest.approx(whole["aging_float_levels"], rel=0.2)
    assert whole["psnr_mean_face_db"] > whole["psnr_float_db"] - 3
    assert report.manifest.data["validation"] == "training may have seen them"


def test_held_out_images_check_the_engines(tiny_folder: Path, tiny_images: Faces, tmp_path: Path) -> None:
    images, groups = tiny_images
    report = export_bundle(
        load_checkpoint(tiny_folder),
        images[:150],
        groups[:150],
        tmp_path / "x.agebundle",
        **OPTIONS,
        options=Options(refinement=None, half=False),
        held_out=(images[150:], groups[150:]),
    )
    assert not any("float16" in path for path in report.manifest.files)
    assert report.manifest.lineage["calibration"]["count"] == 125
    assert report.manifest.quality["encoder"]["count"] == 30
    assert report.manifest.data["validation"] == "held out from training"
    assert "held out from training" in (tmp_path / "x.agebundle/MODEL_CARD.md").read_text()


def test_mean_faces_are_means_by_group() -> None:
    images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
    means = mean_faces(images, np.array([0, 0, 2, 2]), 3)
    assert means.ravel().tolist() == [0.5, 1.5, 2.5]  # no image of group 1: the mean of all


def test_the_same_checkpoint_and_images_give_the_same_files(
    report: Report, tiny_folder: Path, tiny_images: Faces, tmp_path: Path
) -> None:
    again = export_bundle(load_checkpoint(tiny_folder), *tiny_images, tmp_path / "x.agebundle", **OPTIONS)
    assert again.manifest.files == report.manifest.files


def _export(tiny_folder: Path, faces: Faces, out: Path, **options: Any) -> Report:
    plain = {"options": Options(refinement=None)}  # what is tested here does not need the refine engines
    return export_bundle(load_checkpoint(tiny_folder), *faces, out, **{**OPTIONS, **plain, **options})


@pytest.mark.parametrize(
    ("count", "message"), [(0, "calibration set is empty"), (60, "too small: 60 images"), (118, "too small")]
)
def test_poor_calibration_sets_are_refused(
    tiny_folder: Path, tiny_images: Faces, tmp_path: Path, count: int, message: str
) -> None:
    images, groups = tiny_images
    with pytest.raises(EdgeageError, match=message):
        _export(tiny_folder, (images[:count], groups[:count]), tmp_path / "x.agebundle")
    assert not list(tmp_path.iterdir())


def test_images_of_another_size_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    faces = np.zeros((180, 64, 64, 3), np.uint8), np.arange(180) % 6
    with pytest.raises(EdgeageError, match=r"needs uint8 \[n, 16, 16, 3\]"):
        _export(tiny_folder, faces, tmp_path / "x.agebundle")


def test_an_existing_bundle_is_kept_unless_forced_and_nothing_else_is_ever_replaced(
    tiny_folder: Path, tiny_images: Faces, tmp_path: Path
) -> None:
    with pytest.raises(EdgeageError, match=r"try --out .*x\.agebundle"):
        _export(tiny_folder, tiny_images, tmp_path / "x")
    out = tmp_path / "photos.agebundle"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(EdgeageError, match="exists already"):
        _export(tiny_folder, tiny_images, out)
    with pytest.raises(EdgeageError, match="is not a bundle; it will not be replaced"):
        _export(tiny_folder, tiny_images, out, force=True)
    assert (out / "holiday.jpg").read_bytes() == b"precious"


def test_a_failed_gate_leaves_the_old_bundle_and_nothing_new(
    report: Report, tiny_folder: Path, tiny_images: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in report.path.rglob("*") if path.is_file()}
    monkeypatch.setitem(TRAITS, "generator", Traits((-1, -1)))
    with pytest.raises(EdgeageError, match="the INT8 generator differs by up to"):
        _export(tiny_folder, tiny_images, report.path, force=True)
    assert {path: path.read_bytes() for path in report.path.rglob("*") if path.is_file()} == before
    assert [path.name for path in report.path.parent.iterdir()] == [report.path.name]


def test_a_kill_while_writing_leaves_no_bundle(
    tiny_folder: Path, tiny_images: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeage.export.bundle.render", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _export(tiny_folder, tiny_images, tmp_path / "x.agebundle")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_diverged_is_refused(tiny_folder: Path, tiny_images: Faces, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_folder)
    with torch.no_grad():
        next(checkpoint.networks["encoder"].parameters()).fill_(float("nan"))
    with pytest.raises(EdgeageError, match="not finite"):
        export_bundle(checkpoint, *tiny_images, tmp_path / "x.agebundle", **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_the_command_prints_one_json_document(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.agebundle"
    arguments = [
        str(tiny_folder),
        "--calibration",
        "procedural:150",
        "--out",
        str(out),
        "--json",
        "--no-refine",
    ]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["bundle"] == str(out)
    assert document["quality"]["encoder"]["lsb_max"] <= 2
    manifest = open_bundle(out).manifest
    assert manifest.name == "x"
    assert set(manifest.engines) == {"encoder", "embedder", "generator", "generator_all"}
    assert manifest.refinement == {"steps": 0, "note": "no refine engine: not asked for"}


def test_the_command_prints_a_table(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_folder), "--calibration", "procedural:150", "--out", str(tmp_path / "x.agebundle")]
    result = CliRunner().invoke(command, [*arguments, "--quiet"], catch_exceptions=False)
    assert "generator" in result.stdout
    assert "refine" in result.stdout
    assert "qdq.onnx" in result.stdout


def test_a_checkpoint_of_another_profile_or_none_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    description = json.loads((tiny_folder / "checkpoint.json").read_text())
    description["profile"]["latent_size"] = 20
    (foreign / "checkpoint.json").write_text(json.dumps(description))
    (foreign / "weights.safetensors").write_bytes((tiny_folder / "weights.safetensors").read_bytes())
    out = ["--calibration", "procedural:150", "--out", str(tmp_path / "x.agebundle")]
    for folder, message in ((foreign, "does not fit"), (tmp_path, "no checkpoint in")):
        with pytest.raises(EdgeageError, match=message):
            CliRunner().invoke(command, [str(folder), *out], catch_exceptions=False)
    assert not (tmp_path / "x.agebundle").exists()


def test_an_evaluation_of_another_checkpoint_is_refused(tmp_path: Path):
    (tmp_path / "evaluation.json").write_text('{"checkpoint": {"sha256": "aa"}, "rows": []}')
    (tmp_path / "EVALUATION.md").write_text("# Evaluation")
    assert read_evaluation(tmp_path, "aa")["text"] == "# Evaluation"
    with pytest.raises(EdgeageError, match="run edgeage evaluate on it"):
        read_evaluation(tmp_path, "bb")
    (tmp_path / "EVALUATION.md").unlink()
    with pytest.raises(EdgeageError, match="no whole evaluation report"):
        read_evaluation(tmp_path, "aa")


def test_a_mixed_plan_reaches_its_target_and_holds_every_gate(
    report: Report, tiny_folder: Path, tiny_images: Faces, tmp_path: Path
) -> None:
    plain = {name: report.manifest.quality[name]["sqnr_db"] for name in ("encoder", "generator", "embedder")}
    worst = min(plain, key=lambda name: plain[name])
    target = Options(target_db=plain[worst] + 1)
    made = _export(tiny_folder, tiny_images, tmp_path / "x.agebundle", options=target)
    assert read_tables(made.path / "ranges.json")[worst].floats
    assert made.manifest.quality[worst]["sqnr_db"] > plain[worst] + 0.5  # chosen on other inputs
    assert edgeage("verify", str(made.path), "--quiet").returncode == 0
