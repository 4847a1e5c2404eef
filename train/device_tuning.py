"""How the device should step: the search again, on the INT8 engines of a bundle.

An INT8 gradient points beside the exact one, and steps that are tuned to exact gradients are too long for it.
What is inside the engine, pixel weight and preconditioner, stays; step, decay and momentum are searched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from edgeage.runtime.bundle import Bundle
from edgeage.runtime.refinement import RefinementOptions
from edgeage.train.data.listing import Pixels
from edgeage.train.evaluation import metrics
from edgeage.train.evaluation.forms import Form, refined
from edgeage.train.evaluation.outputs import tensors
from edgeage.train.refinement_tuning import PIXEL_PRICE, SCHEMA, as_text, check_search
from edgeage.train.teacher import Teacher


def tune_on_device(
    form: Form,
    bundle: Bundle,
    teacher: Teacher,
    images: Pixels,
    groups: NDArray[np.int64],
    steps: int,
    trials: int,
    seed: int,
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Normalised steps near those of the bundle, K = `steps` of them, scored as by `refinement_tuning`.

    Args:
        form: of the bundle, see `edgeage.train.evaluation.forms`.
        images: uint8 [n, S, S, 3] of faces at their age groups [n], none that training or calibration saw.

    Returns JSON in the form of `edgeage.train.refinement_tuning.tune`, what `edgeage export` reads.
    Raises EdgeageError for steps or trials below 1.
    """
    check_search(steps, trials)
    usual = RefinementOptions.from_manifest(bundle.manifest.refinement)
    random = np.random.default_rng(seed)
    plans = [{"step": usual.step, "decay": usual.decay, "momentum": usual.momentum}]
    plans += [
        {
            "step": round(usual.step * float(np.exp(random.normal(0, 0.3))), 3),
            "decay": round(float(random.uniform(0.5, 0.9)), 3),
            "momentum": round(float(random.uniform(0.0, 0.6)), 3),
        }
        for _ in range(trials - 1)
    ]
    wanted, real = teacher.embed(tensors(images)), tensors(images)

    def trial(plan: dict[str, float]) -> dict[str, float]:
        options = RefinementOptions(steps=steps, method="normalised", **plan)
        latents = refined(form, images, groups, (steps,), options)[steps].latents
        made = tensors(form.generate(latents, groups))
        cosine = float(metrics.cosines(teacher.embed(made), wanted).mean())
        error = float(torch.square(made - real).mean())
        figures = {"teacher_cosine": cosine, "mse": error, "score": cosine - PIXEL_PRICE * error}
        return {**plan, **{name: round(value, 5) for name, value in figures.items()}}

    bar = tqdm(plans, "on the device", leave=False, disable=not progress)
    tried = [trial(plan) for plan in bar]
    best = max(tried, key=lambda one: one["score"])
    weight = bundle.manifest.refinement["pixel_weight"]
    settings = {"steps": steps, "method": "normalised", "pixel_weight": weight}
    return {
        "schema": SCHEMA,
        "settings": settings | {name: best[name] for name in plans[0]},
        "preconditioner": as_text(bundle.preconditioner()),
        "engines": {name: engine.description for name, engine in form.engines.items()},
        "faces": len(images),
        "seed": seed,
        "pixel_price": PIXEL_PRICE,
        "rows": {"as the bundle": tried[0], "chosen": best},
        "trials": tried,
    }
