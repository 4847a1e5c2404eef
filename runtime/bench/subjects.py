"""What can be measured: engines, refinement, the whole pipeline and the cold start, each ready to run.

A subject is spelt NAME or NAME,engine=E,precision=P,threads=N,steps=K. NAME is an engine of the bundle;
"refinement", the host's loop of K steps with all that it needs; "pipeline", from a photo to its six ages,
stage by stage; "cold", the same in a fresh process up to the first photo; or "cold.ENGINE", of one engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.bench.cold import start_cold
from edgeage.runtime.bench.load import Work
from edgeage.runtime.bench.placement import Placement, place
from edgeage.runtime.bench.results import Subject
from edgeage.runtime.engines import Engine, Feeds, check_engine_name, check_precision, open_engine
from edgeage.runtime.engines.packages import PACKAGES, require
from edgeage.runtime.on_device.golden import golden_feeds, read_golden
from edgeage.runtime.photo.read import Source
from edgeage.runtime.refinement import RefinementOptions
from edgeage.runtime.session import Session

if TYPE_CHECKING:
    from edgeage.runtime.bundle import Bundle

REFINEMENT, PIPELINE, COLD = "refinement", "pipeline", "cold"
OLD_TFLITE = "tflite-runtime 2.14 runs INT8 without XNNPACK, slower than float: use litert for speed"
_KEYS = ("engine", "precision", "threads", "steps")
_STAGES = ("read", "detect", "align", "encode", "refine", "generate", "blend")


@dataclass(frozen=True)
class Spec:
    """A subject as it is asked for. `steps`: None is the bundle's K."""

    name: str
    engine: str = "litert"
    precision: str = "int8"
    threads: int = 1
    steps: int | None = None

    @property
    def label(self) -> str:
        return Subject(self.name, self.engine, self.precision, self.threads, self.steps).label

    @property
    def cold(self) -> bool:
        return self.name.split(".")[0] == COLD


@dataclass(frozen=True)
class Prepared:
    """A subject that is ready to run.

    Attributes:
        subject: see `results.Subject`.
        work: one run.
        place: says where its nodes run; None for what is no single engine.
        cold: whether every run starts anew, so that there is no warm-up.
        again: makes the same subject once more, for a worker of its own.
    """

    subject: Subject
    work: Work
    place: Callable[[], Placement] | None
    cold: bool
    again: Callable[[], Prepared]


def parse_spec(text: str, default: Spec | None = None) -> Spec:
    """Read "encoder" or "encoder,engine=onnxruntime,threads=2"; what is not said is `default`'s."""
    name, *settings = text.split(",")
    spec = replace(default or Spec(""), name=name.strip())
    for setting in settings:
        key, _, value = (part.strip() for part in setting.partition("="))
        if key not in _KEYS or not value:
            known = ", ".join(f"{one}=" for one in _KEYS)
            raise EdgeageError(f"subject {text!r}: {setting!r} is no setting; they are {known}")
        if key == "engine":
            spec = replace(spec, engine=value)
        elif key == "precision":
            spec = replace(spec, precision=value)
        elif not value.isdecimal():
            raise EdgeageError(f"subject {text!r}: {key} is {value!r}, expected a whole number")
        elif key == "threads":
            spec = replace(spec, threads=int(value))
        else:
            spec = replace(spec, steps=int(value))
    return spec


def known_names(bundle: Bundle) -> list[str]:
    engines = list(bundle.manifest.engines)
    return [*engines, REFINEMENT, PIPELINE, COLD, *(f"{COLD}.{name}" for name in engines)]


def prepare(bundle: Bundle, spec: Spec, photo: Source | None = None) -> Prepared:
    """Open what a subject needs.

    `photo`: of the pipeline; a face of the bundle's own generator on a picture of 640x480 unless given.

    Raises EdgeageError if the name is unknown, the engine is not installed, the bundle lacks the file, steps
    are asked for without a refine engine, or no face is found in the photo.
    """
    if spec.name not in known_names(bundle):
        known = ", ".join(known_names(bundle)[: len(bundle.manifest.engines) + 3])
        raise EdgeageError(f"no subject {spec.name!r}; {bundle.manifest.name} has {known} and cold.ENGINE")
    check_precision(spec.precision, check_engine_name(spec.engine))
    if spec.engine in PACKAGES:  # TensorRT says itself what it lacks when it opens
        require(spec.engine)
    if spec.cold:
        ready = _cold(bundle, spec)
    elif spec.name in (REFINEMENT, PIPELINE):
        ready = _of_session(bundle, spec, photo)
    else:
        ready = _of_engine(bundle, spec)
    if spec.engine == "tflite-runtime" and spec.precision == "int8":
        ready = replace(ready, subject=replace(ready.subject, notes=(*ready.subject.notes, OLD_TFLITE)))
    return ready


def feeds_of(bundle: Bundle, name: str, engine: Engine) -> Feeds:
    """The bundle's golden inputs of an engine; random ones in [-1, 1] where it has none."""
    if "golden.npz" in bundle.manifest.files:
        return golden_feeds(name, bundle.manifest.engines[name], read_golden(bundle))
    rng = np.random.default_rng(0)
    return {port.name: rng.uniform(-1, 1, port.shape).astype(np.float32) for port in engine.inputs}


def own_photo(session: Session) -> NDArray[np.uint8]:
    """A photo that every bundle can make: the generator's face at z = 0, 256 pixels wide on 640x480, grey."""
    from PIL import Image

    groups = len(session.profile.groups)
    face = session.generate(np.zeros((1, session.profile.latent_size), np.float32))[groups // 2]
    pixels = np.clip((face + 1) * 127.5, 0, 255).astype(np.uint8)
    photo = Image.new("RGB", (640, 480), (127, 127, 127))
    photo.paste(Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC), (192, 112))
    return np.asarray(photo)


def _of_engine(bundle: Bundle, spec: Spec) -> Prepared:
    engine = open_engine(bundle, spec.name, spec.engine, spec.precision, spec.threads)
    feeds = feeds_of(bundle, spec.name, engine)

    def run() -> None:
        engine.run(feeds)

    return Prepared(
        Subject(spec.name, spec.engine, spec.precision, spec.threads, None, engine.description),
        run,
        partial(place, bundle, spec.name, spec.engine, spec.precision, feeds, spec.threads),
        cold=False,
        again=partial(prepare, bundle, spec),
    )


def _of_session(bundle: Bundle, spec: Spec, photo: Source | None) -> Prepared:
    session = Session(bundle, spec.engine, spec.precision, spec.threads)
    picture = own_photo(session) if photo is None else photo
    # a group is given as the face's own, so that nothing is searched for
    own = len(session.profile.groups) // 2
    first = session.age(picture, source_group=session.profile.groups[own], steps=spec.steps)
    steps = first.refinement["steps"]

    def run_pipeline() -> dict[str, int]:
        aged = session.age(picture, source_group=session.profile.groups[own], steps=steps)
        for _ in aged.aged.values():  # each is blended when it is asked for
            pass
        return {stage: round(aged.timings[stage] * 1e6) for stage in _STAGES}

    crop = first.faces[0].crop
    z = session.encode(crop)
    options = replace(RefinementOptions.from_manifest(bundle.manifest.refinement), steps=steps)

    def run_refinement() -> None:
        session.refine(z, [own], crop[None], options)

    described = "; ".join(dict.fromkeys(first.engines.values()))
    return Prepared(
        Subject(spec.name, spec.engine, spec.precision, spec.threads, steps, described, first.warnings),
        run_pipeline if spec.name == PIPELINE else run_refinement,
        place=None,
        cold=False,
        again=partial(prepare, bundle, spec, photo),
    )


def _cold(bundle: Bundle, spec: Spec) -> Prepared:
    name = spec.name.partition(".")[2]
    if name:  # what cannot be opened is told here, not by a process
        open_engine(bundle, name, spec.engine, spec.precision, spec.threads)
        steps = None
    else:
        steps = _of_session(bundle, spec, None).subject.steps
    request = {
        "bundle": str(bundle.path.resolve()),
        "engine": spec.engine,
        "precision": spec.precision,
        "threads": spec.threads,
        "name": name,
        "steps": steps or 0,
    }
    described = "each run in a fresh process; files come from the system's cache"
    return Prepared(
        Subject(spec.name, spec.engine, spec.precision, spec.threads, steps, described),
        partial(start_cold, request),
        place=None,
        cold=True,
        again=partial(prepare, bundle, spec),
    )
