"""What bounds a refinement of few steps: K = 3 float steps with better and better knowledge of the curvature.

One matrix for all faces costs nothing on a device, a face's own would cost a hundred gradients. Scored as by
`edgeage tune-refine`, by the teacher and the pixels, on validation faces; shares are of what L-BFGS gains.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from edgeage.train.calibration_faces import calibration_faces
from edgeage.train.checkpoint import load_checkpoint
from edgeage.train.curvature import Curvature, curvature
from edgeage.train.evaluation.outputs import Model, tensors
from edgeage.train.evaluation.pictures import spread
from edgeage.train.latent_optimization import Face, RefinementSettings, optimise
from edgeage.train.refinement_tuning import PIXEL_PRICE, Bench
from edgeage.train.teacher import Teacher

STEPS = 3
Matrices = Callable[[int, Tensor], np.ndarray]  # (step, latents [n, L]) -> [n, L, L] or one [L, L]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("models/edge64.checkpoint"))
    parser.add_argument("--data", required=True, help="The training's faces.")
    parser.add_argument("--teacher", type=Path, required=True, help="MobileFaceNet.tflite.")
    parser.add_argument("--faces", type=int, default=48)
    parser.add_argument("--training-faces", type=int, default=72, help="That the mean matrix is made of.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(options.checkpoint)
    model, teacher = Model(checkpoint), Teacher(options.teacher)
    faces = calibration_faces(checkpoint, options.data, progress=True)
    assert faces.held_out is not None, "give the data that the checkpoint was trained on"
    told = json.loads((options.checkpoint / "refine.json").read_text())["settings"]
    rows = spread(faces.held_out[1], options.faces)
    images, groups = faces.held_out[0][rows], faces.held_out[1][rows]
    conditions, start = model.condition(groups), model.encode(images)
    face = Face.of(tensors(images), conditions, model.embedder)
    steps = [told["step"] * told["decay"] ** k for k in range(STEPS)]

    def of(found: Curvature) -> np.ndarray:
        return found.preconditioner(told["pixel_weight"])

    def own(latents: Tensor) -> np.ndarray:
        pairs = tqdm(
            list(zip(latents[:, None], conditions[:, None], strict=True)), "own matrices", leave=False
        )
        return np.stack([of(curvature(model.generator, model.embedder, z, y)) for z, y in pairs])

    def curved(chosen: np.ndarray) -> Curvature:
        place = model.encode(faces.images[chosen]), model.condition(faces.groups[chosen])
        return curvature(model.generator, model.embedder, *place, progress=True)

    def score(latent: Tensor) -> dict[str, float]:
        found = bench.figures(latent)
        return {**found, "score": found["teacher_cosine"] - PIXEL_PRICE * found["mse"]}

    def along(matrices: Matrices) -> dict[str, float]:
        def turn(k: int, z: Tensor, gradient: np.ndarray) -> np.ndarray:
            return (gradient[:, None] @ matrices(k, z))[:, 0]

        return score(bench.descend("normalised", told["pixel_weight"], steps, told["momentum"], turn)[0])

    every = curved(spread(faces.groups, options.training_faces))
    bench = Bench(model.generator, model.embedder, teacher, start, face, every)
    of_group = {
        int(group): of(curved(np.flatnonzero(faces.groups == group)[: options.training_faces // 3]))
        for group in np.unique(groups)
    }
    first = own(start)
    settings = RefinementSettings("euclidean", told["pixel_weight"])
    reference = optimise(
        model.generator, model.embedder, start, face, "combined", settings, progress="L-BFGS"
    )
    table = {
        "encoder alone": score(start),
        "the gradient itself": along(lambda k, z: np.eye(z.shape[1])),
        "one matrix for all faces": along(lambda k, z: of(every)),
        "one for each age group": along(lambda k, z: np.stack([of_group[int(g)] for g in groups])),
        "the face's own, at its start": along(lambda k, z: first),
        "the face's own, at each step": along(lambda k, z: first if k == 0 else own(z)),
        "L-BFGS": score(reference),
    }
    nothing, whole = table["encoder alone"]["score"], table["L-BFGS"]["score"]
    for row in table.values():
        row["share"] = (row["score"] - nothing) / (whole - nothing)
    print(json.dumps({k: {n: round(v, 4) for n, v in row.items()} for k, row in table.items()}, indent=2))


if __name__ == "__main__":
    main()
