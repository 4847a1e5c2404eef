"""The faces that calibrate a checkpoint's engines, apart from those that check them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.train.checkpoint import Checkpoint
from edgeage.train.data import open_source
from edgeage.train.recipes.schema import held_out_by


@dataclass(frozen=True)
class CalibrationFaces:
    """
    Attributes:
        images: uint8 RGB [n, S, S, 3], with their age groups int64 [n].
        source: kind of the source, e.g. "utkface".
        fingerprint: of the source.
        held_out: images that training never saw with their groups, if the source is the training's own.
        drops: reason -> number of images of the source that are no use and were left out.
    """

    images: NDArray[np.uint8]
    groups: NDArray[np.int64]
    source: str
    fingerprint: str
    held_out: tuple[NDArray[np.uint8], NDArray[np.int64]] | None
    drops: dict[str, int]

    @property
    def remark(self) -> str | None:
        """What was left out of the source, in one line."""
        if not self.drops:
            return None
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.drops.items()))
        return f"{sum(self.drops.values())} images of the source were left out: {reasons}"


def calibration_faces(checkpoint: Checkpoint, source: str, *, progress: bool) -> CalibrationFaces:
    """Open `source`; of the training's own data, the training part calibrates and the validation part checks.

    Raises EdgeageError if the source cannot be read.
    """
    faces = open_source(source, image_size=checkpoint.profile.image_size, progress=progress)
    kind, fingerprint = source.partition(":")[0], faces.fingerprint
    data: dict[str, Any] = checkpoint.meta.get("data", {})
    if data.get("fingerprint") != fingerprint:
        return CalibrationFaces(faces.images, faces.groups, kind, fingerprint, None, faces.drops)
    seen, unseen, _ = held_out_by(checkpoint.meta.get("recipe", {})).split(faces)
    held_out = (unseen.images, unseen.groups)
    return CalibrationFaces(seen.images, seen.groups, kind, fingerprint, held_out, faces.drops)
