"""The faces that are evaluated: which part of the data, their labels, and what the judges say of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.groups import AGE_GROUPS
from edgeage.train.checkpoint import Checkpoint
from edgeage.train.data import Faces
from edgeage.train.data.faces import GENDERS, RACES
from edgeage.train.data.listing import Pixels
from edgeage.train.evaluation import metrics
from edgeage.train.evaluation.judges import FIXED_THRESHOLDS, LAX, STRICT, Judges
from edgeage.train.recipes.schema import held_out_by

PARTS = ("test", "validation", "all")
FALSE_MATCH_RATE = 1e-3
_MOST_IMPOSTORS = 2000  # faces whose pairs are formed
_LEAST_FACES = 12
_BLOCK = 4096  # of images in memory: a store may hold more than fits
_PER_FACE = ("images", "ages", "groups", "embeddings", "judged_ages", "sharpness")


@dataclass(frozen=True)
class Choice:
    """What is evaluated and what the baselines may know.

    Attributes:
        faces: the evaluated part.
        training: the faces the model learned from; None if the data are others.
        split: which faces these are, as text for people.
    """

    faces: Faces
    training: Faces | None
    split: str


class Drawing(Protocol):
    """Which faces a report is about: part of the data, at most so many, or so many a group, at random."""

    @property
    def part(self) -> str: ...
    @property
    def faces(self) -> int | None: ...
    @property
    def per_group(self) -> int | None: ...
    @property
    def seed(self) -> int: ...


def choose_faces(faces: Faces, checkpoint: Checkpoint, part: str = "test") -> Choice:
    """The asked part of the data the checkpoint was trained on, or all faces of other data.

    Raises EdgeageError for an unknown part.
    """
    if part not in PARTS:
        raise EdgeageError(f"unknown part {part!r} of the data; the parts are {', '.join(PARTS)}")
    if checkpoint.meta.get("data", {}).get("fingerprint") != faces.fingerprint:
        return Choice(faces, None, "all faces: these are not the data of the training")
    fields = checkpoint.meta.get("recipe", {})
    training, validation, test = held_out_by(fields).split(faces)
    if part == "all":
        return Choice(faces, training, "all faces, MOST OF THEM SEEN IN TRAINING")
    if part == "test":
        return Choice(test, training, "test part: no training, no choice was made on it")
    text = "validation part: not trained on, but choices were made on it"
    if "test" not in fields:
        text += "; this run was split in two parts, so a share of these faces WAS SEEN IN TRAINING"
    return Choice(validation, training, text)


def thin(faces: Faces, most: int | None, per_group: int | None, seed: int) -> Faces:
    """At most so many faces at random, or exactly so many of each age group; the order stays.

    Raises EdgeageError if a group has too few, or fewer than twelve faces are left.
    """
    order = np.random.default_rng((seed, 0)).permutation(len(faces))
    if per_group is not None:
        counts = faces.group_counts()
        short = [f"{name} has {count}" for name, count in counts.items() if count < per_group]
        if short:
            raise EdgeageError(
                f"--per-group {per_group} needs as many faces in every age group, but {', '.join(short)}"
            )
        chosen = [order[faces.groups[order] == group][:per_group] for group in range(len(counts))]
        order = np.concatenate(chosen)
    order = np.sort(order[:most])
    if len(order) < _LEAST_FACES:
        raise EdgeageError(f"{len(order)} faces are too few to evaluate; take at least {_LEAST_FACES}")
    return faces if len(order) == len(faces) else faces.select(order)


@dataclass(frozen=True)
class Subject:
    """Real faces as the judges see them.

    Attributes:
        images: uint8 [n, S, S, 3]; ages, groups: [n] from the labels.
        labels: name -> [n] text, "" where unknown; figures are told apart by them.
        embeddings, judged_ages, sharpness: the judges' and the metric's word on the real faces.
        impostors: distances between different persons, and what follows from them.
        mean_faces: uint8 [groups, S, S, 3] and mean_ages [groups] of the training faces.
    """

    images: Pixels
    ages: NDArray[np.int64]
    groups: NDArray[np.int64]
    labels: dict[str, NDArray[np.str_]]
    embeddings: NDArray[np.float32]
    judged_ages: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    impostors: dict[str, float]
    mean_faces: Pixels
    mean_ages: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)

    def at(self, rows: NDArray[np.int64]) -> Subject:
        """Some of the faces; thresholds and means stay those of all."""
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in _PER_FACE},
            labels={name: texts[rows] for name, texts in self.labels.items()},
        )

    @property
    def thresholds(self) -> dict[str, float]:
        """Name -> judge distance below which two faces are one person."""
        measured = self.impostors["threshold_measured"]
        known = {} if math.isnan(measured) else {"measured": measured}
        return FIXED_THRESHOLDS | known


def draw(
    faces: Faces,
    checkpoint: Checkpoint,
    settings: Drawing,
    judges: Judges,
    say: Callable[[str], None],
) -> tuple[Subject, Choice]:
    """The faces that settings ask for, as the judges see them; `Choice.faces` are those that were drawn.

    Raises EdgeageError for an unknown part or too few faces.
    """
    choice = choose_faces(faces, checkpoint, settings.part)
    choice = replace(choice, faces=thin(choice.faces, settings.faces, settings.per_group, settings.seed))
    say(f"{len(choice.faces)} faces: {choice.split}")
    return examine(choice.faces, choice.training, judges), choice


def examine(faces: Faces, training: Faces | None, judges: Judges) -> Subject:
    """Let the judges see the real faces; baselines come from `training`, else from the faces themselves."""
    images = np.asarray(faces.images[:])
    embeddings = judges.embeddings(images, "real faces")
    mean_faces, mean_ages = _means(faces if training is None else training)
    return Subject(
        images=images,
        ages=faces.ages,
        groups=faces.groups,
        labels=_labels(faces),
        embeddings=embeddings,
        judged_ages=judges.ages(images, "real faces"),
        sharpness=metrics.sharpness(images),
        impostors=_impostors(faces, embeddings),
        mean_faces=mean_faces,
        mean_ages=mean_ages,
    )


def spaced(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of `count` indices, evenly: ids may be sorted by age, the first would be children."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _labels(faces: Faces) -> dict[str, NDArray[np.str_]]:
    def named(numbers: NDArray[np.int64], names: tuple[str, ...]) -> NDArray[np.str_]:
        return np.array([*names, ""])[numbers]  # -1, unknown, is the last

    labels = {"age group": named(faces.groups, AGE_GROUPS)}
    if faces.genders is not None:
        labels["gender"] = named(faces.genders, GENDERS)
    if faces.races is not None:
        labels["race label"] = named(faces.races, RACES)
    return labels


def _impostors(faces: Faces, embeddings: NDArray[np.float32]) -> dict[str, float]:
    some = spaced(len(faces), _MOST_IMPOSTORS)
    identities = None if faces.identities is None else faces.identities[some]
    alike = [faces.groups[some]] + ([] if faces.genders is None else [faces.genders[some]])
    pairs = metrics.impostor_distances(embeddings[some], identities)
    same_kind = metrics.impostor_distances(embeddings[some], identities, alike)
    return {
        "pairs": float(len(pairs)),
        "mean": float(pairs.mean()),
        "false_match_rate_lax": float((pairs < LAX).mean()),
        "false_match_rate_strict": float((pairs < STRICT).mean()),
        "threshold_measured": metrics.threshold_at(pairs, FALSE_MATCH_RATE),
        "threshold_measured_same_group_and_gender": metrics.threshold_at(same_kind, FALSE_MATCH_RATE),
    }


def _means(faces: Faces) -> tuple[Pixels, NDArray[np.float64]]:
    """Mean image and mean age of every group; of all faces where a group is empty."""
    images, ages = [], []
    for group in range(len(AGE_GROUPS)):
        members = np.flatnonzero(faces.groups == group)
        if not len(members):
            members = np.arange(len(faces))
        blocks = (members[start : start + _BLOCK] for start in range(0, len(members), _BLOCK))
        total = sum(faces.images[block].sum(0, dtype=np.int64) for block in blocks)
        images.append(np.rint(total / len(members)).astype(np.uint8))
        ages.append(faces.ages[members].mean())
    return np.stack(images), np.array(ages)
