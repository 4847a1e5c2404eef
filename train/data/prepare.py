"""Prepare a large data set once: decode (and align) every image in parallel into a store on disk.

The work is resumable after a kill at any moment: a shard counts as done when its labels are there, which
are written last, under a temporary name. What a store holds depends on the source and the options alone,
not on the number of processes or on interruptions.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.files import read_json, sha256, write_json
from edgeage.train.data.aligned import Aligner
from edgeage.train.data.decode import UnusableImage, decode
from edgeage.train.data.duplicates import (
    MOST_BITS,
    judge_clusters,
    near_hash,
    perceptual_hash,
    pixel_digest,
    same_digest,
)
from edgeage.train.data.faces import UNKNOWN_IDENTITY, Faces
from edgeage.train.data.listing import BoxOf, Pixels, Record
from edgeage.train.data.sources import (
    LISTED_KINDS,
    LOADER_VERSION,
    check_size_and_limit,
    list_source,
    source_name,
    split_source,
)
from edgeage.train.data.store import FORMAT, INDEX, LABELS, PLAN, ROWS, faces_of, open_store

FRAME = "utkface"
ALIGN = ("auto", "always", "never")
# Kinds whose images are photos with a face in them; the others hold crops that are aligned already.
_PHOTOS = ("imdb-wiki",)
_WRITTEN = (PLAN, INDEX, ROWS, "shard-*.npy", "shard-*.json")
_CHUNK = 32  # records that travel to a worker at a time
_CHUNKS_PER_WORKER = 3  # what waits in memory

# Pixels, their digest and their hash; or the reason why there are none.
_Result = tuple[Pixels, str, int] | str
_Work = Callable[[tuple[bytes | None, BoxOf | None]], _Result]


@dataclass(frozen=True)
class Options:
    """How a store is made.

    Attributes:
        image_size: side of the images in pixels.
        align: "auto" aligns photos (IMDB-WIKI) and takes crops as they are, or "always", "never".
        limit: at most so many images, chosen by a stable hash of their names.
        shard_size: records per shard; what a kill may cost, and what is in memory at a time.
        near_duplicates: also drop pictures whose perceptual hashes differ in at most so many bits of 64;
            None keeps them. It may be changed on a finished store without decoding anything again.
        workers: processes; changes nothing in the result.
        progress: show a bar on stderr.
    """

    image_size: int = 64
    align: str = "auto"
    limit: int | None = None
    shard_size: int = 8192
    near_duplicates: int | None = None
    workers: int = 1
    progress: bool = False


def prepare(source: str, out: Path, options: Options) -> Faces:
    """Make or finish the store `out` and open it.

    One run at a time writes to a store. With several workers call it from a script's
    `if __name__ == "__main__"` (processes are spawned).

    Raises EdgeageError for a source that cannot be listed or holds no usable face, for a store that was
    begun from something else, and for a disk that is full (what is there stays; run it again).
    """
    kind, where = split_source(source)
    if kind not in LISTED_KINDS:
        raise EdgeageError(f"{source} needs no preparation; give one of {', '.join(LISTED_KINDS)}")
    check_size_and_limit(options.image_size, options.limit)
    if options.align not in ALIGN:
        raise EdgeageError(f"unknown alignment {options.align!r}; give one of {', '.join(ALIGN)}")
    if options.near_duplicates is not None and not 0 <= options.near_duplicates <= MOST_BITS:
        raise EdgeageError(f"near duplicates are told apart by 0 to {MOST_BITS} bits, not more")
    aligned = options.align == "always" or (options.align == "auto" and kind in _PHOTOS)
    with closing(list_source(kind, where)) as whole:
        listing = whole.thin(options.limit)
        name = source_name(kind, where, options.limit)
        plan = {
            "source": name,
            "records": len(listing.records),
            "listing": listing.digest(),
            "image_size": options.image_size,
            "frame": FRAME,
            "aligned": aligned,
            "shard_size": options.shard_size,
            "loader_version": LOADER_VERSION,
        }
        try:
            if _begin(out, plan, options):
                return open_store(out)
            shards = _write_shards(listing.records, out, options, aligned)
            return _finish(out, shards, listing.drops, plan, options)
        except OSError as error:
            raise EdgeageError(
                f"cannot write the store {out}: {error.strerror or error}; what is there stays, "
                "run the same command again when this is mended"
            ) from None
        except BrokenProcessPool:
            raise EdgeageError(
                "a worker process was ended from outside (out of memory?); what is there stays, "
                "run the same command with fewer --workers"
            ) from None


def _begin(out: Path, plan: dict[str, Any], options: Options) -> bool:
    """Write the plan, or compare it with the one that is there; True if the store is finished."""
    # what a killed run was writing; a folder that is no store may hold such files of somebody else
    half_written = {file for name in _WRITTEN for file in out.glob(f".{name}.tmp*")}
    begun = (out / PLAN).exists()
    if not begun and out.exists() and set(out.iterdir()) - half_written:
        raise EdgeageError(f"{out} is not empty and holds no store; choose another folder")
    for file in half_written:
        file.unlink()
    if not begun:
        write_json(out / PLAN, plan)
        return False
    old = read_json(out / PLAN, "plan of the store")
    changed = [
        f"{key} was {old.get(key)}, is {value}" for key, value in plan.items() if old.get(key) != value
    ]
    # a digest says nothing to people, and follows from whatever else changed
    told = [text for text in changed if not text.startswith("listing ")]
    if changed:
        why = "; ".join(told) or "the source's files or labels are not the same as then"
        raise EdgeageError(
            f"the store {out} was begun differently: {why}; choose another folder or delete it"
        )
    if not (out / INDEX).exists():
        return False
    index = read_json(out / INDEX, "index of the store")
    return bool(index["near_duplicates"] == options.near_duplicates and index["format"] == FORMAT)


def _write_shards(records: list[Record], out: Path, options: Options, aligned: bool) -> list[str]:
    """Decode what has no shard yet; the names of all shards."""
    from tqdm import tqdm

    starts = range(0, len(records), options.shard_size)
    names = [f"shard-{number:05d}" for number in range(len(starts))]
    missing = [
        (name, records[start : start + options.shard_size])
        for name, start in zip(names, starts, strict=True)
        if not (out / f"{name}.json").exists()
    ]
    left = sum(len(part) for _, part in missing)
    bar = tqdm(
        total=len(records),
        initial=len(records) - left,
        desc="faces",
        unit="img",
        mininterval=1.0,
        disable=not options.progress,
    )
    work = partial(_decode, options.image_size, Aligner(options.image_size, FRAME) if aligned else None)
    with bar, _pool(min(options.workers, max(1, left // _CHUNK))) as pool:
        for name, part in missing:
            results = []
            for result in _decoded(part, work, pool, options.workers):
                results.append(result)
                bar.update()
            _write_shard(out, name, part, results, options.image_size)
    return names


def _write_shard(out: Path, name: str, records: list[Record], results: list[_Result], size: int) -> None:
    kept: list[tuple[Record, tuple[Pixels, str, int]]] = []
    drops: Counter[str] = Counter()
    for record, result in zip(records, results, strict=True):
        if isinstance(result, str):
            drops[result] += 1
        else:
            kept.append((record, result))
    images = (
        np.stack([pixels for _, (pixels, _, _) in kept]) if kept else np.empty((0, size, size, 3), np.uint8)
    )
    _write_array(out / f"{name}.npy", images)
    people = [UNKNOWN_IDENTITY if record.identity is None else record.identity for record, _ in kept]
    write_json(
        out / f"{name}.json",
        {
            "images": sha256(out / f"{name}.npy"),
            "drops": dict(sorted(drops.items())),
            "ids": [record.id for record, _ in kept],
            "ages": [record.age for record, _ in kept],
            "identities": people,
            "genders": [record.gender for record, _ in kept],
            "races": [record.race for record, _ in kept],
            "digests": [digest for _, (_, digest, _) in kept],
            "hashes": [number for _, (_, _, number) in kept],
        },
    )


def _finish(
    out: Path, shards: list[str], listed: Counter[str], plan: dict[str, Any], options: Options
) -> Faces:
    """Find the duplicates, write rows and index, and open the store."""
    (out / INDEX).unlink(missing_ok=True)  # rows and index change together, or the store is not finished
    drops, entries = Counter(listed), []
    columns: dict[str, list[Any]] = {name: [] for name in (*LABELS, "digests", "hashes")}
    for name in shards:
        beside = read_json(out / f"{name}.json", "labels of a shard")
        drops.update(beside["drops"])
        for column, values in columns.items():
            values += beside[column]
        files = {"npy": beside["images"], "json": sha256(out / f"{name}.json")}
        entries.append({"name": name, "faces": len(beside["ids"]), **files})
    ages = np.array(columns["ages"], dtype=np.int64)
    people = np.array(columns["identities"], dtype=np.int64)
    copies, conflicting = judge_clusters(same_digest(columns["digests"]), ages, people)
    drops.update({"duplicate": int(copies.sum()), "conflicting labels": int(conflicting.sum())})
    rows = np.flatnonzero(~(copies | conflicting))
    if options.near_duplicates is not None:
        hashes = np.array(columns["hashes"], dtype=np.uint64)[rows]
        copies, conflicting = judge_clusters(
            near_hash(hashes, options.near_duplicates), ages[rows], people[rows]
        )
        near = {"near duplicate": copies, "near duplicate with another label": conflicting}
        drops.update({reason: int(mask.sum()) for reason, mask in near.items()})
        rows = rows[~(copies | conflicting)]
    drops = +drops  # without zeros
    if not len(rows):
        why = ", ".join(f"{count} {reason}" for reason, count in drops.most_common()) or "no images in it"
        raise EdgeageError(f"no usable face in {plan['source']}: {why}")
    _write_array(out / ROWS, rows)
    index = {
        "format": FORMAT,
        "plan": plan,
        "near_duplicates": options.near_duplicates,
        "faces": len(rows),
        "drops": dict(sorted(drops.items())),
        "fingerprint": "",
        "rows": sha256(out / ROWS),
        "shards": entries,
    }
    index["fingerprint"] = faces_of(out, index).measure()
    write_json(out / INDEX, index)
    return open_store(out)


def _write_array(path: Path, array: NDArray[Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
    temporary.replace(path)


def _decode(image_size: int, aligner: Aligner | None, task: tuple[bytes | None, BoxOf | None]) -> _Result:
    data, box = task
    if data is None:
        return "unreadable"
    try:
        pixels = decode(data, image_size, box) if aligner is None else aligner(data, box)
    except UnusableImage as reason:
        return str(reason)
    return pixels, pixel_digest(pixels), perceptual_hash(pixels)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that are started afresh (a fork would copy locks held by threads); None for one worker."""
    if workers == 1:
        yield None
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Ctrl-C reaches the whole process group; the parent alone answers it. A worker ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent ends nobody: its workers would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _decoded(
    records: list[Record], work: _Work, pool: ProcessPoolExecutor | None, workers: int
) -> Iterator[_Result]:
    """Results in the order of the records; files are read here, a few chunks ahead of the workers."""

    def tasks(part: list[Record]) -> list[tuple[bytes | None, BoxOf | None]]:
        return [(_read(record), record.box) for record in part]

    waiting = iter(records)
    chunks = iter(lambda: list(islice(waiting, _CHUNK)), [])
    if pool is None:
        for chunk in chunks:
            yield from map(work, tasks(chunk))
        return
    running: deque[Future[list[_Result]]] = deque()
    for chunk in chunks:
        running.append(pool.submit(_decode_chunk, work, tasks(chunk)))
        if len(running) >= workers * _CHUNKS_PER_WORKER:
            yield from running.popleft().result()
    while running:
        yield from running.popleft().result()


def _decode_chunk(work: _Work, tasks: list[tuple[bytes | None, BoxOf | None]]) -> list[_Result]:
    return [work(task) for task in tasks]


def _read(record: Record) -> bytes | None:
    try:
        return record.read()
    except OSError:
        return None
