"""Plans of this machine, kept between runs.

A plan is code that TensorRT runs: only files of a folder that nobody else can write to are loaded, and each
only if its sha256 is that of its sidecar. Beside NAME.plan lies NAME.json with what the plan was built from
and for; it is written last, so a plan without it is the rest of a killed run. A plan is taken only if all of
that is still so; else the cache says what has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.files import write_bytes, write_json
from edgeage.runtime.engines.tensorrt.device import Device
from edgeage.runtime.engines.tensorrt.recipe import Recipe

SCHEMA = 1
ENVIRONMENT = "EDGEAGE_TENSORRT_CACHE"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Identity:
    """Everything that a plan depends on."""

    onnx: str  # sha256
    device: Device
    recipe: Recipe

    def to_dict(self) -> dict[str, Any]:
        """Flat, so that what differs can be named."""
        device = self.device.to_dict()
        flat = {"schema": SCHEMA, "onnx": self.onnx, "device": device.pop("name"), **device}
        recipe = self.recipe.to_dict()
        options = {f"options.{name}": value for name, value in recipe.pop("options").items()}
        return {**flat, **recipe, **options}

    @property
    def key(self) -> str:
        """Hex sha256 over all of it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Of the files: readable, and different wherever the identity is."""
        return f"{self.recipe.engine}.{self.recipe.precision}.{self.key[:16]}"


@dataclass(frozen=True)
class Kept:
    """A plan from the cache and what its sidecar says of it."""

    plan: bytes
    sidecar: dict[str, Any]


class PlanCache:
    """One folder of plans, made if it is not there (mode 0700).

    Raises EdgeageError if somebody else can write to it: their plan would run as this user.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(self.folder)
        except OSError as error:
            raise EdgeageError(
                f"cannot use {self.folder} for TensorRT plans: {error.strerror}; pass --cache DIR or set "
                f"{ENVIRONMENT}"
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One builder at a time; the lock ends with the process, however that ends."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._drop_leftovers()
            yield

    def find(self, identity: Identity, *, any_options: bool = False) -> Kept | str:
        """The plan of `identity`, or why there is none that can be used.

        `any_options`: take the newest plan whatever its build options are.
        """
        wanted = identity.to_dict()
        ignored = {name for name in wanted if any_options and name.startswith("options.")}
        reason, least = f"no plan of the {identity.recipe.engine} was built here yet", len(wanted) + 1
        sidecars = []
        for path in self.folder.glob(f"{identity.recipe.engine}.{identity.recipe.precision}.*.json"):
            sidecar = _read_sidecar(path)
            if sidecar is None:
                if least:
                    reason, least = f"the sidecar {path.name} is damaged", 0
                continue
            different = [
                name
                for name in wanted
                if name not in ignored and sidecar["built_for"].get(name) != wanted[name]
            ]
            if not different:
                sidecars.append((sidecar.get("built_at", 0), path, sidecar))
            elif len(different) < least:
                changes = [
                    f"{name} was {sidecar['built_for'].get(name)}, is {wanted[name]}" for name in different
                ]
                reason, least = _told(changes), len(different)
        for _, path, sidecar in sorted(sidecars, key=lambda one: one[0], reverse=True):
            plan = self._read(path.with_suffix(".plan"))
            if plan is None:
                reason = f"the plan {path.stem}.plan is missing or is no file of this user"
            elif hashlib.sha256(plan).hexdigest() != sidecar.get("sha256"):
                reason = f"the plan {path.stem}.plan is damaged (its sha256 is not its sidecar's)"
            else:
                return Kept(plan, sidecar)
        return reason

    def store(self, identity: Identity, plan: bytes, facts: dict[str, Any]) -> Kept:
        """Keep a plan with its sidecar; EdgeageError, and nothing half-written, if the disk is full."""
        sidecar = {
            "built_for": identity.to_dict(),
            "sha256": hashlib.sha256(plan).hexdigest(),
            "bytes": len(plan),
            "built_at": round(time.time(), 3),
            **facts,
        }
        target = self.folder / f"{identity.name}.plan"
        with self._writing(len(plan)):
            target.with_suffix(".json").unlink(missing_ok=True)  # never a new plan beside an old sidecar
            write_bytes(target, plan)
            write_json(target.with_suffix(".json"), sidecar)
        return Kept(plan, sidecar)

    def note(self, identity: Identity, facts: dict[str, Any]) -> None:
        """Add to a plan's sidecar."""
        path = self.folder / f"{identity.name}.json"
        if (sidecar := _read_sidecar(path)) is not None:
            with self._writing(0):
                write_json(path, {**sidecar, **facts})

    def timings(self, device: Device) -> bytes:
        """The builder's timing cache for a device, b"" if there is none or it is damaged."""
        path = self._timings(device)
        content, told = self._read(path), self._read(path.with_suffix(".sha256"))
        good = content is not None and told == hashlib.sha256(content).hexdigest().encode()
        return content if content is not None and good else b""

    def keep_timings(self, device: Device, content: bytes) -> None:
        path = self._timings(device)
        with self._writing(len(content)):
            write_bytes(path, content)
            write_bytes(path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode())

    def read_json(self, name: str) -> Any:
        """A small document of this folder, None if it is not there or damaged."""
        try:
            return json.loads(self._read(self.folder / name) or b"null")
        except ValueError:
            return None

    def write_json(self, name: str, value: Any) -> None:
        with self._writing(0):
            write_json(self.folder / name, value)

    def _timings(self, device: Device) -> Path:
        digest = hashlib.sha256(json.dumps(device.to_dict(), sort_keys=True).encode()).hexdigest()
        return self.folder / f"timings.{digest[:16]}.bin"

    def _read(self, path: Path) -> bytes | None:
        """A file of this user that nobody else can write to; a link is not followed."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            mine = state.st_uid == os.geteuid() and not state.st_mode & _OTHERS_WRITE
            return file.read() if stat.S_ISREG(state.st_mode) and mine else None

    @contextmanager
    def _writing(self, size: int) -> Iterator[None]:
        mask = os.umask(0o077)
        try:
            yield
        except OSError as error:
            raise EdgeageError(
                f"cannot write to {self.folder} ({error.strerror}, {max(size, 1) / 1e6:.1f} MB needed); free "
                "some space, or pass --cache DIR"
            ) from None
        finally:
            os.umask(mask)

    def _drop_leftovers(self) -> None:
        """What a killed build left: temporary files, and plans whose sidecar was never written."""
        for path in self.folder.glob(".*.tmp-*"):
            path.unlink(missing_ok=True)
        for path in self.folder.glob("*.plan"):
            if not path.with_suffix(".json").exists():
                path.unlink(missing_ok=True)


def default_folder() -> Path:
    """$EDGEAGE_TENSORRT_CACHE, else edgeage/tensorrt in the user's cache folder."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edgeage" / "tensorrt"


def _check_owner(folder: Path) -> None:
    """EdgeageError if others can write to the folder, or put another one in its place."""
    resolved = folder.resolve()
    state = resolved.stat()
    if state.st_uid != os.geteuid():
        raise EdgeageError(
            f"{folder} belongs to another user; plans are code: pass a --cache DIR of your own"
        )
    if state.st_mode & _OTHERS_WRITE:
        raise EdgeageError(f"{folder} can be written by others and plans are code; run: chmod go-w {folder}")
    for parent in resolved.parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise EdgeageError(f"everybody can replace what is in {parent}; pass another --cache DIR")


def _read_sidecar(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("built_for"), dict) else None


def _told(changes: list[str]) -> str:
    """At most three changes; hashes cut to what a reader compares."""
    short = [
        " ".join(word[:12] if len(word.strip(",")) == 64 else word for word in one.split()) for one in changes
    ]
    return ", ".join(short[:3]) + (f" and {len(short) - 3} more changes" if len(short) > 3 else "")
