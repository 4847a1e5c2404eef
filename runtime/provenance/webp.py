"""Metadata of WebP files, byte for byte: an XMP chunk is added and read, the picture never touched.

RFC 9649, 2.7 (extended file format).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from edgeage.runtime.provenance.texts import Extracted, Texts, damaged

_XMP_FLAG, _ALPHA_FLAG = 0x04, 0x10


def is_webp(content: bytes) -> bool:
    return content[:4] == b"RIFF" and content[8:12] == b"WEBP"


def insert(content: bytes, texts: Texts) -> bytes:
    """The file with the packet in its XMP chunk, last of all; a simple file becomes an extended one."""
    chunks = [(kind, data) for kind, data in _chunks(content) if kind != b"XMP "]
    if not chunks:
        raise damaged("WebP", "it holds no picture")
    if chunks[0][0] != b"VP8X":
        chunks.insert(0, (b"VP8X", _extended(*chunks[0])))
    header = chunks[0][1]
    if len(header) < 10:
        raise damaged("WebP", "its VP8X chunk is too short")
    chunks[0] = (b"VP8X", bytes([header[0] | _XMP_FLAG]) + header[1:])
    body = b"WEBP" + b"".join(_chunk(kind, data) for kind, data in (*chunks, (b"XMP ", texts.xmp)))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extract(content: bytes) -> Extracted:
    """The packet of a file; EdgeageError where a chunk runs over its end."""
    found = [data for kind, data in _chunks(content) if kind == b"XMP "]
    return Extracted(found[0] if found else None)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place, end = 12, min(8 + struct.unpack_from("<I", content, 4)[0], len(content))
    while place + 8 <= end:
        kind, (length,) = content[place : place + 4], struct.unpack_from("<I", content, place + 4)
        if place + 8 + length > end:
            raise damaged("WebP", f"its chunk {kind.decode('latin-1')!r} runs over the end of the file")
        yield kind, content[place + 8 : place + 8 + length]
        place += 8 + length + length % 2


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _extended(kind: bytes, data: bytes) -> bytes:
    """A VP8X header for the picture of a simple file."""
    if kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a" and len(data) >= 10:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 6))
        alpha = False
    elif kind == b"VP8L" and data[:1] == b"\x2f" and len(data) >= 5:
        bits = int.from_bytes(data[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        alpha = bool(bits >> 28 & 1)
    else:
        raise damaged("WebP", "its picture has no header")
    flags = _ALPHA_FLAG if alpha else 0
    return struct.pack("<I", flags) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
