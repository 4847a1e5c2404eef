"""UTKFace, as a folder or a .tar: the age stands in the file name, AGE_GENDER_RACE_DATE...jpg."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgeage.errors import EdgeageError
from edgeage.train.data.faces import UNKNOWN
from edgeage.train.data.listing import Listing, Record, stamp

# Three files of the release lack the race field and one has a blank before the dot: the age is plain.
_NAME = re.compile(r"(?P<age>[0-9]{1,3})_(?P<gender>[01])(?:_(?P<race>[0-4]))?_[0-9]{14,20} ?\.")
_SUFFIXES = (".jpg", ".jpeg", ".png")
OLDEST = 120


def age_in_name(name: str) -> int | None:
    """Age in years in a UTKFace file name; None if the name is malformed or leaves the age in doubt.

    >>> age_in_name("26_1_0_20170116192021430.jpg.chip.jpg")
    26
    """
    match = _NAME.match(name)
    if match is None or int(match["age"]) > OLDEST:
        return None
    # With one field missing, a first field of 0 or 1 may as well be the gender of an image without age.
    if match["race"] is None and int(match["age"]) <= 1:
        return None
    return int(match["age"])


def labels_in_name(name: str) -> tuple[int, int]:
    """Numbers of gender and race in a UTKFace file name; -1, unknown, where the name leaves them in doubt.

    >>> labels_in_name("26_1_0_20170116192021430.jpg.chip.jpg")
    (1, 0)
    """
    match = _NAME.match(name)
    # with one field missing nobody knows whether the one that is there is the gender
    if match is None or match["race"] is None:
        return UNKNOWN, UNKNOWN
    return int(match["gender"]), int(match["race"])


def list_utkface(path: Path) -> Listing:
    """Records of a folder (searched recursively) or of a tar file, which is not unpacked.

    The id of an image is its bare file name, so that folder and tar give the same faces and splits.
    Raises EdgeageError if the path is neither.
    """
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file())
        return _listing([(file.name, _stamp_or_missing(file), file.read_bytes) for file in files])
    if not path.is_file():
        raise EdgeageError(f"no UTKFace folder or tar file at {path}")
    try:
        # Open for as long as the records are read; the listing's `close` ends it.
        archive = tarfile.open(path)  # noqa: SIM115
    except (tarfile.TarError, OSError, EOFError) as error:
        raise EdgeageError(f"{path} is not a readable tar file: {error}") from None
    try:
        members = [member for member in archive if member.isfile()]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        archive.close()
        raise EdgeageError(f"{path} is not a readable tar file: {error}") from None
    whole = stamp(path)
    listing = _listing(
        [
            (member.name.rsplit("/", 1)[-1], f"{whole}:{member.size}", partial(_read, archive, member))
            for member in members
        ]
    )
    listing.close = archive.close
    return listing


def _listing(files: list[tuple[str, str, Callable[[], bytes]]]) -> Listing:
    listing = Listing()
    seen: set[str] = set()
    for name, file_stamp, read in files:
        if not name.lower().endswith(_SUFFIXES):
            listing.drops["not an image file"] += 1
            continue
        age = age_in_name(name)
        if age is None:
            listing.drops["malformed name"] += 1
        elif name in seen:
            listing.drops["name seen twice"] += 1
        else:
            seen.add(name)
            gender, race = labels_in_name(name)
            listing.records.append(Record(name, age, read, file_stamp, gender=gender, race=race))
    return listing


def _stamp_or_missing(path: Path) -> str:
    try:
        return stamp(path)
    except OSError:
        return "missing"


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        stream = archive.extractfile(member)
        data = stream.read() if stream is not None else b""
    except tarfile.TarError as error:
        raise OSError(str(error)) from None
    if len(data) != member.size:
        raise OSError(f"{member.name} is cut short")
    return data
