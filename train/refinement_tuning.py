"""How refinement should step: a random search, scored by a net that is not in the loss.

The loss's own recogniser always likes what follows its gradient. So a way of stepping is scored by the
teacher's cosine to the face and by the pixel error, on faces that nothing was trained on and that no figure
is reported on (the validation part). The judges take no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from edgeage.errors import EdgeageError
from edgeage.runtime.directions import Directions
from edgeage.runtime.refinement import RefinementOptions
from edgeage.train.curvature import Curvature
from edgeage.train.latent_optimization import Embedder, Face, Generator, RefinementSettings, losses
from edgeage.train.teacher import Teacher

Gradients = NDArray[np.float32]
Turn = Callable[[int, Tensor, Gradients], Gradients]  # (step, latents, gradients), each [n, L], -> gradients

SCHEMA = 2
METHODS = ("sign", "normalised", "adam")
# How much of the teacher's cosine a unit of mean squared error is worth: 1 dB at 23.5 dB for 0.01 of cosine.
PIXEL_PRICE = 2.5
# What was used before.
_FIRST = {"method": "sign", "pixel_weight": 20.0, "step": 0.2, "decay": 0.85, "momentum": 0.0}


@dataclass(frozen=True)
class Trial:
    """One way of stepping, and what K steps of it are worth.

    Attributes:
        sizes: of the steps, one for each.
        preconditioned: whether the gradient is multiplied by the preconditioner for that pixel weight.
        teacher_cosine, own_cosine: mean cosine of the refined face to the real one, by the second net and by
            the recogniser of the loss.
        mse: mean squared pixel error, images in [-1, 1].
    """

    method: str
    pixel_weight: float
    sizes: tuple[float, ...]
    momentum: float
    preconditioned: bool
    teacher_cosine: float
    own_cosine: float
    mse: float

    @property
    def score(self) -> float:
        return self.teacher_cosine - PIXEL_PRICE * self.mse

    def to_dict(self) -> dict[str, Any]:
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {**rounded, "sizes": [round(s, 5) for s in self.sizes], "score": round(self.score, 5)}


@dataclass(frozen=True)
class Bench:
    """The networks and faces that ways of stepping are tried on.

    Attributes:
        latent: z = E(x) [n, L]; face: the images, conditions and targets that belong to it.
        curvature: of the loss, at faces of the training part.
    """

    generator: Generator
    embedder: Embedder
    teacher: Teacher
    latent: Tensor
    face: Face
    curvature: Curvature

    def run(
        self,
        method: str,
        pixel_weight: float,
        sizes: Sequence[float],
        momentum: float = 0.0,
        *,
        preconditioned: bool = True,
    ) -> Trial:
        """Steps of these sizes from E(x); each face keeps the best latent by cosine, as on the device."""
        matrix = self.curvature.preconditioner(pixel_weight)

        def turn(k: int, z: Tensor, gradient: Gradients) -> Gradients:
            return gradient @ matrix if preconditioned else gradient

        best, cosine = self.descend(method, pixel_weight, sizes, momentum, turn)
        return Trial(
            method,
            pixel_weight,
            tuple(sizes),
            momentum,
            preconditioned,
            own_cosine=float(cosine.mean()),
            **self.figures(best),
        )

    def descend(
        self, method: str, pixel_weight: float, sizes: Sequence[float], momentum: float, turn: Turn
    ) -> tuple[Tensor, Tensor]:
        """The best latents [n, L] on the way from E(x), with their cosines [n]; `turn` changes gradients."""
        settings = RefinementSettings("euclidean", pixel_weight)
        directions = Directions(method, (len(self.latent), self.latent.shape[1]), momentum)
        rows = np.arange(len(self.latent))
        z = self.latent.detach()
        best, best_cosine = z, torch.full((len(z),), -torch.inf)
        for k in range(len(sizes) + 1):
            gradient, cosine = self.gradient(z, settings)
            better = cosine > best_cosine
            best = torch.where(better[:, None], z, best)
            best_cosine = torch.where(better, cosine, best_cosine)
            if k < len(sizes):
                z = z - sizes[k] * torch.from_numpy(directions(turn(k, z, gradient), rows, k))
        return best, best_cosine

    def figures(self, latent: Tensor) -> dict[str, float]:
        """What latents [n, L] are worth: "teacher_cosine" and "mse" of `Trial`."""
        with torch.no_grad():
            made = self.generator(latent, self.face.conditions)
        wanted, found = (torch.from_numpy(self.teacher.embed(images)) for images in (self.face.images, made))
        return {
            "teacher_cosine": float(F.cosine_similarity(wanted, found).mean()),
            "mse": float((made - self.face.images).pow(2).mean()),
        }

    def gradient(self, z: Tensor, settings: RefinementSettings) -> tuple[NDArray[np.float32], Tensor]:
        """Gradient [n, L] of the loss and cosine [n] to the target."""
        latent = z.detach().requires_grad_()
        loss, cosine = losses(self.generator, self.embedder, latent, self.face, settings)
        (gradient,) = torch.autograd.grad(loss.sum(), latent)
        return gradient.numpy(), cosine.detach()


def tune(bench: Bench, steps: int, trials: int, seed: int, *, progress: bool = False) -> dict[str, Any]:
    """Search the method, the pixel weight, the first step, its decay and momentum for K = `steps`.

    Returns JSON: the chosen settings and the preconditioner (what `edgeage export --refinement` reads), every
    trial, the chosen one at other K and without the preconditioner, and what free step sizes would add.

    Raises EdgeageError for steps or trials below 1.
    """
    check_search(steps, trials)
    random = np.random.default_rng(seed)
    plans = [_FIRST, *(_draw(random) for _ in range(trials - 1))]
    tried: list[tuple[dict[str, Any], Trial]] = []
    for plan in _bar(plans, "search", progress):
        RefinementOptions(steps, **{k: v for k, v in plan.items() if k != "pixel_weight"})  # as the device
        tried.append((plan, _try(bench, plan, steps)))
    best_plan, best = max(tried, key=lambda one: one[1].score)

    free = best
    for _ in _bar(range(max(trials // 3, 1)), "free step sizes", progress):
        sizes = tuple(float(s * np.exp(random.normal(0, 0.25))) for s in free.sizes)
        trial = bench.run(best.method, best.pixel_weight, sizes, best.momentum)
        free = max(free, trial, key=lambda trial: trial.score)
    rows = {
        "start": bench.run("sign", best.pixel_weight, ()),
        "before": _try(bench, _FIRST, steps, preconditioned=False),
        "chosen": best,
        "chosen, not preconditioned": _try(bench, best_plan, steps, preconditioned=False),
        "free step sizes": free,
    }
    return {
        "schema": SCHEMA,
        "settings": {"steps": steps, **{key: _rounded(value) for key, value in best_plan.items()}},
        "preconditioner": as_text(bench.curvature.preconditioner(_rounded(best.pixel_weight))),
        "faces": len(bench.latent),
        "seed": seed,
        "pixel_price": PIXEL_PRICE,
        "rows": {name: trial.to_dict() for name, trial in rows.items()},
        "by_steps": {
            str(k): _try(bench, best_plan, k).to_dict() for k in _bar((1, 3, 5, 8), "other K", progress)
        },
        "trials": [trial.to_dict() for _, trial in tried],
    }


def _try(bench: Bench, plan: dict[str, Any], steps: int, *, preconditioned: bool = True) -> Trial:
    sizes = [plan["step"] * plan["decay"] ** k for k in range(steps)]
    return bench.run(
        plan["method"], plan["pixel_weight"], sizes, plan["momentum"], preconditioned=preconditioned
    )


def _draw(random: np.random.Generator) -> dict[str, Any]:
    method = str(random.choice(METHODS))
    return {
        "method": method,
        # with less than this INT8 gradients lose their direction (cosine 0.90 at 16, 0.86 at 7)
        "pixel_weight": float(np.exp(random.uniform(np.log(20), np.log(60)))),
        "step": float(np.exp(random.uniform(np.log(0.1), np.log(0.6)))),
        "decay": float(random.uniform(0.5, 1.0)),
        "momentum": float(random.uniform(0.0, 0.6)) if method == "normalised" else 0.0,
    }


def check_search(steps: int, trials: int) -> None:
    """EdgeageError for steps or trials below 1."""
    if steps < 1 or trials < 1:
        raise EdgeageError(f"tuning needs at least one step and one trial, not {steps} and {trials}")


def as_text(matrix: NDArray[np.float32] | None) -> list[str] | None:
    """A preconditioner for JSON, one line a row; None where there is none."""
    if matrix is None:
        return None
    return [" ".join(f"{value:.6g}" for value in row) for row in matrix.tolist()]


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _bar(items: Iterable[Any], what: str, progress: bool) -> Iterable[Any]:
    bar: Iterable[Any] = tqdm(items, desc=what, leave=False, disable=not progress)
    return bar
