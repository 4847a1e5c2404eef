"""TensorRT and the CUDA runtime, imported when an engine is asked for; their errors as EdgeageError."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from edgeage.errors import EdgeageError

NO_TENSORRT = (
    "the engine tensorrt is not installed; on a Jetson it comes with JetPack: make the environment with "
    "python3 -m venv --system-site-packages, and never pip install tensorrt there (docs/jetson.md)"
)
NO_CUDA = (
    "the engine tensorrt is not installed completely: cuda-python is missing; add it with: "
    'pip install "edgeage[tensorrt]" (JetPack 6: also "cuda-python<13")'
)


@dataclass(frozen=True)
class Libraries:
    """The two modules that everything here is done with."""

    trt: Any
    cuda: Any


class CudaError(EdgeageError):
    """A call of the CUDA runtime that failed."""


def load_libraries() -> Libraries:
    """The modules; EdgeageError if one is absent or does not start here."""
    return Libraries(_import("tensorrt", NO_TENSORRT), _cuda_runtime())


def _import(module: str, missing: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # another missing name is one of the module's own parts: the installation is broken, not absent
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise EdgeageError(f"{module} does not import: {error}; install it again") from None
        raise EdgeageError(missing) from None
    except (ImportError, OSError) as error:
        raise EdgeageError(f"{module} does not import: {_first_line(error)}") from None


def _cuda_runtime() -> Any:
    """cuda.bindings.runtime, or cuda.cudart as cuda-python called it before 12.8."""
    try:
        return _import("cuda.bindings.runtime", NO_CUDA)
    except EdgeageError as error:
        if str(error) != NO_CUDA:
            raise
        return _import("cuda.cudart", NO_CUDA)


def checked(cuda: Any, result: tuple[Any, ...]) -> Any:
    """What a CUDA call returned behind its error code; CudaError unless that is 0."""
    code, *values = result
    if int(code):
        _, name = cuda.cudaGetErrorName(code)
        _, text = cuda.cudaGetErrorString(code)
        # bindings give bytes
        said = [part.decode() if isinstance(part, bytes) else str(part) for part in (name, text)]
        raise CudaError(f"CUDA: {said[0]} ({said[1]}); {_remedy(said[0])}")
    return values[0] if len(values) == 1 else tuple(values)


_REMEDIES = {
    "cudaErrorInsufficientDriver": "the driver is older than cuda-python; JetPack 6 needs cuda-python<13",
    "cudaErrorNoDevice": "no CUDA device is visible: check that the user is in the group video",
    "cudaErrorMemoryAllocation": "the memory is full: close other programs, CPU and GPU share it on a Jetson",
}


def _remedy(name: str) -> str:
    return _REMEDIES.get(name, "see docs/jetson.md")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def collecting_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps warnings and errors in `lines`, oldest first, instead of printing them."""

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            line = " ".join(message.split())
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(line)
            if severity not in (trt.ILogger.Severity.INFO, trt.ILogger.Severity.VERBOSE):
                self.lines.append(line)

    return Collector()


def started(kind: Any, logger: Any) -> Any:
    """A TensorRT builder or runtime; EdgeageError where there is none to be had, such as without a GPU."""
    try:
        return kind(logger)
    except TypeError:  # how the bindings tell that the library gave a null pointer
        raise EdgeageError(f"TensorRT does not start on this device: {complaint(logger)}") from None


def complaint(logger: Any) -> str:
    """What TensorRT said last that is of use, one line."""
    said = logger.errors or logger.lines
    return "; ".join(said[:2]) if said else "TensorRT gave no reason"
