"""What a run starts from: faces, their split, and what the teacher says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from edgeage.errors import EdgeageError
from edgeage.train.batches import to_images
from edgeage.train.data import Faces, open_source
from edgeage.train.profiles.schema import load_profile
from edgeage.train.recipes.schema import Recipe
from edgeage.train.teacher import HOW_TO_GET, Teacher

LEAST_FACES = 64
VALIDATION_FACES = 120


@dataclass(frozen=True)
class Inputs:
    """All faces, the part that is trained on, the part that choices are made on, and the teacher."""

    faces: Faces
    training: Faces
    validation: Faces
    teacher: Teacher | None
    embeddings: NDArray[np.float32] | None


def load_inputs(
    recipe: Recipe,
    source: str,
    teacher: Path | None,
    cache: Path,
    say: Callable[[str], None],
    *,
    device: torch.device,
    threads: int = 1,
    progress: bool = False,
) -> Inputs:
    """Decode the faces and label them by the teacher, or take both from `cache`.

    Raises EdgeageError for bad data or a missing teacher.
    """
    network = load_teacher(recipe, teacher, threads)
    if network is not None:
        network.to(device)
    size = load_profile(recipe.profile).image_size
    faces = open_source(source, size, cache_dir=cache, progress=progress)
    say(faces.report())
    if len(faces) < LEAST_FACES:
        raise EdgeageError(f"{source} has {len(faces)} usable faces; training needs {LEAST_FACES}")
    training, validation, _ = recipe.split(faces)
    embeddings = None if network is None else teacher_embeddings(network, training, cache, progress)
    return Inputs(faces, training, validation, network, embeddings)


def load_teacher(recipe: Recipe, file: Path | None, threads: int) -> Teacher | None:
    if not recipe.needs_teacher:
        return None
    if file is None:
        raise EdgeageError(f"recipe {recipe.name!r} distils a teacher; give --teacher; {HOW_TO_GET}")
    return Teacher(file, threads)


def teacher_embeddings(teacher: Teacher, faces: Faces, cache: Path, progress: bool) -> NDArray[np.float32]:
    """The teacher's embedding of every training face; made once per run and data."""
    cached = cache / f"teacher-{faces.fingerprint[:16]}.npz"
    if cached.exists():
        with np.load(cached, allow_pickle=False) as stored:
            embeddings: NDArray[np.float32] = stored["embeddings"]
            return embeddings
    parts = []
    for start in tqdm(range(0, len(faces), 256), desc="Teacher on real faces", disable=not progress):
        images = torch.from_numpy(faces.images[start : start + 256])
        parts.append(teacher.embed(to_images(images)))
    embeddings = np.concatenate(parts)
    cached.parent.mkdir(parents=True, exist_ok=True)
    temporary = cached.with_suffix(".tmp.npz")
    try:
        np.savez(temporary, embeddings=embeddings)
        temporary.replace(cached)
    finally:
        temporary.unlink(missing_ok=True)
    return embeddings


def fixed_validation(faces: Faces, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same faces at every step, spread over the groups: (images, groups)."""
    order = np.random.default_rng(0).permutation(len(faces))
    ranks = np.empty(len(faces), dtype=np.int64)
    for group in np.unique(faces.groups):
        members = order[faces.groups[order] == group]
        ranks[members] = np.arange(len(members))
    chosen = np.lexsort((faces.groups, ranks))[:VALIDATION_FACES]
    images = to_images(torch.from_numpy(np.ascontiguousarray(faces.images[chosen])))
    return images.to(device), torch.from_numpy(faces.groups[chosen]).to(device)
