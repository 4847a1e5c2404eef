"""The judges where they are, a judge that is none for everything else, and a tiny run to be judged."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from edgeage.errors import EdgeageError
from edgeage.train.checkpoint import Checkpoint, save_checkpoint
from edgeage.train.data import Faces, open_source
from edgeage.train.evaluation.judge_files import FILES, judges_folder, require
from edgeage.train.evaluation.outputs import tensors
from edgeage.train.networks import build_networks
from edgeage.train.profiles.schema import NetworkProfile


@pytest.fixture(scope="session")
def judges_dir() -> Path:
    """The folder of the two judges; the test is skipped, and says why, where they are absent."""
    folder = judges_folder()
    try:
        for file in FILES:
            require(file, folder)
    except EdgeageError as error:
        pytest.skip(f"SKIPPED FOR LACK OF JUDGES: {error}")
    return folder


class FakeJudges:
    """A TEST DOUBLE: mean colours of a 4 x 4 grid for who it is, brightness for age. It judges nothing."""

    def embeddings(self, images: np.ndarray, what: str) -> np.ndarray:
        cells = images.shape[1] // 4
        blocks = images.reshape(len(images), 4, cells, 4, cells, 3).mean((2, 4)) / 255
        return blocks.reshape(len(images), -1).astype(np.float32)

    def ages(self, images: np.ndarray, what: str) -> np.ndarray:
        return images.mean((1, 2, 3)) / 255 * 80

    def describe(self) -> dict[str, str]:
        return {"test double": "0" * 64}


@pytest.fixture(scope="session")
def fake_judges() -> FakeJudges:
    return FakeJudges()


@pytest.fixture(scope="session")
def faces() -> Faces:
    return open_source("procedural:120", 32)


@pytest.fixture(scope="session")
def checkpoint(tiny_fields: dict[str, Any], faces: Faces) -> Checkpoint:
    """Untrained nets that claim to have learned from the training part of `faces`."""
    spec = msgspec.convert(tiny_fields, NetworkProfile)
    torch.manual_seed(0)
    networks = {name: net.eval().requires_grad_(False) for name, net in build_networks(spec).items()}
    meta = {
        "profile": msgspec.to_builtins(spec),
        "recipe": {
            "name": "tiny",
            "profile": "tiny",
            "validation": 0.2,
            "test": 0.25,
            "stages": [{"stage": "identity", "steps": 1, "batch": 8, "learning_rate": 1e-3}],
        },
        "data": {"fingerprint": faces.fingerprint},
        "stage": 1,
        "step": 0,
    }
    return Checkpoint(spec, networks, meta, "0" * 64)


@pytest.fixture(scope="session")
def lively(checkpoint: Checkpoint, faces: Faces) -> Checkpoint:
    """The same nets with batch norms that know the faces; without, all faces have nearly one embedding."""
    networks = {name: copy.deepcopy(net).train() for name, net in checkpoint.networks.items()}
    for net in networks.values():
        for layer in net.modules():
            if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                layer.momentum = None  # the running figures are those of one batch
    images, conditions = tensors(faces.images), torch.eye(6)[torch.from_numpy(faces.groups)]
    with torch.no_grad():
        networks["generator"](networks["encoder"](images), conditions)
        networks["embedder"](images)
    return replace(checkpoint, networks={name: net.eval() for name, net in networks.items()})


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Nets of one face are slower with more threads, many times so beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def saved(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """The checkpoint in a run folder."""
    save_checkpoint(tmp_path / "run" / "checkpoint", checkpoint.networks, {}, checkpoint.meta)
    return tmp_path / "run"
