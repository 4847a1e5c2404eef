"""Metadata of JPEG files, byte for byte: segments are added and read, the compressed picture never touched.

ISO/IEC 10918-1 annex B; XMP specification part 3, 1.1.3; IPTC IIM 4.2 inside Photoshop image resources.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

from edgeage.runtime.provenance.claim import LABEL_START
from edgeage.runtime.provenance.texts import Extracted, Texts, damaged

MAGIC = b"\xff\xd8\xff"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_EXIF = b"Exif\0\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_APP0, _APP1, _APP13, _COMMENT, _SCAN, _END = 0xE0, 0xE1, 0xED, 0xFE, 0xDA, 0xD9
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length
_MAX_SEGMENT = 65533

# IIM data sets: the name under which they are read, record and number, bytes at most
_DATA_SETS = {
    "program": (2, 65, 32),
    "by-line": (2, 80, 32),
    "copyright": (2, 116, 128),
    "caption": (2, 120, 2000),
}


def insert(content: bytes, texts: Texts) -> bytes:
    """The file with XMP, IPTC IIM and a comment after APP0 and EXIF; older ones of ours are dropped."""
    first: list[bytes] = []
    rest: list[bytes] = []
    scan = len(MAGIC)
    for kind, data, end in _segments(content):
        scan = end
        if kind == _SCAN:
            break
        if _is_label(kind, data):
            continue
        head = kind == _APP0 or (kind == _APP1 and data.startswith(_EXIF))
        (first if head and not rest else rest).append(_segment(kind, data))
    new = [
        _segment(_APP1, _XMP + texts.xmp),
        _segment(_APP13, _PHOTOSHOP + _resources(texts)),
        _segment(_COMMENT, texts.label.encode()),
    ]
    return b"".join((MAGIC[:2], *first, *new, *rest, content[scan:]))


def extract(content: bytes) -> Extracted:
    """The texts before the picture's data; EdgeageError where a segment runs over the file's end."""
    xmp, texts = None, {}
    for kind, data, _ in _segments(content):
        if kind == _APP1 and data.startswith(_XMP):
            xmp = data[len(_XMP) :]
        elif kind == _COMMENT:
            texts["comment"] = data.decode("utf-8", "replace")
        elif kind == _APP13 and data.startswith(_PHOTOSHOP):
            texts.update(_read_resources(data[len(_PHOTOSHOP) :]))
    return Extracted(xmp, texts)


def _segments(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, data, and where what follows begins; of the scan and the end marker, where they begin."""
    place = 2
    while True:
        start = place
        while content[place : place + 1] == b"\xff":  # fill bytes are allowed before a marker
            place += 1
        kind = content[place] if start < place < len(content) else None
        if kind is None:
            raise damaged("JPEG", "a marker is missing or the file ends before its picture")
        if kind in (_SCAN, _END):
            yield _SCAN, b"", start
            return
        if kind in _ALONE:
            place += 1
            continue
        length = int.from_bytes(content[place + 1 : place + 3], "big")
        end = place + 1 + length
        if length < 2 or end > len(content):
            raise damaged("JPEG", f"its segment {kind:#x} runs over the end of the file")
        yield kind, content[place + 3 : end], end
        place = end


def _is_label(kind: int, data: bytes) -> bool:
    """Of a kind that is written here, or of a JPEG that was labelled before."""
    if kind == _COMMENT:
        return data.startswith(LABEL_START.encode())
    return data.startswith((_XMP, _MORE_XMP) if kind == _APP1 else _PHOTOSHOP) and kind in (_APP1, _APP13)


def _segment(kind: int, data: bytes) -> bytes:
    if len(data) > _MAX_SEGMENT:
        raise ValueError(f"{len(data)} bytes do not fit into a JPEG segment")
    return struct.pack(">BBH", 0xFF, kind, len(data) + 2) + data


def _resources(texts: Texts) -> bytes:
    """IIM, and its MD5, by which readers see that it agrees with the XMP (MWG guidelines 2.0)."""
    values = [("program", texts.software), ("caption", texts.label)]
    values += [("by-line", name) for name in texts.creators]
    values += [("copyright", texts.notice)] if texts.notice else []
    iim = _data_set(1, 90, b"\x1b%G") + _data_set(2, 0, b"\x00\x04")  # UTF-8; version 4
    for name, text in values:
        record, number, most = _DATA_SETS[name]
        iim += _data_set(record, number, _cut(text.encode(), most))
    digest = hashlib.md5(iim, usedforsecurity=False).digest()
    return _resource(0x0404, iim) + _resource(0x0425, digest)


def _data_set(record: int, number: int, value: bytes) -> bytes:
    return struct.pack(">BBBH", 0x1C, record, number, len(value)) + value


def _cut(text: bytes, most: int) -> bytes:
    """At most so many bytes of UTF-8, none of them half a letter."""
    return text[:most].decode("utf-8", "ignore").encode()


def _resource(number: int, data: bytes) -> bytes:
    return b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + b"\0" * (len(data) % 2)


def _read_resources(data: bytes) -> dict[str, str]:
    """The IIM texts among image resources; what is cut short or foreign is left out."""
    place = 0
    while data[place : place + 4] == b"8BIM" and place + 7 <= len(data):
        number = int.from_bytes(data[place + 4 : place + 6], "big")
        name = data[place + 6] + 1
        start = place + 6 + name + name % 2
        length = int.from_bytes(data[start : start + 4], "big")
        if number == 0x0404:
            return _read_iim(data[start + 4 : start + 4 + length])
        place = start + 4 + length + length % 2
    return {}


def _read_iim(data: bytes) -> dict[str, str]:
    names = {(record, number): name for name, (record, number, _) in _DATA_SETS.items()}
    texts: dict[str, str] = {}
    place = 0
    while data[place : place + 1] == b"\x1c" and place + 5 <= len(data):
        record, number, length = struct.unpack_from(">BBH", data, place + 1)
        value = data[place + 5 : place + 5 + length].decode("utf-8", "replace")
        if name := names.get((record, number)):
            texts[name] = f"{texts[name]}; {value}" if name in texts else value
        place += 5 + length
    return texts
