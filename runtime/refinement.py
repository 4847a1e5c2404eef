"""Refine latents on the device: a few steps of fixed size against the gradient of the refine engine.

The engine takes z [B, L], y [B, groups], target [B, E] and image [B, 3, S, S] in [-1, 1] and gives the
gradient [B, L] of the distance between G(z, y) and the photo's face, and the raw embedding [B, E] of G(z, y).
A face ends on the best, by cosine to its target, of all latents it has been at, so it never gets worse by it.
The float reference is `edgeage.train.latent_optimization.refine`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.descent import NO_STEPS, Budget, Check, Descent, Floats, Indices
from edgeage.runtime.directions import METHODS
from edgeage.runtime.engines import Engine

MAX_STEPS = 32  # decay has made steps as small as rounding long before


@dataclass(frozen=True)
class RefinementOptions:
    """How to step; EdgeageError for values that cannot be used.

    Attributes:
        steps: K, 0..MAX_STEPS; 0 is no refinement.
        step: first change of each latent dimension (root mean square); z has unit scale.
        decay: factor from one step's size to the next, in (0, 1].
        method: "sign", "normalised" or "adam".
        momentum: what earlier directions still count, in [0, 1); with "normalised" alone, see `Directions`.
        deadline_ms: milliseconds that all faces of one call may take together; None is no limit.
        tolerance: a face whose cosine rose by less than this over the last step stops; None is never.
    """

    steps: int = 3
    step: float = 0.2
    decay: float = 0.85
    method: str = "sign"
    momentum: float = 0.0
    deadline_ms: float | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            raise EdgeageError(f"refinement steps are {self.steps!r}; give a whole number, 0..{MAX_STEPS}")
        if self.steps > MAX_STEPS:
            raise EdgeageError(f"{self.steps} refinement steps are too many; give {MAX_STEPS} or fewer")
        if self.method not in METHODS:
            raise EdgeageError(
                f"unknown refinement method {self.method!r}; the methods are {', '.join(METHODS)}"
            )
        _check_number("step", self.step, "a number above 0, at most 10", lambda value: 0 < value <= 10)
        _check_number("decay", self.decay, "a number above 0, at most 1", lambda value: 0 < value <= 1)
        _check_number("momentum", self.momentum, "a number, 0 or more, below 1", lambda value: 0 <= value < 1)
        if self.momentum and self.method != "normalised":
            raise EdgeageError(f"momentum is for normalised steps; with {self.method!r} it must be 0")
        for name in ("deadline_ms", "tolerance"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), "a number, 0 or more", lambda value: value >= 0)

    @classmethod
    def from_manifest(cls, refinement: Mapping[str, Any]) -> RefinementOptions:
        """The defaults in a manifest's `refinement`: its steps, step, decay, method and momentum."""
        names = ("steps", "step", "decay", "method", "momentum")
        return cls(**{name: refinement[name] for name in names if name in refinement})


@dataclass(frozen=True)
class Refined:
    """What `refine` made of n faces.

    Attributes:
        z: float32 [n, L], the latents that were chosen.
        steps_done: int [n], steps taken whose latent was looked at, 0..K.
        best_step: int [n], the step after which z was reached; 0 is the latent that was given.
        cosine_before, cosine_after: float [n], of G(z, y) to the target at the given and at the chosen z; NaN
            if it was never looked at.
        flags: one of `edgeage.runtime.descent.FLAGS` per face.
        milliseconds: wall time of the call.
        evaluations: runs of the refine engine.
        evaluation_ms: the longest of them, 0 if there was none.
        trace: float [K + 1, n], cosine after each step, NaN where it was not looked at; None unless asked.
    """

    z: Floats
    steps_done: Indices
    best_step: Indices
    cosine_before: NDArray[np.float64]
    cosine_after: NDArray[np.float64]
    flags: tuple[str, ...]
    milliseconds: float
    evaluations: int
    evaluation_ms: float
    trace: NDArray[np.float64] | None


def refine(
    engine: Engine,
    z: Floats,
    y: Floats,
    target: Floats,
    image: Floats,
    options: RefinementOptions,
    *,
    check: Check | None = None,
    trace: bool = False,
    expected_ms: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Refined:
    """Refine n faces, each by itself; n may be any number, whatever the engine's batch.

    Args:
        engine: "refine" or "refine_batch".
        z, y, target, image: float32 [n, ...], see the module.
        check: looks at a latent without its gradient. With it, the last latent costs no engine run, and a
            latent whose mean squared pixel error exceeds PIXEL_GUARD times that of the given one is passed
            over for the next best.
        expected_ms: of one engine run, for the deadline before the first run was timed. If not even one step
            fits, nothing runs; without it the first run always happens.
        clock: seconds.

    Raises EdgeageError if an input has another shape than the engine takes, or is not finite.
    """
    given = {"z": z, "y": y, "target": target, "image": image}
    for port in engine.inputs:
        if given[port.name].shape != (len(z), *port.shape[1:]):
            expected = ", ".join(["n", *map(str, port.shape[1:])])
            raise EdgeageError(
                f"refinement takes {port.name} as [{expected}] for n = {len(z)} faces; "
                f"it was given {list(given[port.name].shape)}"
            )
    budget = Budget(options.deadline_ms, expected_ms, engine.inputs[0].shape[0], clock)
    run = Descent(engine, given, options, check, budget)
    run.descend()
    best = run.choose()
    faces = np.arange(len(z))
    return Refined(
        z=run.latents[best, faces],
        steps_done=run.reached,
        best_step=best,
        cosine_before=run.cosines[0],
        cosine_after=run.cosines[best, faces],
        flags=tuple(run.flag(face, step) for face, step in enumerate(best.tolist())),
        milliseconds=budget.elapsed(),
        evaluations=budget.calls,
        evaluation_ms=budget.call_ms or 0.0,
        trace=run.cosines if trace else None,
    )


def unrefined(z: Floats) -> Refined:
    """Latents [n, L] as they are: K = 0, for which no engine is needed."""
    count = len(z)
    unknown = np.full(count, np.nan)
    none = np.zeros(count, np.intp)
    return Refined(z, none, none, unknown, unknown, (NO_STEPS,) * count, 0.0, 0, 0.0, None)


def _check_number(name: str, value: Any, expected: str, good: Callable[[float], bool]) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # an int may be too large for a float; no good number is
    number = number and abs(value) < 1e300 and math.isfinite(value)
    if not (number and good(value)):
        raise EdgeageError(f"refinement's {name} is {value!r}; give {expected}")
