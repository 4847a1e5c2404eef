"""The picture grid: what the figures are about, for eyes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeage.train.data.listing import Pixels

_SIDE = 96  # of a face on paper, in pixels
_CAPTION = 16
_LEFT = 64


def spread(groups: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indices of about `count` faces, spread over the age groups, the youngest first."""
    ranks = np.empty(len(groups), np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        ranks[members] = np.arange(len(members))
    chosen = np.lexsort((groups, ranks))[:count]
    return chosen[np.argsort(groups[chosen], kind="stable")]


def grid(columns: dict[str, Pixels], rows: list[str]) -> Image.Image:
    """Columns of uint8 [n, S, S, 3] under their captions, with a text before each of the n rows."""
    paper = Image.new("RGB", (_LEFT + _SIDE * len(columns), _CAPTION + _SIDE * len(rows)), "white")
    draw = ImageDraw.Draw(paper)
    font = ImageFont.load_default(12)
    for column, (caption, faces) in enumerate(columns.items()):
        left = _LEFT + column * _SIDE
        draw.text((left + _SIDE / 2, 1), caption, "black", font, anchor="ma")
        for row, face in enumerate(faces):
            shown = Image.fromarray(face).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            paper.paste(shown, (left, _CAPTION + row * _SIDE))
    for row, text in enumerate(rows):
        draw.text((_LEFT - 4, _CAPTION + (row + 0.5) * _SIDE), text, "black", font, anchor="rm")
    return paper
