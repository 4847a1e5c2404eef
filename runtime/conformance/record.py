"""What one engine package makes of the golden vectors, as a file that another machine can compare."""

from __future__ import annotations

import json
import platform
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.files import read_json
from edgeage.machine import kernel_set
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.conformance.vectors import Case, Golden, cases, float_cases, from_stored
from edgeage.runtime.engines import ENGINE_FORMATS, open_file
from edgeage.runtime.engines.packages import require
from edgeage.runtime.session import Session, load

THREADS = 4  # of the variant that must give the same codes as one thread
FACE, PHOTO = "whole face", "photo"
FACE_KEY = f"{FACE}/generator_all/image"


@dataclass
class Record:
    """Codes of a place, and what computed them.

    Attributes:
        tool: package and version, e.g. "ai-edge-litert 2.3.0".
        machine: see `edgeage.machine.kernel_set`.
        codes: int8 [..] NCHW by "VARIANT/ENGINE/PORT"; the variant "whole face" is the golden face after
            encoder, refinement and generator_all.
        photos: uint8 [H, W, 3] by age group, a photo aged to it.
        seconds: that it took.
    """

    tool: str
    machine: str = ""
    codes: dict[str, NDArray[np.int8]] = field(default_factory=dict)
    photos: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        about = json.dumps({"tool": self.tool, "machine": self.machine, "seconds": self.seconds})
        photos = {f"{PHOTO}/{group}": pixels for group, pixels in self.photos.items()}
        arrays: dict[str, Any] = {"about": np.array(about), **self.codes, **photos}
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)


def record(bundle: Bundle, engine: str, photo: Path | None = None, *, quick: bool = False) -> Record:
    """Run every INT8 file that `engine` can run, with one thread and, from files of their own, with more.

    Args:
        engine: a name of `ENGINE_FORMATS`.
        photo: aged too, to every group.
        quick: one file of each engine and one thread, for slow machines and emulators.

    Raises EdgeageError if the engine is not installed or a file does not load.
    """
    start = time.perf_counter()
    golden = Golden(bundle)
    found = Record(require(engine), kernel_set() or platform.machine())
    for case in cases(bundle, ENGINE_FORMATS[engine], quick=quick):
        _run(found, bundle, golden, case, engine, 1, case.variant)
        if case.variant == "int8" and not quick:
            _run(found, bundle, golden, case, engine, THREADS, f"{case.variant}, {THREADS} threads")
    session = load(bundle, engine)
    found.codes[FACE_KEY] = whole_face(session, golden.face())
    if photo is not None:
        aged = session.age(photo, source_group=own_group(session.profile.groups))
        found.photos = dict(aged.aged)
    found.seconds = time.perf_counter() - start
    return found


def _run(
    found: Record, bundle: Bundle, golden: Golden, case: Case, engine: str, threads: int, variant: str
) -> None:
    running = open_file(bundle, case.entry, case.file, engine, threads)
    for port, values in running.run(golden.feeds(case)).items():
        found.codes[f"{variant}/{case.engine}/{port}"] = case.codes(port, values)


def own_group(groups: tuple[str, ...]) -> str:
    """The age group that face and photo are taken to have; any would do, if it is one for all."""
    return groups[len(groups) // 2]


def whole_face(session: Session, face: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Codes [groups, 3, S, S] of every age of one aligned face: encoder, K refinement steps, generator."""
    group = session.profile.groups.index(own_group(session.profile.groups))
    refined = session.refine(session.encode(face), [group], face[None])
    generated = session.generate(refined.z).transpose(0, 3, 1, 2)
    (case, *_) = [one for one in cases(session.bundle, "tflite") if one.engine == "generator_all"]
    return case.codes("image", generated)


def read_record(path: Path, bundle: Bundle) -> Record:
    """A record that `save` wrote, or values that some other program wrote as JSON.

    The JSON is {"tool": "LiteRT.js 2.5.3", "values": {ENGINE: {OUTPUT: [numbers]}}}: what the bundle's TFLite
    files with float32 inputs and outputs give for the inputs of `write_vectors`; numbers flat, in the file's
    own order.

    Raises EdgeageError if it is neither or does not fit the bundle.
    """
    if path.suffix == ".json":
        return _from_values(read_json(path, "record"), path, bundle)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            held: dict[str, NDArray[Any]] = {key: arrays[key] for key in arrays.files}
        about = json.loads(str(held.pop("about")))
        photos = {key.partition("/")[2]: held.pop(key) for key in list(held) if key.startswith(f"{PHOTO}/")}
        found = Record(about["tool"], about["machine"], held, photos, float(about["seconds"]))
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise EdgeageError(f"{path} is no record of edgeage conformance ({error}); record again") from None
    shapes = {
        f"{engine}/{port.name}": port.shape
        for engine, entry in bundle.manifest.engines.items()
        for port in entry.outputs
    }
    for key, codes in found.codes.items():
        if codes.dtype != np.int8 or codes.shape != shapes.get(key.partition("/")[2]):
            raise EdgeageError(f"{path} holds {key} as {codes.dtype} {list(codes.shape)}, not of this bundle")
    return found


def _from_values(document: Any, path: Path, bundle: Bundle) -> Record:
    try:
        tool, engines = str(document["tool"]), dict(document["values"])
        values = {
            engine: {port: np.asarray(numbers, np.float32) for port, numbers in outputs.items()}
            for engine, outputs in engines.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise EdgeageError(
            f'{path} is no record: expected {{"tool": text, "values": {{engine: {{output: [numbers]}}}}}}'
        ) from None
    found = Record(tool, str(document.get("machine", "")))
    by_engine = float_cases(bundle)
    for engine, outputs in values.items():
        if engine not in by_engine:
            raise EdgeageError(f"{path}: the bundle has no float-io file for {engine!r}")
        for port, codes in from_stored(by_engine[engine], outputs).items():
            found.codes[f"{by_engine[engine].variant}/{engine}/{port}"] = codes
    return found
