"""Random small graphs of the closed set, all INT8 and with random float layers: they match or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeage.calibration.graph import GraphView
from edgeage.calibration.observers import observe, session
from edgeage.calibration.quantization import decide
from edgeage.errors import EdgeageError
from edgeage.export.onnx_graph import clean
from edgeage.export.qdq import to_qdq
from edgeage.export.tflite.lowering import to_tflite
from edgeage.export.verify import TfliteFile, to_codes

# A code that one kernel rounds to the other side is a change of its input for the next: after a few layers
# with weights of norm one that is a few codes. A wrong layout or scale is off by tens.
LARGEST, MEAN = 8, 0.6


class Builder:
    """A random chain over one tensor, with the shapes that it has so far."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shape = (draw(st.sampled_from([1, 2])), draw(st.integers(1, 5)), 4, 6)
        self.inputs = {"x": self.shape}
        self.last = "x"
        self.earlier: list[tuple[str, tuple[int, ...]]] = [("x", self.shape)]

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def floats(self, *shape: int) -> str:
        fan = max(int(np.prod(shape[1:])), 1)
        return self.constant(self.random.normal(size=shape).astype(np.float32) / float(np.sqrt(fan)))

    def add(self, operator: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> None:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        self.last, self.shape = name, shape
        self.earlier.append((name, shape))

    def step(self) -> None:
        image = ["conv", "depthwise", "up", "pad", "pool", "mean", "flatten", "d2s"]
        either = ["relu", "relu6", "leaky", "add", "sub", "scale", "concat", "tanh"]
        choices = [*either, *(image if len(self.shape) == 4 else ["dense", "dense"])]
        getattr(self, f"_{self.draw(st.sampled_from(choices))}")()

    def _conv(self) -> None:
        n, c, h, w = self.shape
        out, kernel = self.draw(st.integers(1, 5)), self.draw(st.integers(1, 3))
        pads = [kernel // 2] * 4
        grow = 2 * pads[0] - kernel + 1
        parts = [self.last, self.floats(out, c, kernel, kernel), self.floats(out)]
        self.add("Conv", parts, (n, out, h + grow, w + grow), kernel_shape=[kernel] * 2, pads=pads)

    def _depthwise(self) -> None:
        n, c, h, w = self.shape
        parts = [self.last, self.floats(c, 1, 3, 3)]
        self.add("Conv", parts, (n, c, h, w), kernel_shape=[3, 3], pads=[1] * 4, group=c)

    def _d2s(self) -> None:
        n, c, h, w = self.shape
        if h * w < 200:
            parts = [self.last, self.floats(8, c, 1, 1), self.floats(8)]
            self.add("Conv", parts, (n, 8, h, w), kernel_shape=[1, 1])
            self.add("DepthToSpace", [self.last], (n, 2, 2 * h, 2 * w), blocksize=2, mode="CRD")

    def _up(self) -> None:
        n, c, h, w = self.shape
        if h * w < 200:
            sizes = self.constant(np.array([n, c, 2 * h, 2 * w], dtype=np.int64))
            self.add("Resize", [self.last, "", "", sizes], (n, c, 2 * h, 2 * w), mode="nearest",
                     coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip

    def _pad(self) -> None:
        n, c, h, w = self.shape
        amounts = self.constant(np.array([0, 0, 1, 0, 0, 0, 0, 2], dtype=np.int64))
        self.add("Pad", [self.last, amounts], (n, c, h + 1, w + 2))

    def _pool(self) -> None:
        n, c, h, w = self.shape
        if min(h, w) >= 2:
            self.add("MaxPool", [self.last], (n, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])

    def _mean(self) -> None:
        axes = self.constant(np.array([2, 3], dtype=np.int64))
        self.add("ReduceMean", [self.last, axes], (*self.shape[:2], 1, 1), keepdims=1)

    def _flatten(self) -> None:
        flat = (self.shape[0], int(np.prod(self.shape[1:])))
        self.add("Reshape", [self.last, self.constant(np.array(flat, dtype=np.int64))], flat)
        self._dense()

    def _dense(self) -> None:
        out = self.draw(st.integers(1, 8))
        parts = [self.last, self.floats(out, self.shape[1]), self.floats(out)]
        self.add("Gemm", parts, (self.shape[0], out), transB=1)

    def _relu(self) -> None:
        self.add("Relu", [self.last], self.shape)

    def _relu6(self) -> None:
        parts = [self.last, self.constant(np.float32(0)), self.constant(np.float32(6))]
        self.add("Clip", parts, self.shape)

    def _leaky(self) -> None:
        self.add("LeakyRelu", [self.last], self.shape, alpha=0.2)

    def _tanh(self) -> None:
        self.add("Tanh", [self.last], self.shape)

    def _partner(self) -> str:
        return self.draw(st.sampled_from([name for name, shape in self.earlier if shape == self.shape]))

    def _add(self) -> None:
        self.add("Add", [self.last, self._partner()], self.shape)

    def _sub(self) -> None:
        self.add("Sub", [self.last, self._partner()], self.shape)

    def _scale(self) -> None:
        self.add("Mul", [self.last, self.constant(np.float32(self.random.normal() + 2))], self.shape)

    def _concat(self) -> None:
        n, c, *rest = self.shape
        self.add("Concat", [self.last, self._partner()], (n, 2 * c, *rest), axis=1)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v) for k, v in self.inputs.items()],
            [helper.make_tensor_value_info(self.last, onnx.TensorProto.FLOAT, self.shape)],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()],
        )
        return clean(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


@st.composite
def graphs(draw: Any) -> onnx.ModelProto:
    builder = Builder(draw)
    builder._conv()
    for _ in range(draw(st.integers(1, 6))):
        builder.step()
    return builder.model()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=graphs(), seed=st.integers(0, 1000), data=st.data())
def test_a_random_graph_matches_its_twin_or_is_refused_with_a_reason(
    model: onnx.ModelProto, seed: int, data: Any
) -> None:
    random = np.random.default_rng(seed)
    view = GraphView(model)
    shape = view.shapes["x"]
    feeds = [{"x": random.normal(size=shape).astype(np.float32)} for _ in range(2)]
    names = [node.output[0] for node in view.nodes]
    floats = data.draw(
        st.one_of(st.just([]), st.just(names), st.lists(st.sampled_from(names))), label="floats"
    )
    try:
        decided = decide(model, observe(model, feeds), floats=floats)
        file = TfliteFile(to_tflite(decided, "main", "int8"), "main")
        through_float = TfliteFile(to_tflite(decided, "main", "float32"), "main")
    except EdgeageError as error:
        if not any(name in str(error) for name in [*names, "x"]):
            raise  # a refusal says where
        return
    twin = session(to_qdq(decided))
    (output,) = view.outputs
    scale = decided.scale(output)
    for feed in feeds:
        codes = file.run({"x": to_codes(feed["x"], decided.scale("x"))})[output].astype(np.int32)
        wanted = to_codes(twin.run(None, feed)[0], scale)
        assert np.array_equal(to_codes(through_float.run(feed)[output].astype(np.float32), scale), codes)
        difference = np.abs(codes - wanted)
        assert difference.max() <= LARGEST
        assert difference.mean() <= MEAN
