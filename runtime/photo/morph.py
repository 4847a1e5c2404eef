"""An animation that goes from age group to age group and back.

Aged photos differ from each other under the mask alone and lie pixel on pixel, so a cross-fade is a morph.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeage.errors import EdgeageError
from edgeage.runtime.photo.sheets import ORIGINAL, Box, Mark, faces_of, write_label

KINDS = ("gif", "webp")
_HEIGHT = 360  # pixels
_BAR = 32
_HOLD_MS, _FADE_MS, _FADE_FRAMES = 700, 60, 6


def check_kind(kind: str) -> str:
    """`kind` if it is one of `KINDS`, else EdgeageError."""
    if kind not in KINDS:
        raise EdgeageError(f"unknown kind of morph {kind!r}; choose {' or '.join(KINDS)}")
    return kind


class Morph:
    """A looping GIF or WebP over the aged forms in the order in which they are added."""

    def __init__(self, kind: str, boxes: Sequence[Box]) -> None:
        self.name, self.is_picture = f"morph.{check_kind(kind)}", True
        self._kind, self._boxes = kind, boxes
        self._stills: dict[str, Image.Image] = {}

    def add(self, label: str, pixels: NDArray[np.uint8]) -> None:
        if label != ORIGINAL:
            self._stills[label] = faces_of(pixels, self._boxes, _HEIGHT)

    def content(self, mark: Mark) -> bytes:
        self._stills = {
            label: Image.fromarray(mark(np.asarray(still))) for label, still in self._stills.items()
        }
        frames, milliseconds = self._frames()
        stream = io.BytesIO()
        options = {"save_all": True, "append_images": frames[1:], "duration": milliseconds, "loop": 0}
        if self._kind == "webp":
            frames[0].save(stream, "WEBP", quality=80, method=2, **options)
        else:
            # One palette for all: a palette of each frame's own would flicker.
            palette = _side_by_side(frames[:: _FADE_FRAMES // 2]).quantize(256, Image.Quantize.MEDIANCUT)
            indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
            indexed[0].save(stream, "GIF", **{**options, "append_images": indexed[1:]})
        return stream.getvalue()

    def _frames(self) -> tuple[list[Image.Image], list[int]]:
        """There and back: the first and the last still are held once a round."""
        labels = list(self._stills)
        way = [*labels, *labels[-2:0:-1]]
        frames, milliseconds = [], []
        for index, label in enumerate(way):
            frames.append(_with_bar(self._stills[label], label))
            milliseconds.append(_HOLD_MS)
            following = way[(index + 1) % len(way)]
            for step in range(1, _FADE_FRAMES if following != label else 0):
                share = (1 - np.cos(np.pi * step / _FADE_FRAMES)) / 2  # slow at both ends
                mixed = Image.blend(self._stills[label], self._stills[following], float(share))
                frames.append(_with_bar(mixed, label if share < 0.5 else following))
                milliseconds.append(_FADE_MS)
        return frames, milliseconds


def _with_bar(still: Image.Image, label: str) -> Image.Image:
    frame = Image.new("RGB", (still.width, still.height + _BAR), "black")
    frame.paste(still, (0, 0))
    write_label(frame, label, (still.width / 2, still.height + _BAR / 2), "white")
    return frame


def _side_by_side(frames: Sequence[Image.Image]) -> Image.Image:
    width, height = frames[0].size
    sheet = Image.new("RGB", (len(frames) * width, height))
    for index, frame in enumerate(frames):
        sheet.paste(frame, (index * width, 0))
    return sheet
