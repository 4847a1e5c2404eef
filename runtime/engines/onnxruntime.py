"""ONNX files in ONNX Runtime on the CPU."""

from __future__ import annotations

import base64
import importlib
from functools import cache
from typing import Any

import numpy as np

from edgeage.errors import EdgeageError
from edgeage.runtime.engines import Feeds
from edgeage.runtime.engines.packages import require
from edgeage.runtime.engines.ports import from_file, to_file
from edgeage.runtime.manifest import EngineEntry, EngineFile

# One op, y = QuantizeLinear(x: float16 [8], scale 0.5, zero point 0) -> int8, as ONNX (opset 19, IR 9).
# Builds of ONNX Runtime exist whose float16 kernel is off by one; a version number alone does not prove
# that this machine's kernel is right.
_SELF_TEST = (
    "CAk6WAocCgF4CgFzCgFvEgF5Ig5RdWFudGl6ZUxpbmVhchIBcSoJEApCAXNKAgA4KggQA0IBb0oBAFoPCgF4EgoKCAgKEgQK"
    "AggIYg8KAXkSCgoICAMSBAoCCAhCBAoAEBM="
)
_SELF_TEST_INPUT = np.array([-70, -1.25, -0.75, -0.25, 0.25, 0.75, 1.3, 70], np.float16)
_SELF_TEST_OUTPUT = [-128, -2, -2, 0, 0, 2, 3, 127]
# An optimiser that quantises float biases to int32, dividing in float16: beyond 65504 codes they become
# infinite and then garbage (1.32: outputs off by 168 codes).
_WRONG_IN_FLOAT16 = "WeightBiasQuantization"


def open_session(
    content: bytes, threads: int, what: str, precision: str = "float32", profile: str | None = None
) -> Any:
    """An InferenceSession over a file's bytes; EdgeageError if it will not load.

    `profile`: prefix of a file into which ONNX Runtime writes what each node takes; this slows it down.
    """
    require("onnxruntime")
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong arrives as an exception, once
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    disabled = [_WRONG_IN_FLOAT16] if precision == "int8-float16" else None
    try:
        return onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
    except Exception as error:  # its exceptions share no base class that is exported
        raise EdgeageError(f"onnxruntime cannot load {what}: {str(error).splitlines()[0]}") from None


@cache
def self_test() -> None:
    """EdgeageError if this build's QuantizeLinear gives wrong codes."""
    session = open_session(base64.b64decode(_SELF_TEST), 1, "its self-test")
    (codes,) = session.run(None, {"x": _SELF_TEST_INPUT})
    if codes.tolist() != _SELF_TEST_OUTPUT:
        raise EdgeageError(
            f"{require('onnxruntime')} failed its self-test: QuantizeLinear gave {codes.tolist()}, "
            f"expected {_SELF_TEST_OUTPUT}; install another build or use --engine litert"
        )


class OnnxEngine:
    """One ONNX file, static shapes."""

    def __init__(self, entry: EngineEntry, file: EngineFile, content: bytes, threads: int) -> None:
        package = require("onnxruntime")
        self_test()
        self.inputs, self.outputs, self._file = entry.inputs, entry.outputs, file
        self._session = open_session(content, threads, file.file, file.precision)
        for ports, found in (
            (file.inputs, self._session.get_inputs()),
            (file.outputs, self._session.get_outputs()),
        ):
            shapes = {port.name: tuple(port.shape) for port in found}
            for port in ports:
                if shapes.get(port.name) != port.shape:
                    raise EdgeageError(
                        f"{file.file} has the ports {shapes}, its manifest says {port.name} {port.shape}"
                    )
        plural = "1 thread" if threads == 1 else f"{threads} threads"
        self.description = f"{file.file} in {package}, {file.precision}, {plural}"

    def run(self, feeds: Feeds) -> Feeds:
        names = [port.name for port in self._file.outputs]
        results = self._session.run(names, to_file(feeds, self.inputs, self._file))
        return from_file(dict(zip(names, results, strict=True)), self.outputs, self._file)
