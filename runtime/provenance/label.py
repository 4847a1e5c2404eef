"""The label in a file's metadata: added to an encoded picture and read from any; a photo's stated rights.

Nothing else of the photo's metadata goes on: it is decoded upright and in sRGB, so its orientation and colour
profile would be applied twice; place, time, device and the thumbnail of the unchanged face are private.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from edgeage.errors import EdgeageError
from edgeage.runtime.provenance import gif, jpeg, png, webp
from edgeage.runtime.provenance.claim import LABEL_START, SOURCE_TYPES, Claim
from edgeage.runtime.provenance.texts import Extracted, Texts
from edgeage.runtime.provenance.xmp import Rights, make_xmp, read_xmp

_ARTIST, _COPYRIGHT, _GPS = 0x013B, 0x8298, 0x8825  # EXIF tags
_MOST_LETTERS, _MOST_CREATORS = 1000, 10

MIME_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WebP": "image/webp", "GIF": "image/gif"}


@dataclass(frozen=True)
class Label:
    """What a file's metadata says about AI.

    Attributes:
        source_type: IPTC digital source type, a URI; empty if none is stated.
        text: the plain-text label of edgeage; empty if there is none.
        claim: edgeage's structured claim, if it is there whole.
        problems: what is there but could not be read, one line each.
    """

    source_type: str
    text: str
    claim: Claim | None
    problems: tuple[str, ...] = ()

    @property
    def is_ai(self) -> bool:
        """Whether it says that a trained model made the picture or a part of it, whoever wrote it."""
        name = self.source_type.removeprefix(SOURCE_TYPES)
        trained = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic")
        return bool(self.text or self.claim) or name in trained


def format_of(content: bytes) -> str:
    """ "PNG", "JPEG", "WebP" or "GIF" by the first bytes; EdgeageError for anything else."""
    if content.startswith(png.MAGIC):
        return "PNG"
    if content.startswith(jpeg.MAGIC):
        return "JPEG"
    if content.startswith(gif.MAGICS):
        return "GIF"
    if webp.is_webp(content):
        return "WebP"
    raise EdgeageError("no PNG, JPEG, WebP or GIF file; its metadata cannot be read")


_INSERT: dict[str, Callable[[bytes, Texts], bytes]] = {
    "PNG": png.insert,
    "JPEG": jpeg.insert,
    "WebP": webp.insert,
    "GIF": gif.insert,
}
_EXTRACT: dict[str, Callable[[bytes], Extracted]] = {
    "PNG": png.extract,
    "JPEG": jpeg.extract,
    "WebP": webp.extract,
    "GIF": gif.extract,
}


def add_label(content: bytes, claim: Claim, rights: Rights | None = None) -> bytes:
    """An encoded PNG, JPEG, WebP or GIF with the claim in its metadata; the pixels are not touched.

    An older label and older XMP are replaced. Raises EdgeageError if it is no such file or is damaged.
    """
    kept = rights or Rights()
    texts = Texts(make_xmp(claim, kept), claim.label, f"edgeage {claim.version}", kept.creators, kept.notice)
    return _INSERT[format_of(content)](content, texts)


def read_label(content: bytes) -> Label:
    """What a PNG, JPEG, WebP or GIF says; EdgeageError if it is no such file or is damaged."""
    found = _EXTRACT[format_of(content)](content)
    text = next((one for one in found.texts.values() if one.startswith(LABEL_START)), "")
    if found.xmp is None:
        return Label("", text, None)
    try:
        facts = read_xmp(found.xmp)
    except EdgeageError as error:
        return Label("", text, None, (str(error),))
    described = facts.description if facts.description.startswith(LABEL_START) else ""
    return Label(facts.source_type, text or described, facts.claim)


def read_rights(content: bytes) -> tuple[Rights, tuple[str, ...]]:
    """Creators, copyright notice and earlier AI mark of a photo; notes on what is kept and what is not."""
    notes: list[str] = []
    rights = Rights()
    try:
        found = _EXTRACT[format_of(content)](content)
        if found.xmp is not None:
            rights = read_xmp(found.xmp).rights
    except EdgeageError as error:
        notes.append(f"the photo's metadata: {error}; not kept")
    exif = _exif(content)
    artist, notice = (str(exif.get(tag) or "").strip(" \0") for tag in (_ARTIST, _COPYRIGHT))
    rights = replace(
        rights,
        creators=tuple(
            name[:_MOST_LETTERS]
            for name in (rights.creators or tuple(filter(None, [artist])))[:_MOST_CREATORS]
        ),
        notice=(rights.notice or notice)[:_MOST_LETTERS],
        source_type=rights.source_type[:_MOST_LETTERS],
    )
    if rights.creators or rights.notice:
        notes.append("creator and copyright notice of the photo are kept in the metadata")
    if _GPS in exif:
        notes.append("the photo's GPS position is not kept")
    return rights, tuple(notes)


def _exif(content: bytes) -> Image.Exif:
    """A photo's EXIF, empty where there is none or it is damaged: it decides nothing but a credit line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(content)).getexif()
    except Exception:  # Pillow's readers raise nearly anything on damaged data
        return Image.Exif()
