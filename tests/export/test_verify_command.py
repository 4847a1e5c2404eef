"""`edgeage verify` on whole, old, damaged and mixed-up bundles."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from edgeage.commands.inspect import command as inspect_command
from edgeage.commands.verify import command
from edgeage.errors import EdgeageError
from edgeage.export.forms import BESIDE
from edgeage.files import sha256
from edgeage.runtime.manifest import Manifest

SAMPLE = Path(__file__).parents[2] / "docs" / "samples" / "astronaut.jpg"


@pytest.fixture
def bundle(exported_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change; no judges are found."""
    monkeypatch.setenv("EDGEAGE_JUDGES", str(tmp_path / "no-judges"))
    copy = tmp_path / "tiny.agebundle"
    shutil.copytree(exported_bundle, copy)
    return copy


def verify(bundle: Path, *more: object, code: int = 0) -> Result:
    result = CliRunner().invoke(command, [str(bundle), *map(str, more)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def document(bundle: Path, *more: object, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(verify(bundle, *more, "--json", code=code).stdout)
    assert found["ok"] == (code == 0)
    return found


def change(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest; afterwards its hashes are those of the files that are there."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    edit(manifest)
    manifest["files"] = {
        name: sha256(bundle / name) for name in manifest["files"] if (bundle / name).exists()
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def write_golden(bundle: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(bundle / "golden.npz") as arrays:
        golden = dict(arrays)
    edit(golden)
    buffer = io.BytesIO()
    np.savez(buffer, **golden)
    (bundle / "golden.npz").write_bytes(buffer.getvalue())
    change(bundle, lambda manifest: None)


def test_a_whole_bundle_passes_and_says_what_did_not_run(bundle: Path):
    out = verify(bundle).stdout
    for part in ("encoder", "embedder", "generator_all", "stored codes -> int8", "every gate holds"):
        assert part in out
    assert "not run: torch -> exported: give --checkpoint RUN" in out
    assert "not run: judges: no judge" in out
    assert "FAILED" not in out


def test_with_its_checkpoint_and_faces_every_link_runs(bundle: Path, tiny_folder: Path):
    arguments = ("--checkpoint", tiny_folder, "--images", "procedural:12", "--faces", 8)
    found = document(bundle, *arguments)
    assert found["same_kernels"]
    # the gradient of random weights fades below float16
    half = {f"{former} -> {later} of refine" for former, later in BESIDE}
    assert set(found["not_run"]) == {"judges", *half}
    assert found["faces"].startswith("8 faces of procedural:12")
    for part in ("golden", "faces"):
        assert {"torch -> exported", "qdq -> int8"} <= set(found["chains"][part]["generator_all"]["image"])
    assert found["chains"]["faces"]["encoder"]["z"]["onnx -> qdq"]["count"] == 8
    assert found["whole_faces"]["count"] == 8
    stated = json.loads((bundle / "manifest.json").read_text())["parity"]["golden"]
    assert found["chains"]["golden"]["encoder"]["z"].keys() == stated["encoder"]["z"].keys()


def test_photos_go_the_way_of_the_runtime(bundle: Path, tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(SAMPLE, photos)
    (photos / "notes.txt").write_text("not a photo")
    found = document(bundle, "--images", photos, "--images", SAMPLE)
    assert found["faces"] == "2 photos"
    assert found["chains"]["faces"]["embedder"]["embedding"]["qdq -> int8"]["count"] == 2


def test_pictures_and_figures_are_written(bundle: Path, tmp_path: Path):
    out = tmp_path / "report"
    verify(bundle, "--out", out)
    assert {path.name for path in out.iterdir()} == {"parity.json", "faces.png"}
    assert json.loads((out / "parity.json").read_text())["ok"]
    with Image.open(out / "faces.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    columns = [pixels[16:, 64 + 96 * i : 64 + 96 * (i + 1)] for i in range(5)]
    assert pixels.shape[1] == 64 + 96 * 5  # input, float, Q/DQ, INT8, error
    assert 0 < columns[4].mean() < 128
    assert np.abs(columns[1] - columns[3]).mean() < np.abs(columns[0] - columns[1]).mean()
    with pytest.raises(EdgeageError, match="exists already"):
        verify(bundle, "--out", out)
    verify(bundle, "--out", out, "--force")
    (out / "parity.json").unlink()
    with pytest.raises(EdgeageError, match="will not be replaced"):
        verify(bundle, "--out", out, "--force")


def test_judges_report_where_they_are_and_gate_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    class Stern:
        """Nobody resembles anybody, and everybody is a little older than before."""

        def __init__(self, *_: object, **__: object) -> None:
            self.random = np.random.default_rng(0)

        def embeddings(self, images: np.ndarray, what: str) -> np.ndarray:
            return self.random.normal(size=(len(images), 8)).astype(np.float32)

        def ages(self, images: np.ndarray, what: str) -> np.ndarray:
            return np.arange(len(images), dtype=np.float64)

    monkeypatch.setattr("edgeage.train.evaluation.judges.PublishedJudges", Stern)
    out = verify(bundle, "--images", "procedural:12").stdout
    assert "float to INT8 by age group" in out
    assert "onnx -> (input)" in out
    assert "every gate holds" in out
    assert "not run: judges" not in out


def test_judges_asked_for_by_name_must_be_there(bundle: Path, tmp_path: Path):
    with pytest.raises(EdgeageError, match=r"no judge .* eval-setup"):
        verify(bundle, "--judges", tmp_path)


def test_a_tampered_engine_is_refused(bundle: Path):
    file = bundle / "engines/encoder.int8.tflite"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(EdgeageError, match=r"encoder\.int8\.tflite was changed"):
        verify(bundle)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("encoder.qdq.onnx", "encoder.z on golden: onnx -> qdq"),
        ("encoder.int8-float-io.tflite", "encoder.z on golden: int8 -> int8-float-io"),
        ("encoder.onnx", "hashes: manifest -> float ONNX of encoder"),
    ],
)
def test_an_engine_of_another_export_is_found(bundle: Path, other_bundle: Path, name: str, said: str):
    shutil.copy(other_bundle / "engines" / name, bundle / "engines" / name)
    change(bundle, lambda manifest: None)
    assert any(said in fault for fault in document(bundle, code=1)["faults"])


def test_an_engine_with_other_scales_than_the_manifest_says_is_refused(bundle: Path):
    def edit(manifest: dict[str, Any]) -> None:
        int8 = next(file for file in manifest["engines"]["encoder"]["files"] if file["io"] == "int8")
        int8["outputs"][0]["scale"] *= 1.01

    change(bundle, edit)
    with pytest.raises(EdgeageError, match="stores z with scale"):
        verify(bundle)


def test_a_range_table_of_another_network_is_found(bundle: Path, other_bundle: Path):
    shutil.copy(other_bundle / "ranges.json", bundle / "ranges.json")
    change(bundle, lambda manifest: None)
    faults = "\n".join(document(bundle, code=1)["faults"])
    assert "manifest -> ranges.json" in faults
    assert "float ONNX of encoder -> range table of another network" in faults
    assert "of generator" not in faults


def test_a_bundle_without_its_range_table_or_with_a_broken_one_is_refused(bundle: Path):
    (bundle / "ranges.json").write_text("[]")
    change(bundle, lambda manifest: None)
    with pytest.raises(EdgeageError, match="no range table"):
        verify(bundle)
    (bundle / "ranges.json").unlink()
    change(bundle, lambda manifest: None)
    with pytest.raises(EdgeageError, match=r"no ranges\.json"):
        verify(bundle)


def test_another_checkpoint_is_refused(bundle: Path, other_folder: Path):
    with pytest.raises(EdgeageError, match="not the one that the bundle was made from"):
        verify(bundle, "--checkpoint", other_folder)


def test_golden_vectors_may_lack_only_if_there_are_images(bundle: Path):
    (bundle / "golden.npz").unlink()
    change(bundle, lambda manifest: None)
    with pytest.raises(EdgeageError, match=r"no golden\.npz to measure with; give --images"):
        verify(bundle)
    found = document(bundle, "--images", "procedural:12")
    assert found["not_run"]["golden"] == "the bundle has no golden.npz"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda golden: golden.pop("encoder/in/image"), "no encoder/in/image"),
        (lambda golden: golden.pop("generator.int8/out/image"), "no generator.int8/out/image"),
        (lambda golden: golden.update({"encoder/out/z": np.zeros((1, 3), np.float32)}), "expected finite"),
        (lambda golden: golden["encoder/out/z"].fill(np.nan), "expected finite"),
    ],
)
def test_golden_vectors_of_another_shape_are_refused(bundle: Path, edit: Any, said: str):
    write_golden(bundle, edit)
    with pytest.raises(EdgeageError, match=said):
        verify(bundle)


def test_golden_vectors_that_are_no_arrays_are_refused(bundle: Path):
    (bundle / "golden.npz").write_bytes(b"no zip")
    change(bundle, lambda manifest: None)
    with pytest.raises(EdgeageError, match=r"golden\.npz cannot be read"):
        verify(bundle)


def test_other_codes_than_the_stored_ones_are_found(bundle: Path):
    def edit(golden: dict[str, np.ndarray]) -> None:
        codes = golden["encoder.int8/out/z"]
        codes[0, 0] += 1 if codes[0, 0] < 127 else -1

    write_golden(bundle, edit)
    (fault, *_) = document(bundle, code=1)["faults"]
    assert fault.startswith("encoder.z on golden: stored codes -> int8 differs by up to 1 output codes")
    # on a processor with other kernels the same difference is within the gates
    change(bundle, lambda manifest: manifest["parity"].update(kernels="another processor"))
    assert not document(bundle)["same_kernels"]


def test_figures_other_than_the_stated_ones_are_found(bundle: Path):
    def edit(manifest: dict[str, Any]) -> None:
        manifest["parity"]["golden"]["generator"]["image"]["onnx -> int8"]["sqnr_db"] += 5

    change(bundle, edit)
    result = verify(bundle, code=1)
    assert "FAILED generator.image on golden: onnx -> int8 has" in result.stdout


def test_a_bundle_older_than_the_chain_is_measured_all_the_same(bundle: Path):
    change(bundle, lambda manifest: manifest.pop("parity"))
    found = document(bundle)
    assert found["not_run"]["comparison with the manifest"] == "this bundle is older than its field parity"
    assert not found["same_kernels"]


@pytest.mark.parametrize(
    "value", [3, {"golden": {"poem": {}}}, {"kernels": None}, {"golden": {"encoder": [1]}}]
)
def test_a_manifest_with_a_broken_chain_is_refused(bundle: Path, value: Any):
    fields = json.loads((bundle / "manifest.json").read_text())
    assert Manifest.from_dict(fields).to_dict() == fields
    with pytest.raises(EdgeageError, match="parity"):
        Manifest.from_dict({**fields, "parity": value})


def test_inspect_shows_the_chain(bundle: Path):
    out = CliRunner().invoke(inspect_command, [str(bundle)], catch_exceptions=False).stdout
    assert "parity (edgeage verify measures it again)" in out
    assert "encoder.qdq -> int8:" in out


def test_images_that_cannot_be_used_are_refused(bundle: Path, tmp_path: Path):
    broken, grey = tmp_path / "broken.jpg", tmp_path / "grey.png"
    broken.write_bytes(SAMPLE.read_bytes()[:300])
    Image.new("RGB", (64, 64), "grey").save(grey)
    empty = tmp_path / "empty"
    empty.mkdir()
    for images, said in (
        ([broken], "broken.jpg"),
        ([grey], "no face found in .*grey.png"),
        ([empty], "no photo in"),
        ([tmp_path / "absent.jpg"], "absent.jpg"),
        (["poem:12"], "unknown source of faces"),
        (["procedural:12", SAMPLE], "not both"),
    ):
        with pytest.raises(EdgeageError, match=said):
            verify(bundle, *(part for image in images for part in ("--images", image)))
