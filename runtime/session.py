"""Age the face in a photo: read, detect, align, encode, refine, generate, blend, top to bottom."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeage.groups import one_hot
from edgeage.runtime.aged import AgedFace, AgedPhoto, Clock
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.engines import Engine, check_engine_name, check_precision
from edgeage.runtime.opened import Opened
from edgeage.runtime.photo.align import align, photo_to_crop
from edgeage.runtime.photo.blend import place
from edgeage.runtime.photo.compose import AgedPixels, Layer
from edgeage.runtime.photo.detect import Detector, Face
from edgeage.runtime.photo.levels import to_networks
from edgeage.runtime.photo.quality import usable
from edgeage.runtime.photo.read import MAX_MEGAPIXELS, Source, check_limit, read_photo
from edgeage.runtime.photo.resample import Matrix, invert
from edgeage.runtime.plan import Plan, make_plan
from edgeage.runtime.refinement import Refined, RefinementOptions


class Session:
    """A bundle with its engines, opened when they are first needed and then kept.

    May be shared by threads: each has engines of its own (they keep their tensors), opened on its first call
    and dropped when it ends. Calls then run side by side and give the same bits as one after the other.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str = "litert",
        precision: str = "int8",
        threads: int = 1,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        self.bundle, self.profile = bundle, bundle.manifest.profile
        self._choice = (check_engine_name(engine), check_precision(precision, engine), threads)
        self._max_megapixels = check_limit(max_megapixels)
        self._local = threading.local()

    @property
    def _opened(self) -> Opened:
        """What the calling thread has opened."""
        if not hasattr(self._local, "opened"):
            self._local.opened = Opened(self.bundle, *self._choice)
        opened: Opened = self._local.opened
        return opened

    def engine(self, name: str) -> Engine:
        """The calling thread's copy of an engine ("encoder", "generator_all", ...), opened once."""
        return self._opened.engine(name)

    def detector(self) -> Detector:
        """The calling thread's face detector, opened once."""
        return self._opened.detector

    def encode(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Latent z [1, latent_size] of an aligned face, uint8 [S, S, 3]."""
        return self.engine("encoder").run({"image": to_networks(crop[None])})["z"]

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
        return self._opened.refiner.run(z, y, to_networks(crops), options or self._opened.refiner.defaults())

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
        plan = self.plan(groups, mode, source_group, strength, all_faces, steps, deadline_ms, allow_unrefined)
        return self.run(photo, plan)

    def plan(
        self,
        groups: Sequence[str] | None = None,
        mode: str = "delta",
        source_group: str | None = None,
        strength: float | None = None,
        all_faces: bool = False,
        steps: int | None = None,
        deadline_ms: float | None = None,
        allow_unrefined: bool = False,
    ) -> Plan:
        """What `age` would do with these, checked; for `run`, which does it to many photos."""
        refinement, warnings = self._opened.refiner.choose(steps, deadline_ms, allow_unrefined)
        return make_plan(
            self.profile.groups, groups, mode, source_group, strength, all_faces, refinement, warnings
        )

    def run(self, photo: Source, plan: Plan) -> AgedPhoto:
        """`age` by a plan."""
        clock, refiner, names = Clock(), self._opened.refiner, self.profile.groups
        with clock("read"):
            picture = read_photo(photo, self._max_megapixels)
        pixels = picture.pixels
        with clock("load"):
            self.engine("encoder"), self.engine("generator_all")
            detector = self.detector()
        with clock("detect"):
            found = detector.find(pixels, all_faces=plan.all_faces)
        faces, notes = usable(found, pixels.shape, _called(photo), all_faces=plan.all_faces)
        with clock("load"):
            refiner.prepare(len(faces), plan.refinement)
        done, refined = self._make_faces(pixels, faces, plan.source, plan.refinement, clock)
        with clock("blend"):
            layers = [
                self.layer(face.generated, names.index(face.source_group), way, pixels.shape)
                for face, way in done
            ]
        largest = done[0][0]
        return AgedPhoto(
            photo=pixels,
            faces=tuple(face for face, _ in done),
            aged=AgedPixels(pixels, layers, plan.targets, plan.mode, plan.strength, clock),
            source_group=largest.source_group,
            source_decided=largest.source_decided,
            mode=plan.mode,
            strength=plan.strength,
            refinement=refiner.report(refined, plan.refinement),
            timings=clock.milliseconds,
            engines=self._opened.descriptions(),
            warnings=(*plan.warnings, *picture.notes, *notes),
        )

    def align(self, photo: NDArray[np.uint8], face: Face) -> tuple[Matrix, NDArray[np.uint8]]:
        """The way from a face's crop to its photo, uint8 [H, W, 3], and the crop, uint8 [S, S, 3]."""
        size = self.profile.image_size
        way = invert(photo_to_crop(face, self.bundle.manifest.frame_keypoints, size))
        return way, align(photo, way, size)

    def layer(
        self,
        generated: NDArray[np.float32],
        source: int,
        crop_to_photo: Matrix,
        photo_shape: tuple[int, ...],
        weight: float = 1.0,
    ) -> Layer:
        """What `compose` blends into a photo of [H, W, ...]: a face of `generate`, own group `source`."""
        return Layer(place(crop_to_photo, self.profile.image_size, photo_shape), generated, source, weight)

    def _make_faces(
        self,
        photo: NDArray[np.uint8],
        faces: Sequence[Face],
        source: int | None,
        options: RefinementOptions,
        clock: Clock,
    ) -> tuple[list[tuple[AgedFace, Matrix]], Refined]:
        """Each face with what is generated of it and its way from crop to photo; and their refinement."""
        names = self.profile.groups
        with clock("align"):
            aligned = [self.align(photo, face) for face in faces]
            ways, crops = [way for way, _ in aligned], np.stack([crop for _, crop in aligned])
        with clock("encode"):
            z = np.concatenate([self.encode(crop) for crop in crops])
        generated: list[NDArray[np.float32]] = []
        if source is None:  # the search needs every group of the unrefined latent
            with clock("generate"):
                generated = [self.generate(one) for one in z[:, None]]
                own = [nearest_group(images, crop) for images, crop in zip(generated, crops, strict=True)]
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


def load(
    bundle: str | os.PathLike[str] | Bundle | None = None,
    engine: str = "litert",
    precision: str = "int8",
    threads: int = 1,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Session:
    """Open a bundle for aging photos.

    `bundle`: a NAME.agebundle folder or its zip; the shipped model unless given (`default_bundle`).
    `engine`: "litert", "tflite-runtime", "onnxruntime" or "tensorrt". `precision`: see `PRECISIONS`; of
    tensorrt also "auto".
    `max_megapixels`: larger photos are refused before they are decoded; up to 178.
    Raises EdgeageError if the bundle is damaged or the names are unknown; engines open on first use.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    return Session(opened, engine, precision, threads, max_megapixels)


def nearest_group(generated: NDArray[np.float32], crop: NDArray[np.uint8]) -> int:
    """Index of the group whose image, float32 [S, S, 3] of `generated`, is nearest to the crop in pixels."""
    face = to_networks(crop[None]).transpose(0, 2, 3, 1)
    return int(np.square(generated - face).mean(axis=(1, 2, 3)).argmin())


def _called(photo: Source) -> str:
    return os.fspath(photo) if isinstance(photo, str | os.PathLike) else "the picture"
