"""What an engine has to do: multiplications and bytes of each operator, counted from its TFLite file."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.runtime.bench.sysfs import NotAvailable
from edgeage.runtime.engines.packages import require

_BYTES = {"FLOAT32": 4, "FLOAT16": 2, "INT32": 4, "INT8": 1, "UINT8": 1, "INT64": 8, "INT16": 2, "BOOL": 1}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """
    Attributes:
        kind: as TFLite names it.
        macs: multiply-accumulates; 0 for what has no weights and is bound by its bytes.
        weights: bytes of its constants.
        activations: bytes of all that it reads and writes beside.
    """

    kind: str
    macs: int
    weights: int
    activations: int


@dataclass(frozen=True)
class Work:
    """All operators of one call, each by itself: what kernels fuse is not taken off."""

    operators: tuple[Operator, ...]

    @property
    def macs(self) -> int:
        return sum(one.macs for one in self.operators)

    @property
    def weights(self) -> int:
        return sum(one.weights for one in self.operators)

    @property
    def activations(self) -> int:
        return sum(one.activations for one in self.operators)

    @property
    def bytes(self) -> int:
        return self.weights + self.activations

    @property
    def intensity(self) -> float:
        """Multiply-accumulates a byte."""
        return self.macs / self.bytes


def work_of(content: bytes, signature: str | None = None) -> Work:
    """Count a TFLite file's operators, of one signature if it has several.

    NotAvailable without ai-edge-litert, whose schema reads the file.
    """
    try:
        require("litert")
    except EdgeageError as error:
        raise NotAvailable(str(error)) from None
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    types = {code: name for name, code in vars(schema.TensorType).items() if name.isupper()}
    graph = model.subgraphs[_graph(model, signature)]
    shapes = [tuple(int(size) for size in tensor.shape) for tensor in graph.tensors]
    sizes = [
        prod(shape) * _BYTES.get(types[tensor.type], 1)
        for shape, tensor in zip(shapes, graph.tensors, strict=True)
    ]
    constant = [_is_constant(model.buffers[tensor.buffer]) for tensor in graph.tensors]
    found = []
    for node in graph.operators:
        code = model.operatorCodes[node.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        reads, writes = [int(i) for i in node.inputs if i >= 0], [int(i) for i in node.outputs]
        found.append(
            Operator(
                kind,
                _MACS.get(kind, _none)([shapes[i] for i in reads], [shapes[i] for i in writes]),
                sum(sizes[i] for i in reads if constant[i]),
                sum(sizes[i] for i in reads if not constant[i]) + sum(sizes[i] for i in writes),
            )
        )
    return Work(tuple(found))


def _graph(model: Any, signature: str | None) -> int:
    if signature is None or len(model.subgraphs) == 1:
        return 0
    for one in model.signatureDefs:
        if one.signatureKey == signature.encode():
            return int(one.subgraphIndex)
    raise NotAvailable(f"the file has no signature {signature!r}")


def _is_constant(buffer: Any) -> bool:
    return buffer.data is not None and len(buffer.data) > 0


def _none(reads: list[Shape], writes: list[Shape]) -> int:
    return 0


def _conv(reads: list[Shape], writes: list[Shape]) -> int:
    """Filter [out, h, w, in of a group]."""
    return prod(writes[0]) * prod(reads[1][1:])


def _depthwise(reads: list[Shape], writes: list[Shape]) -> int:
    """Filter [1, h, w, out]."""
    return prod(writes[0]) * reads[1][1] * reads[1][2]


def _transposed(reads: list[Shape], writes: list[Shape]) -> int:
    """Reads output shape, filter [out, h, w, in], data: each value meets each tap of each output."""
    return prod(reads[2]) * prod(reads[1][:3])


def _dense(reads: list[Shape], writes: list[Shape]) -> int:
    """Filter [out, in]."""
    return prod(writes[0]) * reads[1][1]


def _matmul(reads: list[Shape], writes: list[Shape]) -> int:
    return prod(writes[0]) * reads[0][-1]


_MACS: dict[str, Callable[[list[Shape], list[Shape]], int]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _dense,
    "BATCH_MATMUL": _matmul,
}
