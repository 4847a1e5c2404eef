"""Which layers of a plan compute in INT8, as the engine inspector tells.

TensorRT 10 gives each tensor one text "Format/Datatype" ("... Int8 format"), TensorRT 11 two, "Format" and
"DataType"; 10 lists the ports under "Bindings", 11 under "I/O Tensors". Both are read, by what is there.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeage.errors import EdgeageError
from edgeage.runtime.engines.tensorrt.prepare import Prepared

if TYPE_CHECKING:
    import tensorrt as trt_types

# Layers that multiply matrices, where INT8 pays: convolutions and dense layers under the names that TensorRT
# gives them in LayerType or ParameterType.
_MATRIX = ("conv", "correlation", "gemm", "matmul", "matrix_multiply", "matrixmultiply", "fullyconnected")
_NO_MATRIX = ("reformat",)
# Words of the inspector's types, most telling first.
_TYPES = {
    "int8": "int8", "fp8": "fp8", "half": "float16", "fp16": "float16", "bf16": "bfloat16",
    "bfloat": "bfloat16", "float": "float32", "fp32": "float32", "int32": "int32", "int64": "int64",
    "bool": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Coverage:
    """How much of a plan is INT8.

    Attributes:
        layers: in all, after TensorRT's fusions.
        matrix_layers: convolutions and dense layers among them.
        int8_matrix_layers: those of them that read int8.
        not_int8: names of the other ones.
        types: {type of a layer's first input: layers}.
    """

    layers: int
    matrix_layers: int
    int8_matrix_layers: int
    not_int8: tuple[str, ...]
    types: dict[str, int]

    @property
    def share(self) -> float | None:
        """Of the matrix layers, None if there is none under a known name."""
        return self.int8_matrix_layers / self.matrix_layers if self.matrix_layers else None

    def to_dict(self) -> dict[str, Any]:
        share = None if self.share is None else round(self.share, 4)
        return {**vars(self), "not_int8": list(self.not_int8), "share": share}


def plan_coverage(trt: Any, prepared: Prepared) -> Coverage:
    """Coverage of a plan that is loaded; it was built with detailed verbosity for this."""
    engine: trt_types.ICudaEngine = prepared.engine
    inspector: trt_types.EngineInspector = engine.create_engine_inspector()
    return read_coverage(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def read_coverage(text: str) -> Coverage:
    """From the inspector's JSON; EdgeageError if it has another form than those of TensorRT 10 and 11."""
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise EdgeageError("the engine inspector's JSON has no layers; this TensorRT is not known") from None
    if any(isinstance(layer, str) for layer in layers):
        raise EdgeageError(
            "the engine inspector gives names only; build again with edgeage build-engine --force"
        )
    matrix = [layer for layer in layers if _multiplies(layer)]
    int8 = [layer for layer in matrix if _input_type(layer) == "int8"]
    return Coverage(
        layers=len(layers),
        matrix_layers=len(matrix),
        int8_matrix_layers=len(int8),
        not_int8=tuple(str(layer.get("Name")) for layer in matrix if layer not in int8),
        types=dict(Counter(map(_input_type, layers))),
    )


def _multiplies(layer: dict[str, Any]) -> bool:
    named = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".lower()
    return any(word in named for word in _MATRIX) and not any(word in named for word in _NO_MATRIX)


def _input_type(layer: dict[str, Any]) -> str:
    """Of the first input, which is the activation; "none" for a layer without one, "?" if it is not told."""
    inputs = layer.get("Inputs") or []
    if not inputs:
        return "none"
    told = {key.lower(): str(value).lower() for key, value in inputs[0].items()}
    words = told.get("datatype") or told.get("format/datatype") or ""
    return next((name for word, name in _TYPES.items() if word in words), "?")
