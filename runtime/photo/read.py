"""Read a photo of any common kind into upright 8-bit sRGB. The file itself is only ever read."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from edgeage.errors import EdgeageError

# Larger pictures are refused before they are decoded: a small file can promise a huge one. Phones make up
# to 200 megapixels on request, 12 to 50 by default.
MAX_MEGAPIXELS = 80.0
HIGHEST_MEGAPIXELS = 178.0  # where Pillow refuses by itself

# What is asked of Pillow; its other readers (PostScript, PDF, ...) start programs or are never photos.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")

Source = str | os.PathLike[str] | Image.Image | NDArray[Any]


@dataclass(frozen=True)
class Photo:
    """A decoded photo.

    Attributes:
        pixels: uint8 RGB [H, W, 3], upright, sRGB.
        name: file name without folder and suffix; "photo" for a picture from memory.
        notes: what had to be changed to get there, one text each.
    """

    pixels: NDArray[np.uint8]
    name: str
    notes: tuple[str, ...]


def check_limit(max_megapixels: float) -> float:
    """`max_megapixels` if it can be a limit, else EdgeageError."""
    if not 0 < max_megapixels <= HIGHEST_MEGAPIXELS:
        raise EdgeageError(
            f"the limit of megapixels is {max_megapixels:g}; it goes from 0 (exclusive) to "
            f"{HIGHEST_MEGAPIXELS:g}, beyond which Pillow takes a picture for a decompression bomb"
        )
    return max_megapixels


def read_photo(source: Source, max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """Read a file, a PIL image or an array (uint8 or uint16; [H, W], [H, W, 3] or [H, W, 4]).

    EXIF rotation is applied, alpha is laid over white, 16 bits become 8, grey becomes RGB, colour profiles
    and CMYK are converted to sRGB; of several frames the first is taken.

    Raises EdgeageError if it is not a picture, is damaged, has more than `max_megapixels` million
    pixels or holds something that is no photo (e.g. floating point).
    """
    check_limit(max_megapixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_megapixels)
    if isinstance(source, Image.Image):
        _check_size(source.size, "the picture", max_megapixels)
        return _convert(source, "photo", "the picture")
    path = Path(source)
    try:
        content = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else None
    except OSError as error:
        raise EdgeageError(f"cannot read the photo {path}: {error.strerror}") from None
    if content is None:
        raise EdgeageError(f"{path} has more than {_MAX_BYTES >> 20} MiB; make it smaller first")
    image = _open(content, str(path))
    _check_size(image.size, str(path), max_megapixels)
    return _convert(image, path.stem, str(path))


_MAX_BYTES = 512 << 20
_BAND = 256  # rows


def _open(content: bytes, what: str) -> Image.Image:
    """Read the header only; the pixels are decoded after the size is known to be fine."""
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata is Pillow's to skip, sizes are checked here
            return Image.open(io.BytesIO(content), formats=formats)
    except Image.DecompressionBombError:
        raise EdgeageError(
            f"{what} has more than {HIGHEST_MEGAPIXELS:g} megapixels, the highest limit; make it smaller"
        ) from None
    except Exception:  # Pillow's readers raise nearly anything on a damaged header
        hint = "; convert it to JPEG first" if content[4:8] == b"ftyp" else ""
        raise EdgeageError(
            f"{what} is not a picture that can be read (JPEG, PNG, WebP, TIFF, ...){hint}"
        ) from None


def _check_size(size: tuple[int, int], what: str, max_megapixels: float) -> None:
    width, height = size
    if width * height > max_megapixels * 1e6:
        raise EdgeageError(
            f"{what} has {width}x{height} = {width * height / 1e6:.0f} megapixels; the limit is "
            f"{max_megapixels:g}; make it smaller first, or raise the limit with --max-megapixels"
        )
    if not width or not height:
        raise EdgeageError(f"{what} is empty ({width}x{height})")


def _convert(image: Image.Image, name: str, what: str) -> Photo:
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                notes.append(f"{image.n_frames} frames: the first is used")  # type: ignore[attr-defined]
            image.load()
            profile = image.info.get("icc_profile")
            if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
                image = ImageOps.exif_transpose(image)
                notes.append("turned upright as its EXIF says")
        pixels = _pixels(_to_rgb(image, profile, notes))
    except EdgeageError as error:
        raise EdgeageError(f"{what}: {error}") from None
    except MemoryError:
        raise EdgeageError(f"{what} does not fit in memory; make it smaller first") from None
    except Exception as error:  # as for the header: any exception here means damaged data
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EdgeageError(f"{what} is damaged: {reason}") from None
    return Photo(pixels, name, tuple(notes))


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """The image as an array that may be written to; in bands, which takes no second copy of it all."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _BAND):
        bottom = min(top + _BAND, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _to_rgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """8-bit sRGB from any mode that a photo has."""
    if image.mode.startswith("I"):
        notes.append("16 bits per channel: reduced to 8")
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode in ("1", "P", "PA", "La", "RGBa"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode == "LA":
        image = image.convert("RGBA")
    if image.mode == "L" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA" or (image.mode == "RGB" and "transparency" in image.info):
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.append("transparency: laid over white")
        colour = _to_srgb(image.convert("RGB"), profile, notes)
        white = Image.new("RGB", image.size, "white")
        return Image.composite(colour, white, image.getchannel("A"))
    if image.mode not in ("L", "RGB", "CMYK", "YCbCr", "LAB", "HSV"):
        raise EdgeageError(f"pictures of mode {image.mode} are not photos; convert it to 8-bit RGB first")
    return _to_srgb(image, profile, notes)


def _to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """16-bit values (also when kept in 32 bits) to 8 bits, rounded."""
    return np.asarray((np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257, dtype=np.uint8)


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Through the embedded colour profile if there is one that works, else by Pillow's formulas."""
    if image.mode == "LAB":
        raise EdgeageError("pictures in Lab colours are not supported; convert it to 8-bit RGB first")
    if not profile:
        if image.mode == "CMYK":
            notes.append("CMYK without a colour profile: colours are approximate")
        return image if image.mode == "RGB" else image.convert("RGB")  # converting always copies
    from PIL import ImageCms

    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(given).lower() and image.mode == "RGB":
            return image
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, given, srgb, outputMode="RGB")
        assert converted is not None  # not in place
        notes.append("colour profile: converted to sRGB")
        return converted
    except (ImageCms.PyCMSError, OSError, ValueError):
        notes.append("its colour profile is damaged or unfit: ignored")
        return image.convert("RGB")


def _from_array(array: NDArray[Any], max_megapixels: float) -> Photo:
    grey = array.ndim == 2
    if not grey and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise EdgeageError(
            f"an array photo is [H, W], [H, W, 3] or [H, W, 4]; this one is {list(array.shape)}"
        )
    if array.dtype not in (np.uint8, np.uint16):
        raise EdgeageError(f"an array photo is uint8 or uint16; this one is {array.dtype}; convert it first")
    _check_size((array.shape[1], array.shape[0]), "the array", max_megapixels)
    notes = []
    if array.dtype == np.uint16:
        notes.append("16 bits per channel: reduced to 8")
        array = _to_8_bits(array)
    photo = _convert(Image.fromarray(np.ascontiguousarray(array)), "photo", "the array")
    return Photo(photo.pixels, photo.name, (*notes, *photo.notes))
