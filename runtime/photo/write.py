"""Write the aged photos and a strip of them all: every file or none, never over others unasked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import OutputError
from edgeage.runtime.photo.sheets import ORIGINAL, Sheet, Strip, png
from edgeage.runtime.provenance.marking import Provenance


def photo_name(group: str) -> str:
    """File name of the photo of an age group: "age-60+.png"."""
    return f"age-{group}.png"


def check_output(folder: Path, names: list[str], *, force: bool = False) -> None:
    """OutputError if `folder` cannot be one, is read-only, or holds one of `names` without `force`."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; give a folder with --out")
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {folder}: {nearest} is read-only; choose another --out")
    if not force and (there := [name for name in names if (folder / name).exists()]):
        raise OutputError(f"{folder} holds {there[0]} already; choose another --out or pass --force")


def write_photos(
    folder: Path,
    photo: NDArray[np.uint8],
    aged: Mapping[str, NDArray[np.uint8]],
    boxes: Sequence[tuple[float, float, float, float]],
    *,
    provenance: Provenance | None,
    sheets: Sequence[Sheet] = (),
    force: bool = False,
) -> list[Path]:
    """Write one lossless PNG per group, `sheets` and the strip; gives their paths, the strip last.

    `photo` and each of `aged` are uint8 [H, W, 3], `boxes` the faces to show in the strip. Each aged photo is
    looked up once and written before the next, so that no two are in memory. `provenance` marks the files
    (see `Provenance.of`); None, which must be said, writes them unmarked.
    Raises OutputError, leaving `folder` as it was, if a file is there already (without `force`) or cannot be
    written, EdgeageError if it cannot be marked.
    """
    sheets = [*sheets, Strip(boxes)]
    check_output(folder, [*map(photo_name, aged), *(sheet.name for sheet in sheets)], force=force)
    new = not folder.exists()
    staged: dict[Path, Path] = {}
    for sheet in sheets:
        sheet.add(ORIGINAL, photo)
    try:
        folder.mkdir(parents=True, exist_ok=True)

        def stage(name: str, content: bytes) -> None:
            temporary = folder / f".{name}.tmp-{os.getpid()}"
            staged[temporary] = folder / name
            temporary.write_bytes(content)

        for group in aged:
            pixels = aged[group]
            stage(photo_name(group), _encoded(pixels, group, provenance))
            for sheet in sheets:
                sheet.add(group, pixels)
        for sheet in sheets:
            content = sheet.content(provenance.mark_pixels if provenance else lambda pixels: pixels)
            stage(sheet.name, provenance.mark_file(content) if provenance and sheet.is_picture else content)
        for temporary, path in staged.items():
            os.replace(temporary, path)
    except BaseException as error:  # Ctrl-C leaves nothing behind either
        for temporary in staged:
            temporary.unlink(missing_ok=True)
        if new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"cannot write to {folder}: {error.strerror}") from None
        raise
    return list(staged.values())


def _encoded(pixels: NDArray[np.uint8], group: str, provenance: Provenance | None) -> bytes:
    if provenance is None:
        return png(pixels)
    return provenance.mark_file(png(provenance.mark_pixels(pixels, group)), group)
