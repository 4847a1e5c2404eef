"""Each reverse rule against torch's derivatives in float64, and against onnx-ad, on random shapes.

Tolerance: 1e-5 of the largest value, for float32 sums in another order (measured: below 2e-6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ad
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from edgeage.calibration.graph import STEEP, GraphView
from edgeage.calibration.observers import session
from edgeage.export.onnx_graph import check_operators, clean
from edgeage.export.refine.rules import RULES, NoReverseRule, Reverse

TOLERANCE = 1e-5
EXAMPLES = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**32 - 1)
Floats = np.ndarray


def graph(nodes: list[onnx.NodeProto], shape: tuple[int, ...], constants: dict[str, Any]) -> onnx.ModelProto:
    """A canonical model x -> y of `nodes`, the last of which makes y."""
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    blank = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    proto = helper.make_graph(nodes, "g", [x], [blank], tensors)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    model.graph.output[0].CopyFrom(inferred.graph.output[0])
    return clean(model)


def reversed_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """(x, g) -> the gradient of x for the gradient g of y."""
    view = GraphView(model)
    reverse = Reverse(view, "x")
    reverse.seed("y", "g")
    gradient = reverse.run()
    ports = [helper.make_tensor_value_info(k, 1, view.shapes[t]) for k, t in (("x", "x"), ("g", "y"))]
    constants = {**view.constants, **reverse.constants}
    nodes = [*view.nodes, *reverse.nodes]
    if gradient == "g":  # a sum hands its gradient on
        nodes.append(helper.make_node("Mul", ["g", "unit"], ["handed"]))
        constants["unit"], gradient = np.float32(1), "handed"
    out = helper.make_tensor_value_info(gradient, 1, view.shapes["x"])
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    proto = helper.make_graph(nodes, "reverse", ports, [out], tensors)
    made = clean(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    check_operators(made)  # closed: every INT8 writer takes what the rules write
    return made


def check(
    model: onnx.ModelProto, forward: Callable[[Tensor], Tensor], seed: int, *, oracle: bool = True
) -> None:
    random = np.random.default_rng(seed)
    view = GraphView(model)
    x = random.normal(size=view.shapes["x"]).astype(np.float32)
    g = random.normal(size=view.shapes["y"]).astype(np.float32)
    (found,) = session(reversed_graph(model)).run(None, {"x": x, "g": g})
    exact = torch.from_numpy(x).double().requires_grad_()
    made = forward(exact)
    (made * torch.from_numpy(g).double()).sum().backward()
    assert exact.grad is not None
    agree(found, exact.grad.numpy())
    np.testing.assert_allclose(
        session(model).run(None, {"x": x})[0], made.detach().numpy(), rtol=1e-3, atol=1e-4
    )
    if oracle:
        agree(found, by_onnx_ad(model, x, g))


def by_onnx_ad(model: onnx.ModelProto, x: Floats, g: Floats) -> Floats:
    """The same by a package that knows nothing of ours."""
    adjoint = session(onnx_ad.reverse(model, layout="onnx"))
    names = {port.name for port in adjoint.get_inputs()}
    feeds = {"x": x, "adj_y": g[..., None], "y": g}  # the seed's last axis counts directions
    outputs = [port.name for port in adjoint.get_outputs()]
    results = adjoint.run(None, {name: value for name, value in feeds.items() if name in names})
    found: Floats = dict(zip(outputs, results, strict=True))["adj_x"][..., 0]
    return found


def agree(found: Floats, wanted: Floats) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= TOLERANCE * max(float(np.abs(wanted).max()), 1e-3)


def normal(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed + 1).normal(size=shape).astype(np.float32)


def double(values: Floats) -> Tensor:
    return torch.from_numpy(values).double()


@EXAMPLES
@given(
    seed=seeds,
    size=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 2),
    data=st.data(),
)
def test_conv(
    seed: int,
    size: tuple[int, int],
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    data: st.DataObject,
) -> None:
    """Strides 1 and 2, odd and even windows, any padding that a window can still reach."""
    height, width = (
        max(s * stride, k) + (max(s * stride, k) % stride) for s, k in zip(size, kernel, strict=True)
    )
    pads = [data.draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    weight = normal(seed, channels[1], channels[0], *kernel)
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=kernel, strides=[stride] * 2, pads=pads)
    model = graph([node], (1, channels[0], height, width), {"w": weight})

    def forward(x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (pads[1], pads[3], pads[0], pads[2])), double(weight), stride=stride)

    # onnx-ad 0.3 is wrong for strides that leave a rest and for pads that differ from side to side
    check(model, forward, seed, oracle=stride == 1 and pads[:2] == pads[2:])


@EXAMPLES
@given(
    seed=seeds,
    size=st.integers(2, 5),
    channels=st.integers(1, 6),
    stride=st.integers(1, 2),
    low=st.booleans(),
)
def test_depthwise_conv(seed: int, size: int, channels: int, stride: int, low: bool) -> None:
    weight = normal(seed, channels, 1, 3, 3)
    pads = [1, 1, 1, 1] if stride == 1 else [0, 0, 1, 1] if low else [1, 1, 0, 0]
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], strides=[stride] * 2, pads=pads, group=channels
    )
    model = graph([node], (2, channels, 2 * size, 2 * size), {"w": weight})

    def forward(x: Tensor) -> Tensor:
        padded = F.pad(x, (pads[1], pads[3], pads[0], pads[2]))
        return F.conv2d(padded, double(weight), stride=stride, groups=channels)

    check(model, forward, seed, oracle=False)  # onnx-ad 0.3 has no rule for groups


@EXAMPLES
@given(seed=seeds, size=st.tuples(st.integers(1, 4), st.integers(1, 4)), channels=st.integers(2, 5))
def test_a_window_over_the_whole_image(seed: int, size: tuple[int, int], channels: int) -> None:
    """With the dense layer behind it, whose weights take the sizes of the channels."""
    weight, dense = normal(seed, channels, 1, *size), normal(seed + 1, 3, channels)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=size, group=channels),
        helper.make_node("Reshape", ["c", "s"], ["f"]),
        helper.make_node("Gemm", ["f", "d"], ["y"], transB=1),
    ]
    constants = {"w": weight, "d": dense, "s": np.array([1, channels], np.int64)}
    model = graph(nodes, (1, channels, *size), constants)
    product = next(node for node in reversed_graph(model).graph.node if node.op_type == "Mul")
    window = next(
        numpy_helper.to_array(t)
        for t in reversed_graph(model).graph.initializer
        if t.name == product.input[1]
    )
    assert np.abs(window).max(axis=(0, 2, 3)) == pytest.approx(1)

    def forward(x: Tensor) -> Tensor:
        return F.linear(F.conv2d(x, double(weight), groups=channels).flatten(1), double(dense))

    check(model, forward, seed, oracle=False)


@EXAMPLES
@given(
    seed=seeds,
    size=st.integers(1, 4),
    channels=st.tuples(st.integers(1, 4), st.sampled_from([1, 3, 5])),
    kernel=st.sampled_from([1, 3, 5]),
)
def test_conv_and_depth_to_space(seed: int, size: int, channels: tuple[int, int], kernel: int) -> None:
    """Both ways: few channels go back before the depth-to-space, many become one strided convolution."""
    weight = normal(seed, channels[1] * 4, channels[0], kernel, kernel)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4),
        helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=2, mode="CRD"),
    ]
    model = graph(nodes, (1, channels[0], size, size + 1), {"w": weight})
    check(
        model,
        lambda x: F.pixel_shuffle(F.conv2d(x, double(weight), padding=kernel // 2), 2),
        seed,
        oracle=False,
    )
    strided = any(
        list(helper.get_attribute_value(a)) == [2, 2]
        for node in reversed_graph(model).graph.node
        for a in node.attribute
        if a.name == "strides" and node.input[0] == "g" and "phases_of_image" not in node.input[1]
    )
    assert strided == (channels[1] * 4 > 16)


@EXAMPLES
@given(seed=seeds, widths=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)))
def test_gemm_and_a_concat_before_it(seed: int, widths: tuple[int, int, int]) -> None:
    given_, other, made = widths
    weight, constant = normal(seed, made, given_ + other), normal(seed + 1, 2, other)
    nodes = [
        helper.make_node("Mul", ["c", "one"], ["other"]),
        helper.make_node("Concat", ["other", "x"], ["joined"], axis=1),
        helper.make_node("Gemm", ["joined", "w", "b"], ["y"], transB=1),
    ]
    constants = {"w": weight, "b": normal(seed, made), "c": constant, "one": np.float32(1)}
    model = graph(nodes, (2, given_), constants)
    check(
        model,
        lambda x: F.linear(torch.cat([double(constant), x], 1), double(weight), double(constants["b"])),
        seed,
    )


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


POINTWISE: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "Relu": ([helper.make_node("Relu", ["x"], ["y"])], {}, F.relu),
    "LeakyRelu": ([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.2)], {}, _leaky),
    "Clip": (
        [
            helper.make_node("Clip", ["s", "low", "high"], ["y"]),
            helper.make_node("Mul", ["x", "four"], ["s"]),
        ][::-1],
        {"low": np.float32(0), "high": np.float32(6), "four": np.float32(4)},
        lambda x: F.relu6(4 * x),
    ),
    "Tanh": ([helper.make_node("Tanh", ["x"], ["y"])], {}, torch.tanh),
    "Add": ([helper.make_node("Add", ["x", "x"], ["y"])], {}, lambda x: x + x),
    "Sub": (
        [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("Sub", ["x", "t"], ["y"])],
        {},
        lambda x: x - torch.tanh(x),
    ),
    "Mul": (
        [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("Mul", ["x", "t"], ["y"])],
        {},
        lambda x: x * torch.tanh(x),
    ),
    "square": ([helper.make_node("Mul", ["x", "x"], ["y"])], {}, lambda x: x * x),
    "a PReLU": (
        [
            helper.make_node("Mul", ["x", "steep"], ["high"]),
            helper.make_node("Clip", ["high", "zero", "two"], ["mask"]),
            helper.make_node("Add", ["mask", "least"], ["raised"]),
            helper.make_node("Clip", ["raised", "minus", "one"], ["slope"]),
            helper.make_node("Mul", ["x", "slope"], ["y"]),
        ],
        {
            "steep": np.float32(STEEP),
            "zero": np.float32(0),
            "two": np.float32(2),
            "least": np.array([0.25, -0.5, 1], np.float32).reshape(3, 1, 1),
            "minus": np.float32(-1),
            "one": np.float32(1),
        },
        lambda x: F.prelu(x, torch.tensor([0.25, -0.5, 1], dtype=torch.float64)),
    ),
}


@pytest.mark.parametrize("name", POINTWISE)
@settings(max_examples=5, deadline=None)
@given(seed=seeds, size=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_pointwise(name: str, seed: int, size: tuple[int, int]) -> None:
    nodes, constants, forward = POINTWISE[name]
    check(graph(nodes, (2, 3, *size), constants), forward, seed)


@EXAMPLES
@given(seed=seeds, size=st.integers(1, 3), factor=st.integers(2, 3), channels=st.integers(1, 4))
def test_nearest_enlargement(seed: int, size: int, factor: int, channels: int) -> None:
    node = helper.make_node(
        "Resize",
        ["x", "", "scales"],
        ["y"],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    scales = np.array([1, 1, factor, factor], np.float32)
    model = graph([node], (1, channels, size, size + 1), {"scales": scales})
    check(model, lambda x: F.interpolate(x, scale_factor=factor, mode="nearest"), seed, oracle=False)


@EXAMPLES
@given(seed=seeds, size=st.integers(1, 3), channels=st.integers(1, 4), keep=st.booleans(), pool=st.booleans())
def test_means(seed: int, size: int, channels: int, keep: bool, pool: bool) -> None:
    if pool:
        node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
        model = graph([node], (1, channels, 2 * size, 2 * size), {})
        check(model, lambda x: F.avg_pool2d(x, 2), seed, oracle=False)
        return
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=int(keep))
    model = graph([node], (1, channels, size, size + 1), {"axes": np.array([2, 3], np.int64)})
    check(model, lambda x: x.mean((2, 3), keepdim=keep), seed, oracle=False)


def test_reshape_and_what_has_two_readers() -> None:
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("Reshape", ["t", "s"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["d"], transB=1),
        helper.make_node("Add", ["d", "f"], ["y"]),
    ]
    weight = normal(0, 12, 12)
    model = graph(nodes, (1, 3, 2, 2), {"s": np.array([1, 12], np.int64), "w": weight})
    check(model, lambda x: F.linear(torch.tanh(x).flatten(1), double(weight)) + torch.tanh(x).flatten(1), 0)


@pytest.mark.parametrize(
    ("node", "constants", "words"),
    [
        (
            helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]),
            {},
            r"MaxPool \(node y\): rules exist",
        ),
        (
            helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1], dilations=[2, 2]),
            {"w": normal(0, 2, 4, 1, 1)},
            r"Conv \(node y\): it is dilated",
        ),
        (
            helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1], group=2),
            {"w": normal(0, 2, 2, 1, 1)},
            r"Conv \(node y\): it has 2 groups",
        ),
        (
            helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1], strides=[3, 3]),
            {"w": normal(0, 2, 4, 1, 1)},
            r"Conv \(node y\): its stride 3 does not divide",
        ),
        (
            helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1] * 4),
            {},
            r"AveragePool \(node y\): its windows at the border",
        ),
        (
            helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD"),
            {},
            r"DepthToSpace \(node y\): it must follow a convolution",
        ),
    ],
)
def test_what_has_no_rule_is_refused_by_name(
    node: onnx.NodeProto, constants: dict[str, Any], words: str
) -> None:
    with pytest.raises(NoReverseRule, match=words):
        reversed_graph(graph([node], (1, 4, 4, 4), constants))


def test_a_broadcast_operand_that_depends_on_the_input_is_refused() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Mul", ["x", "m"], ["y"]),
    ]
    model = graph(nodes, (1, 2, 3, 3), {"axes": np.array([2, 3], np.int64)})
    with pytest.raises(NoReverseRule, match="its operand m is broadcast"):
        reversed_graph(model)


def test_every_rule_is_tested_here() -> None:
    tested = {"Conv", "DepthToSpace", "Gemm", "Reshape", "Resize", "ReduceMean", "AveragePool"}
    assert set(RULES) == tested | (set(POINTWISE) - {"square", "a PReLU"})
