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
from torch.nn import functional as F
from tqdm import tqdm

from edgeage.runtime.directions import Directions
from edgeage.train.calibration_faces import calibration_faces
from edgeage.train.checkpoint import load_checkpoint
from edgeage.train.curvature import Curvature, curvature
from edgeage.train.evaluation.outputs import Model, tensors
from edgeage.train.evaluation.pictures import spread
from edgeage.train.latent_optimization import Face, RefinementSettings, losses, optimise
from edgeage.train.refinement_tuning import PIXEL_PRICE
from edgeage.train.teacher import Teacher

STEPS = 3
Matrices = Callable[[int, Tensor], np.ndarray]  # (step, latents [n, L]) -> [n, L, L]


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
    settings = RefinementSettings("euclidean", told["pixel_weight"])
    wanted = torch.from_numpy(teacher.embed(face.images))

    def score(latent: Tensor) -> dict[str, float]:
        with torch.no_grad():
            made = model.generator(latent, conditions)
        likeness = F.cosine_similarity(wanted, torch.from_numpy(teacher.embed(made)), dim=1)
        error = float((made - face.images).pow(2).mean())
        return {"teacher_cosine": float(likeness.mean()), "mse": error} | {
            "score": float(likeness.mean()) - PIXEL_PRICE * error
        }

    def descend(matrices: Matrices) -> Tensor:
        steps = Directions("normalised", tuple(start.shape), told["momentum"])
        z, best, most = start, start, torch.full((len(start),), -torch.inf)
        for k in range(STEPS + 1):
            latent = z.detach().requires_grad_()
            loss, cosine = losses(model.generator, model.embedder, latent, face, settings)
            (gradient,) = torch.autograd.grad(loss.sum(), latent)
            better = cosine.detach() > most
            best, most = torch.where(better[:, None], z, best), torch.where(better, cosine.detach(), most)
            if k < STEPS:
                whole = np.einsum("ni,nij->nj", gradient.numpy(), matrices(k, z)).astype(np.float32)
                size = told["step"] * told["decay"] ** k
                z = z - size * torch.from_numpy(steps(whole, np.arange(len(z)), k))
        return best

    def of(found: Curvature) -> np.ndarray:
        return found.preconditioner(told["pixel_weight"])

    def own(latents: Tensor) -> np.ndarray:
        pairs = tqdm(
            list(zip(latents[:, None], conditions[:, None], strict=True)), "own matrices", leave=False
        )
        return np.stack([of(curvature(model.generator, model.embedder, z, y)) for z, y in pairs])

    def mean(chosen: np.ndarray) -> np.ndarray:
        some = model.encode(faces.images[chosen]), model.condition(faces.groups[chosen])
        return of(curvature(model.generator, model.embedder, *some, progress=True))

    many = len(start)
    every = mean(spread(faces.groups, options.training_faces))
    of_group = {
        int(group): mean(np.flatnonzero(faces.groups == group)[: options.training_faces // 3])
        for group in np.unique(groups)
    }
    first = own(start)
    reference = optimise(
        model.generator, model.embedder, start, face, "combined", settings, progress="L-BFGS"
    )
    table = {
        "encoder alone": score(start),
        "the gradient itself": score(descend(lambda k, z: np.tile(np.eye(z.shape[1]), (many, 1, 1)))),
        "one matrix for all faces": score(descend(lambda k, z: np.tile(every, (many, 1, 1)))),
        "one for each age group": score(descend(lambda k, z: np.stack([of_group[int(g)] for g in groups]))),
        "the face's own, at its start": score(descend(lambda k, z: first)),
        "the face's own, at each step": score(descend(lambda k, z: first if k == 0 else own(z))),
        "L-BFGS": score(reference),
    }
    nothing, whole = table["encoder alone"]["score"], table["L-BFGS"]["score"]
    for row in table.values():
        row["share"] = (row["score"] - nothing) / (whole - nothing)
    print(json.dumps({k: {n: round(v, 4) for n, v in row.items()} for k, row in table.items()}, indent=2))


if __name__ == "__main__":
    main()
