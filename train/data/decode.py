"""From a file's bytes to the square training image: the one place where pixels are made."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from edgeage.train.data.listing import BoxOf, Pixels

# Anything larger is no face crop; a decompression bomb must not take the machine down.
_MOST_PIXELS = 60_000_000
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
# A crop may be off square by a pixel or two; beyond that it is another framing.
_SQUARE_TOLERANCE = 0.02


class UnusableImage(Exception):
    """Why an image cannot be used: the reason under which it is counted."""


def decode(data: bytes, image_size: int, box: BoxOf | None = None) -> Pixels:
    """Decode to uint8 RGB [image_size, image_size, 3], averaging areas on the way down.

    Args:
        data: bytes of an image file (JPEG, PNG, ...); EXIF rotation is applied.
        image_size: side of the result in pixels.
        box: gives the square to cut for a (width, height); parts outside the image repeat its edge.

    Raises UnusableImage with a short reason.
    """
    image = open_image(data)
    if box is not None:
        cut = box(image.size)
        if cut is None:
            raise UnusableImage("face box outside the image")
        image = _cut(image, cut)
    width, height = image.size
    if abs(width - height) > _SQUARE_TOLERANCE * max(width, height):
        raise UnusableImage("not a square face crop")
    if min(width, height) < image_size:
        raise UnusableImage(f"smaller than {image_size} px")
    if width == height and width % image_size == 0:
        small = image.reduce(width // image_size) if width > image_size else image
    else:
        small = image.resize((image_size, image_size), Image.Resampling.BOX)
    return np.array(small, dtype=np.uint8)


def open_image(data: bytes) -> Image.Image:
    """Decode to an upright RGB image; UnusableImage says why not."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise UnusableImage("too large")
            if opened.mode not in _MODES:
                raise UnusableImage(f"unsupported pixel format {opened.mode}")
            opened.load()
            # transparent pixels have no colour of their own; a palette may hide them
            if "A" in opened.mode or "transparency" in opened.info:
                over = Image.new("RGBA", opened.size, "white")
                over.alpha_composite(opened.convert("RGBA"))
                return ImageOps.exif_transpose(over).convert("RGB")
            return ImageOps.exif_transpose(opened).convert("RGB")
    except UnusableImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableImage("too large") from None
    except Exception:
        # Pillow's format plug-ins raise whatever broken data provokes: OSError, ValueError,
        # SyntaxError, struct.error, ... All of them mean the same here.
        raise UnusableImage("unreadable") from None


def _cut(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """Cut a box given in pixels; what lies outside the image repeats the nearest edge pixel."""
    left, top, right, bottom = (round(value) for value in box)
    width, height = image.size
    columns = np.arange(left, right).clip(0, width - 1)
    rows = np.arange(top, bottom).clip(0, height - 1)
    if len(columns) < 1 or len(rows) < 1:
        raise UnusableImage("face box outside the image")
    inside = image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    pixels = np.asarray(inside)
    return Image.fromarray(pixels[np.ix_(rows - rows[0], columns - columns[0])])
