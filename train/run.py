"""A training run: data, stages in their order, checkpoints; resumable after a kill at any moment."""

from __future__ import annotations

import math
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from edgeage import __version__
from edgeage.errors import EdgeageError
from edgeage.files import read_json, write_json
from edgeage.train import checkpoint as ckpt
from edgeage.train.batches import Sampler, rng_for, to_images
from edgeage.train.data import Faces, open_source
from edgeage.train.monitor import log_images, validation_figures
from edgeage.train.networks import build_networks
from edgeage.train.profiles.schema import load_profile
from edgeage.train.recipes.schema import Recipe
from edgeage.train.stages import Context, Stage, build_stage
from edgeage.train.stages.perceptual import build_perceptual
from edgeage.train.stages.recogniser import build_person_directions
from edgeage.train.teacher import Teacher

LOG_EVERY = 50
IMAGES_EVERY = 1000
VALIDATION_FACES = 120
LEAST_FACES = 64


@dataclass(frozen=True)
class RunOptions:
    """Where and how a recipe is run; nothing here changes what is learned.

    Attributes:
        source: see `edgeage.train.data.open_source`.
        teacher: the teacher's TFLite file, for recipes that distil.
        save_seconds: time between checkpoints.
        until: stop (saved, resumable) after this many steps in all; None runs to the end.
    """

    out: Path
    source: str
    teacher: Path | None = None
    device: str = "cpu"
    threads: int | None = None
    save_seconds: float = 60.0
    until: int | None = None
    progress: bool = True


def train(recipe: Recipe, options: RunOptions, say: Callable[[str], None] = print) -> Path:
    """Run or resume a recipe; returns the checkpoint folder.

    Raises EdgeageError for bad data, a changed recipe, a missing teacher, or losses that are not finite
    (the last good checkpoint stays).
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    spec = load_profile(recipe.profile)
    run = options.out
    resumed = refuse_changed_recipe(recipe, run)

    teacher = load_teacher(recipe, options)
    faces = open_source(options.source, spec.image_size, cache_dir=run / "cache", progress=options.progress)
    say(faces.report())
    if len(faces) < LEAST_FACES:
        raise EdgeageError(f"{options.source} has {len(faces)} usable faces; training needs {LEAST_FACES}")
    if resumed:
        refuse_changed_data(faces, run)
    training, validation, _ = recipe.split(faces)
    embeddings = None if teacher is None else teacher_embeddings(teacher, training, run, options.progress)

    torch.manual_seed(recipe.seed)
    context = Context(
        spec=spec,
        networks={name: network.to(device) for name, network in build_networks(spec).items()},
        sampler=Sampler(
            training.images, training.groups, embeddings, training.identities, len(spec.groups), device
        ),
        validation=fixed_validation(validation, device),
        device=device,
        teacher=teacher,
        progress=options.progress,
    )
    write_story(recipe, faces, run, options)
    meta = {
        "profile": plain(spec),
        "recipe": plain(recipe),
        "data": {"fingerprint": faces.fingerprint, "faces": len(faces), "source": kind_of(options.source)},
        "edgeage": __version__,
        "git": ckpt.git_revision(),
    }

    stage_index, step = 0, 0
    state: dict[str, Tensor] = {}
    if resumed:
        stage_index, step, state = restore(run, context)
        say(f"Resuming at stage {stage_index + 1} of {len(recipe.stages)}, step {step}")
    budget = math.inf if options.until is None else options.until
    with SummaryWriter(str(run / "tensorboard")) as writer, stop_on_signal() as stopped:
        while stage_index < len(recipe.stages) and budget > 0 and not stopped():
            stage = build_stage(context, recipe.stages[stage_index])
            if step == 0:
                stage.begin()
            for name, optimizer in stage.optimizers.items():
                ckpt.restore_optimizer(name, optimizer, state)
            state = {}

            def save(at: int, stage: Stage = stage, index: int = stage_index) -> None:
                save_run(run, context, stage, index, at, meta)

            done = run_stage(recipe, stage_index, stage, step, budget, options, writer, save, stopped)
            budget -= done - step
            if done < recipe.stages[stage_index].steps:
                say(f"Stopped at stage {stage_index + 1}, step {done}; run the same command to go on")
                break
            stage.finish()
            stage_index, step = stage_index + 1, 0
            save_run(run, context, None, stage_index, 0, meta)
        else:
            if stage_index == len(recipe.stages):
                say(f"Finished: {run / 'checkpoint'}")
    return run / "checkpoint"


def run_stage(
    recipe: Recipe,
    index: int,
    stage: Stage,
    first: int,
    budget: float,
    options: RunOptions,
    writer: SummaryWriter,
    save: Callable[[int], None],
    stopped: Callable[[], bool],
) -> int:
    """Steps of one stage from `first` on, with logs and checkpoints; returns the step that it reached."""
    settings = recipe.stages[index]
    name = settings.__struct_config__.tag
    device = stage.context.device
    offset = sum(earlier.steps for earlier in recipe.stages[:index])
    sums: dict[str, list[float]] = {}
    paints = not stage.trained.keys().isdisjoint(("encoder", "generator"))
    saved = time.monotonic()
    last = int(min(settings.steps, first + budget))
    bar = tqdm(
        total=settings.steps,
        initial=first,
        desc=f"{index + 1}/{len(recipe.stages)} {name}",
        unit="step",
        disable=not options.progress,
        dynamic_ncols=True,
    )
    step = first
    with bar:
        for step in range(first, last):
            stage.schedule(step, settings)
            rng = rng_for(recipe.seed, index, step)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                losses = {key: float(value) for key, value in stage.step(step, rng).items()}
            if not all(math.isfinite(value) for value in losses.values()):
                raise EdgeageError(
                    f"stage {name}, step {step}: losses are not finite ({losses}); "
                    f"the last good checkpoint stays in {options.out}; lower the learning rate"
                )
            for key, value in losses.items():
                sums.setdefault(key, []).append(value)
            bar.update()
            if (step + 1) % LOG_EVERY == 0:
                means = {key: float(np.mean(values)) for key, values in sums.items()}
                for key, value in means.items():
                    writer.add_scalar(f"{name}/{key}", value, offset + step + 1)
                bar.set_postfix({key: f"{value:.3f}" for key, value in means.items()}, refresh=False)
                sums = {}
            if paints and ((step + 1) % IMAGES_EVERY == 0 or step + 1 == settings.steps):
                for key, value in validation_figures(stage.context).items():
                    writer.add_scalar(f"validation/{key}", value, offset + step + 1)
                log_images(writer, stage.context, offset + step + 1)
            if stopped():
                break
            if time.monotonic() - saved > options.save_seconds:
                save(step + 1)
                saved = time.monotonic()
        reached = min(step + 1, last) if first < last else first
    save(reached)
    return reached


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EdgeageError("no CUDA device is available to torch here; use --device cpu")
    return torch.device(name)


def load_teacher(recipe: Recipe, options: RunOptions) -> Teacher | None:
    if not recipe.needs_teacher:
        return None
    if options.teacher is None:
        from edgeage.train.teacher import HOW_TO_GET

        raise EdgeageError(f"recipe {recipe.name!r} distils a teacher; give --teacher; {HOW_TO_GET}")
    return Teacher(options.teacher, options.threads or 1)


def refuse_changed_recipe(recipe: Recipe, run: Path) -> bool:
    """True if `run` holds a checkpoint of this very recipe, False if it is new."""
    if not any((run / name).exists() for name in ("checkpoint", "checkpoint.old")):
        return False
    old = read_json(run / "recipe.json", "recipe of this run")
    difference = ckpt.recipe_difference(old, plain(recipe))
    if difference:
        raise EdgeageError(f"{run} was begun with another recipe ({difference}); choose another --out")
    return True


def refuse_changed_data(faces: Faces, run: Path) -> None:
    """EdgeageError unless the run that is resumed was begun on these faces."""
    old = read_json(run / "data.json", "data description of this run")
    if old.get("fingerprint") != faces.fingerprint:
        raise EdgeageError(
            f"{run} was begun on other data ({old.get('faces')} faces, now {len(faces)}); "
            f"choose another --out or bring the same data back"
        )


def write_story(recipe: Recipe, faces: Faces, run: Path, options: RunOptions) -> None:
    """recipe.json, data.json, environment.json: what was run, on what, with what."""
    write_json(run / "recipe.json", plain(recipe))
    write_json(run / "data.json", {**faces.to_dict(), "source": kind_of(options.source)})
    environment = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": options.device,
        "arguments": [Path(sys.argv[0]).name, *sys.argv[1:2]],
    }
    write_json(run / "environment.json", environment)


def plain(value: msgspec.Struct) -> dict[str, Any]:
    """As JSON would give it back: lists, not tuples."""
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return fields


def kind_of(source: str) -> str:
    """The source without the folders of one machine: "utkface:utkface128.tar"."""
    kind, _, rest = source.partition(":")
    return f"{kind}:{Path(rest).name}" if rest else Path(kind).name


def fixed_validation(faces: Faces, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same faces at every step, spread over the groups: (images, groups)."""
    order = np.random.default_rng(0).permutation(len(faces))
    ranks = np.empty(len(faces), dtype=np.int64)
    for group in np.unique(faces.groups):
        members = order[faces.groups[order] == group]
        ranks[members] = np.arange(len(members))
    chosen = np.lexsort((faces.groups, ranks))[:VALIDATION_FACES]
    images = to_images(torch.from_numpy(np.ascontiguousarray(faces.images[chosen])))
    return images.to(device), torch.from_numpy(faces.groups[chosen]).to(device)


def teacher_embeddings(teacher: Teacher, faces: Faces, run: Path, progress: bool) -> np.ndarray[Any, Any]:
    """The teacher's embedding of every training face; made once per run and data."""
    cached = run / "cache" / f"teacher-{faces.fingerprint[:16]}.npz"
    if cached.exists():
        with np.load(cached, allow_pickle=False) as stored:
            embeddings: np.ndarray[Any, Any] = stored["embeddings"]
            return embeddings
    parts = []
    for start in tqdm(range(0, len(faces), 256), desc="Teacher on real faces", disable=not progress):
        images = torch.from_numpy(faces.images[start : start + 256])
        parts.append(teacher.embed(to_images(images)))
    embeddings = np.concatenate(parts)
    cached.parent.mkdir(parents=True, exist_ok=True)
    temporary = cached.with_suffix(".tmp.npz")
    np.savez(temporary, embeddings=embeddings)
    temporary.replace(cached)
    return embeddings


def save_run(
    run: Path, context: Context, stage: Stage | None, index: int, step: int, meta: dict[str, Any]
) -> None:
    """The whole state of the run: networks, averages, optimizers, and where it stands."""
    deployed = {name: context.best(name) for name in ckpt.DEPLOYED}
    state = ckpt.flatten({f"network.{name}": module for name, module in context.networks.items()})
    state |= ckpt.flatten({f"average.{name}": module for name, module in context.averages.items()})
    if stage is not None:
        for name, optimizer in stage.optimizers.items():
            state |= ckpt.optimizer_tensors(name, optimizer)
    ckpt.save_checkpoint(
        run / "checkpoint",
        deployed,
        state,
        {**meta, "learned": sorted(context.learned), "stage": index, "step": step},
    )


def restore(run: Path, context: Context) -> tuple[int, int, dict[str, Tensor]]:
    """Put the saved state back; returns stage index, step, and the tensors that hold the optimizers'."""
    folder = ckpt.find_checkpoint(run)
    meta = read_json(folder / "checkpoint.json", "checkpoint description")
    source = folder / "state.safetensors"
    state = ckpt.read_tensors(source)
    context.learned = set(meta["learned"])
    names = {key.split(".")[1] for key in state if key.startswith("network.")}
    if "perceptual" in names:
        context.networks["perceptual"] = build_perceptual(context)
    if "person_directions" in names:
        context.networks["person_directions"] = build_person_directions(context)
    for name in names:
        ckpt.load_into(context.networks[name], state, f"network.{name}", source)
    for name in {key.split(".")[1] for key in state if key.startswith("average.")}:
        context.average(name)
        ckpt.load_into(context.averages[name], state, f"average.{name}", source)
    for module in (*context.networks.values(), *context.averages.values()):
        module.to(memory_format=torch.channels_last)
    return meta["stage"], meta["step"], state


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
