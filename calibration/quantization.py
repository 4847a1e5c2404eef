"""One quantisation decision per tensor, read by every INT8 writer (TFLite and Q/DQ ONNX).

Everything is int8 and symmetric: real = scale * code, zero point 0, as TensorRT demands. Scales cover
127 steps to each side; weights keep to [-127, 127], activations saturate at [-128, 127]. Activations of 16
bits over the same int8 weights ("16x8") are an option for NPUs; their scales cover 32767 steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeage.calibration.graph import GraphView, attribute, rectifier, steps
from edgeage.errors import EdgeageError


@dataclass(frozen=True)
class Width:
    """How activations are stored.

    Attributes:
        dtype, bias: of activations, and of the biases that accumulators start from.
        steps: codes to each side of zero.
        largest_bias: in units of input scale * weight scale, what an accumulator still holds.
    """

    dtype: type[np.signedinteger[Any]]
    bias: type[np.signedinteger[Any]]
    steps: int
    largest_bias: float

    @property
    def tanh_scale(self) -> np.float32:
        """TFLite fixes the output of TANH to this scale."""
        scale: np.float32 = np.float32(1 / (self.steps + 1))
        return scale

    @property
    def tanh_reach(self) -> float:
        """Beyond this a tanh rounds to its last code: tensors that only a Tanh reads spend no codes there.

        With 8 bits and a range of 8, one input code would move the output by 8 codes, with this by 3.
        """
        return float(np.arctanh(self.steps / (self.steps + 1)))


# The int32 bias of an 8-bit kernel must not overflow; NPUs keep 40 bits for 16x8.
INT8 = Width(np.int8, np.int32, 127, 2.0**30)
INT16 = Width(np.int16, np.int64, 32767, 2.0**38)
# Their kernels copy (or average) codes, so input and output must share one scale.
SAME_SCALE = ("Reshape", "Resize", "MaxPool", "AveragePool", "DepthToSpace", "Concat", "Pad")
WEIGHTED = ("Conv", "Gemm")
# Rectifiers whose upper end is that of their codes; see `edgeage.calibration.graph.rectifier`.
SATURATING = ("mask", "sign")
# Producers whose kernels clamp their own output, so that a rectifier behind them costs nothing.
_CLAMPING = ("Conv", "Gemm", "Add", "Mul")
# Integer kernels want input_scale * weight_scale / output_scale above 2^-32.
_LEAST_RESCALE = 2.0**-30


@dataclass(frozen=True)
class Weights:
    """A weighted node's constants, in ONNX layout.

    Attributes:
        codes: int8, shape of the float weight, output channels first.
        scales: float32 [output channels] (Conv) or [1] (Gemm).
        bias: float32 [output channels].
        bias_codes: int32 (int64 for 16x8) [output channels], in units of `bias_scales`.
        bias_scales: float32, input scale * weight scale.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    bias: NDArray[np.float32]
    bias_codes: NDArray[np.signedinteger[Any]]
    bias_scales: NDArray[np.float32]


class Quantization:
    """The decisions for one graph.

    Attributes:
        view: the float graph.
        fused: output of a clamping node -> (output of the rectifier behind it, and its kind);
            the first of the two never exists in an INT8 engine.
        floats: outputs of the nodes that a mixed plan leaves in float32; empty: everything is int8.
        width: of the activations.
    """

    def __init__(
        self,
        view: GraphView,
        scales: dict[str, np.float32],
        fused: dict[str, tuple[str, str]],
        floats: frozenset[str],
        corrections: Mapping[str, Sequence[float]],
        width: Width = INT8,
    ) -> None:
        self.view = view
        self.fused = fused
        self.floats = floats
        self.width = width
        self._scales = scales
        self._corrections = corrections

    def is_float(self, node: onnx.NodeProto) -> bool:
        """Whether the node computes in float32 (a mixed plan) on float32 or dequantised operands."""
        return node.output[0] in self.floats

    def scale(self, tensor: str) -> np.float32:
        """Scale of an activation that engines store as int8."""
        return self._scales[tensor]

    def is_stored(self, tensor: str) -> bool:
        """Whether the activation exists as int8 codes.

        A fused node's own output does not, nor what only float nodes touch.
        """
        return tensor in self._scales

    def stored_output(self, node: onnx.NodeProto) -> str:
        """The tensor that the node's kernel writes: behind its fused rectifier, if it has one."""
        own = str(node.output[0])
        return self.fused[own][0] if own in self.fused else own

    def weights(self, node: onnx.NodeProto) -> Weights:
        """Codes of a Conv's (per output channel) or Gemm's (one scale: TFLite's dense layer) constants."""
        weight = np.asarray(self.view.constants[node.input[1]], dtype=np.float64)
        if len(node.input) > 2:
            bias = np.asarray(self.view.constants[node.input[2]], dtype=np.float64).reshape(-1)
        else:
            bias = np.zeros(len(weight))
        bias = np.broadcast_to(bias, len(weight)) + np.asarray(
            self._corrections.get(node.output[0], 0.0), dtype=np.float64
        )
        given = float(self.scale(node.input[0]))
        made = float(self.scale(self.stored_output(node)))
        rows = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
        # A channel with (nearly) no weights but a bias needs a scale that its bias fits.
        floors = np.maximum(np.abs(bias) / (given * self.width.largest_bias), _LEAST_RESCALE * made / given)
        scales = np.maximum(rows / 127, floors)
        if node.op_type == "Gemm":
            scales = scales.max(keepdims=True)
        stored = scales.astype(np.float32)
        units = stored.astype(np.float64)
        codes = np.rint(weight / units.reshape(-1, *[1] * (weight.ndim - 1)))
        return Weights(
            codes=np.clip(codes, -127, 127).astype(np.int8),
            scales=stored,
            bias=bias.astype(np.float32),
            bias_codes=np.rint(bias / (units * given)).astype(self.width.bias),
            bias_scales=(units * given).astype(np.float32),
        )

    def constant(
        self, node: onnx.NodeProto, tensor: str
    ) -> tuple[NDArray[np.signedinteger[Any]], np.float32]:
        """Codes and scale of a constant operand of an Add, Sub or Mul.

        The steep factor of a mask becomes the least that brings the first code above 0 to the mask's
        upper end: kernels take no factor that is much larger.
        """
        values = self.view.constants[tensor]
        own = node.output[0]
        if (
            own in self.fused
            and self.fused[own][1] in SATURATING
            and node.op_type == "Mul"
            and values.size == 1
        ):
            (other,) = (name for name in node.input if name != tensor)
            least = np.float32(_upper_end(self.view, self.fused[own][0]) / self.scale(other))
            if values.item() > least:
                values = np.full_like(values, least)
        scale = symmetric_scale(float(values.min()), float(values.max()), self.width.steps)
        steps = self.width.steps
        return np.clip(np.rint(values / scale), -steps, steps).astype(self.width.dtype), scale


def symmetric_scale(low: float, high: float, steps: int = INT8.steps) -> np.float32:
    """Scale of the smallest symmetric range that holds [low, high]."""
    reach = max(abs(low), abs(high))
    # All-zero tensors (a dead branch): every scale is right, a tiny one would overflow its readers.
    scale: np.float32 = np.float32(reach / steps if reach > 1e-12 else 1 / steps)
    return scale


def decide(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    *,
    corrections: Mapping[str, Sequence[float]] | None = None,
    floats: Iterable[str] = (),
    width: Width = INT8,
) -> Quantization:
    """Decide every activation's scale for `model` (float32, canonical, see `edgeage.export.onnx_graph`).

    Args:
        ranges: (min, max) by tensor.
        corrections: added to the bias, by output of the weighted node; one value a channel.
        floats: outputs of the nodes that stay in float32; a rectifier stays with what it is fused to,
            and a depth-to-space with what it moves.

    Raises EdgeageError if the table misses a tensor or a Tanh would have to share a larger scale.
    """
    view = GraphView(model)
    fused = fuse_rectifiers(view)
    plan = frozenset(floats)
    # a mask's clamp is the saturation of its codes, so it stays int8
    plan -= {name for steep, (mask, kind) in fused.items() if kind in SATURATING for name in (steep, mask)}
    plan |= {fused[name][0] for name in plan if name in fused}
    plan |= {name for name, (rectified, _) in fused.items() if rectified in plan}
    for node in view.nodes:
        if node.op_type == "DepthToSpace":  # TFLite writes it as a part of the node before it
            plan = plan | {node.output[0]} if node.input[0] in plan else plan - {node.output[0]}
    stored = [name for name in view.activations if name not in fused and _touched(view, name, plan)]
    if missing := ", ".join([name for name in stored if name not in ranges][:3]):
        raise EdgeageError(f"the range table lacks tensor {missing}; calibrate this network again")
    root = _tie(view, fused, plan)
    reach: dict[str, tuple[float, float]] = {}
    fixed: set[str] = set()
    for name in stored:
        low, high = reach.get(root[name], (0.0, 0.0))
        reach[root[name]] = min(low, ranges[name][0]), max(high, ranges[name][1])
        if name in view.producer and view.producer[name].op_type == "Tanh":
            fixed.add(root[name])
    for name in fixed:
        if max(map(abs, reach[name])) > 1.0 + 1e-6:
            raise EdgeageError(f"tensor {name} shares its scale with a Tanh but exceeds 1; separate the two")
    seen_beyond = {root[name] for name in stored if _read_beyond_tanh(view, name, plan)}
    for name in set(reach) - seen_beyond:
        reach[name] = max(reach[name][0], -width.tanh_reach), min(reach[name][1], width.tanh_reach)
    of_root = {
        name: width.tanh_scale if name in fixed else symmetric_scale(*ends, width.steps)
        for name, ends in reach.items()
    }
    for name in view.inputs:
        if ranges[name] == (0.0, 1.0):
            # a condition (one-hot): its 1 gets a code of its own, whatever it shares the scale with
            of_root[root[name]] = np.float32(1 / max(int(1 / of_root[root[name]]), 1))
    for name, kind in fused.values():
        if kind in SATURATING:
            if sum(root[other] == root[name] for other in stored) > 1:
                raise EdgeageError(
                    f"tensor {name} is a mask and shares its scale with others; separate the two"
                )
            # it ends at the last code, so that saturation is its upper clamp
            of_root[root[name]] = np.float32(_upper_end(view, name) / width.steps)
    settled = set(fixed)
    for node in view.nodes:
        if node.op_type != "LeakyRelu" or node.output[0] in plan:
            continue
        given, made = root[node.input[0]], root[node.output[0]]
        if (
            node.op_type == "LeakyRelu"
            and node.output[0] not in plan
            and made != given
            and made not in settled
        ):
            of_root[made] = leaky_relu_scale(of_root[given], of_root[made], attribute(node, "alpha", 0.01))
            settled.add(made)
    scales = {name: of_root[root[name]] for name in stored}
    return Quantization(view, scales, fused, plan, corrections or {}, width)


def _upper_end(view: GraphView, mask: str) -> float:
    return float(view.constants[view.producer[mask].input[2]].item())


def _touched(view: GraphView, name: str, floats: frozenset[str]) -> bool:
    """Whether an int8 node makes or reads the tensor, or it is the engine's input or output."""
    if name in view.inputs or name in view.outputs or name not in floats:
        return True
    return any(node.output[0] not in floats for node in view.consumers.get(name, []))


def leaky_relu_scale(given: np.float32, wanted: np.float32, alpha: float) -> np.float32:
    """The least output scale from `wanted` on that a LeakyReLU kernel with 8-bit fractions computes well.

    XNNPACK multiplies codes by given/made and by alpha * given/made, both rounded to 1/256. A ratio of
    k/256 makes the first exact; of the k that widen the range by at most 5 %, one is taken whose alpha * k
    is nearest to a whole number (at alpha 0.2: exact). Odd multipliers are preferred: an odd k never
    brings a code to the middle between two, where kernels round to different sides. Unfitted scales
    were seen to move the generator's output by 1.2 codes in the mean, fitted ones by 0.2.
    """

    def cost(k: int) -> tuple[float, int, int]:
        whole = round(alpha * k)
        return round(abs(alpha * k - whole), 6), (k % 2 == 0) + (whole % 2 == 0), -k

    largest = int(256 * float(given) / float(wanted))
    candidates = range(largest, max(int(largest * 0.95) - 1, 0), -1)
    if not candidates:  # a ratio below 1/256 has no such form
        return wanted
    scale: np.float32 = np.float32(float(given) * 256 / min(candidates, key=cost))
    return scale


def _read_beyond_tanh(view: GraphView, name: str, floats: frozenset[str]) -> bool:
    """Whether anything but an int8 Tanh sees the tensor's values (same-scale operators pass them on)."""
    readers = view.consumers.get(name, [])
    return name in view.outputs or any(
        node.op_type not in ("Tanh", *SAME_SCALE) or node.output[0] in floats for node in readers
    )


def fuse_rectifiers(view: GraphView) -> dict[str, tuple[str, str]]:
    """Output of a clamping node -> (output, kind) of the rectifier that is its only reader."""
    fused: dict[str, tuple[str, str]] = {}
    for node in view.nodes:
        kind = rectifier(node, view.constants)
        source: Any = view.producer.get(node.input[0])
        if kind is None or source is None or source.op_type not in _CLAMPING:
            continue
        if len(view.consumers[node.input[0]]) == 1 and node.input[0] not in view.outputs:
            fused[node.input[0]] = (node.output[0], kind)
    return fused


def _tie(view: GraphView, fused: Mapping[str, object], floats: frozenset[str]) -> dict[str, str]:
    """Representative tensor of each set that must share a scale; float nodes tie nothing.

    A ReLU that is not fused shares it too: then it only clamps codes. So does what is multiplied by a slope
    (of a rectifier, -1..1): codes that pass it stay as they are, and no product falls on a middle between
    two codes, which kernels round to different sides.
    """
    parent = {name: name for name in view.activations}
    flat = steps(view)

    def find(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in view.nodes:
        if node.output[0] in floats:
            continue
        if node.op_type in SAME_SCALE or (node.op_type == "Relu" and node.input[0] not in fused):
            for name in node.input if node.op_type == "Concat" else node.input[:1]:
                parent[find(name)] = find(node.output[0])
        elif node.op_type == "Mul" and flat.intersection(node.input):
            for name in node.input:
                if name in parent and name not in flat:
                    parent[find(name)] = find(node.output[0])
    return {name: find(name) for name in parent}
