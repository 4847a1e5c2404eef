"""Training speed of each stage of a recipe, on procedural faces, one thread per process.

The baseline of a stage is the forward pass of the same encoder and generator on the same batch, interleaved
with its steps. With --processes N the same global batch is also computed by N processes (gloo), in blocks
that take turns with blocks of one process alone: the ratio needs N cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path

import numpy as np
import torch
from torch.multiprocessing.spawn import spawn

from edgeage.train.batches import Sampler
from edgeage.train.data import open_source
from edgeage.train.distributed import Processes, join_processes
from edgeage.train.loop import Position, Steps, shard_settings, take_step
from edgeage.train.networks import build_networks
from edgeage.train.profiles.schema import load_profile
from edgeage.train.recipes.schema import Recipe, Recogniser, load_recipe
from edgeage.train.stages import Context, Stage, build_stage
from edgeage.train.teacher import Teacher

WARM_UP, STEPS = 3, 10
EMBEDDING_SIZE = 192
BLOCKS, STEPS_IN_BLOCK = 7, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="edge")
    parser.add_argument("--teacher", type=Path, help="MobileFaceNet.tflite, for stages that ask it")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, one thread per process, medians of {STEPS} steps after {WARM_UP}")
    measure_stages(load_recipe(options.recipe), options.teacher)
    if options.processes > 1:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        arguments = (options.recipe, options.teacher, options.processes, port)
        spawn(measure_processes, arguments, options.processes)  # type: ignore[no-untyped-call]


def measure_stages(recipe: Recipe, teacher: Path | None) -> None:
    """Images per second and per CPU-second of every stage, in one process."""
    torch.set_num_threads(1)
    context = build_context(recipe, teacher)
    steps = Steps(recipe, Processes())
    for index, settings in enumerate(recipe.stages):
        if (stage := build_timed(context, steps, index)) is None:
            continue
        last = Position(index, settings.steps - 1)  # all terms of the loss are on
        wall, cpu, forward_wall = [], [], []
        for _ in range(WARM_UP + STEPS):
            begin, begin_cpu = time.perf_counter(), time.process_time()
            take_step(steps, stage, last)
            wall.append(time.perf_counter() - begin)
            cpu.append(time.process_time() - begin_cpu)
            begin = time.perf_counter()
            forward(context, settings.batch)
            forward_wall.append(time.perf_counter() - begin)
        own, own_cpu, base = (float(np.median(values[WARM_UP:])) for values in (wall, cpu, forward_wall))
        print(
            f"{title(recipe, index):16} {settings.batch / own:8.1f} images/s {settings.batch / own_cpu:8.1f} "
            f"images/CPU-s {own / base:6.2f} x the time of E and G forward"
        )


def measure_processes(rank: int, recipe_name: str, teacher: Path | None, count: int, port: int) -> None:
    """The speed of `count` processes relative to one, on the recipe's global batch."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    recipe = load_recipe(recipe_name)
    with join_processes("cpu") as processes:
        context = build_context(recipe, teacher)
        alone, together = Steps(recipe, Processes()), Steps(recipe, processes, count)
        for index, settings in enumerate(recipe.stages):
            whole, part = (build_timed(context, steps, index) for steps in (alone, together))
            if whole is None or part is None:
                continue
            last = Position(index, settings.steps - 1)

            ratios = []
            for _ in range(1 + BLOCKS):
                # the others wait for process 0 without using their cores
                one = block(processes, alone, whole, last, STEPS_IN_BLOCK if rank == 0 else 0)
                ratios.append(one / block(processes, together, part, last, STEPS_IN_BLOCK))
            ratios = ratios[1:]  # the first pair warms up
            if rank == 0:
                print(
                    f"{title(recipe, index):16} {count} processes / 1: {np.median(ratios):.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f}, {BLOCKS} blocks of {STEPS_IN_BLOCK} steps)"
                )


def build_context(recipe: Recipe, teacher: Path | None) -> Context:
    spec, device = load_profile(recipe.profile), torch.device("cpu")
    faces = open_source("procedural:240", spec.image_size)
    labels = np.zeros((len(faces), EMBEDDING_SIZE), np.float32)  # a stand-in: speed does not depend on it
    labels[:, 0] = 1
    return Context(
        spec,
        build_networks(spec),
        Sampler(faces.images, faces.groups, labels, faces.identities, len(spec.groups), device),
        (torch.empty(0), torch.empty(0)),
        device,
        teacher=Teacher(teacher) if teacher else None,
        learned={"embedder"},
    )


def build_timed(context: Context, steps: Steps, index: int) -> Stage | None:
    settings = steps.recipe.stages[index]
    if isinstance(settings, Recogniser) and settings.target == "teacher" and context.teacher is None:
        if steps.processes.leads and steps.shards == 1:
            print(f"{title(steps.recipe, index):16} not run: it asks the teacher; give --teacher")
        return None
    return build_stage(context, shard_settings(settings, steps.shards))


def title(recipe: Recipe, index: int) -> str:
    return f"{index + 1} {recipe.stages[index].__struct_config__.tag}"


def block(processes: Processes, steps: Steps, stage: Stage, position: Position, count: int) -> float:
    """Seconds until all processes have done `count` steps."""
    begin = time.perf_counter()
    for _ in range(count):
        take_step(steps, stage, position)
    processes.sum([torch.zeros(1)])
    return time.perf_counter() - begin


@torch.no_grad()
def forward(context: Context, count: int) -> None:
    batch = context.sampler.draw(count, 0.5, np.random.default_rng(0))
    context.networks["generator"](context.networks["encoder"](batch.images), batch.conditions)


if __name__ == "__main__":
    main()
