"""One decision per tensor: ties, fusion, tanh, and constants that integer kernels can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeage.calibration.quantization import INT8, decide, leaky_relu_scale
from edgeage.errors import EdgeageError

INT32 = np.iinfo(np.int32)
EYE, ZERO = np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32)


def _model(
    nodes: list[onnx.NodeProto], inputs: dict[str, list[int]], output: str, shape: list[int], **constants: Any
) -> onnx.ModelProto:
    def port(name: str, sizes: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)

    graph = helper.make_graph(
        nodes,
        "g",
        [port(*item) for item in inputs.items()],
        [port(output, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _dense(weight: np.ndarray, bias: np.ndarray, *behind: onnx.NodeProto) -> onnx.ModelProto:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["dense"], transB=1), *behind]
    outputs, inputs = weight.shape
    return _model(nodes, {"x": [1, inputs]}, nodes[-1].output[0], [1, outputs], w=weight, b=bias)


def test_concat_ties_its_inputs_and_movement_passes_the_scale_on() -> None:
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["both"], axis=1),
        helper.make_node("Reshape", ["both", "sizes"], ["out"]),
    ]
    model = _model(nodes, {"a": [1, 2], "b": [1, 2]}, "out", [1, 4, 1, 1], sizes=np.array([1, 4, 1, 1]))
    ranges = {"a": (-1.0, 1.0), "b": (0.0, 6.35), "both": (-1.0, 6.35), "out": (-1.0, 6.35)}
    decided = decide(model, ranges)
    assert {float(decided.scale(name)) for name in ranges} == {float(np.float32(6.35 / 127))}


def test_a_rectifier_alone_behind_a_dense_layer_is_fused_and_its_input_not_stored() -> None:
    model = _dense(EYE, ZERO, helper.make_node("Relu", ["dense"], ["out"]))
    decided = decide(model, {"x": (-1.0, 1.0), "dense": (-50.0, 1.0), "out": (0.0, 1.0)})
    assert decided.fused == {"dense": ("out", "relu")}
    assert not decided.is_stored("dense")
    assert decided.scale("out") == np.float32(1 / 127)


def test_tanh_has_its_fixed_scale_and_spends_no_codes_on_what_it_saturates() -> None:
    model = _dense(EYE, ZERO, helper.make_node("Tanh", ["dense"], ["out"]))
    decided = decide(model, {"x": (-9.0, 9.0), "dense": (-9.0, 9.0), "out": (-1.0, 1.0)})
    assert decided.scale("out") == INT8.tanh_scale
    assert decided.scale("dense") == np.float32(INT8.tanh_reach / 127)
    assert np.rint(np.tanh(127 * float(decided.scale("dense"))) * 128) == 127


def test_a_missing_range_and_a_tie_that_tanh_cannot_keep_are_refused() -> None:
    model = _dense(EYE, ZERO, helper.make_node("Relu", ["dense"], ["out"]))
    with pytest.raises(EdgeageError, match="lacks tensor out"):
        decide(model, {"x": (0.0, 1.0)})
    nodes = [
        helper.make_node("Tanh", ["a"], ["t"]),
        helper.make_node("Concat", ["t", "b"], ["out"], axis=1),
    ]
    tied = _model(nodes, {"a": [1, 2], "b": [1, 2]}, "out", [1, 4])
    with pytest.raises(EdgeageError, match="shares its scale with a Tanh"):
        decide(tied, {"a": (-1.0, 1.0), "t": (-1.0, 1.0), "b": (0.0, 3.0), "out": (-1.0, 3.0)})


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.sampled_from([0.0, 1e-20, 1e-6, 1.0, 1e4]), min_size=3, max_size=3),
    biases=st.lists(st.sampled_from([0.0, 1e-6, 1.0, 300.0]), min_size=3, max_size=3),
)
def test_no_constant_overflows_even_in_dead_channels(
    seed: int, sizes: list[float], biases: list[float]
) -> None:
    """A channel without weights but with a bias must not saturate its int32 bias."""
    random = np.random.default_rng(seed)
    weight = (random.normal(size=(3, 2, 1, 1)) * np.array(sizes)[:, None, None, None]).astype(np.float32)
    bias = (random.normal(size=3) * biases).astype(np.float32)
    conv = helper.make_node("Conv", ["x", "w", "b"], ["out"], kernel_shape=[1, 1])
    model = _model([conv], {"x": [1, 2, 2, 2]}, "out", [1, 3, 2, 2], w=weight, b=bias)
    reach = float(np.abs(weight).sum(axis=(1, 2, 3)).max() + np.abs(bias).max())
    decided = decide(model, {"x": (-1.0, 1.0), "out": (-reach, reach)})
    weights = decided.weights(conv)
    assert np.abs(weights.bias_codes.astype(np.int64)).max() < INT32.max
    rebuilt = weights.codes * weights.scales[:, None, None, None].astype(np.float64)
    # half a step of the weight's own scale, which a large bias or a faint channel may widen
    assert (np.abs(rebuilt - weight) <= weights.scales[:, None, None, None] * 0.5001).all()
    step = float(decided.scale("out"))
    assert np.abs(weights.bias_codes * weights.bias_scales.astype(np.float64) - bias).max() <= 0.01 * step


@settings(max_examples=200, deadline=None)
@given(given_scale=st.floats(1e-4, 1.0), ratio=st.floats(0.05, 6.0))
def test_leaky_scales_fit_8_bit_multipliers(given_scale: float, ratio: float) -> None:
    wanted = np.float32(given_scale / ratio)
    made = leaky_relu_scale(np.float32(given_scale), wanted, 0.2)
    # never a smaller range; 5 % larger at most, and one whole step of k where k is small
    assert wanted * (1 - 1e-6) <= made <= wanted * (1.05 + 2 / (256 * ratio) + 0.02)
    k = 256 * given_scale / float(made)
    assert abs(k - round(k)) < 1e-3
    if ratio > 1:
        assert abs(0.2 * k - round(0.2 * k)) < 1e-3
