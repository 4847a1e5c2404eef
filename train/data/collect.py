"""Decode a listing into `Faces`: pixels and label come from the same record, or neither is kept."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.train.data.decode import UnusableImage, decode
from edgeage.train.data.faces import UNKNOWN, UNKNOWN_IDENTITY, Faces
from edgeage.train.data.listing import Listing, Pixels, Record

# Records whose bytes wait in memory at a time.
_CHUNK = 256


def collect(listing: Listing, image_size: int, source: str, *, progress: bool = False) -> Faces:
    """Read and decode every record (decoding in threads), drop what cannot be used, count why.

    Raises EdgeageError if nothing is left.
    """
    drops = Counter(listing.drops)
    kept: list[tuple[Record, Pixels]] = []
    for record, result in _decoded(listing.records, image_size, progress):
        if isinstance(result, str):
            drops[result] += 1
        else:
            kept.append((record, result))
    kept = _without_duplicates(kept, drops)
    if not kept:
        why = ", ".join(f"{count} {reason}" for reason, count in drops.most_common()) or "no images in it"
        raise EdgeageError(f"no usable face in {source}: {why}")
    records = [record for record, _ in kept]
    people = [UNKNOWN_IDENTITY if record.identity is None else record.identity for record in records]
    return Faces.of(
        images=np.stack([pixels for _, pixels in kept]),
        ages=np.array([record.age for record in records], dtype=np.int64),
        ids=[record.id for record in records],
        identities=known_labels(people),
        drops=dict(sorted(drops.items())),
        source=source,
        genders=known_labels([record.gender for record in records]),
        races=known_labels([record.race for record in records]),
    )


def known_labels(numbers: list[int] | NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The labels as an array, or None if not a single one is known."""
    labels = np.array(numbers, dtype=np.int64)
    return labels if (labels != UNKNOWN).any() else None


def _decoded(records: list[Record], image_size: int, progress: bool) -> Iterator[tuple[Record, Pixels | str]]:
    """Each record with its pixels, or with the reason why it has none, in order."""

    def work(item: tuple[Record, bytes | None]) -> tuple[Record, Pixels | str]:
        record, data = item
        if data is None:
            return record, "unreadable"
        try:
            return record, decode(data, image_size, record.box)
        except UnusableImage as reason:
            return record, str(reason)

    def read(record: Record) -> tuple[Record, bytes | None]:
        try:
            return record, record.read()
        except OSError:
            return record, None

    waiting: Iterator[Record] = iter(records)
    if progress:
        from tqdm import tqdm

        waiting = iter(tqdm(records, desc="faces", unit="img", mininterval=1.0))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while chunk := [read(record) for record in islice(waiting, _CHUNK)]:
            yield from pool.map(work, chunk)


def _without_duplicates(
    kept: list[tuple[Record, Pixels]], drops: Counter[str]
) -> list[tuple[Record, Pixels]]:
    """One of each set of images with the same pixels; none if their ages or people disagree."""
    same: dict[bytes, list[tuple[Record, Pixels]]] = {}
    for item in kept:
        same.setdefault(hashlib.blake2b(item[1].tobytes(), digest_size=16).digest(), []).append(item)
    result = []
    for items in same.values():
        labels = {(record.age, record.identity) for record, _ in items}
        if len(labels) > 1:
            drops["conflicting labels"] += len(items)
        else:
            result.append(items[0])
            if len(items) > 1:
                drops["duplicate"] += len(items) - 1
    return result
