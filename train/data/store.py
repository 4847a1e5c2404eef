"""A prepared data set on disk: shards of pixels that are mapped into memory, labels beside them.

STORE/plan.json                 source and options, fixed when the first shard is written
STORE/shard-00000.npy           uint8 [n, S, S, 3]
STORE/shard-00000.json          labels, digests and hashes of these n images, drops, SHA-256 of the .npy
STORE/rows.npy                  int64: the rows, counted over all shards, that are not duplicates
STORE/index.json                written last: a store without it is not finished
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgeage.errors import EdgeageError
from edgeage.files import read_json, sha256
from edgeage.train.data.collect import known_labels
from edgeage.train.data.faces import Faces
from edgeage.train.data.listing import Pixels, stable_hash

FORMAT = 1
INDEX, PLAN, ROWS = "index.json", "plan.json", "rows.npy"
LABELS = ("ids", "ages", "identities", "genders", "races")


class ShardedImages:
    """uint8 [n, S, S, 3] over memory-mapped shards, indexed like an array; selecting rows copies no pixels.

    An index, a slice or an array of rows or a mask, and after it slices of the images' own axes, gives a
    new array in memory; `view` gives an object like this one.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, shards: list[Pixels], rows: NDArray[np.int64]) -> None:
        self._shards = shards
        self._starts = np.cumsum([0, *(len(shard) for shard in shards)])
        self._rows = rows
        self.shape = (len(rows), *(int(side) for side in shards[0].shape[1:]))

    def __len__(self) -> int:
        return len(self._rows)

    def view(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> ShardedImages:
        """The images at a mask or at indices, still on disk."""
        return ShardedImages(self._shards, self._rows[rows])

    def __getitem__(self, which: Any) -> Pixels:
        if isinstance(which, tuple):
            first, *parts = which
            if not all(isinstance(part, slice) for part in parts):
                raise IndexError("images of a store are indexed by rows, then by slices")
            images = self[first]
            return images[(slice(None),) * (images.ndim - 3) + tuple(parts)]
        rows = self._rows[which]
        if rows.ndim == 0:
            return self._read(rows[None])[0]
        return self._read(rows.reshape(-1)).reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("images of a store cannot become an array without being read")
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def _read(self, rows: NDArray[np.int64]) -> Pixels:
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(shard_of).tolist():
            here = np.flatnonzero(shard_of == number)
            images[here] = self._shards[number][rows[here] - self._starts[number]]
        return images


def open_store(path: Path, image_size: int | None = None, limit: int | None = None) -> Faces:
    """Faces of a finished store; pixels stay on disk. Index and sizes are checked, hashes are not.

    Raises EdgeageError if there is no finished store, if a file is absent or of another size, or if it
    holds another image size.
    """
    index = read_index(path)
    size = index["plan"]["image_size"]
    if image_size is not None and size != image_size:
        raise EdgeageError(
            f"{path} holds images of {size} px, but {image_size} px are wanted; "
            f"prepare another store with --image-size {image_size}"
        )
    faces = faces_of(path, index)
    if limit is None or limit >= len(faces):
        return faces
    order = sorted(range(len(faces)), key=lambda row: stable_hash(faces.ids[row]))[:limit]
    return faces.select(np.sort(order), f"{faces.source} (limit {limit})")


def faces_of(path: Path, index: dict[str, Any]) -> Faces:
    """The faces that an index describes; EdgeageError if files are absent or of another size."""
    size = index["plan"]["image_size"]
    labels: dict[str, list[Any]] = {name: [] for name in LABELS}
    shards = []
    for shard in index["shards"]:
        beside = read_json(path / f"{shard['name']}.json", "labels of a shard")
        for name in LABELS:
            if len(beside[name]) != shard["faces"]:
                raise _damaged(path, f"{shard['name']}.json has another number of labels than the index")
            labels[name] += beside[name]
        shards.append(_map(path / f"{shard['name']}.npy", (shard["faces"], size, size, 3), path))
    rows = _load_rows(path / ROWS, path)
    if len(rows) != index["faces"] or (len(rows) and not 0 <= rows.min() <= rows.max() < len(labels["ids"])):
        raise _damaged(path, f"{ROWS} does not belong to the index")

    def column(name: str) -> NDArray[np.int64]:
        return np.array(labels[name], dtype=np.int64)[rows]

    return Faces.of(
        # an object that is indexed as the array that everybody else knows
        images=cast(Pixels, ShardedImages(shards, rows)),
        ages=column("ages"),
        ids=[labels["ids"][row] for row in rows],
        identities=known_labels(column("identities")),
        drops=index["drops"],
        source=index["plan"]["source"],
        genders=known_labels(column("genders")),
        races=known_labels(column("races")),
        known_fingerprint=index["fingerprint"],
    )


def verify_store(path: Path) -> Faces:
    """Read every byte of a store and compare it with its hashes; EdgeageError names the first bad file."""
    index = read_index(path)
    for shard in index["shards"]:
        for suffix in ("npy", "json"):
            _compare(path / f"{shard['name']}.{suffix}", shard[suffix], path)
    _compare(path / ROWS, index["rows"], path)
    faces = open_store(path)
    if faces.measure() != index["fingerprint"]:
        raise _damaged(path, "the fingerprint is another")
    return faces


def read_index(path: Path) -> dict[str, Any]:
    """The index of a finished store; EdgeageError if there is none that this version reads."""
    if not (path / INDEX).is_file():
        what = "is not finished" if (path / PLAN).is_file() else "holds no store"
        raise EdgeageError(f"{path} {what}; run edgeage prepare SOURCE --out {path}")
    index = read_json(path / INDEX, "index of the store")
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise EdgeageError(f"{path / INDEX} was written by another version; prepare the store again")
    return index


def _map(file: Path, shape: tuple[int, ...], store: Path) -> Pixels:
    if not shape[0]:
        return np.empty(shape, np.uint8)
    try:
        images = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(store, f"{file.name}: {error}") from None
    if images.shape != shape or images.dtype != np.uint8:
        raise _damaged(store, f"{file.name} is {images.dtype} {list(images.shape)}, not {list(shape)}")
    return cast(Pixels, images)


def _load_rows(file: Path, store: Path) -> NDArray[np.int64]:
    try:
        return np.load(file, allow_pickle=False).astype(np.int64)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(store, f"{file.name}: {error}") from None


def _compare(file: Path, expected: str, store: Path) -> None:
    try:
        found = sha256(file)
    except OSError as error:
        raise _damaged(store, f"{file.name}: {error.strerror}") from None
    if found != expected:
        raise _damaged(store, f"{file.name} has SHA-256 {found[:12]}..., not {expected[:12]}...")


def _damaged(path: Path, detail: str) -> EdgeageError:
    return EdgeageError(f"the store {path} is damaged ({detail}); delete that folder and prepare it again")
