"""torch -> canonical ONNX: folded, closed, deterministic, and compared with torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgeage.calibration.graph import GraphView
from edgeage.calibration.observers import session
from edgeage.errors import EdgeageError
from edgeage.export import onnx_graph
from edgeage.export.onnx_graph import OPSET, clean, compare, export_onnx, probe, with_batch
from edgeage.export.phase import decompose, phase_kernels

IMAGE = {"image": (1, 3, 8, 8)}


def _settle(network: nn.Module) -> nn.Module:
    """Batch norms that do something, and eval mode."""
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            if layer.affine:
                nn.init.normal_(layer.weight, 1, 0.2, generator)
                nn.init.normal_(layer.bias, 0, 0.2, generator)
    return network.eval()


class Everything(nn.Module):
    """Each thing that must vanish: padding, dropout, three placements of batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.conv = nn.Conv2d(3, 4, 3, 2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.dense = nn.Linear(64, 32)
        self.dense_norm = nn.BatchNorm1d(32, affine=False)
        self.widen = nn.Linear(32, 32, bias=False)
        self.image_norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.conv(self.pad(image))))
        hidden = self.dropout(self.dense_norm(self.dense(hidden.flatten(1))))
        return torch.tanh(self.image_norm(self.widen(hidden).view(-1, 8, 2, 2)))


def test_what_can_be_folded_is_folded_and_the_same_weights_give_the_same_bytes() -> None:
    torch.manual_seed(0)
    network = _settle(Everything())
    model = export_onnx(network, IMAGE, "out")
    view = GraphView(model)
    assert [node.op_type for node in view.nodes] == [
        "Conv",
        "Relu",
        "Reshape",
        "Gemm",
        "Gemm",
        "Reshape",
        "Tanh",
    ]
    conv = view.nodes[0]
    assert list(next(a.ints for a in conv.attribute if a.name == "pads")) == [0, 0, 1, 1]
    assert {item.version for item in model.opset_import} == {OPSET}
    assert (view.inputs, view.outputs) == (["image"], ["out"])
    data = model.SerializeToString()
    assert data == export_onnx(network, IMAGE, "out").SerializeToString()
    assert b".py" not in data  # the exporter leaves source paths


def test_another_batch_computes_the_same_items() -> None:
    model = export_onnx(_settle(Everything()), IMAGE, "out")
    images = probe({"image": (5, 3, 8, 8)})
    single = session(model)
    wanted = np.concatenate([single.run(None, {"image": image[None]})[0] for image in images["image"]])
    assert compare(with_batch(model, 5), images, wanted, "batching") < 1e-6


class _Unknown(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(image) * torch.nn.functional.softplus(image)


def test_an_operator_outside_the_closed_set_is_refused_by_name() -> None:
    with pytest.raises(EdgeageError, match=r"Sigmoid \(sigmoid\), Softplus"):
        export_onnx(_Unknown().eval(), IMAGE, "out")


class _Linear(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(image, scale_factor=2, mode="bilinear")


def test_a_known_operator_in_an_unknown_mode_is_refused() -> None:
    with pytest.raises(EdgeageError, match="Resize"):
        export_onnx(_Linear().eval(), IMAGE, "out")


class _SharedBeforeNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(192, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = self.dense(image.flatten(1))
        return self.norm(torch.tanh(hidden)) + hidden


def test_a_dynamic_shape_is_refused_with_its_name() -> None:
    model = export_onnx(_settle(Everything()), IMAGE, "out")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(EdgeageError, match=r"image has a dynamic shape \(axis 0 is 'batch'\)"):
        clean(model)


def test_a_batch_norm_that_cannot_be_folded_is_refused() -> None:
    with pytest.raises(EdgeageError, match=r"batch norm .* cannot be folded"):
        export_onnx(_settle(_SharedBeforeNorm()), IMAGE, "out")


def test_training_mode_is_refused() -> None:
    with pytest.raises(EdgeageError, match="training mode"):
        export_onnx(Everything(), IMAGE, "out")


def test_a_step_that_changes_the_numbers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_it(model: object) -> None:
        graph = model.graph  # type: ignore[attr-defined]
        weight = next(tensor for tensor in graph.initializer if tensor.name == "conv.weight")
        weight.raw_data = bytes(len(weight.raw_data))

    monkeypatch.setattr(onnx_graph, "_use_canonical_operators", break_it)
    with pytest.raises(EdgeageError, match="canonicalisation changed"):
        export_onnx(_settle(Everything()), IMAGE, "out")


class _Enlarge(nn.Module):
    def __init__(self, kernel: int, channels: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, kernel, padding=kernel // 2, bias=bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.conv(nn.functional.interpolate(image, scale_factor=2.0)))


@pytest.mark.parametrize(("kernel", "channels", "bias"), [(5, 1, True), (5, 5, False), (3, 4, True)])
def test_phase_decomposition_is_exact_at_borders_too(kernel: int, channels: int, bias: bool) -> None:
    network = _Enlarge(kernel, channels, bias).eval()
    model = export_onnx(network, IMAGE, "out")
    phased, found = decompose(model)
    assert found == 1
    assert [n.op_type for n in phased.graph.node] == ["Conv", "DepthToSpace", "Tanh"]
    feeds = probe(IMAGE)
    # float32 sums of at most 75 products in another order
    assert compare(phased, feeds, session(model).run(None, feeds)[0], "phase") < 1e-5


def test_phase_decomposition_leaves_alone_what_gains_nothing() -> None:
    model = export_onnx(_Enlarge(1, 2, True).eval(), IMAGE, "out")
    phased, found = decompose(model)
    assert found == 0
    assert phased == model


@pytest.mark.parametrize("kernel", [3, 5])
def test_phase_kernels_keep_every_tap(kernel: int) -> None:
    weight = np.random.default_rng(0).normal(size=(2, 3, kernel, kernel)).astype(np.float32)
    kernels = phase_kernels(weight).reshape(2, 4, 3, 3, 3)
    for phase in range(4):
        assert np.allclose(kernels[:, phase].sum(axis=(2, 3)), weight.sum(axis=(2, 3)), atol=1e-5)
