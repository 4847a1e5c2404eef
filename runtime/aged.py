"""What `Session.age` gives: the photos, the faces and how they came to be."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.photo.detect import Face
from edgeage.runtime.photo.quality import quality

STAGES = ("load", "read", "detect", "align", "encode", "refine", "generate", "blend")


@dataclass(frozen=True)
class AgedFace(Face):
    """A face of the photo and what the engines made of it.

    Attributes:
        source_group: the age group that the face is taken to have.
        source_decided: "given", or "searched": the group whose reconstruction is nearest in pixels.
        crop: the aligned face, uint8 [S, S, 3].
        generated: float32 [groups, S, S, 3] in [-1, 1], one image per group of the profile.
    """

    source_group: str
    source_decided: str
    crop: NDArray[np.uint8]
    generated: NDArray[np.float32]


@dataclass(frozen=True)
class AgedPhoto:
    """The result of `Session.age`.

    Attributes:
        photo: uint8 [H, W, 3], upright sRGB, as read.
        faces: those that were aged, the largest first.
        aged: the photo at each asked group, uint8 [H, W, 3]; blended anew at every access, so that a photo
            of many megapixels is not in memory six times.
        source_group, source_decided: of the largest face.
        mode, strength: as asked.
        refinement: {"steps": K, "note": text, "faces": [...]}; K = 0 means that z is the encoder's, not
            refined. Per face: steps_done, best_step, cosine_before, cosine_after (None if nothing ran), flag,
            milliseconds (of the call; faces refined together share it). Empty for K = 0.
        timings: milliseconds per stage of `STAGES`; "load" is the opening of engines, 0 once they are open;
            "blend" grows with every access to `aged`.
        engines: what ran each step, one line each.
        warnings: what the user should know, one line each.
    """

    photo: NDArray[np.uint8]
    faces: tuple[AgedFace, ...]
    aged: Mapping[str, NDArray[np.uint8]]
    source_group: str
    source_decided: str
    mode: str
    strength: float
    refinement: dict[str, Any]
    timings: dict[str, float]
    engines: dict[str, str]
    warnings: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Everything but the pixels, as JSON values."""
        faces = [
            {
                "box": [round(edge, 1) for edge in face.box],
                "keypoints": face.keypoints.round(1).tolist(),
                "score": round(face.score, 3),
                "quality": round(quality(face, self.photo.shape).score, 3),
                "source_group": face.source_group,
                "source_decided": face.source_decided,
            }
            for face in self.faces
        ]
        return {
            "size": [self.photo.shape[1], self.photo.shape[0]],
            "faces": faces,
            "groups": list(self.aged),
            "source_group": self.source_group,
            "source_decided": self.source_decided,
            "mode": self.mode,
            "strength": self.strength,
            "refinement": self.refinement,
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings.items()},
            "engines": self.engines,
            "warnings": list(self.warnings),
        }


class Clock:
    """Adds up the time of each stage."""

    def __init__(self) -> None:
        self.milliseconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.milliseconds[stage] += (time.perf_counter() - start) * 1e3
