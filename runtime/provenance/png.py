"""Metadata of PNG files, byte for byte: chunks are added and read, pixels never touched.

W3C Portable Network Graphics (Third Edition), 11.3.3; XMP specification part 3, 1.1.5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from edgeage.runtime.provenance.texts import Extracted, Texts, damaged

MAGIC = b"\x89PNG\r\n\x1a\n"
_XMP = b"XML:com.adobe.xmp"
_OURS = (_XMP, b"Description", b"Software")
_MAX_TEXT = 1 << 20  # of a compressed text; a small chunk can promise a huge one


def insert(content: bytes, texts: Texts) -> bytes:
    """The file with the texts directly after IHDR; older ones of the same names are dropped."""
    chunks = list(_chunks(content))
    if not chunks or chunks[0][0] != b"IHDR":
        raise damaged("PNG", "it does not begin with IHDR")
    new = [
        (b"iTXt", _XMP + b"\0\0\0\0\0" + texts.xmp),  # not compressed; no language, no translated keyword
        (b"tEXt", b"Description\0" + texts.label.encode("latin-1", "replace")),
        (b"tEXt", b"Software\0" + texts.software.encode("latin-1", "replace")),
    ]
    kept = [
        (kind, data)
        for kind, data in chunks[1:]
        if kind not in (b"iTXt", b"tEXt", b"zTXt") or data.partition(b"\0")[0] not in _OURS
    ]
    return MAGIC + b"".join(_chunk(kind, data) for kind, data in (chunks[0], *new, *kept))


def extract(content: bytes) -> Extracted:
    """The texts of a file; EdgeageError where a chunk runs over its end."""
    xmp, texts = None, {}
    for kind, data in _chunks(content):
        keyword, _, rest = data.partition(b"\0")
        if kind == b"tEXt":
            texts[keyword.decode("latin-1")] = rest.decode("latin-1")
        elif kind == b"zTXt":
            texts[keyword.decode("latin-1")] = _inflate(rest[1:]).decode("latin-1")
        elif kind == b"iTXt" and len(rest) >= 2:
            text = rest[2:].split(b"\0", 2)[-1]
            text = _inflate(text) if rest[0] else text
            if keyword == _XMP:
                xmp = text
            else:
                texts[keyword.decode("latin-1")] = text.decode("utf-8", "replace")
    return Extracted(xmp, texts)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and data of each chunk up to IEND."""
    place = len(MAGIC)
    while place + 12 <= len(content):
        (length,), kind = struct.unpack_from(">I", content, place), content[place + 4 : place + 8]
        if place + 12 + length > len(content):
            raise damaged("PNG", f"its chunk {kind.decode('latin-1')!r} runs over the end of the file")
        yield kind, content[place + 8 : place + 8 + length]
        if kind == b"IEND":
            return
        place += 12 + length
    raise damaged("PNG", "it ends before IEND")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT)
    except zlib.error as error:
        raise damaged("PNG", f"a compressed text: {error}") from None
