"""What a source lists before anything is decoded: one record per image, with its label beside it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# (left, top, right, bottom) in pixels of the decoded image, and that image's (width, height).
Box = tuple[float, float, float, float]
BoxOf = Callable[[tuple[int, int]], Box | None]


@dataclass(frozen=True)
class Record:
    """One image that is still to be read, and everything known about it.

    Attributes:
        id: stable name, the same wherever the data set lies; splits are drawn from it.
        age: whole years.
        read: gives the file's bytes; called from one thread, in the order of the records.
        stamp: size and time of the file, so that a packed copy is known to be stale.
        identity: number of the person, or None where unknown.
        box: gives the face's box for a decoded (width, height); without it the image is the face crop.
        gender, race: numbers as in `Faces`, -1 where unknown.
    """

    id: str
    age: int
    read: Callable[[], bytes]
    stamp: str
    identity: int | None = None
    box: BoxOf | None = None
    gender: int = -1
    race: int = -1


def _nothing_to_close() -> None:
    """For records that open their own files."""


@dataclass
class Listing:
    """All records of a source, and what was left out while listing (reason -> count).

    `close` lets go of what the records read from; call it when no record will be read any more.
    """

    records: list[Record] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)
    notes: str = ""
    close: Callable[[], None] = _nothing_to_close

    def thin(self, limit: int | None) -> Listing:
        """At most `limit` records, chosen by a stable hash of the id: files are often sorted by age."""
        records = sorted(self.records, key=lambda record: record.id)
        if limit is not None and limit < len(records):
            kept = sorted(records, key=lambda record: stable_hash(record.id))[:limit]
            records = sorted(kept, key=lambda record: record.id)
        return Listing(records, Counter(self.drops), self.notes, self.close)

    def digest(self) -> str:
        """Hex digest of what is listed: names, labels, and the files' sizes and times."""
        digest = hashlib.sha256()
        for record in sorted(self.records, key=lambda record: record.id):
            labels = (record.age, record.identity, record.gender, record.race)
            digest.update(repr((record.id, *labels, record.stamp)).encode())
        digest.update(repr((sorted(self.drops.items()), self.notes)).encode())
        return digest.hexdigest()


def stable_hash(text: str, salt: str = "") -> int:
    """A number in 0..2**63 - 1 that depends on the text alone (Python's own hash changes per process)."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=salt.encode()[:16]).digest()
    return int.from_bytes(digest, "big") >> 1


def stamp(path: Path) -> str:
    """Size and modification time of a file; OSError if it is not there."""
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


Pixels = NDArray[np.uint8]
