"""Pictures of a photo and its aged forms together: the strip, and what other sheets share."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

ORIGINAL = "original"
STRIP = "strip.png"
Box = tuple[float, float, float, float]
Mark = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

_STRIP_HEIGHT = 320  # pixels; a strip is for looking at, the photos beside it have full resolution
_LABEL_HEIGHT = 30
_GAP = 6
_ROOM = 0.6  # around the faces, in widths of the largest


class Sheet(Protocol):
    """A file made from a photo and its aged forms. It keeps no picture of their size.

    Attributes:
        name: of the file.
        is_picture: of a format that holds a label in its metadata.
    """

    name: str
    is_picture: bool

    def add(self, label: str, pixels: NDArray[np.uint8]) -> None:
        """The photo (`ORIGINAL`, first) or one of its aged forms, uint8 [H, W, 3]."""

    def content(self, mark: Mark) -> bytes:
        """The file, when all have been added; `mark` is done to each of its pictures' pixels."""


class Strip:
    """The faces in the photo and in its aged forms side by side, labelled, as PNG."""

    name, is_picture = STRIP, True

    def __init__(self, boxes: Sequence[Box]) -> None:
        self._boxes = boxes
        self._tiles: dict[str, Image.Image] = {}

    def add(self, label: str, pixels: NDArray[np.uint8]) -> None:
        self._tiles[label] = faces_of(pixels, self._boxes, _STRIP_HEIGHT)

    def content(self, mark: Mark) -> bytes:
        tiles = list(self._tiles.values())
        width = len(tiles) * (tiles[0].width + _GAP) - _GAP
        sheet = Image.new("RGB", (width, _STRIP_HEIGHT + _LABEL_HEIGHT), "white")
        for index, (label, tile) in enumerate(self._tiles.items()):
            left = index * (tile.width + _GAP)
            sheet.paste(tile, (left, 0))
            write_label(sheet, label, (left + tile.width / 2, _STRIP_HEIGHT + _LABEL_HEIGHT / 2), "black")
        return png(mark(np.asarray(sheet)))


def faces_of(pixels: NDArray[np.uint8], boxes: Sequence[Box], height: int) -> Image.Image:
    """The part of a photo, uint8 [H, W, 3], that shows all boxes with some room, `height` pixels high."""
    edges = np.array(boxes)
    room = _ROOM * (edges[:, 2] - edges[:, 0]).max()
    low = np.clip(edges[:, :2].min(axis=0) - room, 0, None)
    high = np.minimum(edges[:, 2:].max(axis=0) + room, [pixels.shape[1], pixels.shape[0]])
    (left, top), (right, bottom) = np.floor(low).astype(int), np.ceil(high).astype(int)
    size = max(round((right - left) * height / (bottom - top)), 1), height
    part = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    return part.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def write_label(picture: Image.Image, text: str, middle: tuple[float, float], colour: str) -> None:
    font = ImageFont.load_default(size=18)  # Pillow's own: no system font
    ImageDraw.Draw(picture).text(middle, text, fill=colour, font=font, anchor="mm")


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)  # lossless at any level; 1 is fastest
    return stream.getvalue()
