"""Age the face in a photo: read, detect, align, encode, (refine,) generate, blend, top to bottom."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.groups import one_hot, parse_group
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.engines import Engine, check_engine_name, check_precision, open_engine
from edgeage.runtime.photo.align import align, photo_to_crop
from edgeage.runtime.photo.blend import USUAL_STRENGTHS, blend_delta, blend_raw, check_strength, place
from edgeage.runtime.photo.detect import Detector, Face
from edgeage.runtime.photo.read import Source, read_photo
from edgeage.runtime.photo.resample import invert

STAGES = ("load", "read", "detect", "align", "encode", "refine", "generate", "blend")
_SMALL_FACE = 32  # pixels; below, the crop holds less than half of what the encoder was trained on


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
        aged: the photo at each asked group, uint8 [H, W, 3].
        source_group, source_decided: of the largest face.
        mode, strength: as asked.
        refinement: {"steps": K, "note": text}; K = 0 means that z is the encoder's, not refined.
        timings: milliseconds per stage of `STAGES`; "load" is the opening of engines, 0 once they are open.
        engines: what ran each step, one line each.
        warnings: what the user should know, one line each.
    """

    photo: NDArray[np.uint8]
    faces: tuple[AgedFace, ...]
    aged: dict[str, NDArray[np.uint8]]
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


class Session:
    """A bundle with its engines, opened when they are first needed and then kept.

    Not for use by several threads at once: engines keep their tensors.
    """

    def __init__(
        self, bundle: Bundle, engine: str = "litert", precision: str = "int8", threads: int = 1
    ) -> None:
        self.bundle, self.profile = bundle, bundle.manifest.profile
        self._engine_name = check_engine_name(engine)
        self._precision, self._threads = check_precision(precision), threads
        self._engines: dict[str, Engine] = {}
        self._detector: Detector | None = None

    def engine(self, name: str) -> Engine:
        """One of the bundle's engines ("encoder", "generator_all", ...), opened once."""
        if name not in self._engines:
            self._engines[name] = open_engine(
                self.bundle, name, self._engine_name, self._precision, self._threads
            )
        return self._engines[name]

    def encode(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Latent z [1, latent_size] of an aligned face, uint8 [S, S, 3]."""
        image = crop.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - 1
        return self.engine("encoder").run({"image": image})["z"]

    def generate(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """The face of z [1, latent_size] at every group, float32 [groups, S, S, 3] in [-1, 1]."""
        count = len(self.profile.groups)
        feeds = {"z": np.repeat(z, count, axis=0), "y": one_hot(range(count), count)}
        images = self.engine("generator_all").run(feeds)["image"]
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))

    def age(
        self,
        photo: Source,
        groups: Sequence[str] | None = None,
        mode: str = "delta",
        source_group: str | None = None,
        strength: float | None = None,
        all_faces: bool = False,
    ) -> AgedPhoto:
        """Age the largest face of a photo (or `all_faces`) to each of `groups` (all unless given).

        `photo`: a path, PIL image or array, see `read_photo`. `mode`: "delta" adds the generated change to
        the photo, "raw" pastes the generated face. `source_group`: the face's own group; searched for if not
        given. `strength`: 0..2 for delta (1.1 unless given), 0..1 for raw (1). Groups are names ("60+") or
        ages ("67").

        Raises EdgeageError for bad input: no picture, no face, an unknown group, a bad strength, an engine
        that is not there.
        """
        if strength is None:
            strength = USUAL_STRENGTHS.get(mode, 1.0)
        check_strength(strength, mode)
        names = self.profile.groups
        targets = range(len(names)) if groups is None else [parse_group(group, names) for group in groups]
        if not targets:
            raise EdgeageError(f"no age group asked for; the groups are {', '.join(names)}")
        source = None if source_group is None else parse_group(source_group, names)
        clock = _Clock()
        warnings: list[str] = []

        with clock("read"):
            picture = read_photo(photo)
        warnings += picture.notes
        with clock("load"):
            self.engine("encoder"), self.engine("generator_all")
            self._detector = detector = self._detector or Detector(self._engine_name, self._threads)
        with clock("detect"):
            faces = detector.find(picture.pixels, all_faces=all_faces)
        if not faces:
            raise EdgeageError(
                f"no face found in {_called(photo)}; use a photo in which a face is upright, turned to the "
                "camera and at least 20 pixels wide"
            )
        if len(faces) > 1 and not all_faces:
            warnings.append(f"{len(faces)} faces found: the largest is aged; --all-faces ages every one")
            faces = faces[:1]
        if small := sum(face.size < _SMALL_FACE for face in faces):
            warnings.append(
                f"{small} of the aged faces narrower than {_SMALL_FACE} pixels: expect little detail"
            )

        aged = {names[target]: picture.pixels for target in targets}
        done = []
        for face in faces:
            result, aged = self._age_face(picture.pixels, face, aged, source, mode, strength, clock)
            done.append(result)
        return AgedPhoto(
            photo=picture.pixels,
            faces=tuple(done),
            aged=aged,
            source_group=done[0].source_group,
            source_decided=done[0].source_decided,
            mode=mode,
            strength=strength,
            refinement={"steps": 0, "note": "K=0: z is the encoder's; this version does not refine it"},
            timings=clock.milliseconds,
            engines={name: engine.description for name, engine in self._engines.items()},
            warnings=tuple(warnings),
        )

    def _age_face(
        self,
        photo: NDArray[np.uint8],
        face: Face,
        aged: dict[str, NDArray[np.uint8]],
        source: int | None,
        mode: str,
        strength: float,
        clock: _Clock,
    ) -> tuple[AgedFace, dict[str, NDArray[np.uint8]]]:
        """One face of `photo`, blended into each of `aged`."""
        size, names = self.profile.image_size, self.profile.groups
        with clock("align"):
            crop_to_photo = invert(photo_to_crop(face, self.bundle.manifest.frame_keypoints, size))
            crop = align(photo, crop_to_photo, size)
        with clock("encode"):
            z = self.encode(crop)
        with clock("refine"):
            pass  # K = 0: the refinement engine is not part of bundles yet; the result says so
        with clock("generate"):
            generated = self.generate(z)
            own = _nearest(generated, crop) if source is None else source
        with clock("blend"):
            where = place(crop_to_photo, size, photo.shape)
            blended = {}
            for name, pixels in aged.items():
                target = generated[names.index(name)]
                if mode == "delta":
                    blended[name] = blend_delta(pixels, where, target, generated[own], strength)
                else:
                    blended[name] = blend_raw(pixels, where, target, strength)
        decided = "searched" if source is None else "given"
        result = AgedFace(face.box, face.keypoints, face.score, names[own], decided, crop, generated)
        return result, blended


def load(
    bundle: str | os.PathLike[str] | Bundle | None = None,
    engine: str = "litert",
    precision: str = "int8",
    threads: int = 1,
) -> Session:
    """Open a bundle for aging photos.

    `bundle`: a NAME.agebundle folder or its zip; the shipped model unless given (`default_bundle`).
    `engine`: "litert", "tflite-runtime" or "onnxruntime". `precision`: "int8" or "float32".
    Raises EdgeageError if the bundle is damaged or the names are unknown; engines open on first use.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    return Session(opened, engine, precision, threads)


def _nearest(generated: NDArray[np.float32], crop: NDArray[np.uint8]) -> int:
    """The group whose image has the least mean squared distance to the crop."""
    face = crop.astype(np.float32) / np.float32(127.5) - 1
    return int(np.square(generated - face).mean(axis=(1, 2, 3)).argmin())


def _called(photo: Source) -> str:
    return os.fspath(photo) if isinstance(photo, str | os.PathLike) else "the picture"


class _Clock:
    """Adds up the time of each stage."""

    def __init__(self) -> None:
        self.milliseconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.milliseconds[stage] += (time.perf_counter() - start) * 1e3
