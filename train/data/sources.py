"""Open a source of faces by its text: "utkface:PATH", "imdb-wiki:PATH", "store:FOLDER", ..."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from contextlib import closing
from difflib import get_close_matches
from pathlib import Path

from edgeage.errors import EdgeageError
from edgeage.train.data.collect import collect
from edgeage.train.data.faces import Faces
from edgeage.train.data.listing import Listing

# Part of the key of packed copies: raise it when listing or decoding changes what comes out.
LOADER_VERSION = 2

# kind -> (module, function) that lists a path; imported when asked for (scipy is only for .mat files)
_LISTERS = {
    "utkface": ("utkface", "list_utkface"),
    "imdb-wiki": ("imdb_wiki", "list_imdb_wiki"),
    "csv": ("labelled_folder", "list_labelled_folder"),
}
KINDS = (*_LISTERS, "procedural", "store")
LISTED_KINDS = tuple(_LISTERS)


def open_source(
    text: str,
    image_size: int = 64,
    limit: int | None = None,
    *,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> Faces:
    """Read, check and decode a source of faces.

    Args:
        text: "utkface:FOLDER or TAR", "imdb-wiki:FILE.mat", "csv:FILE.csv", "procedural:N[:SEED]" or
            "store:FOLDER", which `edgeage prepare` wrote and whose images stay on disk.
        image_size: side of the images in pixels.
        limit: take at most so many images, chosen by a stable hash of their names.
        cache_dir: keep a packed copy there and use it while the source's files stay the same.
        progress: show a progress bar on stderr.

    Raises EdgeageError if the text, the path or everything in it is unusable.
    """
    kind, where = split_source(text)
    check_size_and_limit(image_size, limit)
    if kind == "procedural":
        from edgeage.train.data.procedural import open_procedural

        return open_procedural(where, image_size, limit)
    if kind == "store":
        from edgeage.train.data.store import open_store

        return open_store(Path(where).expanduser(), image_size, limit)
    with closing(list_source(kind, where)) as whole:
        return _open_listing(whole.thin(limit), kind, where, image_size, limit, cache_dir, progress)


def split_source(text: str) -> tuple[str, str]:
    """Kind and place of a source's text; EdgeageError if there is no such kind."""
    kind, colon, where = text.partition(":")
    if kind not in KINDS or not colon or not where:
        close = get_close_matches(kind, KINDS, n=1)
        hint = f" (did you mean {close[0]}:...?)" if close and kind not in KINDS else ""
        raise EdgeageError(
            f"unknown source of faces {text!r}{hint}; give utkface:FOLDER or .tar, imdb-wiki:FILE.mat, "
            "csv:FILE.csv, store:FOLDER or procedural:COUNT"
        )
    return kind, where


def check_size_and_limit(image_size: int, limit: int | None) -> None:
    """EdgeageError for sizes and limits that leave nothing."""
    if image_size < 8:
        raise EdgeageError(f"image size {image_size} is too small; 8 px is the least")
    if limit is not None and limit < 1:
        raise EdgeageError(f"a limit of {limit} faces leaves nothing; give at least 1")


def source_name(kind: str, where: str, limit: int | None) -> str:
    """The source as reports and model cards name it: they must not show folders of a machine."""
    return f"{kind}:{Path(where).name}" + (f" (limit {limit})" if limit is not None else "")


def _open_listing(
    listing: Listing,
    kind: str,
    where: str,
    image_size: int,
    limit: int | None,
    cache_dir: Path | None,
    progress: bool,
) -> Faces:
    source = source_name(kind, where, limit)
    if cache_dir is None:
        return collect(listing, image_size, source, progress=progress)
    key = hashlib.sha256(f"{LOADER_VERSION}:{image_size}:{source}:{listing.digest()}".encode()).hexdigest()
    packed = cache_dir / f"{kind}-{image_size}-{key[:24]}.npz"
    if packed.exists():
        return Faces.load(packed)
    faces = collect(listing, image_size, source, progress=progress)
    faces.save(packed)
    return faces


def list_source(kind: str, where: str) -> Listing:
    """What a source of one of `LISTED_KINDS` holds, nothing decoded; close it when it is read."""
    module, function = _LISTERS[kind]
    lister: Callable[[Path], Listing] = getattr(
        importlib.import_module(f"edgeage.train.data.{module}"), function
    )
    return lister(Path(where).expanduser())
