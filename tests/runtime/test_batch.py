"""`edgeage age` on several photos and folders: mirrored, complete or absent, resumed, reported."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeage import cli, files
from edgeage.commands.age_batch import RECORD, find_photos
from edgeage.errors import EdgeageError
from edgeage.runtime.job import Job

PICTURES = {"age-60+.png", "strip.png", RECORD}


@pytest.fixture
def folder(tmp_path: Path, sample: Path) -> Path:
    """Three good photos, two broken ones, and what is no photo."""
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/a.jpg", "sub/b.JPG"):
        shutil.copy(sample, photos / name)
    (photos / "broken.jpg").write_bytes(sample.read_bytes()[:20_000])
    Image.new("RGB", (90, 60), "green").save(photos / "empty.png")
    (photos / "notes.txt").write_text("roses are red")
    (photos / ".hidden.jpg").write_bytes(b"no")
    return photos


@pytest.fixture
def age(capfd: pytest.CaptureFixture[str], built_bundle: Path, tmp_path: Path):
    """`edgeage age ... --groups 60+` into tmp_path/out: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        usual = ["--out", tmp_path / "out", "--bundle", built_bundle, "--engine", "onnxruntime"]
        with pytest.raises(SystemExit) as caught:
            cli.main([str(word) for word in ("age", *arguments, *usual, "--groups", "60+")])
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def results(out: Path) -> set[str]:
    return {path.parent.relative_to(out).as_posix() for path in out.rglob(RECORD)}


def test_a_folder_is_mirrored_and_what_fails_is_reported(age, folder: Path, tmp_path: Path) -> None:
    code, out, err = age(folder)
    assert code == 1
    assert results(tmp_path / "out") == {"a.jpg", "sub/a.jpg", "sub/b.JPG"}
    assert {path.name for path in (tmp_path / "out" / "sub" / "b.JPG").iterdir()} == PICTURES
    assert "3 aged, 2 failed" in out
    assert err.count("failed ") == 2
    assert "broken.jpg is damaged" in err
    assert "no face found in" in err
    assert "notes.txt" in err
    assert not list((tmp_path / "out").rglob("*tmp*"))


def test_a_rerun_goes_on_and_other_settings_are_no_rerun(age, folder: Path, tmp_path: Path) -> None:
    age(folder)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    shutil.rmtree(tmp_path / "out" / "sub" / "a.jpg")
    code, out, _ = age(folder)
    assert code == 1
    assert "1 aged, 2 done already, 2 failed" in out
    assert all(path.stat().st_mtime_ns == made[path] for path in made if "sub/a" not in path.as_posix())
    code, out, err = age(folder / "a.jpg", folder / "sub" / "b.JPG", "--strength", "0.5")
    assert code == 1
    assert "made with other settings" in err
    code, out, _ = age(folder, "--strength", "0.5", "--force")
    assert "3 aged" in out
    photo = folder / "a.jpg"
    Image.open(photo).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photo)
    assert "from another photo" in age(folder, "--strength", "0.5")[2]


def test_json_as_one_document_and_as_lines(age, folder: Path) -> None:
    code, out, _ = age(folder, "--json")
    document = json.loads(out)
    assert code == 1
    assert document["counts"] == {"aged": 3, "done already": 0, "failed": 2, "not reached": 0}
    assert [Path(path).name for path in document["passed_over"]] == ["notes.txt"]
    by_name = {Path(photo["photo"]).name: photo for photo in document["photos"]}
    assert by_name["b.JPG"]["source_group"] == "30-39"
    assert all(Path(file).is_file() for file in by_name["b.JPG"]["files"])
    lines = [json.loads(line) for line in age(folder, "--json-lines")[1].splitlines()]
    assert [line["status"] for line in lines].count("done already") == 3
    assert len(lines) == 5
    assert "choose one" in age(folder, "--json", "--json-lines")[2]


def test_ctrl_c_keeps_what_is_finished(age, folder: Path, tmp_path: Path, monkeypatch) -> None:
    real, calls = Job.age, []

    def stopping(self: Job, photo: Path, into: Path, **options: bool) -> object:
        calls.append(photo)
        done = real(self, photo, into, **options)
        if len(calls) == 4:  # sub/a.jpg: its pictures are written, its folder has no name yet
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Job, "age", stopping)
    code, out, err = age(folder)
    assert code == 130
    assert "1 aged, 2 failed, 2 not reached" in out
    assert "stopped" in err
    assert results(tmp_path / "out") == {"a.jpg"}
    assert not list((tmp_path / "out").rglob(".*"))
    monkeypatch.undo()
    assert "2 aged, 1 done already" in age(folder)[1]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_stops_the_batch_in_one_line(
    age, folder: Path, tmp_path: Path, monkeypatch, number: int
) -> None:
    real, calls = files.os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) > 5:
            raise OSError(number, errno.errorcode[number])
        real(source, target)

    monkeypatch.setattr("os.replace", replace)
    code, _, err = age(folder)
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith("edgeage: error: cannot write to ")
    assert "1 aged" not in err
    assert "3 finished photos stay" in last or "1 finished photos stay" in last
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_read_only_folder_is_said_before_the_work(age, folder: Path, sample: Path, monkeypatch) -> None:
    real = os.access
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.R_OK and real(path, mode))
    for arguments in ([folder], [sample]):
        code, out, err = age(*arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert "is read-only" in err


def test_wrong_settings_are_said_once(age, folder: Path) -> None:
    for wrong in (["--strength", "9"], ["--morph", "avi"], ["--steps", "0", "--deadline-ms", "5"]):
        code, _, err = age(folder, *wrong)
        assert code == 2
        assert err.count("\n") == 1


def test_which_photos(tmp_path: Path, folder: Path, sample: Path) -> None:
    items, passed_over = find_photos([folder], tmp_path / "out")
    assert [item.name for item in items] == ["a.jpg", "broken.jpg", "empty.png", "sub/a.jpg", "sub/b.JPG"]
    assert len(passed_over) == 1
    items, _ = find_photos([folder, folder / "sub", sample], tmp_path / "out")
    assert {item.name for item in items} >= {"photos/a.jpg", "sub/a.jpg", sample.name}
    assert [item.name for item in find_photos([folder], folder / "sub")[0]] == [
        "a.jpg",
        "broken.jpg",
        "empty.png",
    ]
    with pytest.raises(EdgeageError, match=r"both become a\.jpg"):
        find_photos([folder / "a.jpg", folder / "sub" / "a.jpg"], tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(EdgeageError, match="no photo in"):
        find_photos([tmp_path / "none"], tmp_path / "out")


def test_a_given_group_that_changes_nothing_is_said(age, sample: Path) -> None:
    _, _, err = age(sample, "--mode", "raw", "--from", "30-39")
    assert "the given own group changes nothing" in " ".join(err.split())


def test_the_limit_is_the_users(age, sample: Path, tmp_path: Path) -> None:
    code, _, err = age(sample, "--max-megapixels", "0.2")
    assert code == 2
    assert "the limit is 0.2" in err
    large = tmp_path / "large.png"
    Image.fromarray(np.zeros((300, 900, 3), np.uint8)).save(large)
    assert "no face found" in age(large, "--max-megapixels", "0.3")[2]
    assert "decompression bomb" in age(sample, "--max-megapixels", "200")[2]
