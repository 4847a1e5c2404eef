"""The way of faces down the gradient, the choice of where each ends, and the time that they may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.directions import CONVERGED, NOT_FINITE, SATURATED, Directions, fault
from edgeage.runtime.engines import Engine

if TYPE_CHECKING:
    from edgeage.runtime.refinement import RefinementOptions

PIXEL_GUARD = 1.5  # a latent may have this many times the mean squared pixel error of the first one

# What became of a face, besides NOT_FINITE (gradient or embedding), SATURATED and CONVERGED.
REFINED = "refined"
NEVER_ROSE = "unrefined: the cosine never rose"
PIXELS_DRIFTED = "unrefined: the pixel error rose too far"
NO_STEPS = "unrefined: no steps"
DEADLINE = "deadline"
FLAGS = (REFINED, CONVERGED, DEADLINE, NEVER_ROSE, PIXELS_DRIFTED, NO_STEPS, NOT_FINITE, SATURATED)

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]


class Check(Protocol):
    """The forward pass in its two halves, for latents that need no gradient."""

    def generate(self, z: Floats, y: Floats) -> Floats:
        """z [m, L], y [m, groups] -> images [m, 3, S, S]."""

    def embed(self, images: Floats) -> Floats:
        """Images [m, 3, S, S], what `generate` gave last -> raw embeddings [m, E]."""


class Descent:
    """The faces on their way; tables are [K + 1, n], NaN where nothing was looked at."""

    def __init__(
        self,
        engine: Engine,
        given: Mapping[str, Floats],
        options: RefinementOptions,
        check: Check | None,
        budget: Budget,
    ) -> None:
        self._engine, self._given, self._options = engine, given, options
        self._check, self._budget = check, budget
        count = len(given["z"])
        self.latents = np.repeat(given["z"][None], options.steps + 1, axis=0)
        self.cosines = np.full((options.steps + 1, count), np.nan)
        self._errors = np.full((options.steps + 1, count), np.nan)  # mean squared, of pixels in [-1, 1]
        self.reached = np.zeros(count, np.intp)
        self._stopped: list[str | None] = [None] * count

    def descend(self) -> None:
        """Take the steps, and look at where each face ends."""
        count, size = self._given["z"].shape
        directions = Directions(self._options.method, (count, size), self._options.momentum)
        going = np.arange(count)
        for k in range(self._options.steps):
            if not len(going):
                return
            # what follows the step: the check of each face's last latent, and of its first one
            if not self._budget.fits(len(going), *self._end(len(going), 2 * count)):
                self._stop(going, DEADLINE)
                break
            gradient, embedding = self._run_engine(going, k)
            self._record(going, k, embedding)
            for face, of_face in zip(going.tolist(), gradient, strict=True):
                self._stopped[face] = self._stopped[face] or fault(of_face) or self._settled(face, k)
            moving = np.array([self._stopped[face] is None for face in going], bool)
            going = going[moving]
            size_now = np.float32(self._options.step * self._options.decay**k)
            change = size_now * directions(gradient[moving], going, k)
            self.latents[k + 1, going] = self.latents[k, going] - change
        else:
            k = self._options.steps
        if k and len(going):  # these faces have moved to a latent that nobody has looked at
            self._look(going, k)

    def choose(self) -> Indices:
        """The step [n] each face ends on: of those above the given latent the best by cosine that passes."""
        score = np.where(self.cosines > self.cosines[0], self.cosines, -np.inf)
        best = np.zeros(len(self.reached), np.intp)
        order = np.argsort(-score, axis=0, kind="stable")  # of equals the earliest
        left = np.flatnonzero(np.isfinite(score.max(axis=0)))
        if self._check is None:
            best[left] = order[0, left]
            return best
        self._measure(left, np.zeros_like(left))
        for rank in order:
            left = left[np.isfinite(score[rank[left], left])]
            if not len(left):
                break
            self._measure(left, rank[left])
            passed = self._errors[rank[left], left] <= PIXEL_GUARD * self._errors[0, left]
            best[left[passed]] = rank[left[passed]]
            left = left[~passed]
        return best

    def flag(self, face: int, best: int) -> str:
        """What became of a face that ends on the latent of step `best`."""
        stopped = self._stopped[face]
        if best:
            return stopped or REFINED
        if stopped in (DEADLINE, NOT_FINITE, SATURATED) or (stopped == CONVERGED and not self.reached[face]):
            return stopped
        if not self._options.steps:
            return NO_STEPS
        rose = (self.cosines[:, face] > self.cosines[0, face]).any()
        return PIXELS_DRIFTED if rose else NEVER_ROSE

    def _end(self, faces: int, checks: int) -> tuple[int, int]:
        """Faces for the engine and latents for the check, whichever looks at the last latents."""
        return (faces, 0) if self._check is None else (0, checks)

    def _look(self, faces: Indices, k: int) -> None:
        """Evaluate latents that were stepped to and have no cosine yet, if time is left."""
        if not self._budget.fits(0, *self._end(len(faces), len(faces))):
            self._stop(faces, DEADLINE)
        elif self._check is None:
            self._record(faces, k, self._run_engine(faces, k)[1])
        else:
            with self._budget.check(len(faces)):
                images = self._generate(self._check, faces, np.full_like(faces, k))
                embedding = self._check.embed(images)
            self._record(faces, k, embedding)

    def _measure(self, faces: Indices, steps: Indices) -> None:
        """Pixel errors at the given steps, where unknown; without the time for it they stay unknown.

        The time of a whole check is asked for, which is more than an image takes.
        """
        unknown = np.isnan(self._errors[steps, faces])
        faces, steps = faces[unknown], steps[unknown]
        if not len(faces):
            return
        assert self._check is not None  # or `choose` would not ask
        if self._budget.fits(0, 0, len(faces)):
            with self._budget.check(len(faces)):
                self._generate(self._check, faces, steps)
        else:
            self._stop(faces, DEADLINE)

    def _stop(self, faces: Indices, why: str) -> None:
        for face in faces:
            self._stopped[face] = self._stopped[face] or why

    def _settled(self, face: int, k: int) -> str | None:
        limit = self._options.tolerance
        if limit is None or not k:
            return None
        return CONVERGED if self.cosines[k, face] - self.cosines[k - 1, face] < limit else None

    def _record(self, faces: Indices, k: int, embedding: Floats) -> None:
        finite = np.isfinite(embedding).all(axis=1)
        self._stop(faces[~finite], NOT_FINITE)
        self.cosines[k, faces[finite]] = _cosine(embedding[finite], self._given["target"][faces[finite]])
        self.reached[faces] = k

    def _run_engine(self, faces: Indices, k: int) -> tuple[Floats, Floats]:
        """Gradients [m, L] and embeddings [m, E] of faces [m] at step k."""
        feeds = {name: values[faces] for name, values in {**self._given, "z": self.latents[k]}.items()}
        batch = self._engine.inputs[0].shape[0]
        found = []
        for start in range(0, len(faces), batch):
            rows = np.arange(start, start + batch).clip(max=len(faces) - 1)  # the last row fills the batch
            with self._budget.call():
                found.append(self._engine.run({name: values[rows] for name, values in feeds.items()}))
        gradient, embedding = (
            np.concatenate([outputs[name] for outputs in found])[: len(faces)]
            for name in ("gradient", "embedding")
        )
        return gradient, embedding

    def _generate(self, check: Check, faces: Indices, steps: Indices) -> Floats:
        """Images [m, 3, S, S] of faces [m] at steps [m]; remembers their pixel errors."""
        images = check.generate(self.latents[steps, faces], self._given["y"][faces])
        apart = np.square(images - self._given["image"][faces]).reshape(len(faces), -1)
        self._errors[steps, faces] = apart.mean(axis=1)
        return images


class Budget:
    """The time that is left, by what runs of the engine and checks took so far; counts the runs.

    Attributes:
        calls: runs of the engine; call_ms: the longest of them, None before the first.
    """

    def __init__(
        self, deadline_ms: float | None, expected_ms: float | None, batch: int, clock: Callable[[], float]
    ) -> None:
        self._deadline, self._expected, self._batch, self._clock = deadline_ms, expected_ms, batch, clock
        self._start = clock()
        self.calls = 0
        self.call_ms: float | None = None
        self._check_ms: float | None = None  # of one latent

    def elapsed(self) -> float:
        """Milliseconds since the start."""
        return (self._clock() - self._start) * 1e3

    def fits(self, faces: int, more_faces: int, checks: int) -> bool:
        """Whether two evaluations by the engine, of so many faces, and so many checks end in time."""
        if self._deadline is None:
            return True
        call = self.call_ms if self.call_ms is not None else self._expected or 0.0
        # a check is a part of what the engine does for each face of its batch
        check = self._check_ms if self._check_ms is not None else call / self._batch
        runs = math.ceil(faces / self._batch) + math.ceil(more_faces / self._batch)
        return self.elapsed() + runs * call + checks * check <= self._deadline

    @contextmanager
    def call(self) -> Iterator[None]:
        """Times one run of the engine."""
        start = self._clock()
        yield
        self.calls += 1
        self.call_ms = max((self._clock() - start) * 1e3, self.call_ms or 0.0)

    @contextmanager
    def check(self, latents: int) -> Iterator[None]:
        """Times a check of so many latents."""
        start = self._clock()
        yield
        self._check_ms = max((self._clock() - start) * 1e3 / latents, self._check_ms or 0.0)


def _cosine(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Cosine of each row pair, [n]; 0 for a row of zeros, which has no direction."""
    exact_a, exact_b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.sqrt(np.square(exact_a).sum(axis=1) * np.square(exact_b).sum(axis=1))
    dots = (exact_a * exact_b).sum(axis=1)
    return np.asarray(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0))
