"""Metadata of GIF files, byte for byte: extensions are added and read, the pictures never touched.

CompuServe GIF89a; XMP specification part 3, 1.1.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeage.runtime.provenance.claim import LABEL_START
from edgeage.runtime.provenance.texts import Extracted, Texts, damaged

MAGICS = (b"GIF87a", b"GIF89a")
_COMMENT, _APPLICATION = 0xFE, 0xFF
_XMP = b"\x0bXMP DataXMP"
# A reader that skips blocks by their lengths lands somewhere in this and is led to the zero at its end.
_TRAILER = b"\x01" + bytes(range(255, -1, -1)) + b"\0"


def insert(content: bytes, texts: Texts) -> bytes:
    """The file, as GIF89a, with comment and XMP before its first picture; older ones of ours are dropped."""
    start = _first_block(content)
    place, kept = start, []
    for kind, body, end in _extensions(content, start):
        if not _is_label(kind, body):
            kept.append(content[place:end])
        place = end
    comment = bytes([0x21, _COMMENT]) + _blocks(texts.label.encode())
    xmp = bytes([0x21, _APPLICATION]) + _XMP + texts.xmp + _TRAILER
    # A loop counter must stay the first extension, or old browsers play the animation once.
    loops = [part for part in kept if part[1] == _APPLICATION]
    others = [part for part in kept if part[1] != _APPLICATION]
    return b"".join((MAGICS[1], content[6:start], *loops, comment, xmp, *others, content[place:]))


def extract(content: bytes) -> Extracted:
    """Comment and packet before the first picture; EdgeageError where a block runs over the file's end."""
    xmp, texts = None, {}
    for kind, body, _ in _extensions(content, _first_block(content)):
        if kind == _COMMENT:
            texts["comment"] = _joined(body).decode("utf-8", "replace")
        elif kind == _APPLICATION and body.startswith(_XMP) and body.endswith(_TRAILER):
            xmp = body[len(_XMP) : -len(_TRAILER)]
    return Extracted(xmp, texts)


def _first_block(content: bytes) -> int:
    """Where the blocks begin, behind the header and the global colour table."""
    if len(content) < 13:
        raise damaged("GIF", "it ends within its header")
    flags = content[10]
    return 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)


def _extensions(content: bytes, place: int) -> Iterator[tuple[int, bytes, int]]:
    """Label, body and end of each extension before the first picture."""
    while content[place : place + 1] == b"\x21":
        start = end = place + 2
        while end < len(content) and content[end]:
            end += content[end] + 1
        if end >= len(content):
            raise damaged("GIF", "a block runs over the end of the file")
        yield content[place + 1], content[start : end + 1], end + 1
        place = end + 1


def _is_label(kind: int, body: bytes) -> bool:
    if kind == _COMMENT:
        return _joined(body).startswith(LABEL_START.encode())
    return kind == _APPLICATION and body.startswith(_XMP)


def _blocks(data: bytes) -> bytes:
    parts = (data[place : place + 255] for place in range(0, len(data), 255))
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _joined(body: bytes) -> bytes:
    data, place = b"", 0
    while body[place]:
        data += body[place + 1 : place + 1 + body[place]]
        place += body[place] + 1
    return data
