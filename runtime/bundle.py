"""Open a bundle, `NAME.agebundle/` or the same as one zip, and hand out its files, each checked.

Every file is read whole and compared with the manifest's sha256 before anyone sees a byte of it, so what
was checked is what runs. Opening also compares the list of files; `verify` reads and checks them all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.fields import safe_path
from edgeage.runtime.manifest import Manifest

ENVIRONMENT = "EDGEAGE_BUNDLE"
PRECONDITIONER = "preconditioner.npz"
SHIPPED = Path("models") / "edge64.agebundle"
# A zip can promise a terabyte in a kilobyte; no file of a bundle comes near this.
MAX_FILE_BYTES = 1 << 30
_ZIP_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


class Bundle:
    """An opened bundle.

    Attributes:
        path: the folder or zip.
        manifest: what it says about itself.
        sha256: of manifest.json, which holds the hashes of all other files: the bundle's identity.
    """

    def __init__(self, path: Path, storage: _Storage) -> None:
        self.path, self._storage = path, storage
        try:
            text = storage.read("manifest.json")
            value = json.loads(text)
        except KeyError:
            raise EdgeageError(f"{path} is not an edgeage bundle: it has no manifest.json") from None
        except ValueError as error:
            raise EdgeageError(f"{path}: manifest.json is not JSON: {error}") from None
        self.sha256 = hashlib.sha256(text).hexdigest()
        try:
            self.manifest = Manifest.from_dict(value)
        except EdgeageError as error:
            raise EdgeageError(f"{path}: {error}") from None
        present = set(storage.names()) - {"manifest.json"}
        if missing := sorted(set(self.manifest.files) - present):
            raise EdgeageError(f"{path} lacks {_few(missing)}; copy or export the bundle again")
        if foreign := sorted(present - set(self.manifest.files)):
            raise EdgeageError(f"{path} holds {_few(foreign)}, not in its manifest; remove or export again")

    def read(self, name: str) -> bytes:
        """A file's bytes; EdgeageError if they are not those of the manifest."""
        if name not in self.manifest.files:
            raise EdgeageError(f"{self.path} has no file {name!r}")
        try:
            content = self._storage.read(name)
        except KeyError:
            raise EdgeageError(f"{self.path} lacks {name}; copy or export the bundle again") from None
        if hashlib.sha256(content).hexdigest() != self.manifest.files[name]:
            raise EdgeageError(
                f"{self.path}: {name} was changed (its sha256 differs); copy or export it again"
            )
        return content

    def preconditioner(self) -> NDArray[np.float32] | None:
        """[L, L], what the refine engines multiply their gradient by; None if they do not."""
        if PRECONDITIONER not in self.manifest.files:
            return None
        try:
            with np.load(io.BytesIO(self.read(PRECONDITIONER)), allow_pickle=False) as arrays:
                return np.asarray(arrays["preconditioner"], np.float32)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise EdgeageError(
                f"{self.path}: {PRECONDITIONER} cannot be read ({error}); export again"
            ) from None

    def sizes(self) -> dict[str, int]:
        """Bytes of every file but manifest.json, uncompressed."""
        return {name: self._storage.size(name) for name in self.manifest.files}

    def manifest_bytes(self) -> bytes:
        """manifest.json as it is stored."""
        return self._storage.read("manifest.json")

    def verify(self) -> None:
        """Check every file's sha256; EdgeageError for the first that differs."""
        for name in self.manifest.files:
            self.read(name)


def open_bundle(path: str | os.PathLike[str] | None = None) -> Bundle:
    """Open the bundle at `path`, or the default one (see `default_bundle`)."""
    chosen = Path(path) if path is not None else default_bundle()
    if chosen.is_dir():
        return Bundle(chosen, _Folder(chosen))
    if not chosen.exists():
        raise EdgeageError(f"no bundle at {chosen}; give a NAME.agebundle folder or its zip")
    return Bundle(chosen, _Zip(chosen))


def default_bundle() -> Path:
    """$EDGEAGE_BUNDLE, else the shipped model of the checkout this code or the current folder is in."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    here, code = Path.cwd(), Path(__file__).resolve()
    for folder in (code.parent.parent, here, *here.parents):
        if (folder / SHIPPED / "manifest.json").is_file():
            return folder / SHIPPED
    raise EdgeageError(
        f"no bundle given and no {SHIPPED.as_posix()} near {here}; pass --bundle PATH or set {ENVIRONMENT}"
    )


class _Storage(Protocol):
    """Where the files lie. `read` and `size` raise KeyError for a name that is not there."""

    def names(self) -> list[str]: ...
    def read(self, name: str) -> bytes: ...
    def size(self, name: str) -> int: ...


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        files = (path for path in self._root.rglob("*") if path.is_symlink() or not path.is_dir())
        return [path.relative_to(self._root).as_posix() for path in files]

    def _path(self, name: str) -> Path:
        path = self._root / safe_path(name)
        if not path.resolve().is_relative_to(self._root.resolve()):
            raise EdgeageError(f"{self._root}: {name} is a link that leads out of the bundle")
        if not path.is_file():
            raise KeyError(name)
        return path

    def size(self, name: str) -> int:
        return self._path(name).stat().st_size

    def read(self, name: str) -> bytes:
        _check_size(self._root, name, self.size(name))
        try:
            return self._path(name).read_bytes()
        except OSError as error:
            raise EdgeageError(f"cannot read {self._root}: {name}: {error.strerror}") from None


class _Zip:
    """A zip whose entries lie at its top or in one folder NAME.agebundle/."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except _ZIP_ERRORS:
            raise EdgeageError(f"{path} is neither a bundle folder nor a readable zip of one") from None
        entries = [entry for entry in self._zip.infolist() if not entry.is_dir()]
        for entry in entries:
            try:
                safe_path(entry.filename)
            except EdgeageError:
                raise EdgeageError(f"{path} holds {entry.filename!r}, a path out of the bundle") from None
        tops = {entry.filename.partition("/")[0] for entry in entries}
        top = next(iter(tops)) if len(tops) == 1 else ""
        prefix = f"{top}/" if top.endswith(".agebundle") else ""
        self._entries = {entry.filename.removeprefix(prefix): entry for entry in entries}
        if len(self._entries) != len(entries):
            raise EdgeageError(f"{path} holds the same file twice; make the zip again")

    def names(self) -> list[str]:
        return list(self._entries)

    def size(self, name: str) -> int:
        return self._entries[name].file_size

    def read(self, name: str) -> bytes:
        entry = self._entries[name]
        _check_size(self._path, name, entry.file_size)
        try:
            return self._zip.read(entry)
        except _ZIP_ERRORS as error:
            raise EdgeageError(f"{self._path}: {name} is damaged ({error}); copy the bundle again") from None


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise EdgeageError(
            f"{path}: {name} has {size} bytes, more than the {MAX_FILE_BYTES} of any bundle file"
        )


def _few(names: list[str]) -> str:
    """At most three names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
