"""A training run: data, stages in their order, checkpoints; resumable after a kill at any moment."""

from __future__ import annotations

import errno
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from edgeage.errors import EdgeageError
from edgeage.train import checkpoint as ckpt
from edgeage.train.batches import Sampler
from edgeage.train.device import choose_precision
from edgeage.train.distributed import Processes, join_processes, shards_of
from edgeage.train.inputs import Inputs, fixed_validation, load_inputs
from edgeage.train.loop import Position, Steps, run_stage, shard_settings
from edgeage.train.networks import build_networks
from edgeage.train.origin import begin_from
from edgeage.train.profiles.schema import NetworkProfile, load_profile
from edgeage.train.recipes.schema import AnyStage, Recipe
from edgeage.train.stages import Context, Stage, build_stage
from edgeage.train.state import remove_leftovers, restore, save_run
from edgeage.train.story import (
    begun_before,
    describe_checkpoint,
    describe_environment,
    note,
    refuse_changed_data,
    write_story,
)


@dataclass(frozen=True)
class RunOptions:
    """Where and how a recipe is run; of these, only `shards` and `precision` change what is learned.

    Attributes:
        source: see `edgeage.train.data.open_source`.
        teacher: the teacher's TFLite file, for recipes that distil.
        origin: a run whose networks a new run begins with (a resumed one has them already).
        device: "cpu", "cuda", "cuda:N" or "auto".
        precision: "float32", "bf16" (autocast), or "auto": bf16 on CUDA devices that have it.
        shards: parts that every batch is cut into (gradient accumulation); None: one per process, or what
            the run was begun with.
        compile: run the networks through torch.compile.
        save_seconds: time between checkpoints.
        until: stop (saved, resumable) after this many steps in all; None runs to the end.
    """

    out: Path
    source: str
    teacher: Path | None = None
    origin: Path | None = None
    device: str = "cpu"
    threads: int | None = None
    precision: str = "auto"
    shards: int | None = None
    compile: bool = False
    save_seconds: float = 60.0
    until: int | None = None
    progress: bool = True


def train(recipe: Recipe, options: RunOptions, say: Callable[[str], None] = print) -> Path:
    """Run or resume a recipe; returns the checkpoint folder.

    In processes started by torchrun each computes its shards of every batch; process 0 speaks and saves.

    Raises EdgeageError for bad data, a changed recipe, a missing teacher, a full disk, or losses that are
    not finite (the last good checkpoint stays).
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    run = options.out
    with join_processes(options.device) as processes, errors_of_disks(run):
        say = say if processes.leads else lambda text: None
        start = processes.leader_first(lambda: prepare(recipe, options, processes, say))
        torch.manual_seed(recipe.seed)
        context = build_context(start, processes.device, options.progress and processes.leads)
        position = Position()
        state: dict[str, Tensor] = {}
        origins = start.origins
        if start.resumed:
            position.stage, position.step, state = restore(run, context)
            say(f"Resuming at stage {position.stage + 1} of {len(recipe.stages)}, step {position.step}")
        elif options.origin:
            origin, faces = options.origin, start.inputs.faces
            origins = processes.leader_first(lambda: begin_from(origin, recipe, faces, context))
            say(f"Begins with the networks of {options.origin}")
        processes.require_same("data and checkpoint", (start.inputs.faces.fingerprint, position))

        environment = describe_environment(
            device=str(processes.device),
            processes=processes.count,
            shards=start.shards,
            precision="bf16" if start.bfloat16 else "float32",
            compile=options.compile,
        )
        meta = describe_checkpoint(start.spec, recipe, start.inputs.faces, environment, origins)

        def begin() -> None:
            remove_leftovers(run)
            write_story(recipe, start.inputs.faces, run, environment)
            note(run, "resumed" if start.resumed else "started", **asdict(position), **environment)

        def save(stage: Stage | None) -> None:
            processes.leader_only(lambda: save_run(run, context, stage, position.stage, position.step, meta))

        processes.leader_only(begin)
        steps = Steps(recipe, processes, start.shards, start.bfloat16, options.save_seconds)
        try:
            run_stages(steps, start.settings, context, position, state, options, save)
        except Exception as error:
            if processes.leads:
                with suppress(OSError):  # the disk may be what failed
                    note(run, "failed", **asdict(position), error=str(error))
            raise
        if processes.leads:
            note(run, "finished" if position.stage == len(recipe.stages) else "stopped", **asdict(position))
    if position.stage == len(recipe.stages):
        say(f"Finished: {run / 'checkpoint'}")
    else:
        where = f"stage {position.stage + 1}, step {position.step}"
        say(f"Stopped at {where}; run the same command to go on")
    return run / "checkpoint"


@dataclass(frozen=True)
class Start:
    """What is settled before anything is computed.

    Attributes:
        origins: of the run that is resumed, see `edgeage.train.origin`.
        shards: of every batch; settings: of each stage, for one shard.
    """

    spec: NetworkProfile
    resumed: bool
    origins: list[dict[str, Any]]
    shards: int
    settings: list[AnyStage]
    bfloat16: bool
    inputs: Inputs


def prepare(recipe: Recipe, options: RunOptions, processes: Processes, say: Callable[[str], None]) -> Start:
    """Refuse what cannot be run, in the order of its cost; decode and label the faces."""
    run = options.out
    spec = load_profile(recipe.profile)
    before = begun_before(recipe, run)
    shards = shards_of(options.shards, before.get("shards", 1) if before else None, processes.count)
    settings = [shard_settings(stage, shards) for stage in recipe.stages]
    bfloat16 = choose_precision(options.precision, processes.device, say)
    inputs = load_inputs(
        recipe,
        options.source,
        options.teacher,
        run / "cache",
        say,
        device=processes.device,
        threads=options.threads or 1,
        progress=options.progress and processes.leads,
    )
    if before:
        refuse_changed_data(inputs.faces, run)
    origins = before.get("origins", []) if before else []
    return Start(spec, before is not None, origins, shards, settings, bfloat16, inputs)


def run_stages(
    steps: Steps,
    settings: list[AnyStage],
    context: Context,
    position: Position,
    state: dict[str, Tensor],
    options: RunOptions,
    save: Callable[[Stage | None], None],
) -> None:
    """The stages from `position` on, until the end, `options.until` or a signal; moves `position`."""
    stages = steps.recipe.stages
    budget = math.inf if options.until is None else options.until
    with tensorboard(steps, position, options.out) as writer, stop_on_signal() as stopped:
        while position.stage < len(stages) and budget > 0:
            stage = build_stage(context, settings[position.stage])
            if position.step == 0:
                stage.begin()
            steps.processes.copy_from_leader(context.tensors())
            for name, optimizer in stage.optimizers.items():
                ckpt.restore_optimizer(name, optimizer, state)
            state = {}
            if options.compile:
                stage.compile()
            first, total = position.step, stages[position.stage].steps
            last = int(min(total, first + budget))
            asked = run_stage(steps, stage, position, last, save, stopped, writer)
            budget -= position.step - first
            if position.step == total:
                stage.finish()
                position.stage, position.step = position.stage + 1, 0
                save(None)
            if asked:
                break


def build_context(start: Start, device: torch.device, progress: bool) -> Context:
    """Fresh networks and the training faces, on the device."""
    spec, inputs, training = start.spec, start.inputs, start.inputs.training
    return Context(
        spec=spec,
        networks={name: network.to(device) for name, network in build_networks(spec).items()},
        sampler=Sampler(
            training.images, training.groups, inputs.embeddings, training.identities, len(spec.groups), device
        ),
        validation=fixed_validation(inputs.validation, device),
        device=device,
        teacher=inputs.teacher,
        progress=progress,
    )


@contextmanager
def tensorboard(steps: Steps, position: Position, run: Path) -> Iterator[SummaryWriter | None]:
    """Where process 0 logs. What a killed run had logged beyond its last checkpoint is hidden."""
    if not steps.processes.leads:
        yield None
        return
    done = position.steps_before(steps.recipe) + position.step
    with SummaryWriter(str(run / "tensorboard"), purge_step=done + 1 if done else None) as writer:
        yield writer


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the run after the present step, with a checkpoint."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def errors_of_disks(run: Path) -> Iterator[None]:
    """A full or read-only disk is the user's to mend: one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise EdgeageError(
            f"cannot write to {error.filename or run}: {error.strerror}; the last checkpoint stays; "
            f"make room and run the same command to go on from it"
        ) from None
