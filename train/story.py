"""The run folder tells its story: what was run, on what, with what, when; and what may go on in it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import torch

from edgeage import __version__
from edgeage.errors import EdgeageError
from edgeage.files import read_json, write_json
from edgeage.train import checkpoint as ckpt
from edgeage.train.data import Faces
from edgeage.train.profiles.schema import NetworkProfile
from edgeage.train.recipes.schema import Recipe

PACKAGES = ("numpy", "torch", "safetensors", "msgspec", "pillow", "scipy", "ai-edge-litert")


def begun_before(recipe: Recipe, run: Path) -> dict[str, Any] | None:
    """The description of the checkpoint in `run`, None if there is none.

    Raises EdgeageError, with the difference, if the run was begun with another recipe.
    """
    if not any((run / name).exists() for name in ("checkpoint", "checkpoint.old")):
        return None
    difference = ckpt.recipe_difference(read_json(run / "recipe.json", "recipe of this run"), plain(recipe))
    if difference:
        raise EdgeageError(f"{run} was begun with another recipe ({difference}); choose another --out")
    meta: dict[str, Any] = read_json(ckpt.find_checkpoint(run) / "checkpoint.json", "checkpoint description")
    return meta


def refuse_changed_data(faces: Faces, run: Path) -> None:
    """EdgeageError unless the run that is resumed was begun on these faces."""
    old = read_json(run / "data.json", "data description of this run")
    if old.get("fingerprint") != faces.fingerprint:
        raise EdgeageError(
            f"{run} was begun on other data ({old.get('faces')} faces, now {len(faces)}); "
            f"choose another --out or bring the same data back"
        )


def describe_environment(**settings: object) -> dict[str, Any]:
    """Revision, command, versions and machine, with the settings of this start."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)}
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "edgeage": __version__,
        "git": ckpt.git_revision(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **settings,
        "threads": torch.get_num_threads(),
        "cuda": cuda and {"device": cuda, "version": torch.version.cuda},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "packages": versions,
    }


def describe_checkpoint(
    spec: NetworkProfile,
    recipe: Recipe,
    faces: Faces,
    environment: dict[str, Any],
    origins: list[dict[str, Any]],
) -> dict[str, Any]:
    """What a checkpoint says of itself, besides where it stands; without a word on the machine."""
    described = faces.to_dict()
    return {
        "profile": plain(spec),
        "recipe": plain(recipe),
        "origins": origins,
        "data": {key: described[key] for key in ("fingerprint", "faces", "source")},
        **{key: environment[key] for key in ("edgeage", "git", "shards", "precision")},
    }


def write_story(recipe: Recipe, faces: Faces, run: Path, environment: dict[str, Any]) -> None:
    """recipe.json, data.json and environment.json: of the last start; history.jsonl has them all."""
    write_json(run / "recipe.json", plain(recipe))
    write_json(run / "data.json", faces.to_dict())
    write_json(run / "environment.json", environment)


def note(run: Path, event: str, **more: object) -> None:
    """Add a line to history.jsonl: time (UTC), event, and what belongs to it."""
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with (run / "history.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"time": time, "event": event, **more}) + "\n")


def plain(value: msgspec.Struct) -> dict[str, Any]:
    """As JSON would give it back: lists, not tuples."""
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return fields


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
