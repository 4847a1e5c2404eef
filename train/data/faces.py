"""Decoded faces with their ages: the one form in which training, calibration and tests take data."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.groups import AGE_GROUPS, group_of
from edgeage.train.data.listing import Pixels, stable_hash

_FORMAT = 1
UNKNOWN = UNKNOWN_IDENTITY = -1
# What the numbers in `Faces.genders` and `Faces.races` mean: UTKFace's labels, as it names them.
GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Others")
# Pixels that are read at a time where all of them are needed: a store may be larger than the memory.
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Faces:
    """Face crops in one frame, in the order of their ids.

    Attributes:
        images: uint8 RGB [n, S, S, 3]; from a store an object that is indexed like an array and reads
            from disk (`edgeage.train.data.store.ShardedImages`; np.asarray gives all of it at once).
        ages: int64 [n], whole years.
        groups: int64 [n], index into `edgeage.groups.AGE_GROUPS`.
        ids: n stable names, unique.
        identities: int64 [n], number of the person, -1 where unknown; None if the source knows none.
        drops: reason -> number of images left out.
        source: where the faces come from, as text for people.
        genders: int64 [n], index into `GENDERS`, -1 where unknown; None if the source knows none.
        races: int64 [n], index into `RACES`, likewise.
        known_fingerprint: the fingerprint where it is known without reading the pixels, else "".
    """

    images: Pixels
    ages: NDArray[np.int64]
    groups: NDArray[np.int64]
    ids: list[str]
    identities: NDArray[np.int64] | None
    drops: dict[str, int]
    source: str
    genders: NDArray[np.int64] | None = None
    races: NDArray[np.int64] | None = None
    known_fingerprint: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        count = len(self.ids)
        if not count == len(self.images) == len(self.ages) == len(self.groups):
            raise ValueError("images, ages, groups and ids must have the same length")
        for labels in (self.identities, self.genders, self.races):
            if labels is not None and len(labels) != count:
                raise ValueError("identities, genders and races must have one entry per image")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(
        cls,
        images: Pixels,
        ages: NDArray[np.int64],
        ids: list[str],
        identities: NDArray[np.int64] | None,
        drops: dict[str, int],
        source: str,
        genders: NDArray[np.int64] | None = None,
        races: NDArray[np.int64] | None = None,
        known_fingerprint: str = "",
    ) -> Faces:
        """Faces whose groups follow from their ages."""
        groups = group_of(ages)
        return cls(images, ages, groups, ids, identities, drops, source, genders, races, known_fingerprint)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return int(self.images.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, ages, people and pixels: the same data gives the same text anywhere."""
        return self.known_fingerprint or self.measure()

    def measure(self) -> str:
        """The fingerprint from the pixels themselves, block by block."""
        digest = hashlib.sha256()
        digest.update(json.dumps(self.ids).encode())
        digest.update(self.ages.astype("<i8").tobytes())
        if self.identities is not None:
            digest.update(self.identities.astype("<i8").tobytes())
        digest.update(repr(self.images.shape).encode())
        for start in range(0, len(self), _BLOCK):
            digest.update(np.ascontiguousarray(self.images[start : start + _BLOCK]).data)
        return digest.hexdigest()

    def select(self, which: NDArray[np.bool_] | NDArray[np.integer], source: str | None = None) -> Faces:
        """The faces at a mask or at indices; what was dropped stays with the whole."""
        rows = np.flatnonzero(which) if which.dtype == np.bool_ else which
        return Faces(
            images=self.images[rows] if isinstance(self.images, np.ndarray) else self.images.view(rows),
            ages=self.ages[rows],
            groups=self.groups[rows],
            ids=[self.ids[row] for row in rows],
            identities=None if self.identities is None else self.identities[rows],
            drops={},
            source=source or self.source,
            genders=None if self.genders is None else self.genders[rows],
            races=None if self.races is None else self.races[rows],
        )

    def split(self, seed: int = 0, fractions: Sequence[float] = (0.95, 0.05)) -> tuple[Faces, ...]:
        """Parts of about the given sizes; with known identities no person is in two parts.

        Each image's part follows from a hash of its own id (or person) and the seed: adding images
        never moves the others. Raises EdgeageError if fractions do not sum to 1 or a part is empty.
        """
        if not fractions or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
            raise EdgeageError(f"fractions of a split must be positive and sum to 1, got {tuple(fractions)}")
        limits = np.cumsum(fractions)[:-1]
        people = self.identities if self.identities is not None else np.full(len(self), UNKNOWN_IDENTITY)
        keys = [
            name if person == UNKNOWN_IDENTITY else f"person {person}"
            for name, person in zip(self.ids, people, strict=True)
        ]
        draws = np.array([stable_hash(key, salt=f"split {seed}") for key in keys]) / 2.0**63
        part_of = np.searchsorted(limits, draws, side="right")
        parts = []
        for index, fraction in enumerate(fractions):
            chosen = part_of == index
            if not chosen.any():
                raise EdgeageError(
                    f"part {index + 1} of the split ({fraction:.0%} of {len(self)} faces) is empty; "
                    "take more faces or larger fractions"
                )
            parts.append(self.select(chosen, f"{self.source} [part {index + 1} of {len(fractions)}]"))
        return tuple(parts)

    def require_all_groups(self, least: int = 1) -> Faces:
        """Itself, if every age group has at least `least` faces; EdgeageError naming the others."""
        counts = self.group_counts()
        short = [f"{name} has {count}" for name, count in counts.items() if count < least]
        if short:
            raise EdgeageError(
                f"{self.source}: every age group needs at least {least} face(s), but "
                f"{', '.join(short)}; add images of these ages"
            )
        return self

    def group_counts(self) -> dict[str, int]:
        """Number of faces per age group, in the groups' order."""
        counts = np.bincount(self.groups, minlength=len(AGE_GROUPS))
        return {name: int(count) for name, count in zip(AGE_GROUPS, counts, strict=True)}

    def to_dict(self) -> dict[str, object]:
        """What `report` says, as plain data for JSON."""
        known = None
        if self.identities is not None:
            known = len(np.unique(self.identities[self.identities != UNKNOWN_IDENTITY]))
        return {
            "source": self.source,
            "faces": len(self),
            "image_size": self.image_size,
            "groups": self.group_counts(),
            "people": known,
            "dropped": dict(self.drops),
            "fingerprint": self.fingerprint,
        }

    def report(self) -> str:
        """Faces per age group, and what was dropped and why, as lines of text."""
        lines = [f"{self.source}: {len(self)} faces of {self.image_size} px, {self.fingerprint[:12]}"]
        lines += [f"  {name:>6}  {count:>7}" for name, count in self.group_counts().items()]
        if self.drops:
            lines.append(f"  dropped {sum(self.drops.values())}:")
            lines += [f"    {count:>7}  {reason}" for reason, count in sorted(self.drops.items())]
        else:
            lines.append("  dropped nothing")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write as an uncompressed .npz (no pickle), so that opening again is instant."""
        fields = {"format": _FORMAT, "source": self.source, "drops": self.drops, "ids": self.ids}
        arrays: dict[str, NDArray[Any]] = {"images": self.images, "ages": self.ages}
        labels = {"identities": self.identities, "genders": self.genders, "races": self.races}
        arrays |= {name: values for name, values in labels.items() if values is not None}
        header = np.frombuffer(json.dumps({**fields, "fingerprint": self.fingerprint}).encode(), np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as stream:
                np.savez(stream, header=header, **arrays)  # type: ignore[arg-type]
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Faces:
        """Read what `save` wrote and check it against its fingerprint; EdgeageError if it is broken."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                header = json.loads(stored["header"].tobytes())
                if header.get("format") != _FORMAT:
                    raise EdgeageError(f"{path} was packed by another version; delete it")
                faces = cls.of(
                    stored["images"],
                    stored["ages"],
                    header["ids"],
                    stored.get("identities"),
                    header["drops"],
                    header["source"],
                    stored.get("genders"),
                    stored.get("races"),
                )
        except FileNotFoundError:
            raise EdgeageError(f"no packed faces at {path}") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise EdgeageError(f"cannot read the packed faces {path}: {error}; delete it") from None
        if faces.fingerprint != header.get("fingerprint"):
            raise EdgeageError(f"the packed faces {path} do not match their fingerprint; delete it")
        return faces
