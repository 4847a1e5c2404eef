"""Age the face in a photo: read, detect, align, encode, refine, generate, blend, top to bottom."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.groups import one_hot, parse_group
from edgeage.runtime.aged import STAGES, AgedFace, AgedPhoto
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.engines import Engine, check_engine_name, check_precision, open_engine
from edgeage.runtime.photo.align import align, photo_to_crop
from edgeage.runtime.photo.blend import USUAL_STRENGTHS, blend_delta, blend_raw, check_strength, place
from edgeage.runtime.photo.detect import Detector, Face
from edgeage.runtime.photo.read import Source, read_photo
from edgeage.runtime.photo.resample import Matrix, invert
from edgeage.runtime.refinement import Refined, RefinementOptions
from edgeage.runtime.refiner import Refiner

_SMALL_FACE = 32  # pixels; below, the crop holds less than half of what the encoder was trained on


class Session:
    """A bundle with its engines, opened when they are first needed and then kept.

    Not for use by several threads at once: engines keep their tensors.
    """

    def __init__(
        self, bundle: Bundle, engine: str = "litert", precision: str = "int8", threads: int = 1
    ) -> None:
        self.bundle, self.profile = bundle, bundle.manifest.profile
        self._engine_name = check_engine_name(engine)
        self._precision, self._threads = check_precision(precision, engine), threads
        self._engines: dict[str, Engine] = {}
        self._detector: Detector | None = None
        self._refiner = Refiner(bundle.manifest, self._engine_name, self._precision, self.engine)

    def engine(self, name: str) -> Engine:
        """One of the bundle's engines ("encoder", "generator_all", ...), opened once."""
        if name not in self._engines:
            self._engines[name] = open_engine(
                self.bundle, name, self._engine_name, self._precision, self._threads
            )
        return self._engines[name]

    def detector(self) -> Detector:
        """The face detector, opened once."""
        self._detector = self._detector or Detector(self._engine_name, self._threads)
        return self._detector

    def encode(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Latent z [1, latent_size] of an aligned face, uint8 [S, S, 3]."""
        return self.engine("encoder").run({"image": _network_images(crop[None])})["z"]

    def generate(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """The face of z [1, latent_size] at every group, float32 [groups, S, S, 3] in [-1, 1]."""
        count = len(self.profile.groups)
        feeds = {"z": np.repeat(z, count, axis=0), "y": one_hot(range(count), count)}
        images = self.engine("generator_all").run(feeds)["image"]
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))

    def refine(
        self,
        z: NDArray[np.float32],
        groups: Sequence[int],
        crops: NDArray[np.uint8],
        options: RefinementOptions | None = None,
    ) -> Refined:
        """Move latents z [n, latent_size] so that G(z, own group) looks more like crops, uint8 [n, S, S, 3].

        `groups`: index of each face's own group. `options`: the manifest's unless given; K = 0 gives z back.
        A deadline counts from here, targets included. Raises EdgeageError if steps are asked for and the
        bundle has no refine engine for them.
        """
        y = one_hot(groups, len(self.profile.groups))
        return self._refiner.run(z, y, _network_images(crops), options or self._refiner.defaults())

    def age(
        self,
        photo: Source,
        groups: Sequence[str] | None = None,
        mode: str = "delta",
        source_group: str | None = None,
        strength: float | None = None,
        all_faces: bool = False,
        steps: int | None = None,
        deadline_ms: float | None = None,
        allow_unrefined: bool = False,
    ) -> AgedPhoto:
        """Age the largest face of a photo (or `all_faces`) to each of `groups` (all unless given).

        `photo`: a path, PIL image or array, see `read_photo`. `mode`: "delta" adds the generated change to
        the photo, "raw" pastes the generated face. `source_group`: the face's own group; searched for if not
        given. `strength`: 0..2 for delta (1.1 unless given), 0..1 for raw (1). Groups are names ("60+") or
        ages ("67"). `steps`: K of latent refinement, the manifest's unless given; 0 is none. `deadline_ms`:
        what the refinement of all faces together may take; the best latent until then is used.
        `allow_unrefined`: go on without refinement, with a warning, if the bundle has no engine for it.

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
        options, warnings = self._refiner.choose(steps, deadline_ms, allow_unrefined)
        clock = _Clock()

        with clock("read"):
            picture = read_photo(photo)
        warnings += picture.notes
        with clock("load"):
            self.engine("encoder"), self.engine("generator_all")
            detector = self.detector()
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

        with clock("load"):
            self._refiner.prepare(len(faces), options)
        done, refined = self._make_faces(picture.pixels, faces, source, options, clock)
        aged = {names[target]: picture.pixels for target in targets}
        with clock("blend"):
            for face, crop_to_photo in done:
                aged = self._blend(aged, face, crop_to_photo, mode, strength)
        largest = done[0][0]
        return AgedPhoto(
            photo=picture.pixels,
            faces=tuple(face for face, _ in done),
            aged=aged,
            source_group=largest.source_group,
            source_decided=largest.source_decided,
            mode=mode,
            strength=strength,
            refinement=self._refiner.report(refined, options),
            timings=clock.milliseconds,
            engines={name: engine.description for name, engine in self._engines.items()},
            warnings=tuple(warnings),
        )

    def _make_faces(
        self,
        photo: NDArray[np.uint8],
        faces: Sequence[Face],
        source: int | None,
        options: RefinementOptions,
        clock: _Clock,
    ) -> tuple[list[tuple[AgedFace, Matrix]], Refined]:
        """Each face with what is generated of it and its way from crop to photo; and their refinement."""
        size, names = self.profile.image_size, self.profile.groups
        with clock("align"):
            keypoints = self.bundle.manifest.frame_keypoints
            ways = [invert(photo_to_crop(face, keypoints, size)) for face in faces]
            crops = np.stack([align(photo, way, size) for way in ways])
        with clock("encode"):
            z = np.concatenate([self.encode(crop) for crop in crops])
        generated: list[NDArray[np.float32]] = []
        if source is None:  # the search needs every group of the unrefined latent
            with clock("generate"):
                generated = [self.generate(one) for one in z[:, None]]
                own = [_nearest(images, crop) for images, crop in zip(generated, crops, strict=True)]
        else:
            own = [source] * len(faces)
        with clock("refine"):
            refined = self.refine(z, own, crops, options)
        with clock("generate"):
            generated = [
                generated[i] if generated and not refined.best_step[i] else self.generate(one)
                for i, one in enumerate(refined.z[:, None])
            ]
        decided = "searched" if source is None else "given"
        made = [
            AgedFace(face.box, face.keypoints, face.score, names[group], decided, crop, images)
            for face, group, crop, images in zip(faces, own, crops, generated, strict=True)
        ]
        return list(zip(made, ways, strict=True)), refined

    def _blend(
        self,
        aged: dict[str, NDArray[np.uint8]],
        face: AgedFace,
        crop_to_photo: Matrix,
        mode: str,
        strength: float,
    ) -> dict[str, NDArray[np.uint8]]:
        """The photos with one more face aged."""
        names = self.profile.groups
        source = face.generated[names.index(face.source_group)]
        blended = {}
        for name, pixels in aged.items():
            where = place(crop_to_photo, self.profile.image_size, pixels.shape)
            target = face.generated[names.index(name)]
            if mode == "delta":
                blended[name] = blend_delta(pixels, where, target, source, strength)
            else:
                blended[name] = blend_raw(pixels, where, target, strength)
        return blended


def load(
    bundle: str | os.PathLike[str] | Bundle | None = None,
    engine: str = "litert",
    precision: str = "int8",
    threads: int = 1,
) -> Session:
    """Open a bundle for aging photos.

    `bundle`: a NAME.agebundle folder or its zip; the shipped model unless given (`default_bundle`).
    `engine`: "litert", "tflite-runtime", "onnxruntime" or "tensorrt". `precision`: see `PRECISIONS`; of
    tensorrt also "auto".
    Raises EdgeageError if the bundle is damaged or the names are unknown; engines open on first use.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    return Session(opened, engine, precision, threads)


def _nearest(generated: NDArray[np.float32], crop: NDArray[np.uint8]) -> int:
    """The group whose image has the least mean squared distance to the crop."""
    face = _network_images(crop[None]).transpose(0, 2, 3, 1)
    return int(np.square(generated - face).mean(axis=(1, 2, 3)).argmin())


def _network_images(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[n, 3, S, S] in [-1, 1] of uint8 [n, S, S, 3]."""
    return np.asarray(crops.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1, np.float32)


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
