"""Write the aged photos and a strip of them all: every file or none, never over others unasked."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeage.errors import EdgeageError

STRIP = "strip.png"
_STRIP_HEIGHT = 320  # pixels; a strip is for looking at, the photos beside it have full resolution
_LABEL_HEIGHT = 30
_GAP = 6


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
    *,
    force: bool = False,
) -> list[Path]:
    """Write one lossless PNG per group and the strip; gives their paths, the strip last.

    `photo` and each of `aged` are uint8 [H, W, 3]. Raises EdgeageError, leaving `folder` as it was, if a
    file is there already (without `force`) or cannot be written.
    """
    pictures = {photo_name(group): _png(pixels) for group, pixels in aged.items()}
    pictures[STRIP] = _png(strip(photo, aged))
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


def strip(photo: NDArray[np.uint8], aged: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The photo and its aged forms side by side, labelled, uint8 [height, width, 3]."""
    height, width = photo.shape[:2]
    scale = _STRIP_HEIGHT / height
    size = max(round(width * scale), 1), _STRIP_HEIGHT
    pictures = {"original": photo, **aged}
    total = len(pictures) * (size[0] + _GAP) - _GAP
    sheet = Image.new("RGB", (total, _STRIP_HEIGHT + _LABEL_HEIGHT), "white")
    draw, font = ImageDraw.Draw(sheet), _font()
    for index, (label, pixels) in enumerate(pictures.items()):
        left = index * (size[0] + _GAP)
        small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        sheet.paste(small, (left, 0))
        place = (left + size[0] / 2, _STRIP_HEIGHT + _LABEL_HEIGHT / 2)
        draw.text(place, label, fill="black", font=font, anchor="mm")
    return np.asarray(sheet)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3)  # lossless at any level; 3 is fast
    return stream.getvalue()


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font: no file of this system is needed."""
    return ImageFont.load_default(size=18)
