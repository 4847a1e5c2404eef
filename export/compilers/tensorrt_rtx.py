"""TensorRT for RTX as a stand-in: its parser and ahead-of-time builder run on a machine without a GPU.

What passes here is a real TensorRT-family import of the Q/DQ graph. It is NOT the Jetson engine: TensorRT for
RTX targets desktop GPUs, and nothing is executed.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from dataclasses import asdict, dataclass
from typing import Any

from edgeage.errors import EdgeageError

LABEL = "TensorRT for RTX, parsed and built ahead of time without a GPU; not the Jetson engine, not executed"
INSTALL = 'pip install "edgeage[compilers]"'
_MODULE = "tensorrt_rtx"


@dataclass(frozen=True)
class RtxReport:
    """
    Attributes:
        layers: of the parsed network.
        plan_bytes: size of the built plan.
        seconds: that the build took.
        version: of TensorRT for RTX.
        label: what this is, and is not.
    """

    layers: int
    plan_bytes: int
    seconds: float
    version: str
    label: str = LABEL

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def available() -> bool:
    return importlib.util.find_spec(_MODULE) is not None


def build(onnx_model: bytes) -> RtxReport:
    """Parse an ONNX model and build its plan, strongly typed (precision is what Q/DQ says).

    Raises EdgeageError if TensorRT for RTX is not installed, refuses the model (with its node and reason)
    or cannot build it.
    """
    if not available():
        raise EdgeageError(f"TensorRT for RTX is not installed; {INSTALL}")
    trt: Any = importlib.import_module(_MODULE)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_model):
        first = parser.get_error(0)
        where = first.node_name() or f"node {first.node()}"
        raise EdgeageError(f"TensorRT for RTX refuses the model at {where}: {first.desc()}")
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    if plan is None:
        raise EdgeageError("TensorRT for RTX parsed the model but could not build it; see its log above")
    seconds = round(time.perf_counter() - start, 2)
    return RtxReport(network.num_layers, plan.nbytes, seconds, str(trt.__version__))
