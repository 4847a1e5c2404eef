"""TensorRT for RTX as a stand-in: its parser and ahead-of-time builder run on a machine without a GPU.

What passes here is a real TensorRT-family import of the Q/DQ graph. It is NOT the Jetson engine: TensorRT for
RTX targets desktop GPUs, and nothing is executed.

Every build is a process of its own (`python -m edgeage.export.compilers.tensorrt_rtx MODEL.onnx`): TensorRT
calls a logger written in Python while it holds its global lock; if Python's garbage collector then frees an
older builder, which takes the same lock, the process waits for itself for ever.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeage.errors import EdgeageError

LABEL = "TensorRT for RTX, parsed and built ahead of time without a GPU; not the Jetson engine, not executed"
INSTALL = 'pip install "edgeage[compilers]"'
# Ampere on the desktop, the nearest to a Jetson Orin (SM87) that TensorRT for RTX builds for. Stated, because
# without it a machine that has a GPU would build for that one.
TARGET = "SM86"
TIME_LIMIT = 300.0  # seconds; the largest engine of profile `paper` takes under 10
_MODULE = "tensorrt_rtx"


@dataclass(frozen=True)
class RtxReport:
    """
    Attributes:
        layers: of the parsed network.
        plan_bytes: size of the built plan.
        seconds: that the build took.
        target: compute capability that the plan is for.
        version: of TensorRT for RTX.
        label: what this is, and is not.
    """

    layers: int
    plan_bytes: int
    seconds: float
    target: str
    version: str
    label: str = LABEL

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def available() -> bool:
    return importlib.util.find_spec(_MODULE) is not None


def build(onnx_model: bytes) -> RtxReport:
    """Parse an ONNX model and build its plan, strongly typed (precision is what Q/DQ says).

    Raises EdgeageError if TensorRT for RTX is not installed, refuses the model (with its node and reason),
    cannot build it, or does not end within `TIME_LIMIT`.
    """
    if not available():
        raise EdgeageError(f"TensorRT for RTX is not installed; {INSTALL}")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "engine.onnx"
        model.write_bytes(onnx_model)
        command = [sys.executable, "-m", __name__, str(model)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise EdgeageError(f"TensorRT for RTX did not end within {TIME_LIMIT:.0f} s") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EdgeageError(f"TensorRT for RTX ended with code {done.returncode}: {said}") from None
    if "error" in answer:
        raise EdgeageError(answer["error"])
    return RtxReport(**answer)


def _build_here(onnx_model: bytes) -> RtxReport:
    """The work of `build`, in the process that it is called in."""
    trt: Any = importlib.import_module(_MODULE)

    class Log(trt.ILogger):
        """Keeps the errors, which TensorRT would write to stderr."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx_model):
        first = parser.get_error(0)
        where = first.node_name() or f"node {first.node()}"
        # the node, then its reason; below them the parser complains that there is no GPU
        reason = "; ".join(first.desc().splitlines()[:2])
        raise EdgeageError(f"TensorRT for RTX refuses the model at {where}: {reason}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, TARGET), 0)
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = " ".join(log.errors[0].split()) if log.errors else "it gave no reason"
        raise EdgeageError(f"TensorRT for RTX parsed the model but could not build it: {reason}")
    seconds = round(time.perf_counter() - start, 2)
    return RtxReport(network.num_layers, plan.nbytes, seconds, TARGET, str(trt.__version__))


if __name__ == "__main__":
    try:
        print(json.dumps(_build_here(Path(sys.argv[1]).read_bytes()).to_dict()))
    except EdgeageError as refusal:
        print(json.dumps({"error": str(refusal)}))
