"""Checkpoints: a folder with `weights.safetensors`, `checkpoint.json` and, to resume, `state.safetensors`.

`weights.safetensors` holds what export needs (encoder, generator, embedder; the averaged weights where
a stage keeps an average). Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeage.errors import EdgeageError
from edgeage.files import new_folder, read_json, sha256, write_json
from edgeage.profile import Profile
from edgeage.train.networks import build_embedder
from edgeage.train.networks.encoder import Encoder
from edgeage.train.networks.generator import Generator
from edgeage.train.profiles.schema import NetworkProfile

FORMAT = 1
DEPLOYED = ("encoder", "generator", "embedder")


@dataclass(frozen=True)
class Checkpoint:
    """Networks in eval mode, as they are exported.

    Attributes:
        spec: the profile with the shapes of its networks.
        networks: "encoder" (image -> z), "generator" ((z, y) -> image), "embedder" (image -> raw embedding).
        meta: recipe, data, stage, step, git revision, terms.
        sha256: of weights.safetensors.
    """

    spec: NetworkProfile
    networks: dict[str, nn.Module]
    meta: dict[str, Any]
    sha256: str

    @property
    def profile(self) -> Profile:
        return self.spec.vocabulary


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder in a run folder, or the folder itself.

    `checkpoint.old` is what a kill between two renames leaves (see `edgeage.files.new_folder`).
    """
    candidates = [path, path / "checkpoint", path / "checkpoint.old"]
    for folder in candidates:
        if (folder / "checkpoint.json").is_file():
            return folder
    raise EdgeageError(f"no checkpoint in {path}; train one with: edgeage train --recipe edge --out {path}")


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint for evaluation or export.

    Raises EdgeageError if it is absent, broken, of another format, or does not fit its profile.
    """
    folder = find_checkpoint(Path(path))
    meta = read_json(folder / "checkpoint.json", "checkpoint description")
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise EdgeageError(f"checkpoint {folder} has format {found!r}, this edgeage reads {FORMAT}")
    try:
        spec = msgspec.convert(meta["profile"], NetworkProfile)
    except (msgspec.ValidationError, KeyError) as error:
        raise EdgeageError(f"checkpoint {folder} holds no valid profile: {error}") from None
    networks: dict[str, nn.Module] = {
        "encoder": Encoder(spec.encoder, spec.image_size, spec.latent_size),
        "generator": Generator(spec.generator, spec.image_size, spec.latent_size, len(spec.groups)),
        "embedder": build_embedder(spec),
    }
    weights_file = folder / "weights.safetensors"
    tensors = read_tensors(weights_file)
    for name, network in networks.items():
        load_into(network, tensors, name, weights_file)
        network.eval().requires_grad_(False)
    return Checkpoint(spec, networks, meta, sha256(weights_file))


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise EdgeageError(f"cannot read the weights {path}: {error}") from None


def load_into(network: nn.Module, tensors: dict[str, Tensor], prefix: str, source: Path) -> None:
    """Load the tensors named `prefix.*`; EdgeageError if they are those of another shape or profile."""
    own = {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise EdgeageError(
            f"{source} does not fit the {prefix} of its profile ({reason}); "
            f"was it made by another profile or version?"
        ) from None


def flatten(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """{"encoder.dense.0.weight": tensor, ...}, contiguous and on the CPU."""
    return {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def save_checkpoint(
    path: Path, deployed: dict[str, nn.Module], state: dict[str, Tensor], meta: dict[str, Any]
) -> None:
    """Write the folder under a temporary name, then rename: a kill leaves the old one or the new one.

    Raises EdgeageError if it cannot be written (a full disk); the old one stays.
    """
    try:
        with new_folder(path, replace=True) as folder:
            save_file(flatten(deployed), folder / "weights.safetensors")
            save_file({key: value.clone() for key, value in state.items()}, folder / "state.safetensors")
            write_json(folder / "checkpoint.json", {"format": FORMAT, **meta})
    except (OSError, SafetensorError) as error:
        raise EdgeageError(
            f"cannot save the checkpoint {path}: {error}; the one saved before stays; make room and run "
            f"the same command to go on from it"
        ) from None


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments and step counts of an Adam-like optimizer under flat names."""
    return {
        f"optimizer.{name}.{index}.{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def restore_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    packed = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    prefix = f"optimizer.{name}."
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, field = key[len(prefix) :].split(".", 1)
            state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": packed["param_groups"]})


def git_revision() -> str:
    """Revision of the source tree that runs, with "-dirty" if it has changes; "unknown" outside of git."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()


def recipe_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Where two recipes differ, as "path: old -> new", the first few."""

    def walk(a: Any, b: Any, where: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            keys = sorted(a.keys() | b.keys())
            return [line for key in keys for line in walk(a.get(key), b.get(key), f"{where}.{key}")]
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            return [line for i in range(len(a)) for line in walk(a[i], b[i], f"{where}[{i}]")]
        return [] if a == b else [f"{where[1:]}: {json.dumps(a)} -> {json.dumps(b)}"]

    lines = walk(old, new, "")
    return "; ".join(lines[:4]) + ("; ..." if len(lines) > 4 else "")
