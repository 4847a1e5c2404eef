"""Training speed of each stage of a recipe in images per second, on procedural faces.

The baseline is the forward pass of the same encoder and generator on the same batch, in the same run.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from edgeage.train.batches import Sampler, rng_for
from edgeage.train.data import open_source
from edgeage.train.networks import build_networks
from edgeage.train.profiles.schema import load_profile
from edgeage.train.recipes.schema import Recogniser, load_recipe
from edgeage.train.stages import Context, build_stage
from edgeage.train.teacher import EMBEDDING_SIZE

WARM_UP, STEPS = 3, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="edge")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = load_recipe(options.recipe)
    spec = load_profile(recipe.profile)
    faces = open_source("procedural:240", spec.image_size)
    labels = np.zeros((len(faces), EMBEDDING_SIZE), np.float32)  # a stand-in: speed does not depend on it
    labels[:, 0] = 1
    device = torch.device("cpu")
    context = Context(
        spec,
        build_networks(spec),
        Sampler(faces.images, faces.groups, labels, faces.identities, len(spec.groups), device),
        (torch.empty(0), torch.empty(0)),
        device,
        learned={"embedder"},
    )
    for index, settings in enumerate(recipe.stages):
        name = settings.__struct_config__.tag
        if isinstance(settings, Recogniser) and settings.target == "teacher":
            print(f"{name:12} not run: labelling needs the teacher's file")
            continue
        stage = build_stage(context, settings)
        last = settings.steps - 1  # all terms of the loss are on
        stage_seconds, forward_seconds = [], []
        for step in range(WARM_UP + STEPS):
            rng = rng_for(0, index, step)
            begin = time.perf_counter()
            stage.step(last, rng)
            stage_seconds.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            forward(context, settings.batch)
            forward_seconds.append(time.perf_counter() - begin)
        own, base = np.median(stage_seconds[WARM_UP:]), np.median(forward_seconds[WARM_UP:])
        print(
            f"{name:12} {settings.batch / own:8.1f} images/s, {own / base:6.2f} x the time of E and G forward"
        )


@torch.no_grad()
def forward(context: Context, count: int) -> None:
    batch = context.sampler.draw(count, 0.5, np.random.default_rng(0))
    context.networks["generator"](context.networks["encoder"](batch.images), batch.conditions)


if __name__ == "__main__":
    main()
