"""The refinement step of whole networks: against float64 autograd, in INT8, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeage.calibration.graph import GraphView
from edgeage.calibration.observers import Observer, session
from edgeage.calibration.quantization import INT8, INT16, decide
from edgeage.calibration.ranges import RangeTable, TensorRange
from edgeage.errors import EdgeageError
from edgeage.export.onnx_graph import export_onnx, with_batch
from edgeage.export.phase import decompose
from edgeage.export.qdq import to_qdq
from edgeage.export.refine.calibrate import exact_slopes, own_name, snapped
from edgeage.export.refine.graph import INPUTS, OUTPUTS, Objective, forward_name, refine_graph
from edgeage.export.refine.rules import NoReverseRule
from edgeage.export.refine.unroll import REFINED, unroll, unrolled_ranges
from edgeage.export.tflite.lowering import to_tflite
from edgeage.export.verify import TfliteFile, cosine, operators, to_codes
from edgeage.runtime.bench import xnnpack
from edgeage.train.networks import build_networks
from edgeage.train.networks.recogniser import MobileRecogniser
from edgeage.train.profiles.schema import RecogniserShape, load_profile

PIXEL_WEIGHT = 20.0
# float32 sums in another order; measured 6e-7 on the shipped networks
TOLERANCE = 1e-5


def networks(profile: str, recogniser: nn.Module | None = None) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(5)
    built = build_networks(load_profile(profile))
    generator, embedder = built["generator"].eval(), (recogniser or built["embedder"]).eval()
    with torch.no_grad():
        for module in embedder.modules():  # the slopes of a trained net differ from channel to channel
            if type(module).__name__ == "Slopes":
                module.weight.uniform_(-1.2, 1.2)
    return generator, embedder


def canonical(generator: nn.Module, embedder: nn.Module) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    made = export_onnx(generator, {"z": (1, 100), "y": (1, 6)}, "image")
    return decompose(made)[0], export_onnx(embedder, {"image": (1, 3, 64, 64)}, "embedding")


def feeds(seed: int, batch: int = 1) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "z": random.normal(size=(batch, 100)).astype(np.float32),
        "y": np.eye(6, dtype=np.float32)[random.integers(6, size=batch)],
        "target": random.normal(scale=0.1, size=(batch, 128)).astype(np.float32),
        "image": random.uniform(-1, 1, (batch, 3, 64, 64)).astype(np.float32),
    }


def exact_gradient(generator: nn.Module, embedder: nn.Module, feed: dict[str, Any]) -> np.ndarray:
    """By float64 autograd, of the loss as the documentation states it."""
    z, y, target, image = (torch.from_numpy(feed[name]).double() for name in INPUTS)
    z.requires_grad_()
    made = generator.double()(z, y)
    distance = (embedder.double()(made) - target).pow(2).sum()
    (distance + PIXEL_WEIGHT * (made - image).pow(2).mean((1, 2, 3)).sum()).backward()
    generator.float(), embedder.float()
    assert z.grad is not None
    return (z.grad * made[0].numel() / (2 * PIXEL_WEIGHT)).numpy()


def mobile() -> nn.Module:
    """With activations of about unit size, as a trained net has them."""
    net = MobileRecogniser(RecogniserShape(kind="mobile", channels=(8, 12, 16)), 64, 128)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight *= 3
    return net


@pytest.mark.parametrize("profile", ["edge", "edge with ReLU6", "paper generator"])
def test_the_gradient_is_that_of_float64_autograd(profile: str) -> None:
    """Both profiles' generators; the recognisers of the engines, PReLU and ReLU6."""
    generator, embedder = networks(profile.split()[0], None if profile == "edge" else mobile())
    graph = refine_graph(*canonical(generator, embedder), Objective(PIXEL_WEIGHT))
    view = GraphView(graph)
    assert (tuple(view.inputs), tuple(view.outputs)) == (INPUTS, OUTPUTS)
    running = session(graph)
    for seed in range(3):
        feed = feeds(seed)
        gradient, embedding = running.run(list(OUTPUTS), feed)
        exact = exact_gradient(generator, embedder, feed)
        assert np.abs(gradient - exact).max() <= TOLERANCE * np.abs(exact).max()
        with torch.no_grad():
            made = embedder(generator(torch.from_numpy(feed["z"]), torch.from_numpy(feed["y"])))
        np.testing.assert_allclose(embedding, made.numpy(), atol=1e-4 * float(made.abs().max()))


def test_a_preconditioner_costs_no_node_and_is_multiplied_in() -> None:
    graphs = canonical(*networks("edge"))
    width, feed = graphs[0].graph.input[0].type.tensor_type.shape.dim[1].dim_value, feeds(4)
    noise = np.random.default_rng(5).normal(size=(width, width)).astype(np.float32) / 10
    matrix = np.eye(width, dtype=np.float32) + noise @ noise.T
    plain, preconditioned = (
        refine_graph(*graphs, objective)
        for objective in (Objective(PIXEL_WEIGHT), Objective(PIXEL_WEIGHT, matrix))
    )
    assert GraphView(plain).op_counts() == GraphView(preconditioned).op_counts()
    gradient, found = (session(graph).run(["gradient"], feed)[0] for graph in (plain, preconditioned))
    wanted = gradient.astype(np.float64) @ matrix
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    with pytest.raises(EdgeageError, match=rf"preconditioner is 3 x 3, the latent has {width} dimensions"):
        refine_graph(*graphs, Objective(PIXEL_WEIGHT, np.eye(3, dtype=np.float32)))


def test_the_graph_has_no_operator_that_engines_lack() -> None:
    graph = refine_graph(*canonical(*networks("edge")), Objective(PIXEL_WEIGHT))
    counts = GraphView(graph).op_counts()
    assert not {"ConvTranspose", "Where", "Greater", "Cast", "Transpose", "Slice"} & set(counts)


def test_a_gradient_has_even_channels() -> None:
    """A gradient's scale is another for each channel where a forward tensor's was changed."""
    generator, embedder = networks("edge")
    with torch.no_grad():  # channels of a forward tensor far apart, undone behind it
        first, second = embedder.features[1], embedder.features[3]
        factors = torch.logspace(-1, 1, len(first.weight))
        first.weight *= factors.view(-1, 1, 1, 1)
        first.bias *= factors
        second.weight /= factors.view(-1, 1, 1, 1)
    graph = refine_graph(*canonical(generator, embedder), Objective(PIXEL_WEIGHT))
    seen = Observer(graph).observe(feeds(seed) for seed in range(6))
    uneven = [
        float(seen[name].reaches.max() / seen[name].reaches.min())
        for name in ("embedder/conv2d.reverse", "embedder/prelu.reverse")
    ]
    assert max(uneven) < 600  # 3,200 without; no channel is stretched more than 16 times


def test_several_faces_are_each_their_own() -> None:
    graph = refine_graph(*canonical(*networks("edge", mobile())), Objective(PIXEL_WEIGHT))
    four, one = session(with_batch(graph, 4)), session(graph)
    feed = feeds(9, 4)
    together = four.run(["gradient"], feed)[0]
    for row in range(4):
        alone = one.run(["gradient"], {k: v[row : row + 1] for k, v in feed.items()})[0]
        assert np.abs(together[row] - alone[0]).max() <= 1e-4 * np.abs(alone).max()


def test_int8_is_one_partition_and_points_the_same_way() -> None:
    """Random networks: their gradients are noise to INT8, so only the INT8 file and its twin are compared."""
    graph = refine_graph(*canonical(*networks("edge", mobile())), Objective(PIXEL_WEIGHT))
    histograms = Observer(graph).observe(feeds(seed) for seed in range(6))
    ranges = {name: seen.range() for name, seen in histograms.items()}
    ranges |= {name: chosen.ends for name, chosen in exact_slopes(GraphView(graph)).items()}
    decided = decide(graph, ranges)
    data = to_tflite(decided, "refine", "int8")
    report = xnnpack.delegation(data)
    assert (report.partitions, report.left) == (1, {})
    found = operators(data)
    assert not {"DEPTH_TO_SPACE", "TRANSPOSE", "TRANSPOSE_CONV", "QUANTIZE", "DEQUANTIZE"} & set(found)
    file, twin = TfliteFile(data, "refine"), session(to_qdq(decided))
    agreement = []
    for seed in range(6):
        feed = snapped(decided, feeds(seed))
        codes = file.run({name: to_codes(value, decided.scale(name)) for name, value in feed.items()})
        gradient = codes["gradient"] * float(decided.scale("gradient"))
        agreement.append(cosine(gradient, twin.run(["gradient"], feed)[0]))
    assert np.mean(agreement) > 0.9


def test_slopes_of_leaky_relus_are_exact_in_int8() -> None:
    graph = refine_graph(*canonical(*networks("edge", mobile())), Objective(PIXEL_WEIGHT))
    for tensor in exact_slopes(GraphView(graph)).values():
        scale = tensor.high / 127
        for slope in (0.2, 1.0):
            assert slope / scale == pytest.approx(round(slope / scale), abs=1e-4)
            assert round(slope / scale) <= 127


def test_forward_tensors_are_found_in_their_networks() -> None:
    for network, tensor in (("generator", "z"), ("generator", "tanh"), ("embedder", "embedding")):
        assert forward_name(own_name(network, tensor)) == (network, tensor)
    assert forward_name("image") is None  # the photo is the host's, not a network's


def test_what_cannot_be_refined_is_refused() -> None:
    generator, embedder = canonical(*networks("edge", mobile()))
    with pytest.raises(EdgeageError, match=r"pixel weight of a refine engine is 0.0; it must be above 0"):
        refine_graph(generator, embedder, Objective(0.0))
    with pytest.raises(EdgeageError, match=r"needs a generator \(z, y\) -> image and an embedder"):
        refine_graph(embedder, generator, Objective(1.0))


def test_the_recogniser_of_profile_paper_has_no_reverse_pass() -> None:
    from edgeage.train.networks.inception_resnet_v2 import InceptionRecogniser

    generator, _ = canonical(*networks("edge", mobile()))
    torch.manual_seed(0)
    deep = InceptionRecogniser(2, 128, repeats=(1, 1, 1)).eval()
    embedder = export_onnx(deep, {"image": (1, 3, 64, 64)}, "embedding")
    with pytest.raises(NoReverseRule, match=r"no reverse rule for (MaxPool|Concat) \(node "):
        refine_graph(generator, embedder, Objective(PIXEL_WEIGHT))


SIZES = [0.3, 0.2]


@pytest.fixture(scope="module")
def step() -> onnx.ModelProto:
    return refine_graph(*canonical(*networks("edge", mobile())), Objective(PIXEL_WEIGHT))


@pytest.fixture(scope="module")
def table(step: onnx.ModelProto) -> RangeTable:
    seen = Observer(step).observe(feeds(seed) for seed in range(4))
    tensors = {name: TensorRange(*found.range()) for name, found in seen.items()} | exact_slopes(
        GraphView(step)
    )
    return RangeTable("0" * 64, "0" * 64, 4, tensors)


def test_unrolled_steps_are_those_of_a_loop(step: onnx.ModelProto) -> None:
    feed, one = feeds(11), session(step)
    z = feed["z"]
    for size in SIZES:
        (gradient,) = one.run(["gradient"], {**feed, "z": z})
        z = z - np.float32(size) * np.sign(gradient)
    (found,) = session(unroll(step, SIZES)).run([REFINED], feed)
    np.testing.assert_allclose(found, z, atol=1e-6)
    with pytest.raises(EdgeageError, match="at least one step"):
        unroll(step, [])


def test_in_int8_the_sign_saturates_on_both_sides(step: onnx.ModelProto, table: RangeTable) -> None:
    """One step alone: from the second on, masks that flip make other gradients of them."""
    ranges = {name: seen.ends for name, seen in unrolled_ranges(table, SIZES[:1]).items()}
    decided = decide(unroll(step, SIZES[:1]), ranges)
    file, twin = TfliteFile(to_tflite(decided, "refine1", "int8"), "refine1"), session(to_qdq(decided))
    moved = []
    for seed in range(4):
        feed = feeds(seed)
        codes = {
            name: np.clip(np.rint(value / decided.scale(name)), -127, 127).astype(np.int8)
            for name, value in feed.items()
        }
        snapped = {name: code.astype(np.float32) * decided.scale(name) for name, code in codes.items()}
        found = file.run(codes)[REFINED] * float(decided.scale(REFINED)) - snapped["z"]
        moved.append(np.abs(found))
        (wanted,) = twin.run([REFINED], snapped)
        assert cosine(found, wanted - snapped["z"]) > 0.8  # a gradient near 0 may fall to either side
    sizes = np.concatenate(moved, axis=None)
    near = np.abs(sizes - SIZES[0]) < 1.5 * float(decided.scale(REFINED))
    assert near.mean() > 0.5  # the others had a gradient of few codes: no NPU multiplies it further


def test_16_bit_activations_are_nearly_exact(step: onnx.ModelProto, table: RangeTable) -> None:
    """On the faces of the ranges: nothing is clipped, what is left is the error of int8 weights."""
    running, agreement = session(step), {}
    for width in (INT8, INT16):
        decided = decide(step, table.ranges, width=width)
        file = TfliteFile(to_tflite(decided, "refine", "int8"), "refine")
        found = []
        for seed in range(4):
            feed = feeds(seed)
            codes = {
                name: np.clip(np.rint(v / decided.scale(name)), -width.steps, width.steps).astype(width.dtype)
                for name, v in feed.items()
            }
            made, wanted = file.run(codes), running.run(["gradient", "embedding"], feed)
            assert made["gradient"].dtype == width.dtype
            found.append(
                [
                    cosine(made[name], want)
                    for name, want in zip(("gradient", "embedding"), wanted, strict=True)
                ]
            )
        agreement[width.steps] = np.mean(found, axis=0)
    assert (agreement[32767] > 0.95).all()
    assert (agreement[32767] > agreement[127]).all()
