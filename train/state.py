"""The whole state of a run: what a checkpoint holds beyond the networks that are exported."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeage.errors import EdgeageError
from edgeage.files import read_json
from edgeage.train import checkpoint as ckpt
from edgeage.train.networks import build_embedder
from edgeage.train.stages import Context, Stage
from edgeage.train.stages.perceptual import build_perceptual
from edgeage.train.stages.recogniser import UNFADED, build_person_directions


def save_run(
    run: Path, context: Context, stage: Stage | None, index: int, step: int, meta: dict[str, Any]
) -> None:
    """Networks, averages, optimizers, and where the run stands.

    Raises EdgeageError, and leaves the checkpoint before it, if a weight is not finite or the disk is full.
    """
    deployed = {name: context.best(name) for name in ckpt.DEPLOYED}
    state = ckpt.flatten({f"network.{name}": module for name, module in context.networks.items()})
    state |= ckpt.flatten({f"average.{name}": module for name, module in context.averages.items()})
    if stage is not None:
        for name, optimizer in stage.optimizers.items():
            state |= ckpt.optimizer_tensors(name, optimizer)
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise EdgeageError(
            f"stage {index + 1}, step {step}: {len(broken)} weights are not finite ({broken[0]}); "
            f"the last good checkpoint stays in {run}; lower the learning rate"
        )
    where = {"learned": sorted(context.learned), "stage": index, "step": step}
    ckpt.save_checkpoint(run / "checkpoint", deployed, state, {**meta, **where})


def restore(run: Path, context: Context, without: Collection[str] = ()) -> tuple[int, int, dict[str, Tensor]]:
    """Put the saved state back, but for the networks named in `without`.

    Returns stage index, step, and the tensors that hold the optimizers'.
    """
    folder = ckpt.find_checkpoint(run)
    meta = read_json(folder / "checkpoint.json", "checkpoint description")
    source = folder / "state.safetensors"
    state = ckpt.read_tensors(source)
    context.learned = set(meta["learned"]) - set(without)
    names = {key.split(".")[1] for key in state if key.startswith("network.")} - set(without)
    if "perceptual" in names:
        context.networks["perceptual"] = build_perceptual(context)
    if "person_directions" in names:
        context.networks["person_directions"] = build_person_directions(context)
    if UNFADED in names:
        context.networks[UNFADED] = build_embedder(context.spec).eval().requires_grad_(False)
    for name in names:
        ckpt.load_into(context.networks[name], state, f"network.{name}", source)
    for name in {key.split(".")[1] for key in state if key.startswith("average.")} - set(without):
        context.average(name)
        ckpt.load_into(context.averages[name], state, f"average.{name}", source)
    for module in (*context.networks.values(), *context.averages.values()):
        module.to(memory_format=torch.channels_last)
    return meta["stage"], meta["step"], state


def adopt(origin: Path, context: Context, without: Collection[str] = ()) -> None:
    """Take over the networks of a run, but for those named in `without`.

    Of a checkpoint that was published without the state that a run resumes from, those that are exported.
    """
    folder = ckpt.find_checkpoint(origin)
    if (folder / "state.safetensors").is_file():
        restore(origin, context, without)
        return
    source = folder / "weights.safetensors"
    weights = ckpt.read_tensors(source)
    context.learned = set(ckpt.DEPLOYED) - set(without)
    for name in context.learned:
        ckpt.load_into(context.networks[name], weights, name, source)


def remove_leftovers(run: Path) -> None:
    """What a kill in the middle of a save has left, which would fill the disk kill by kill."""
    for folder in run.glob(".checkpoint.tmp-*"):
        shutil.rmtree(folder, ignore_errors=True)
