"""Write the aged photos and a strip of them all: every file or none, never over others unasked."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeage.errors import EdgeageError
from edgeage.runtime.provenance.marking import Provenance

STRIP = "strip.png"
_STRIP_HEIGHT = 320  # pixels; a strip is for looking at, the photos beside it have full resolution
_LABEL_HEIGHT = 30
_GAP = 6
_ROOM = 0.6  # around the faces, in widths of the largest


def photo_name(group: str) -> str:
    """File name of the photo of an age group: "age-60+.png"."""
    return f"age-{group}.png"


def check_output(folder: Path, names: list[str], *, force: bool = False) -> None:
    """EdgeageError if `folder` cannot be one, or holds one of `names` and `force` is not set."""
    if folder.exists() and not folder.is_dir():
        raise EdgeageError(f"{folder} is a file; give a folder with --out")
    if not force and (there := [name for name in names if (folder / name).exists()]):
        raise EdgeageError(f"{folder} holds {there[0]} already; choose another --out or pass --force")


def write_photos(
    folder: Path,
    photo: NDArray[np.uint8],
    aged: Mapping[str, NDArray[np.uint8]],
    boxes: Sequence[tuple[float, float, float, float]],
    *,
    provenance: Provenance | None,
    force: bool = False,
) -> list[Path]:
    """Write one lossless PNG per group and the strip; gives their paths, the strip last.

    `photo` and each of `aged` are uint8 [H, W, 3], `boxes` the faces to show in the strip. `provenance` marks
    them (see `Provenance.of`); None, which must be said, writes them unmarked.
    Raises EdgeageError, leaving `folder` as it was, if a file is there already (without `force`) or one
    cannot be marked or written.
    """
    pictures = {photo_name(group): _encoded(pixels, provenance, group) for group, pixels in aged.items()}
    pictures[STRIP] = _encoded(strip(photo, aged, boxes), provenance)
    check_output(folder, list(pictures), force=force)
    new = not folder.exists()
    staged: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in pictures.items():
            temporary = folder / f".{name}.tmp-{os.getpid()}"
            staged[temporary] = folder / name
            temporary.write_bytes(content)
        for temporary, path in staged.items():
            os.replace(temporary, path)
    except OSError as error:
        for temporary in staged:
            temporary.unlink(missing_ok=True)
        if new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise EdgeageError(f"cannot write to {folder}: {error.strerror}") from None
    return list(staged.values())


def strip(
    photo: NDArray[np.uint8],
    aged: Mapping[str, NDArray[np.uint8]],
    boxes: Sequence[tuple[float, float, float, float]],
) -> NDArray[np.uint8]:
    """The faces in the photo and in its aged forms side by side, labelled, uint8 [height, width, 3]."""
    window = _window(boxes, photo.shape)
    width, height = window[2] - window[0], window[3] - window[1]
    size = max(round(width * _STRIP_HEIGHT / height), 1), _STRIP_HEIGHT
    pictures = {"original": photo, **aged}
    total = len(pictures) * (size[0] + _GAP) - _GAP
    sheet = Image.new("RGB", (total, _STRIP_HEIGHT + _LABEL_HEIGHT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)  # Pillow's own: no system font
    for index, (label, pixels) in enumerate(pictures.items()):
        left = index * (size[0] + _GAP)
        small = Image.fromarray(pixels).crop(window).resize(size, Image.Resampling.LANCZOS)
        sheet.paste(small, (left, 0))
        place = (left + size[0] / 2, _STRIP_HEIGHT + _LABEL_HEIGHT / 2)
        draw.text(place, label, fill="black", font=font, anchor="mm")
    return np.asarray(sheet)


def _window(
    boxes: Sequence[tuple[float, float, float, float]], shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """The part of a photo of [H, W, ...] that shows all boxes with some room around them."""
    edges = np.array(boxes)
    room = _ROOM * (edges[:, 2] - edges[:, 0]).max()
    low = np.clip(edges[:, :2].min(axis=0) - room, 0, None)
    high = np.minimum(edges[:, 2:].max(axis=0) + room, [shape[1], shape[0]])
    (left, top), (right, bottom) = np.floor(low).astype(int), np.ceil(high).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _encoded(pixels: NDArray[np.uint8], provenance: Provenance | None, group: str | None = None) -> bytes:
    if provenance is None:
        return _png(pixels)
    return provenance.mark_file(_png(provenance.mark_pixels(pixels, group)), group)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3)  # lossless at any level; 3 is fast
    return stream.getvalue()
