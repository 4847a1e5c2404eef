"""A run that begins with the networks of another: to go on with one of them while the others stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.files import read_json, sha256
from edgeage.train.checkpoint import find_checkpoint
from edgeage.train.data import Faces
from edgeage.train.recipes.schema import Recipe, held_out_by
from edgeage.train.stages import Context
from edgeage.train.state import adopt
from edgeage.train.story import plain


def begin_from(origin: Path, recipe: Recipe, faces: Faces, context: Context) -> list[dict[str, Any]]:
    """Take over the networks of `origin`; its recogniser only if it is of this profile's shape.

    Returns the runs before this one, for the checkpoint's description: {"checkpoint" (SHA-256 of its
    weights), "recipe", "git"} each, the oldest first.

    Raises EdgeageError if the other networks have another shape, or if the origin was trained on faces
    that this recipe holds out.
    """
    folder = find_checkpoint(origin)
    meta = read_json(folder / "checkpoint.json", "checkpoint description")
    theirs, own = dict(meta["profile"]), plain(context.spec)
    same_recogniser = theirs.pop("recogniser") == own.pop("recogniser")
    if different := sorted(key for key in own.keys() | theirs.keys() if own.get(key) != theirs.get(key)):
        raise EdgeageError(
            f"{origin} has networks of another profile ({', '.join(different)} differ); "
            f"take a recipe of profile {theirs.get('name')!r}"
        )
    split, wanted = held_out_by(meta["recipe"]), held_out_by(plain(recipe))
    if meta["data"]["fingerprint"] == faces.fingerprint and split != wanted:
        raise EdgeageError(
            f"{origin} held out other faces of these data ({split}, this recipe {wanted}); "
            "give the recipe the same seed, validation and test"
        )
    adopt(origin, context, without=set() if same_recogniser else {"embedder"})
    step = {
        "checkpoint": sha256(folder / "weights.safetensors"),
        "recipe": meta["recipe"],
        "git": meta["git"],
    }
    return [*meta.get("origins", []), step]
