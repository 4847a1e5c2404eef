"""A tiny profile with random weights: every kind of layer of profile edge, at 16 px."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from edgeage.export.pipeline import export_bundle
from edgeage.train.checkpoint import load_checkpoint, save_checkpoint
from edgeage.train.networks import build_networks
from edgeage.train.profiles.schema import NetworkProfile, load_profile


@pytest.fixture(scope="session")
def tiny_spec() -> NetworkProfile:
    edge = load_profile("edge")
    shapes = msgspec.structs
    return shapes.replace(
        edge,
        name="tiny",
        image_size=16,
        latent_size=10,
        embedding_size=8,
        encoder=shapes.replace(edge.encoder, channels=(8, 12)),
        generator=shapes.replace(edge.generator, stem_channels=12, stem_size=4, channels=(8,)),
        recogniser=shapes.replace(edge.recogniser, channels=(6, 8)),
    )


@pytest.fixture(scope="session")
def tiny_folder(tiny_spec: NetworkProfile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the tiny profile."""
    torch.manual_seed(0)
    networks = build_networks(tiny_spec)
    del networks["discriminator"]
    for network in networks.values():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.7, 1.5)
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    data = {"source": "procedural:400", "faces": 400, "fingerprint": "ab" * 32}
    meta = {"recipe": {"name": "none"}, "data": data, "git": "abc", "stage": 0, "step": 0}
    save_checkpoint(folder, networks, {}, {"profile": msgspec.to_builtins(tiny_spec), **meta})
    load_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_images() -> tuple[np.ndarray, np.ndarray]:
    """180 smooth random images, uint8 [180, 16, 16, 3], and their groups."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (180, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return coarse.astype(np.uint8), np.arange(180, dtype=np.int64) % 6


@pytest.fixture(scope="session")
def exported_bundle(
    tiny_folder: Path, tiny_images: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundle of the tiny checkpoint; copy it before you change it."""
    return _export(tiny_folder, tiny_images, tmp_path_factory)


@pytest.fixture(scope="session")
def other_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with other weights in the encoder's last layer."""
    checkpoint = load_checkpoint(tiny_folder)
    with torch.no_grad():
        last = list(checkpoint.networks["encoder"].parameters())[-2]
        last.copy_(last.flip(0))
    folder = tmp_path_factory.mktemp("checkpoint") / "other"
    meta = {key: value for key, value in checkpoint.meta.items() if key != "format"}
    save_checkpoint(folder, checkpoint.networks, {}, meta)
    return folder


@pytest.fixture(scope="session")
def other_bundle(
    other_folder: Path, tiny_images: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle of the same shapes and of another encoder, whose parity was judged."""
    return _export(other_folder, tiny_images, tmp_path_factory, judges=MeanColour())


class MeanColour:
    """Judges that know who and how old somebody is by the mean colour."""

    def embeddings(self, images: np.ndarray, what: str) -> np.ndarray:
        return images.mean(axis=(1, 2)).astype(np.float32)

    def ages(self, images: np.ndarray, what: str) -> np.ndarray:
        return images.mean(axis=(1, 2, 3)).astype(np.float64)


def _export(
    checkpoint: Path,
    images: tuple[np.ndarray, np.ndarray],
    factory: pytest.TempPathFactory,
    judges: MeanColour | None = None,
) -> Path:
    out = factory.mktemp("bundles") / "tiny.agebundle"
    options = {"name": "tiny", "source": "procedural", "fingerprint": "f", "quiet": True}
    return export_bundle(load_checkpoint(checkpoint), *images, out, **options, judges=judges).path
