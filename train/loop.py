"""The steps of one stage, on all shards of all processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from edgeage.errors import EdgeageError
from edgeage.train.batches import rng_for
from edgeage.train.distributed import Processes
from edgeage.train.monitor import log_pictures
from edgeage.train.recipes.schema import AnyStage, Recipe
from edgeage.train.stages import Stage

LOG_EVERY = 50
IMAGES_EVERY = 1000
LEAST_PER_SHARD = 2  # batch norm has no deviation of one face


@dataclass(frozen=True)
class Steps:
    """How every step is computed.

    A batch is cut into `shards` equal parts with a seed, a batch norm and a gradient each; one process or
    several compute them. The result depends on their number, and on who computes them only by the order in
    which float32 gradients are summed: not at all for up to two shards.
    """

    recipe: Recipe
    processes: Processes
    shards: int = 1
    bfloat16: bool = False
    save_seconds: float = 60.0

    @property
    def own(self) -> range:
        """The shards of this process."""
        share = self.shards // self.processes.count
        return range(share * self.processes.rank, share * (self.processes.rank + 1))


@dataclass
class Position:
    """Where a run stands: the index of its stage, and how many steps of it are done."""

    stage: int = 0
    step: int = 0

    def steps_before(self, recipe: Recipe) -> int:
        """Steps of the stages that are done."""
        return sum(earlier.steps for earlier in recipe.stages[: self.stage])


def shard_settings(settings: AnyStage, shards: int) -> AnyStage:
    """A stage's settings for one shard of its batch; EdgeageError if the batch does not divide."""
    if settings.batch % shards or settings.batch < LEAST_PER_SHARD * shards:
        raise EdgeageError(
            f"stage {settings.__struct_config__.tag}: a batch of {settings.batch} does not divide into "
            f"{shards} shards of {LEAST_PER_SHARD} or more; change the recipe, --shards or the processes"
        )
    return msgspec.structs.replace(settings, batch=settings.batch // shards)


def run_stage(
    steps: Steps,
    stage: Stage,
    position: Position,
    last: int,
    save: Callable[[Stage], None],
    stopped: Callable[[], bool],
    writer: SummaryWriter | None,
) -> bool:
    """Steps of one stage from `position` to `last`, with logs and checkpoints; moves `position`.

    Returns whether a signal, to any process, has stopped it. Raises EdgeageError on all processes if a
    loss is not finite on one.
    """
    recipe, processes = steps.recipe, steps.processes
    settings, before = recipe.stages[position.stage], position.steps_before(recipe)
    name = settings.__struct_config__.tag
    recent: dict[str, list[float]] = {}
    saved = time.monotonic()
    asked = False
    with tqdm(
        total=settings.steps,
        initial=position.step,
        desc=f"{position.stage + 1}/{len(recipe.stages)} {name}",
        unit="step",
        disable=not stage.context.progress,
        dynamic_ncols=True,
    ) as bar:
        while position.step < last and not asked:
            stage.schedule(position.step, settings)
            share = take_step(steps, stage, position)
            late = time.monotonic() - saved > steps.save_seconds
            losses, asked, due = agree(processes, share, stopped(), late)
            if not all(math.isfinite(value) for value in losses.values()):
                processes.fail(
                    f"stage {name}, step {position.step}: losses are not finite ({losses}); "
                    f"the last good checkpoint stays; lower the learning rate"
                )
            position.step += 1
            bar.update()
            for key, value in losses.items():
                recent.setdefault(key, []).append(value)
            if position.step % LOG_EVERY == 0:
                means = {key: sum(values) / len(values) for key, values in recent.items()}
                recent = {}
                bar.set_postfix({key: f"{value:.3f}" for key, value in means.items()}, refresh=False)
                if writer:
                    for key, value in means.items():
                        writer.add_scalar(f"{name}/{key}", value, before + position.step)
            if writer and (position.step % IMAGES_EVERY == 0 or position.step == settings.steps):
                log_pictures(writer, stage, before + position.step)
            if position.step < settings.steps and (due or asked or position.step == last):
                save(stage)
                saved = time.monotonic()
    return asked


def take_step(steps: Steps, stage: Stage, position: Position) -> dict[str, Tensor]:
    """One step of the weights, the batch norm statistics and the averages; `position` stays.

    Returns this process's share of the losses: the sum over its shards, divided by the number of all.
    """
    statistics = _Statistics(stage)
    shards = [_Shard(steps, stage, position, number, statistics) for number in steps.own]
    while (optimizer := [shard.backward() for shard in shards][-1]) is not None:
        steps.processes.sum([p.grad for p in parameters_of(optimizer) if p.grad is not None])
        optimizer.step()
    if steps.shards > 1:
        statistics.average([shard.statistics for shard in shards], steps)
    stage.move_averages(position.step)
    return {
        name: torch.stack([shard.losses[name].float() for shard in shards]).sum() / steps.shards
        for name in shards[0].losses
    }


def agree(
    processes: Processes, share: dict[str, Tensor], stop: bool, save: bool
) -> tuple[dict[str, float], bool, bool]:
    """(losses, whether one process was asked to stop, whether process 0 wants to save), the same on all."""
    flags = [float(stop), float(save and processes.leads)]
    told = torch.stack([*share.values(), *torch.tensor(flags, device=processes.device)])
    processes.sum([told])
    *losses, stop_all, save_all = told.tolist()
    return dict(zip(share, losses, strict=True)), stop_all > 0, save_all > 0


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class _Shard:
    """A shard on its way through a step, with random numbers and batch norm statistics of its own."""

    def __init__(
        self, steps: Steps, stage: Stage, position: Position, number: int, statistics: _Statistics
    ) -> None:
        self.steps, self.stage, self.shared = steps, stage, statistics
        self.first = number == steps.own.start
        self.statistics = statistics.kept if len(steps.own) == 1 else statistics.copies()
        rng = rng_for(steps.recipe.seed, position.stage, position.step, number)
        self.phases = stage.step(position.step, rng)
        self.random = _random_state(steps.processes.device)
        self.losses: dict[str, Tensor] = {}

    def backward(self) -> torch.optim.Optimizer | None:
        """Compute up to the next loss and add its gradients; which optimizer is to step, None at the end."""
        device = self.steps.processes.device
        _set_random_state(self.random, device)
        self.shared.put(self.statistics)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.steps.bfloat16):
                name, loss = next(self.phases)
        except StopIteration as end:
            self.losses = end.value
            return None
        optimizer = self.stage.optimizers[name]
        if self.first:
            optimizer.zero_grad(set_to_none=True)
        (loss / self.steps.shards).backward(inputs=parameters_of(optimizer))
        self.random = _random_state(device)
        return optimizer


class _Statistics:
    """What the batch norms of the networks that a stage trains keep: mean, variance, number of batches."""

    def __init__(self, stage: Stage) -> None:
        self.places = [
            (module, name)
            for network in stage.trained.values()
            for module in network.modules()
            for name, _ in module.named_buffers(recurse=False)
        ]
        self.kept: list[Tensor] = [getattr(module, name) for module, name in self.places]

    def copies(self) -> list[Tensor]:
        return [tensor.clone() for tensor in self.kept]

    def put(self, tensors: list[Tensor]) -> None:
        for (module, name), tensor in zip(self.places, tensors, strict=True):
            setattr(module, name, tensor)

    @torch.no_grad()
    def average(self, by_shard: list[list[Tensor]], steps: Steps) -> None:
        """The mean over all shards of all processes, back in the modules; the counts are equal anyway."""
        columns = list(zip(*by_shard, strict=True))
        sums = [torch.stack(same).sum(0) for same in columns if same[0].dtype.is_floating_point]
        steps.processes.sum(sums)
        means = iter(sums)
        for kept, same in zip(self.kept, columns, strict=True):
            kept.copy_(next(means) / steps.shards if kept.dtype.is_floating_point else same[0])
        self.put(self.kept)


def _random_state(device: torch.device) -> list[Tensor]:
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]


def _set_random_state(state: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
