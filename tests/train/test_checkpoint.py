"""Checkpoints: what comes back is what was saved, and what does not fit is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch

from edgeage.errors import EdgeageError
from edgeage.files import new_folder
from edgeage.train.checkpoint import (
    FORMAT,
    load_checkpoint,
    optimizer_tensors,
    recipe_difference,
    restore_optimizer,
    save_checkpoint,
)
from edgeage.train.networks import build_networks
from edgeage.train.profiles.schema import load_profile


@pytest.fixture
def saved(tmp_path: Path, tiny_profile: str) -> Path:
    spec = load_profile(tiny_profile)
    networks = build_networks(spec)
    deployed = {name: networks[name] for name in ("encoder", "generator", "embedder")}
    folder = tmp_path / "run" / "checkpoint"
    save_checkpoint(folder, deployed, {}, {"profile": msgspec.to_builtins(spec), "stage": 1, "step": 2})
    return folder


def test_round_trip(saved: Path):
    direct = load_checkpoint(saved)
    by_run = load_checkpoint(saved.parent)
    assert direct.sha256 == by_run.sha256
    assert direct.profile.image_size == 32
    assert direct.meta["format"] == FORMAT
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(direct.networks["encoder"](image), by_run.networks["encoder"](image))
    assert not any(network.training for network in direct.networks.values())


def test_a_kill_between_the_renames_loses_nothing(saved: Path):
    saved.rename(saved.with_name("checkpoint.old"))
    assert load_checkpoint(saved.parent).meta["step"] == 2


def test_a_failing_save_leaves_the_old_checkpoint(saved: Path):
    before = load_checkpoint(saved).sha256

    def fill_half() -> None:
        with new_folder(saved, replace=True) as folder:
            (folder / "weights.safetensors").write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill_half()
    assert load_checkpoint(saved).sha256 == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["checkpoint"]


def test_absent(tmp_path: Path):
    with pytest.raises(EdgeageError, match="edgeage train"):
        load_checkpoint(tmp_path)


def test_another_profile_is_refused(saved: Path):
    description = saved / "checkpoint.json"
    meta = json.loads(description.read_text())
    meta["profile"]["latent_size"] = 13
    description.write_text(json.dumps(meta))
    with pytest.raises(EdgeageError, match="does not fit the encoder"):
        load_checkpoint(saved)


def test_another_format_is_refused(saved: Path):
    description = saved / "checkpoint.json"
    meta = json.loads(description.read_text())
    description.write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(EdgeageError, match="format 99"):
        load_checkpoint(saved)


@pytest.mark.parametrize("junk", [b"", b"\x80\x04not a safetensors file", b"{" * 100])
def test_broken_weights_are_refused(saved: Path, junk: bytes):
    (saved / "weights.safetensors").write_bytes(junk)
    with pytest.raises(EdgeageError, match="cannot read the weights"):
        load_checkpoint(saved)


def test_optimizer_state_comes_back_exactly():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.rand(4, 3)).sum().backward()
        optimizer.step()
    packed = optimizer_tensors("a", optimizer)
    fresh = torch.optim.AdamW(layer.parameters(), 1e-2)
    restore_optimizer("a", fresh, packed | {"optimizer.other.0.step": torch.tensor(9.0)})
    for old, new in zip(
        optimizer.state_dict()["state"].values(), fresh.state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(old[key], new[key]) for key in old)


def test_recipe_difference_names_the_place():
    old = {"name": "a", "stages": [{"steps": 5}]}
    assert recipe_difference(old, old) == ""
    assert recipe_difference(old, {"name": "a", "stages": [{"steps": 6}]}) == "stages[0].steps: 5 -> 6"
