"""The networks of both profiles: sizes of the article, shapes, and what 'same' padding means."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from edgeage.train.networks import build_networks
from edgeage.train.networks.blocks import count_parameters, same_conv
from edgeage.train.networks.discriminator import (
    ConcatDiscriminator,
    adversarial_losses,
    build_discriminator,
    generator_loss,
    r1_penalty,
)
from edgeage.train.networks.encoder import Encoder
from edgeage.train.networks.generator import Generator
from edgeage.train.networks.recogniser import MobileRecogniser, PerceptualNet
from edgeage.train.profiles.schema import load_profile

# Counted by hand from the article's Keras layers (trainable parameters).
PAPER_ENCODER = 2_432 + 51_264 + 204_928 + 819_456 + 2 * (64 + 128 + 256) + 4096 * 4097 + 2 * 4096 + 409_700
PAPER_GENERATOR = (
    107 * 2048 + 2049 * 16384 + 2 * 16384 + 819_328 + 2 * 128 + 204_864 + 2 * 64 + 4_803
)  # 100 + 6 inputs and a bias to 2048; batch norm over all 16384 units, as Keras does before the reshape


def test_paper_encoder_and_generator_have_the_articles_size():
    spec = load_profile("paper")
    encoder = Encoder(spec.encoder, spec.image_size, spec.latent_size)
    generator = Generator(spec.generator, spec.image_size, spec.latent_size, len(spec.groups))
    assert count_parameters(encoder) == PAPER_ENCODER == 18_278_180  # 18.27 M
    assert count_parameters(generator) == PAPER_GENERATOR == 34_852_099  # 34.8 M


def test_paper_discriminator_takes_the_condition_at_its_first_feature_map():
    spec = load_profile("paper")
    network = build_discriminator(spec.discriminator, spec.image_size, len(spec.groups))
    assert isinstance(network, ConcatDiscriminator)
    first = network.features[0][1]  # behind its zero pad
    assert first.weight.shape == (128, 64 + 6, 3, 3)
    assert network.logit.in_features == 512 * 4 * 4


def test_edge_profile_is_edge_sized():
    networks = build_networks(load_profile("edge"))
    painters = count_parameters(networks["encoder"]) + count_parameters(networks["generator"])
    assert painters < 3_000_000
    assert count_parameters(networks["embedder"]) < 1_100_000
    kinds = {type(module).__name__ for module in networks["embedder"].modules()}
    assert not any("Pool" in kind or "PReLU" in kind for kind in kinds)


@pytest.mark.parametrize("profile", ["edge", "paper"])
def test_shapes_and_ranges(profile: str):
    spec = load_profile(profile)
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    groups = torch.eye(6)[:2]
    encoder = Encoder(spec.encoder, 64, 100).eval()
    generator = Generator(spec.generator, 64, 100, 6).eval()
    discriminator = build_discriminator(spec.discriminator, 64, 6).eval()
    latent = encoder(images)
    assert latent.shape == (2, 100)
    made = generator(latent, groups)
    assert made.shape == images.shape
    assert made.abs().max() <= 1
    assert discriminator(made, groups).shape == (2,)
    assert not torch.allclose(generator(latent, groups), generator(latent, groups.flip(0)))


def test_normalised_latent_has_unit_scale_in_training():
    spec = load_profile("edge")
    encoder = Encoder(spec.encoder, 64, 100).train()
    latent = encoder(torch.rand(32, 3, 64, 64) * 2 - 1)
    assert torch.allclose(latent.mean(0), torch.zeros(100), atol=1e-4)
    assert torch.allclose(latent.std(0, unbiased=False), torch.ones(100), atol=1e-2)


def test_recognisers():
    spec = load_profile("edge")
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert MobileRecogniser(spec.recogniser, 64, 128).eval()(images).shape == (2, 128)
    identity, age, features = PerceptualNet(64, 6, 192).eval()(images)
    assert identity.shape == (2, 192)
    assert torch.allclose(identity.norm(dim=1), torch.ones(2), atol=1e-5)
    assert age.shape == (2, 6)
    assert [feature.shape[2] for feature in features] == [32, 16, 8, 4]


@pytest.mark.parametrize(("kernel", "stride"), [(5, 2), (4, 2), (3, 2), (5, 1), (3, 1), (1, 1)])
def test_same_padding_puts_the_surplus_below_and_right(kernel: int, stride: int):
    """TensorFlow: pad_total = max((out - 1) * s + k - in, 0), the smaller half before."""
    torch.manual_seed(0)
    layer = same_conv(1, 1, kernel, stride)
    image = torch.rand(1, 1, 16, 16)
    weights = dict(layer.named_parameters())
    weight, bias = (next(v for k, v in weights.items() if k.endswith(end)) for end in ("weight", "bias"))
    total = max((16 // stride - 1) * stride + kernel - 16, 0)
    before = total // 2
    expected = F.conv2d(F.pad(image, (before, total - before) * 2), weight, bias, stride)
    assert expected.shape == (1, 1, 16 // stride, 16 // stride)
    assert torch.equal(layer(image), expected)


def test_adversarial_losses_reward_the_right_side():
    high, low = torch.tensor([3.0]), torch.tensor([-3.0])
    for name in ("logistic", "hinge"):
        assert adversarial_losses(name, high, low) < adversarial_losses(name, low, high)
        assert generator_loss(name, high) < generator_loss(name, low)
    # the article's loss at an undecided discriminator: 2 log 2
    assert adversarial_losses("logistic", torch.zeros(1), torch.zeros(1)).item() == pytest.approx(
        1.3863, abs=1e-4
    )


def test_r1_penalty_is_the_squared_gradient_norm():
    images = torch.rand(4, 1, 3, 3, requires_grad=True)
    slope = torch.arange(9.0).reshape(1, 1, 3, 3)
    logits = (images * slope).sum((1, 2, 3))
    assert r1_penalty(logits, images).item() == pytest.approx(slope.pow(2).sum().item())
