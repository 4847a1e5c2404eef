"""Read every mark of a file back: the label in its metadata, its C2PA manifest, its watermark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.runtime.photo.read import read_photo
from edgeage.runtime.provenance import credentials, watermark
from edgeage.runtime.provenance.credentials import Credentials
from edgeage.runtime.provenance.label import Label, read_label


@dataclass(frozen=True)
class Report:
    """What a file says about its making.

    Attributes:
        file: its path.
        label: of its metadata; None where the format's metadata cannot be read.
        c2pa: its manifest; None if there is none, or if c2pa-python is absent (see `problems`).
        watermark: edgeage's, found in the pixels; None if there is none.
        problems: what could not be read or checked, one line each.
    """

    file: str
    label: Label | None
    c2pa: Credentials | None
    watermark: watermark.Found | None
    problems: tuple[str, ...]

    @property
    def found(self) -> bool:
        """Whether any mark says that AI had a part in it, or a C2PA manifest says anything at all."""
        return bool((self.label and self.label.is_ai) or self.c2pa or self.watermark)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "found": self.found}


def examine(path: Path, trust: str | None = None) -> Report:
    """Read all marks of a file. `trust`: PEM of certificates whose C2PA signers are trusted.

    A damaged mark is reported, not raised. EdgeageError if the file cannot be read, or is no picture and has
    no C2PA manifest either.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EdgeageError(f"cannot read {path}: {error.strerror}") from None
    problems: list[str] = []
    manifest = None
    if credentials.is_installed():
        try:
            manifest = credentials.read(content, trust=trust)
        except EdgeageError as error:
            problems.append(str(error))
    else:
        problems.append(f"C2PA not checked: c2pa-python is not installed ({credentials.INSTALL})")
    label = None
    try:
        label = read_label(content)
        problems += label.problems
    except EdgeageError as error:
        problems.append(str(error))
    found = None
    try:
        found = watermark.detect(read_photo(path).pixels)
    except EdgeageError as error:
        if label is None and manifest is None:
            raise
        problems.append(f"watermark not looked for: {error}")
    return Report(str(path), label, manifest, found, tuple(problems))
