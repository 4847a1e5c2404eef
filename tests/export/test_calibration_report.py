"""edgeage calibrate: the report folder, on the tiny profile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeage import cli
from edgeage.calibration.calibrators import CALIBRATORS
from edgeage.calibration.ranges import read_tables


def calibrate(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["calibrate", *map(str, arguments)])
    return int(exit_.value.code or 0)


def test_the_report_has_every_layer_every_trial_and_pictures(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    arguments = (tiny_folder, "--calibration", "procedural:240", "--out", out, "--quiet")
    assert calibrate(*arguments) == 0
    shown = capsys.readouterr().out
    assert all(network in shown for network in ("encoder", "embedder", "generator"))
    assert "hurts most" in shown
    report = json.loads((out / "report.json").read_text())
    tables = read_tables(out / "ranges.json")
    assert report.keys() == {"encoder", "embedder", "generator"} == tables.keys()
    for network, table in ((name, tables[name]) for name in report):
        entry = report[network]
        assert {trial["calibrator"] for trial in entry["trials"]} == set(CALIBRATORS)
        assert max(trial["sqnr_db"] for trial in entry["trials"]) == pytest.approx(
            next(
                trial["sqnr_db"]
                for trial in entry["trials"]
                if trial["calibrator"] == entry["calibrator"]
                and trial["equalised"] == bool(entry["equalised_regions"])
                and trial["corrected"] == entry["bias_correction"]
            )
        )
        assert entry["clipped"].keys() == table.tensors.keys()
        assert entry["layers"]
        assert all(0 < layer["embedding_cosine"] <= 1.0001 for layer in entry["layers"])
    assert "image_psnr_db" in report["encoder"]["layers"][0]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1 + 3 * 4
    for picture in out.glob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 50
    assert calibrate(*arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_bad_requests_are_one_line_and_exit_code_2(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (tiny_folder, "--calibration", "procedural:240", "--quiet", "--out", tmp_path / "x")
    assert calibrate(*common, "--calibrator", "magic") == 2
    assert "no calibrator 'magic'" in capsys.readouterr().err
    assert calibrate(*common, "--target-db", 300) == 2
    assert "cannot reach 300 dB" in capsys.readouterr().err
    (tmp_path / "photos").mkdir()
    assert calibrate(*common[:-1], tmp_path / "photos", "--force") == 2
    assert "not a calibration report" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_images_that_cannot_be_read_are_left_out_and_said(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random, lines = np.random.default_rng(0), ["path,age"]
    for number in range(240):
        pixels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{15 + 10 * (number % 6)}")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "faces.csv").write_text("\n".join([*lines, "broken.png,30", "absent.png,30"]))
    arguments = (tiny_folder, "--calibration", f"csv:{tmp_path / 'faces.csv'}", "--out", tmp_path / "out")
    assert calibrate(*arguments, "--calibrator", "minmax", "--quiet") == 0
    said = capsys.readouterr().err
    assert "2 images of the source were left out: 1 missing image, 1 unreadable" in said
