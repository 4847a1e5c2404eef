"""Which package an engine lives in, whether it is there and usable, and the command that adds it."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata

from edgeage.errors import EdgeageError

# Engine name -> distribution, module, extra of edgeage.
PACKAGES = {
    "litert": ("ai-edge-litert", "ai_edge_litert", "litert"),
    "tflite-runtime": ("tflite-runtime", "tflite_runtime", "tflite-runtime"),
    "onnxruntime": ("onnxruntime", "onnxruntime", "onnxruntime"),
}

# onnxruntime 1.24's CPU float16 QuantizeLinear is off by one in half of the elements; 1.31 is exact.
ONNXRUNTIME_AT_LEAST = (1, 31)


def version_numbers(text: str) -> tuple[int, ...]:
    """The leading release numbers of a version: "1.31.0rc1" -> (1, 31, 0). Empty if there are none."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def install_command(engine: str) -> str:
    return f'pip install "edgeage[{PACKAGES[engine][2]}]"'


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, None if it is not there. Imports nothing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def problem(engine: str) -> str | None:
    """Why an engine cannot be used here, one line that ends with the remedy; None if it can."""
    distribution, module, _ = PACKAGES[engine]
    version = installed_version(distribution)
    if engine == "onnxruntime" and version is None:  # the GPU builds bring the same module
        version = installed_version("onnxruntime-gpu")
    if version is None or importlib.util.find_spec(module) is None:
        return f"the engine {engine} is not installed; add it with: {install_command(engine)}"
    if engine == "onnxruntime" and version_numbers(version) < ONNXRUNTIME_AT_LEAST:
        need = ".".join(map(str, ONNXRUNTIME_AT_LEAST))
        return (
            f"onnxruntime {version} quantises wrongly; {need} or newer is needed: {install_command(engine)}"
        )
    numpy_version = installed_version("numpy") or ""
    if engine == "tflite-runtime" and version_numbers(numpy_version) >= (2,):
        return f'tflite-runtime {version} needs numpy < 2, here is {numpy_version}: pip install "numpy<2"'
    return None


def require(engine: str) -> str:
    """ "package version" of an engine; EdgeageError with the command that adds it if it is unusable."""
    if trouble := problem(engine):
        raise EdgeageError(trouble)
    distribution = PACKAGES[engine][0]
    version = installed_version(distribution) or installed_version(f"{distribution}-gpu")
    return f"{distribution} {version}"
