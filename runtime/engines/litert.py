"""TFLite files in LiteRT (ai-edge-litert) or its predecessor tflite-runtime: one adapter, two imports."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from edgeage.errors import EdgeageError
from edgeage.runtime.engines import Feeds
from edgeage.runtime.engines.packages import require
from edgeage.runtime.engines.ports import from_file, to_file
from edgeage.runtime.manifest import EngineEntry, EngineFile

_MODULES = {"litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}


def open_interpreter(engine: str, content: bytes, threads: int, what: str) -> Any:
    """A classic Interpreter over a file's bytes with tensors allocated; EdgeageError if it will not load."""
    require(engine)
    interpreter_class = importlib.import_module(_MODULES[engine]).Interpreter
    try:
        interpreter = interpreter_class(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise EdgeageError(f"{engine} cannot load {what}: {str(error).splitlines()[0]}") from None
    return interpreter


class TfliteEngine:
    """One signature of a TFLite file."""

    def __init__(
        self, entry: EngineEntry, file: EngineFile, content: bytes, engine: str, threads: int
    ) -> None:
        self.inputs, self.outputs, self._file = entry.inputs, entry.outputs, file
        self._interpreter = open_interpreter(engine, content, threads, file.file)
        signatures = sorted(self._interpreter.get_signature_list())
        if file.signature not in signatures:
            have = ", ".join(signatures) or "none"
            raise EdgeageError(
                f"{file.file} has no signature {file.signature!r} (it has: {have}); export again"
            )
        self._run = self._interpreter.get_signature_runner(file.signature)
        _check_ports(file, self._run.get_input_details(), self._run.get_output_details())
        package = require(engine)
        self.description = f"{file.file} in {package}, {file.precision}, {file.io} I/O, {_plural(threads)}"

    def run(self, feeds: Feeds) -> Feeds:
        return from_file(self._run(**to_file(feeds, self.inputs, self._file)), self.outputs, self._file)


def _check_ports(file: EngineFile, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    """EdgeageError unless the file's tensors are what the manifest says, down to scale and zero point."""
    for ports, details in ((file.inputs, inputs), (file.outputs, outputs)):
        for port in ports:
            found = details.get(port.name)
            if found is None:
                raise EdgeageError(f"{file.file} has no port {port.name!r} (it has: {', '.join(details)})")
            shape, dtype = tuple(int(size) for size in found["shape"]), np.dtype(found["dtype"]).name
            if (shape, dtype) != (port.shape, port.dtype):
                says = f"{port.dtype} {list(port.shape)}"
                raise EdgeageError(
                    f"{file.file} stores {port.name} as {dtype} {list(shape)}, its manifest says {says}"
                )
            scale, zero_point = found["quantization"]
            # Files hold float32 scales, JSON holds the same number written in decimal.
            if port.scale is not None and (np.float32(scale), zero_point) != (
                np.float32(port.scale),
                port.zero_point,
            ):
                raise EdgeageError(
                    f"{file.file} stores {port.name} with scale {scale} and zero point {zero_point}, "
                    f"its manifest says {port.scale} and {port.zero_point}"
                )


def _plural(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
