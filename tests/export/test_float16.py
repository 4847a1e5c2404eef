"""Float16 graphs: the same network, float32 at the ports, nothing else in float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeage.calibration.observers import observe, session
from edgeage.calibration.quantization import Quantization, decide
from edgeage.errors import EdgeageError
from edgeage.export.float16 import OPSET, STEEP, BeyondFloat16, rounded, to_float16
from edgeage.export.lint import lint
from edgeage.export.onnx_graph import clean
from edgeage.export.qdq import to_fusable_qdq, to_qdq
from edgeage.runtime.engines.onnxruntime import open_session

RANDOM = np.random.default_rng(0)
FEED = {"x": RANDOM.uniform(-1, 1, (1, 3, 8, 8)).astype(np.float32)}


def graph(
    nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray | np.float32], output: list[int]
) -> onnx.ModelProto:
    """float32: x [1, 3, 8, 8] -> `nodes` -> y."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, output),
    ]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    return clean(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def block(gain: float = 1.0) -> onnx.ModelProto:
    """conv -> + per-channel constant -> leaky ReLU -> nearest 2x -> conv -> tanh."""
    constants = {
        "w": (RANDOM.normal(0, 0.3, (4, 3, 3, 3)) * gain).astype(np.float32),
        "b": RANDOM.normal(size=4).astype(np.float32),
        "shift": RANDOM.normal(size=(1, 4, 1, 1)).astype(np.float32),
        "factors": np.array([1, 1, 2, 2], np.float32),
        "v": RANDOM.normal(0, 0.3, (2, 4, 1, 1)).astype(np.float32),
    }
    nearest = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Add", ["c", "shift"], ["s"]),
        helper.make_node("LeakyRelu", ["s"], ["a"], alpha=0.2),
        helper.make_node("Resize", ["a", "", "factors"], ["r"], mode="nearest", **nearest),
        helper.make_node("Conv", ["r", "v"], ["p"], kernel_shape=[1, 1]),
        helper.make_node("Tanh", ["p"], ["y"]),
    ]
    return graph(nodes, constants, [1, 2, 16, 16])


def run(model: onnx.ModelProto, feed: Mapping[str, np.ndarray] = FEED) -> np.ndarray:
    return np.asarray(session(model).run(None, dict(feed))[0])


def types(model: onnx.ModelProto) -> set[str]:
    """Element types of what the nodes hand to each other, by onnx's own inference."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    known = {info.name: info.type.tensor_type.elem_type for info in inferred.value_info}
    return {TensorProto.DataType.Name(known[o]) for n in inferred.node for o in n.output if o in known}


def decisions(model: onnx.ModelProto) -> Quantization:
    return decide(model, observe(model, [FEED]))


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def test_a_float_graph_is_float16_between_two_casts() -> None:
    model = block()
    half = to_float16(model)
    operators = [node.op_type for node in model.graph.node]
    assert [node.op_type for node in half.graph.node] == ["Cast", *operators, "Cast"]
    assert types(half) == {"FLOAT16"}
    ports = [(p.name, p.type.tensor_type.elem_type) for p in (*half.graph.input, *half.graph.output)]
    assert ports == [("x", TensorProto.FLOAT), ("y", TensorProto.FLOAT)]
    assert [one.version for one in half.opset_import] == [OPSET]
    # a Tanh's output, behind two convolutions of a few dozen terms: a few units of 2^-11
    assert np.abs(run(rounded(half)) - run(model)).max() < 4e-3


def test_every_result_is_rounded_as_numpy_rounds_it() -> None:
    weight = RANDOM.normal(size=(2, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("Mul", ["c", "third"], ["m"]),
        helper.make_node("Tanh", ["m"], ["y"]),
    ]
    half = to_float16(graph(nodes, {"w": weight, "third": np.float32(1 / 3)}, [1, 2, 8, 8]))
    x, kernel = FEED["x"].astype(np.float16), weight[..., 0, 0].astype(np.float16)
    # sums and functions are taken in float32 and better, as GPUs do, and rounded when they are stored
    conv = np.einsum("oc,nchw->nohw", kernel.astype(np.float64), x.astype(np.float64)).astype(np.float16)
    wanted = np.tanh((conv * np.float16(1 / 3)).astype(np.float64)).astype(np.float16)
    got = run(rounded(half))
    assert np.array_equal(got, got.astype(np.float16).astype(np.float32))
    # a sum at the middle of two halves may fall to either side: one unit in the last place
    assert np.abs(got - wanted.astype(np.float32)).max() <= 2.0**-11
    assert np.mean(got == wanted) > 0.98
    # onnxruntime on the file itself leaves the roundings out; this is why `rounded` exists
    assert not np.array_equal(run(half), got)
    assert np.abs(run(half) - got).max() < 4e-3


@pytest.mark.parametrize("write", [to_qdq, to_fusable_qdq])
def test_a_qdq_graph_needs_no_cast(write: Callable[[Quantization], onnx.ModelProto]) -> None:
    decided = decisions(block())
    typed = to_float16(write(decided))
    assert "Cast" not in {node.op_type for node in typed.graph.node}
    assert types(typed) == {"FLOAT16", "INT8"}
    constants = tensors(typed)
    scales = {
        node.output[0]: constants[node.input[1]]
        for node in typed.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    # the ports keep the very scales of the other files
    assert {name: values for name, values in scales.items() if values.dtype == np.float32} == {
        "x.int8": decided.scale("x"),
        "y": decided.scale("y"),
    }
    assert Counter(values.dtype for values in scales.values())[np.dtype(np.float16)] == len(scales) - 2


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_typed_codes_are_those_of_the_float32_graph(seed: int) -> None:
    decided = decisions(block())
    wide = to_fusable_qdq(decided)
    feed = {"x": np.random.default_rng(seed).uniform(-1, 1, (1, 3, 8, 8)).astype(np.float32)}
    codes = [np.rint(run(model, feed) / decided.scale("y")) for model in (wide, rounded(to_float16(wide)))]
    # a value near the middle of two codes falls to either side, which a weight carries on to y
    assert np.abs(codes[0] - codes[1]).max() <= 3
    assert np.abs(codes[0] - codes[1]).mean() < 0.2


def test_tensorrt_placement_quantises_what_weighted_nodes_read_and_no_more() -> None:
    decided = decisions(block())
    everywhere, fusable = to_qdq(decided), to_fusable_qdq(decided)

    def quantized(model: onnx.ModelProto) -> set[str]:
        nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        return {node.output[0].removesuffix(".int8") for node in nodes}

    assert quantized(everywhere) == {"x", "c", "s", "a", "r", "p", "y"}
    assert quantized(fusable) == {"x", "r", "y"}
    add = next(node for node in fusable.graph.node if node.op_type == "Add")
    assert list(add.input) == ["c", "shift"]
    for name in ("c.weight.int8", "c.weight.scale", "c.stored_bias", "r.scale"):  # one decision for both
        assert np.array_equal(tensors(everywhere)[name], tensors(fusable)[name])
    exact = run(decided.view.model)
    errors = [float(np.square(run(model) - exact).mean()) for model in (everywhere, fusable)]
    assert errors[1] < errors[0]


def test_a_mixed_plan_stays_float_where_it_says() -> None:
    model = block()
    decided = decide(model, observe(model, [FEED]), floats={"p"})
    fusable = to_fusable_qdq(decided)
    conv = next(node for node in fusable.graph.node if node.output[0] == "p")
    assert list(conv.input) == ["r", "v"]
    assert types(to_float16(fusable)) == {"FLOAT16", "INT8"}


def test_a_mask_is_exact_where_float16_has_numbers() -> None:
    """The refinement step's: 2^30 y in float32; 2^15 y beyond float16 is infinite, and clipped."""
    nodes = [
        helper.make_node("Mul", ["x", "steep"], ["product"]),
        helper.make_node("Clip", ["product", "low", "high"], ["y"]),
    ]
    constants = {"steep": np.float32(2.0**30), "low": np.float32(0), "high": np.float32(0.8)}
    model = graph(nodes, constants, [1, 3, 8, 8])
    half = to_float16(model)
    assert tensors(half)["steep.float16"] == STEEP
    values = RANDOM.choice([-6e4, -1, -1e-3, -0.0, 0, 1e-3, 0.5, 3, 6e4], (1, 3, 8, 8)).astype(np.float32)
    assert {*np.unique(run(rounded(half), {"x": values}))} == {0, np.float32(np.float16(0.8))}
    assert np.allclose(run(rounded(half), {"x": values}), run(model, {"x": values}), atol=1e-3)


def test_scales_too_fine_for_float16_are_refused_but_for_dead_channels() -> None:
    """A gradient that fades, and a channel whose weights are all but 0."""
    faint = block(gain=1e-7)
    with pytest.raises(BeyondFloat16, match=r"r\.scale is .*e-\d+, too fine for float16 \(least 7\.6e-06\)"):
        to_float16(to_fusable_qdq(decisions(without_offsets(faint))))
    weight = np.stack([np.full((3, 3, 3), 0.1), np.full((3, 3, 3), 1e-9)]).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)]
    typed = to_float16(to_fusable_qdq(decisions(graph(nodes, {"w": weight}, [1, 2, 8, 8]))))
    assert tensors(typed)["y.weight.scale.float16"].min() == np.float16(2.0**-24)
    assert lint(typed) == []


def without_offsets(model: onnx.ModelProto) -> onnx.ModelProto:
    for one in model.graph.initializer:
        if one.name in ("b", "shift"):
            one.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(one)), one.name))
    return model


def test_onnxruntime_leaves_large_biases_alone() -> None:
    """A bias of more than 65504 codes: with all its optimisers, onnxruntime makes it infinite in float16."""
    weight = RANDOM.uniform(-1e-3, 1e-3, (4, 192)).astype(np.float32)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=1),
    ]
    bias = np.array([30, -30, 1, 2], np.float32)
    constants = {"shape": np.array([1, 192]), "w": weight, "b": bias}
    decided = decisions(graph(nodes, constants, [1, 4]))
    typed = to_float16(to_fusable_qdq(decided))
    wanted = run(rounded(typed))
    running = open_session(typed.SerializeToString(), 1, "the typed graph", "int8-float16")
    assert np.abs(running.run(None, FEED)[0] - wanted).max() <= decided.scale("y") * 1.001


def test_a_constant_beyond_float16_is_refused_by_name() -> None:
    with pytest.raises(EdgeageError, match=r"constant w reaches .*e\+05, float16 ends at 65504"):
        to_float16(block(gain=1e6))
