"""A TFLite flatbuffer, put together tensor by tensor; it knows the format and nothing of networks.

The schema is TensorFlow Lite's (version 3), through the classes that ai-edge-litert generates from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

# The runtime maps constants in place; kernels load them with up to 16-byte loads.
_ALIGNMENT = 16
# Operator codes up to here fit the field that old readers look at.
_OLD_CODES = 127
_TYPES = {
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int16): schema.TensorType.INT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int64): schema.TensorType.INT64,
    np.dtype(np.float32): schema.TensorType.FLOAT32,
}


class _AlignedBuffer(schema.BufferT):
    """A constant whose bytes start on an aligned offset (the generated class does not align them)."""

    def Pack(self, builder: Any) -> Any:
        if self.data is None:
            return super().Pack(builder)
        size = len(self.data)
        builder.StartVector(1, size, _ALIGNMENT)
        builder.head -= size
        builder.Bytes[builder.head : builder.head + size] = self.data
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


class File:
    """What the subgraphs of a file share: constants (equal ones stored once), operator codes, metadata."""

    def __init__(self) -> None:
        self._buffers = [schema.BufferT()]  # buffer 0 is the empty one, by the format's rule
        self._buffer_of: dict[bytes, int] = {}
        self._codes: dict[int, tuple[int, int]] = {}
        self._graphs: list[Any] = []
        self._signatures: list[Any] = []

    def buffer(self, data: bytes) -> int:
        """Index of the buffer that holds `data`."""
        if data not in self._buffer_of:
            buffer = _AlignedBuffer()
            buffer.data = data
            self._buffers.append(buffer)
            self._buffer_of[data] = len(self._buffers) - 1
        return self._buffer_of[data]

    def code(self, code: int, version: int) -> int:
        """Index of an operator code; the file asks for the highest version that an operator of it needs."""
        index, known = self._codes.get(code, (len(self._codes), 0))
        self._codes[code] = (index, max(known, version))
        return index

    def add(self, graph: Any, signature: str, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Add a finished subgraph under the name of its signature."""
        named = schema.SignatureDefT()
        named.signatureKey = signature
        named.subgraphIndex = len(self._graphs)
        named.inputs = [_tensor_map(*item) for item in inputs.items()]
        named.outputs = [_tensor_map(*item) for item in outputs.items()]
        self._graphs.append(graph)
        self._signatures.append(named)

    def pack(self, metadata: Mapping[str, bytes] | None = None) -> bytes:
        """The file, with named metadata, which no kernel sees."""
        model = schema.ModelT()
        model.version = 3
        model.description = "edgeage"
        model.metadata = []
        for name, data in (metadata or {}).items():
            entry = schema.MetadataT()
            entry.name = name
            entry.buffer = self.buffer(data)
            model.metadata.append(entry)
        model.buffers = self._buffers
        model.operatorCodes = []
        for code, (_, version) in self._codes.items():
            operator = schema.OperatorCodeT()
            operator.builtinCode = code
            operator.deprecatedBuiltinCode = min(code, _OLD_CODES)
            operator.version = version
            model.operatorCodes.append(operator)
        model.subgraphs = self._graphs
        model.signatureDefs = self._signatures
        builder = flatbuffers.Builder(sum(len(data) for data in self._buffer_of) + (1 << 16))
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class Writer:
    """One subgraph of a file, with one named signature."""

    def __init__(self, file: File | None = None, *, wide: bool = False) -> None:
        self.wide = wide  # activations of 16 bits ask for later versions of operators
        self.file = file or File()
        self._tensors: list[Any] = []
        self._constant_of: dict[tuple[Any, ...], int] = {}
        self._operators: list[Any] = []

    def activation(
        self, name: str, shape: Sequence[int], dtype: type[np.generic], scale: np.float32 | None = None
    ) -> int:
        """Add a tensor that an operator computes or the host feeds; returns its index."""
        scales = None if scale is None else np.array([scale], dtype=np.float32)
        return self._tensor(name, shape, np.dtype(dtype), 0, scales, 0)

    def constant(
        self, name: str, values: NDArray[Any], scales: NDArray[np.float32] | None = None, axis: int = 0
    ) -> int:
        """Add a constant (integers or float32; quantised along `axis` if there are scales)."""
        data = np.ascontiguousarray(values).tobytes()
        scale_bytes = b"" if scales is None else scales.tobytes()
        key = (data, values.shape, values.dtype, scale_bytes, axis)
        if key not in self._constant_of:
            buffer = self.file.buffer(data)
            self._constant_of[key] = self._tensor(name, values.shape, values.dtype, buffer, scales, axis)
        return self._constant_of[key]

    def shape(self, tensor: int) -> list[int]:
        shape: list[int] = self._tensors[tensor].shape
        return shape

    def operator(
        self, code: int, version: int, inputs: Sequence[int], outputs: Sequence[int], options: Any = None
    ) -> None:
        """Add an operator (schema.BuiltinOperator); `options` is its schema object, e.g. AddOptionsT."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self.file.code(code, version)
        operator.inputs = list(inputs)
        operator.outputs = list(outputs)
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
        self._operators.append(operator)

    def finish(self, signature: str, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Add the subgraph to the file; the signature maps names to tensor indices, in order."""
        graph = schema.SubGraphT()
        graph.name = signature
        graph.tensors = self._tensors
        graph.operators = self._operators
        graph.inputs = list(inputs.values())
        graph.outputs = list(outputs.values())
        self.file.add(graph, signature, inputs, outputs)

    def _tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        buffer: int,
        scales: NDArray[np.float32] | None,
        axis: int,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name = name
        tensor.shape = [int(size) for size in shape]
        tensor.hasRank = True
        tensor.type = _TYPES[dtype]
        tensor.buffer = buffer
        if scales is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = np.zeros(len(scales), dtype=np.int64)
            tensor.quantization.quantizedDimension = axis
        self._tensors.append(tensor)
        return len(self._tensors) - 1


def _tensor_map(name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name = name
    entry.tensorIndex = index
    return entry
