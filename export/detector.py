"""Convert BlazeFace from TFLite to ONNX, so that ONNX Runtime alone can detect faces.

Run once, by hand, when the detector changes; its output is package data:

    python -m edgeage.export.detector runtime/photo/blazeface_short_range.tflite OUT.onnx

The graph keeps the TFLite interface: input [1, 128, 128, 3] float32 NHWC, outputs "regressors"
[1, 896, 16] and "classificators" [1, 896, 1]. Weights stay float16 as in the source, behind a Cast that
ONNX Runtime folds when it loads the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeage import files
from edgeage.errors import EdgeageError

OPSET = 18


class _Converter:
    """Translates one subgraph; 4-d tensors become NCHW, everything else keeps its order."""

    def __init__(self, model: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.model, self.graph, self.schema = model, model.subgraphs[0], schema
        self.names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name[0] != "_"}
        self.halves: dict[int, np.ndarray] = {}  # tensor behind a DEQUANTIZE -> its float16 values
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def convert(self) -> onnx.ModelProto:
        (source,) = self.graph.inputs
        self.node("Transpose", [self.name(source)], self.value(source), perm=[0, 3, 1, 2])
        for op in self.graph.operators:
            code = self.model.operatorCodes[op.opcodeIndex]
            kind = self.names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            method = getattr(self, f"op_{kind.lower()}", None)
            if method is None:
                raise EdgeageError(f"the detector holds the op {kind}, which this converter does not know")
            method(op)
        inputs, outputs = (
            [helper.make_tensor_value_info(self.name(i), onnx.TensorProto.FLOAT, self.shape(i)) for i in side]
            for side in (self.graph.inputs, self.graph.outputs)
        )
        graph = helper.make_graph(self.nodes, "blazeface_short_range", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", OPSET)]
        # IR version 9: the oldest that holds opset 18 with float16 initialisers, read everywhere.
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="edgeage")
        onnx.checker.check_model(model, full_check=True)
        return model

    # Small helpers -------------------------------------------------------------------------------

    def shape(self, index: int) -> list[int]:
        return [int(size) for size in self.graph.tensors[index].shape]

    def name(self, index: int) -> str:
        """The name of a graph input or output, as in the source."""
        return str(self.graph.tensors[index].name.decode())

    def value(self, index: int) -> str:
        """What ops read and write: outputs keep their names, all else (the input as NCHW) is numbered."""
        return self.name(index) if index in self.graph.outputs else f"t{index}"

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, index: int) -> np.ndarray:
        """Values of a constant tensor."""
        if index in self.halves:
            return self.halves[index]
        tensor = self.graph.tensors[index]
        types = {self.schema.TensorType.FLOAT16: np.float16, self.schema.TensorType.INT32: np.int32}
        data = np.asarray(self.model.buffers[tensor.buffer].data, np.uint8).tobytes()
        return np.frombuffer(data, types[tensor.type]).reshape(self.shape(index))

    def weight(self, index: int, values: np.ndarray) -> str:
        """A float16 initialiser and its Cast to float32; gives the name of the float32 tensor."""
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), f"w{index}"))
        return self.node("Cast", [f"w{index}"], f"t{index}", to=onnx.TensorProto.FLOAT)

    # Ops -----------------------------------------------------------------------------------------

    def op_dequantize(self, op: Any) -> None:
        self.halves[op.outputs[0]] = self.constant(op.inputs[0])

    def op_conv_2d(self, op: Any) -> None:
        self.convolution(op, np.transpose(self.constant(op.inputs[1]), (0, 3, 1, 2)), groups=1)

    def op_depthwise_conv_2d(self, op: Any) -> None:
        kernel = np.transpose(self.constant(op.inputs[1]), (3, 0, 1, 2))
        self.convolution(op, kernel, groups=kernel.shape[0])

    def convolution(self, op: Any, kernel: np.ndarray, groups: int) -> None:
        options = op.builtinOptions
        self.plain(options)
        strides = [options.strideH, options.strideW]
        pads = self.pads(op, kernel.shape[2:], strides)
        inputs = [self.value(op.inputs[0]), self.weight(op.inputs[1], kernel)]
        inputs.append(self.weight(op.inputs[2], self.constant(op.inputs[2])))
        out, shape = self.value(op.outputs[0]), kernel.shape[2:]
        self.node("Conv", inputs, out, strides=strides, pads=pads, group=groups, kernel_shape=shape)

    def pads(self, op: Any, kernel: tuple[int, ...], strides: list[int]) -> list[int]:
        """TFLite's SAME or VALID as explicit ONNX pads (tops, then bottoms)."""
        if op.builtinOptions.padding == self.schema.Padding.VALID:
            return [0, 0, 0, 0]
        before, after = self.shape(op.inputs[0])[1:3], self.shape(op.outputs[0])[1:3]
        sizes = zip(before, after, kernel, strides, strict=True)
        total = [max((out - 1) * step + k - size, 0) for size, out, k, step in sizes]
        return [pad // 2 for pad in total] + [pad - pad // 2 for pad in total]

    def plain(self, options: Any) -> None:
        if options.fusedActivationFunction != self.schema.ActivationFunctionType.NONE:
            raise EdgeageError("the detector holds a fused activation, which this converter does not know")

    def op_relu(self, op: Any) -> None:
        self.node("Relu", [self.value(op.inputs[0])], self.value(op.outputs[0]))

    def op_add(self, op: Any) -> None:
        self.plain(op.builtinOptions)
        self.node("Add", [self.value(i) for i in op.inputs], self.value(op.outputs[0]))

    def op_max_pool_2d(self, op: Any) -> None:
        options = op.builtinOptions
        kernel, strides = (options.filterHeight, options.filterWidth), [options.strideH, options.strideW]
        pads = self.pads(op, kernel, strides)
        inputs, out = [self.value(op.inputs[0])], self.value(op.outputs[0])
        self.node("MaxPool", inputs, out, kernel_shape=kernel, strides=strides, pads=pads)

    def op_pad(self, op: Any) -> None:
        amounts = self.constant(op.inputs[1]).astype(np.int64)[[0, 3, 1, 2]]  # rows: N, C, H, W
        name = f"w{op.inputs[1]}"
        self.weights.append(numpy_helper.from_array(amounts.T.reshape(-1), name))
        self.node("Pad", [self.value(op.inputs[0]), name], self.value(op.outputs[0]))

    def op_reshape(self, op: Any) -> None:
        """TFLite flattens channels last."""
        inner = self.node("Transpose", [self.value(op.inputs[0])], f"nhwc{op.inputs[0]}", perm=[0, 2, 3, 1])
        target = f"shape{op.outputs[0]}"
        self.weights.append(numpy_helper.from_array(np.array(self.shape(op.outputs[0]), np.int64), target))
        self.node("Reshape", [inner, target], self.value(op.outputs[0]))

    def op_concatenation(self, op: Any) -> None:
        self.plain(op.builtinOptions)
        self.node("Concat", [self.value(i) for i in op.inputs], self.value(op.outputs[0]), axis=1)


def convert_detector(tflite: bytes) -> onnx.ModelProto:
    """The ONNX form of the BlazeFace TFLite file; EdgeageError for an op that BlazeFace does not use."""
    from ai_edge_litert import schema_py_generated as schema

    return _Converter(schema.ModelT.InitFromPackedBuf(tflite, 0)).convert()


def largest_difference(tflite: bytes, converted: bytes, inputs: Iterator[np.ndarray]) -> float:
    """Largest difference of LiteRT's and ONNX Runtime's outputs, as a share of the output's largest value."""
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    session = onnxruntime.InferenceSession(converted, providers=["CPUExecutionProvider"])
    interpreter = Interpreter(model_content=tflite, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    worst = 0.0
    for image in inputs:
        interpreter.set_tensor(source, image)
        interpreter.invoke()
        for port in interpreter.get_output_details():
            (other,) = session.run([port["name"]], {"input": image})
            one = interpreter.get_tensor(port["index"])
            worst = max(worst, float(np.abs(one - other).max() / np.abs(one).max()))
    return worst


def main(arguments: list[str]) -> None:
    if len(arguments) != 2:
        raise SystemExit("usage: python -m edgeage.export.detector IN.tflite OUT.onnx")
    tflite, out = Path(arguments[0]).read_bytes(), Path(arguments[1])
    data = convert_detector(tflite).SerializeToString()
    random = np.random.default_rng(0)
    images = (random.uniform(-1, 1, (1, 128, 128, 3)).astype(np.float32) for _ in range(4))
    difference = largest_difference(tflite, data, images)
    if difference > 1e-4:
        raise EdgeageError(
            f"the converted detector differs by {difference:.2g} of its largest output; nothing written"
        )
    files.write_bytes(out, data)
    print(f"{out}: {len(data)} bytes, largest difference {difference:.2g}")


if __name__ == "__main__":
    main(sys.argv[1:])
