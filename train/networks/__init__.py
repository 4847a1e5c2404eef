"""The networks of a profile, built from its data file."""

from __future__ import annotations

from torch import nn

from edgeage.train.networks.discriminator import build_discriminator
from edgeage.train.networks.encoder import Encoder
from edgeage.train.networks.generator import Generator
from edgeage.train.networks.mobilefacenet import MobileFaceNet
from edgeage.train.networks.recogniser import MobileRecogniser
from edgeage.train.profiles.schema import NetworkProfile


def build_embedder(spec: NetworkProfile) -> nn.Module:
    """FR: image -> raw embedding [n, embedding_size]; L2-normalised by whoever compares."""
    if spec.recogniser.kind == "inception-resnet-v2":
        from edgeage.train.networks.inception_resnet_v2 import InceptionRecogniser

        return InceptionRecogniser(spec.recogniser.input_scale, spec.embedding_size)
    if spec.recogniser.kind == "mobilefacenet":
        return MobileFaceNet(spec.image_size, spec.embedding_size, spec.recogniser.kept)
    return MobileRecogniser(spec.recogniser, spec.image_size, spec.embedding_size)


def build_networks(spec: NetworkProfile) -> dict[str, nn.Module]:
    """Encoder, generator, discriminator and embedder with fresh weights."""
    groups = len(spec.groups)
    return {
        "encoder": Encoder(spec.encoder, spec.image_size, spec.latent_size),
        "generator": Generator(spec.generator, spec.image_size, spec.latent_size, groups),
        "discriminator": build_discriminator(spec.discriminator, spec.image_size, groups),
        "embedder": build_embedder(spec),
    }
