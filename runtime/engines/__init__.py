"""Engines: one small protocol, and the adapters that run a bundle's files behind it.

Adapters take and give float32 in the contract's NCHW shapes; layout and (de)quantisation are theirs. No
engine package is imported before `open_engine` asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.manifest import PRECISIONS, EngineEntry, EngineFile, Port

if TYPE_CHECKING:
    from edgeage.runtime.bundle import Bundle

Feeds = dict[str, NDArray[np.float32]]

# Engine name -> the file format it runs.
ENGINE_FORMATS = {"litert": "tflite", "tflite-runtime": "tflite", "onnxruntime": "onnx", "tensorrt": "onnx"}

# What TensorRT builds from which files, best first: for each asked precision (of the plan, of the file).
# Typed files are built as written by every version, the others need flags that TensorRT 11 no longer has.
# "auto" measures int8 and float16 on the device.
AUTO = "auto"
_INT8 = (("int8", "int8-float16"), ("int8", "int8"))
_FLOAT16 = (("float16", "float16"), ("float16", "float32"))
TENSORRT_FILES = {
    "int8": _INT8,
    "int8-float16": _INT8[:1],
    "float16": _FLOAT16,
    "float32": (("float32", "float32"),),
    AUTO: (*_INT8, *_FLOAT16),
}


@dataclass(frozen=True)
class Candidate:
    """A file that an engine could take for a precision, and the precision of what comes of it."""

    precision: str
    file: EngineFile


class Engine(Protocol):
    """One network, ready to run.

    Attributes:
        inputs, outputs: the contract's ports, float32, NCHW, in order.
        description: what runs: file, engine version, precision, threads; one line.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    description: str

    def run(self, feeds: Feeds) -> Feeds:
        """Outputs by name for inputs by name; EdgeageError if a name or shape is wrong."""
        ...


def check_engine_name(engine: str) -> str:
    """`engine` if it is known, else EdgeageError."""
    if engine not in ENGINE_FORMATS:
        raise EdgeageError(f"unknown engine {engine!r}; the engines are {', '.join(ENGINE_FORMATS)}")
    return engine


def check_precision(precision: str, engine: str = "") -> str:
    """`precision` if it is known, else EdgeageError; "auto" is TensorRT's alone."""
    known = (*PRECISIONS, AUTO) if engine == "tensorrt" else PRECISIONS
    if precision not in known:
        raise EdgeageError(f"unknown precision {precision!r}; choose one of {', '.join(known)}")
    return precision


def candidates(entry: EngineEntry, engine: str, precision: str, io: str | None = None) -> list[Candidate]:
    """The bundle's files that `engine` can take at `precision`, best first."""
    check_precision(precision, check_engine_name(engine))
    wanted = TENSORRT_FILES[precision] if engine == "tensorrt" else ((precision, precision),)
    files = [file for file in entry.files if file.format == ENGINE_FORMATS[engine] and io in (None, file.io)]
    # int8 I/O comes first, the form that NPUs run
    files = sorted(files, key=lambda file: file.io != "int8")
    return [Candidate(made, file) for made, stored in wanted for file in files if file.precision == stored]


def choose_file(
    name: str, entry: EngineEntry, engine: str, precision: str, io: str | None = None
) -> EngineFile | None:
    """The flavour that `engine` runs at `precision`, None if the bundle has none.

    `io` asks for one I/O type; without it int8 I/O comes first, the form that NPUs run (the adapter
    quantises by the manifest's scales).
    """
    found = candidates(entry, engine, precision, io)
    return found[0].file if found else None


def open_engine(
    bundle: Bundle,
    name: str,
    engine: str = "litert",
    precision: str = "int8",
    threads: int = 1,
    io: str | None = None,
) -> Engine:
    """Open one of a bundle's engines; the file's sha256 is checked first.

    `generator_all` without a file of its own runs the batch-1 generator once per group: bundles leave
    out the float32 ONNX of it to save size. The engine's description says so. TensorRT builds its plan, which
    may take minutes, unless the cache has it (`edgeage build-engine`); `threads` are not its own.

    Raises EdgeageError if the bundle has no such flavour, the engine is not installed, or the file is
    damaged.
    """
    if threads < 1:
        raise EdgeageError(f"threads is {threads}; give 1 or more")
    entries = bundle.manifest.engines
    entry = entries.get(name)
    file = choose_file(name, entry, engine, precision, io) if entry else None
    if entry and file:
        if engine == "tensorrt":
            from edgeage.runtime.engines.tensorrt.choose import open_tensorrt

            return open_tensorrt(bundle, name, precision)
        return open_file(bundle, entry, file, engine, threads)
    if name == "generator_all" and "generator" in entries:
        from edgeage.runtime.engines.repeated import RepeatedEngine

        single = open_engine(bundle, "generator", engine, precision, threads, io)
        return RepeatedEngine(single, len(bundle.manifest.profile.groups))
    have = sorted({f"{f.format} {f.precision}" for f in entry.files}) if entry else []
    raise EdgeageError(
        f"{bundle.path.name} has no {ENGINE_FORMATS[engine]} {precision} file for the {name}"
        f" (it has: {', '.join(have) or 'none'}); choose another --engine or --precision"
    )


def open_file(bundle: Bundle, entry: EngineEntry, file: EngineFile, engine: str, threads: int) -> Engine:
    """Open one file for an engine of the bundle; EdgeageError as `open_engine`."""
    content = bundle.read(file.file)
    if ENGINE_FORMATS[engine] == "tflite":
        from edgeage.runtime.engines.litert import TfliteEngine

        return TfliteEngine(entry, file, content, engine, threads)
    from edgeage.runtime.engines.onnxruntime import OnnxEngine

    return OnnxEngine(entry, file, content, threads)
