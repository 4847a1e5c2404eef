"""MobileFaceNet: what is kept and what is folded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from edgeage.train.networks import build_embedder
from edgeage.train.networks.blocks import count_parameters
from edgeage.train.networks.mobilefacenet import (
    FULL,
    MobileFaceNet,
    Residual,
    Slopes,
    _joined,
    start_from,
)
from edgeage.train.profiles.schema import load_profile

IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])


@pytest.fixture(scope="module")
def published() -> MobileFaceNet:
    torch.manual_seed(0)
    net = MobileFaceNet(64, 24).eval()
    for module in net.modules():
        if isinstance(module, Slopes):
            nn.init.normal_(module.weight, std=3.0)  # as wild as the published ones
    return net


def test_a_student_with_every_block_in_the_same_place_is_the_published_net(published: MobileFaceNet):
    student = MobileFaceNet(64, 24).eval()
    start_from(student, published, torch.eye(24), IDENTITY)
    image = torch.randn(2, 3, 64, 64)
    assert torch.allclose(student(image), published(image), rtol=1e-4, atol=1e-4)


def test_a_pruned_student_keeps_the_named_blocks(published: MobileFaceNet):
    kept = ((0, 3), (5,), ())
    student = MobileFaceNet(64, 24, kept)
    start_from(student, published, torch.eye(24), IDENTITY)
    own = [layer for layer in student.features if isinstance(layer, Residual)]
    blocks = [layer for layer in published.features if isinstance(layer, Residual)]
    for layer, number in zip(own, (0, 3, 4 + 5), strict=True):
        for name, tensor in layer.state_dict().items():
            assert torch.equal(tensor, blocks[number].state_dict()[name])


def test_the_embedding_is_projected_on_the_basis(published: MobileFaceNet):
    basis = torch.linalg.qr(torch.randn(24, 5)).Q
    student = MobileFaceNet(64, 5).eval()
    start_from(student, published, basis, IDENTITY)
    image = torch.randn(1, 3, 64, 64)
    assert torch.allclose(student(image), published(image) @ basis, rtol=1e-3, atol=1e-4)


def test_a_summary_seen_from_nearer_keeps_its_sum(published: MobileFaceNet):
    """A student that sees the middle half of the frame: flat input must give the same response."""
    student = MobileFaceNet(32, 24)
    flat = MobileFaceNet(64, 24)
    flat.load_state_dict(published.state_dict())
    with torch.no_grad():
        flat.summary.weight.copy_(flat.summary.weight.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4))
    start_from(student, flat, torch.eye(24), np.array([[0.5, 0, 0.25], [0, 0.5, 0.25]]))
    sums = student.summary.weight.sum((2, 3)), flat.summary.weight.sum((2, 3))
    assert torch.allclose(sums[0], sums[1] / 4, rtol=1e-4, atol=1e-6)  # a quarter of the area


@torch.no_grad()
def test_equalising_changes_the_channels_and_not_the_embedding(published: MobileFaceNet):
    net = MobileFaceNet(64, 24).eval()
    net.load_state_dict(published.state_dict())
    image = torch.randn(8, 3, 64, 64)
    before = net(image)
    net.equalise(image)
    assert torch.allclose(net(image), before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))
    hidden = net.features[:3](image)  # the stem and its PReLU
    reach = torch.maximum(hidden.abs(), net.features[:2](image).abs()).amax((0, 2, 3))
    assert torch.allclose(reach, reach.max().expand_as(reach), rtol=1e-4)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_two_linear_layers_are_one(a: int, b: int, c: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    w1, b1 = torch.randn(b, a, 1, 1, generator=generator), torch.randn(b, generator=generator)
    w2, b2 = torch.randn(c, b, 1, 1, generator=generator), torch.randn(c, generator=generator)
    x = torch.randn(3, a, generator=generator)
    weight, bias = _joined((w1, b1), (w2, b2))
    twice = F.linear(F.linear(x, w1[..., 0, 0], b1), w2[..., 0, 0], b2)
    assert torch.allclose(F.linear(x, weight, bias), twice, rtol=1e-4, atol=1e-4)


def test_the_edge_profile_keeps_to_its_size():
    spec = load_profile("edge")
    embedder = build_embedder(spec)
    assert count_parameters(embedder) < 1_000_000
    assert not any(isinstance(module, nn.MaxPool2d) for module in embedder.modules())
    assert isinstance(embedder, MobileFaceNet)
    assert embedder.kept != FULL


def wild(size: int = 32) -> MobileFaceNet:
    torch.manual_seed(3)
    net = MobileFaceNet(size, 16, ((0,), (), (0,))).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, Slopes):
                module.weight.uniform_(-6, 6)
    return net


def test_tamed_slopes_are_gentle_and_change_nothing():
    net, images = wild(), torch.rand(3, 3, 32, 32) * 2 - 1
    before = net(images)
    net.tame_slopes()
    slopes = torch.cat([m.weight.detach() for m in net.modules() if isinstance(m, Slopes)])
    assert float(slopes.abs().max()) <= 1
    assert float(slopes.abs().min()) < 0.9  # some were outside, and came in as their inverse
    # float32 sums in another order
    torch.testing.assert_close(net(images), before, rtol=1e-4, atol=1e-5)


def test_bottlenecks_end_in_the_embedding():
    net, images = wild(), torch.rand(2, 3, 32, 32) * 2 - 1
    found = net.bottlenecks(images)
    assert len(found) == 3 + 2 + 1  # one linear layer a scale, two residual blocks, the embedding
    assert torch.equal(found[-1], net(images))
