"""A small mark that people see: "AI-aged" in a dark pill with a light rim, in the lower right corner."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TEXT = "AI-aged"
_SHARE = 0.045  # height of the pill in the shorter side of the picture: legible on a phone, out of the way
_LEAST = 16  # pixels; smaller letters cannot be read
_FINER = 4  # drawn so many times larger and scaled down: smooth edges at every size
_DARK, _LIGHT = (16, 16, 20, 216), (255, 255, 255, 255)


def draw_mark(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of a picture, uint8 [H, W, 3], with the mark; pixels outside of the pill are unchanged.

    In pictures too small for it the mark is as wide as the picture.
    """
    height, width = pixels.shape[:2]
    pill = _pill(max(round(_SHARE * min(height, width)), _LEAST))
    pill.thumbnail((width, height))
    gap = pill.height // 2
    left, top = max(width - pill.width - gap, 0), max(height - pill.height - gap, 0)
    marked: NDArray[np.uint8] = pixels.copy()
    window = marked[top : top + pill.height, left : left + pill.width]
    laid = Image.fromarray(window.copy()).convert("RGBA")
    laid.alpha_composite(pill)
    window[:] = np.asarray(laid)[:, :, :3]
    return marked


def _pill(height: int) -> Image.Image:
    """RGBA of that height."""
    tall = height * _FINER
    font = ImageFont.load_default(size=round(tall * 0.62))  # Pillow's own: no system font
    wide = round(font.getlength(TEXT) + tall * 0.9)
    pill = Image.new("RGBA", (wide, tall), (*_DARK[:3], 0))
    draw = ImageDraw.Draw(pill)
    rim = max(round(tall * 0.06), 1)
    draw.rounded_rectangle((0, 0, wide - 1, tall - 1), tall // 2, fill=_DARK, outline=_LIGHT, width=rim)
    draw.text((wide / 2, tall * 0.48), TEXT, fill=_LIGHT, font=font, anchor="mm")
    return pill.resize((round(wide / _FINER), height), Image.Resampling.BOX)
