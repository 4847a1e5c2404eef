"""Canonical NCHW float graph + quantisation decisions -> a full-INT8 NHWC TFLite file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema

from edgeage.calibration.quantization import Quantization
from edgeage.errors import EdgeageError
from edgeage.export.tflite import kernels, ops
from edgeage.export.tflite.layout import Image, flat_images, nhwc
from edgeage.export.tflite.writer import File, Writer

IO = Literal["int8", "float32"]
METADATA = "EDGEAGE_CARD"  # name of the metadata buffer


class Lowering:
    """The state that the entries of the lowering table work on.

    Attributes:
        quantization: the decisions, with the graph.
        writer: the file so far.
        flat_images: flat tensors whose elements are in HWC order.
    """

    def __init__(self, quantization: Quantization, file: File) -> None:
        self.quantization = quantization
        self.view = quantization.view
        self.dtype = quantization.width.dtype
        self.writer = Writer(file, wide=self.dtype is not np.int8)
        self.flat_images: dict[str, Image] = flat_images(self.view)
        self._codes: dict[str, int] = {}
        self._floats: dict[str, int] = {}
        self._new_floats: list[str] = []
        self._done: set[str] = set()

    def tensor(self, name: str) -> int:
        """The int8 tensor of an activation, made when first asked for."""
        if name not in self._codes:
            scale = self.quantization.scale(name)
            self._codes[name] = self.writer.activation(name, nhwc(self.view.shapes[name]), self.dtype, scale)
        return self._codes[name]

    def read(self, node: onnx.NodeProto, name: str) -> int:
        """An activation as `node` reads it: int8, or float32 if the node is one of a mixed plan.

        Codes that float nodes read are dequantised once; what a float node made they read as it is.
        """
        if not self.quantization.is_float(node):
            return self.tensor(name)
        if name not in self._floats:
            shape = nhwc(self.view.shapes[name])
            self._floats[name] = self.writer.activation(f"{name}:real", shape, np.float32)
            kernels.dequantize(self.writer, self.tensor(name), self._floats[name])
        return self._floats[name]

    def made(self, node: onnx.NodeProto) -> int:
        """The tensor that `node`'s kernel writes, behind its fused rectifier if it has one."""
        name = self.quantization.stored_output(node)
        if not self.quantization.is_float(node):
            return self.tensor(name)
        shape = nhwc(self.view.shapes[name])
        self._floats[name] = self.writer.activation(f"{name}:real", shape, np.float32)
        self._new_floats.append(name)
        return self._floats[name]

    def like(self, node: onnx.NodeProto, name: str, tensor: str, shape: tuple[int, ...]) -> int:
        """A new tensor inside `node`: int8 with the scale of activation `tensor`, or float32."""
        if self.quantization.is_float(node):
            return self.writer.activation(name, shape, np.float32)
        return self.writer.activation(name, shape, self.dtype, self.quantization.scale(tensor))

    def done(self, node: onnx.NodeProto) -> None:
        """Say that `node` has been written together with another."""
        self._done.add(node.output[0])

    def run(self) -> None:
        for node in self.view.nodes:
            absorbed = node.input[0] in self.quantization.fused
            if absorbed or node.output[0] in self._done:
                continue
            if node.op_type not in ops.TABLE:
                raise EdgeageError(
                    f"TFLite writer: no lowering for {node.op_type} (node {node.output[0]}); "
                    f"supported are {', '.join(sorted(ops.TABLE))}"
                )
            ops.TABLE[node.op_type](self, node)
            for name in self._new_floats:
                # codes besides, if an int8 node or the host reads them
                if self.quantization.is_stored(name):
                    kernels.quantize(self.writer, self._floats[name], self.tensor(name))
            self._new_floats.clear()


def to_tflite(
    quantization: Quantization,
    signature: str,
    io: IO,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """Write the graph as one INT8 TFLite file.

    Args:
        signature: its name; the names inside it are the graph's input and output names.
        io: "int8" hands codes through; "float32" puts one QUANTIZE behind each input and one DEQUANTIZE
            before each output, and nothing else changes.
        metadata: JSON that travels with the file, see `read_metadata`; results do not depend on it.

    Raises EdgeageError if the graph cannot be laid out NHWC or has an operator outside the table.
    """
    return pack([(quantization, signature)], io, metadata)


def pack(
    engines: Sequence[tuple[Quantization, str]], io: IO, metadata: Mapping[str, Any] | None = None
) -> bytes:
    """Write several graphs into one file, each under its signature; equal constants are stored once."""
    file = File()
    for quantization, signature in engines:
        _lower(Lowering(quantization, file), signature, io)
    card = {METADATA: json.dumps(metadata, sort_keys=True).encode()} if metadata else None
    return file.pack(card)


def read_metadata(data: bytes) -> dict[str, Any]:
    """The JSON that a TFLite file carries; {} if it has none of ours."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    for entry in model.metadata or []:
        if entry.name.decode() == METADATA:
            content: dict[str, Any] = json.loads(bytes(model.buffers[entry.buffer].data))
            return content
    return {}


def _lower(lowering: Lowering, signature: str, io: IO) -> None:
    view, writer = lowering.view, lowering.writer
    inputs = {name: lowering.tensor(name) for name in view.inputs}
    if io == "float32":
        for name in view.inputs:
            code = inputs[name]
            inputs[name] = writer.activation(f"{name}:float32", nhwc(view.shapes[name]), np.float32)
            kernels.quantize(writer, inputs[name], code)
    lowering.run()
    outputs = {name: lowering.tensor(name) for name in view.outputs}
    if io == "float32":
        for name in view.outputs:
            code = outputs[name]
            outputs[name] = writer.activation(f"{name}:float32", nhwc(view.shapes[name]), np.float32)
            kernels.dequantize(writer, code, outputs[name])
    writer.finish(signature, inputs, outputs)
