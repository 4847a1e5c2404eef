"""A PReLU as a product that INT8 kernels compute: equal to onnxruntime's own PRelu, for every slope."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeage.calibration.graph import GraphView, steps
from edgeage.calibration.observers import Observer, session
from edgeage.calibration.quantization import decide
from edgeage.errors import EdgeageError
from edgeage.export.onnx_graph import canonicalise
from edgeage.export.prelu import write_prelus
from edgeage.export.qdq import to_qdq


def chain(slopes: list[float], inputs: int, seed: int, *, pad: bool = False) -> onnx.ModelProto:
    """conv 1x1 -> PRelu -> (pad) -> depthwise 3x3 -> PRelu -> conv 1x1."""
    random, size = np.random.default_rng(seed), len(slopes)
    constants = {
        "w1": random.normal(size=(size, inputs, 1, 1)),
        "b1": random.normal(size=size),
        "a1": np.reshape(slopes, (size, 1, 1)),
        "w2": random.normal(size=(size, 1, 3, 3)),
        "b2": random.normal(size=size),
        "a2": np.reshape(slopes[::-1], (size, 1, 1)),
        "w3": random.normal(size=(2, size, 1, 1)),
        "b3": random.normal(size=2),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], kernel_shape=[1, 1]),
        helper.make_node("PRelu", ["c1", "a1"], ["p1"]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], kernel_shape=[3, 3], pads=[1] * 4, group=size),
        helper.make_node("PRelu", ["c2", "a2"], ["p2"]),
        helper.make_node("Conv", ["p2", "w3", "b3"], ["y"], kernel_shape=[1, 1]),
    ]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    if pad:
        tensors.append(numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "amounts"))
        nodes.insert(2, helper.make_node("Pad", ["p1", "amounts"], ["padded"]))
        nodes[3] = helper.make_node(
            "Conv", ["padded", "w2", "b2"], ["c2"], kernel_shape=[3, 3], pads=[0] * 4, group=size
        )
    ports = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, inputs, 4, 4]),
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2, 4, 4]),
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@given(
    slopes=st.lists(st.floats(-9, 9, width=32) | st.sampled_from([0.0, 1.0, -1.0]), min_size=2, max_size=6),
    inputs=st.integers(1, 3),
    seed=st.integers(0, 999),
    pad=st.booleans(),
)
def test_it_is_exact_for_every_slope(slopes: list[float], inputs: int, seed: int, *, pad: bool) -> None:
    model = chain(slopes, inputs, seed, pad=pad)
    image = np.random.default_rng(seed + 1).normal(size=(1, inputs, 4, 4)).astype(np.float32)
    (wanted,) = session(model).run(None, {"x": image})
    written = canonicalise(model)
    (found,) = session(written).run(None, {"x": image})
    # float32 products in another order
    assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())
    counts = Counter(node.op_type for node in written.graph.node)
    assert counts["Conv"] == 3
    if not any(slopes):
        assert counts == {"Conv": 3, "Relu": 2, **({"Pad": 1} if pad else {})}
        return
    assert (counts["PRelu"], counts["Relu"], counts["Add"], counts["Mul"], counts["Clip"]) == (0, 0, 2, 4, 4)


def test_slopes_are_steps_between_minus_one_and_one() -> None:
    view = GraphView(canonicalise(chain([0.5, -3.0, 9.0, -1.0], 3, 0)))
    slopes = {f"{name}.{part}" for name in ("p1", "p2") for part in ("mask", "raised", "slope")}
    assert steps(view) == slopes
    assert np.abs(view.constants["p1.least"]).max() <= 1


def test_int8_passes_what_is_positive_code_for_code() -> None:
    """The product has its input's scale, and a slope of 1 is a whole code."""
    graph = canonicalise(chain([0.5, -0.3, 0.0, 1.0], 3, 0))
    view = GraphView(graph)
    observer = Observer(graph)
    random = np.random.default_rng(0)
    seen = observer.observe({"x": random.normal(size=(1, 3, 4, 4)).astype(np.float32)} for _ in range(20))
    decided = decide(graph, {name: found.range() for name, found in seen.items()})
    for name in ("p1", "p2"):
        assert decided.scale(name) == decided.scale(view.producer[name].input[0])
        assert decided.scale(f"{name}.slope") == np.float32(1 / 127)
        assert decided.scale(f"{name}.mask") == np.float32(2 / 127)
    twin = onnx.ModelProto()
    twin.CopyFrom(to_qdq(decided))
    for name in ("c1", "p1"):
        twin.graph.output.append(helper.make_tensor_value_info(f"{name}.int8", onnx.TensorProto.INT8, None))
    given = {"x": random.normal(size=(1, 3, 4, 4)).astype(np.float32)}
    before, after = session(twin).run(["c1.int8", "p1.int8"], given)
    positive = before > 0
    assert positive.any()
    np.testing.assert_array_equal(after[positive], before[positive])


def _behind_a_sum(model: onnx.ModelProto) -> None:
    model.graph.node.insert(1, helper.make_node("Add", ["c1", "c1"], ["sum"]))
    model.graph.node[2].input[0] = "sum"


def _read_twice(model: onnx.ModelProto) -> None:
    model.graph.node.insert(2, helper.make_node("Relu", ["c1"], ["more"]))


def _before_a_tanh(model: onnx.ModelProto) -> None:
    model.graph.node.insert(2, helper.make_node("Tanh", ["p1"], ["more"]))


def _at_the_end(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("p1", onnx.TensorProto.FLOAT, [1, 2, 4, 4]))


@pytest.mark.parametrize("fault", [_behind_a_sum, _read_twice, _before_a_tanh, _at_the_end])
def test_a_prelu_elsewhere_is_refused_by_name(fault: object) -> None:
    model = chain([0.5, 2.0], 3, 0)
    fault(model)  # type: ignore[operator]
    with pytest.raises(EdgeageError, match="PRelu p1 does not lie between"):
        write_prelus(model)


def test_one_slope_for_all_channels_and_shared_weights_are_refused() -> None:
    model = chain([0.5, 2.0], 3, 0)
    model.graph.initializer.append(numpy_helper.from_array(np.float32([[[0.1]]]), "one"))
    model.graph.node[1].input[1] = "one"
    with pytest.raises(EdgeageError, match="not one constant slope a channel"):
        write_prelus(model)
    model = chain([0.5, 2.0], 2, 0)
    model.graph.node[4].input[1] = "w1"
    with pytest.raises(EdgeageError, match="constant w1 next to PRelu p1 is shared"):
        write_prelus(model)
