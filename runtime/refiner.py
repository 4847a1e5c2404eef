"""Latent refinement with the engines of one bundle: which engine, what it costs, and how it is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgeage.errors import EdgeageError
from edgeage.runtime.descent import Floats
from edgeage.runtime.engines import ENGINE_FORMATS, Engine, choose_file
from edgeage.runtime.manifest import Manifest
from edgeage.runtime.refinement import Refined, RefinementOptions, refine, unrefined


class Forward:
    """G and FR without gradient, row by row: the `edgeage.runtime.descent.Check` of a bundle's engines."""

    def __init__(self, generator: Engine, embedder: Engine) -> None:
        self._generator, self._embedder = generator, embedder

    def generate(self, z: Floats, y: Floats) -> Floats:
        """z [n, L], y [n, groups] -> images [n, 3, S, S]."""
        pairs = zip(z[:, None], y[:, None], strict=True)
        return np.concatenate([self._generator.run({"z": a, "y": b})["image"] for a, b in pairs])

    def embed(self, images: Floats) -> Floats:
        """Images [n, 3, S, S] -> raw embeddings [n, E]."""
        return np.concatenate(
            [self._embedder.run({"image": image})["embedding"] for image in images[:, None]]
        )


class Refiner:
    """Refines faces with a bundle's engines.

    Remembers how long a run of each refine engine takes, so that a deadline can be held from the first step
    on.
    """

    def __init__(
        self, manifest: Manifest, engine: str, precision: str, open_engine: Callable[[str], Engine]
    ) -> None:
        self._manifest, self._engine_name, self._precision = manifest, engine, precision
        self._open = open_engine
        self._run_ms: dict[str, float] = {}

    def defaults(self) -> RefinementOptions:
        """The manifest's."""
        return RefinementOptions.from_manifest(self._manifest.refinement)

    def choose(
        self, steps: int | None, deadline_ms: float | None, allow_unrefined: bool
    ) -> tuple[RefinementOptions, list[str]]:
        """Options for K = `steps`, the manifest's K unless given, and warnings.

        Without a refine engine for this engine and precision: EdgeageError if steps are asked for, unless
        `allow_unrefined`; the manifest's own steps are left out with a warning.
        """
        options = replace(self.defaults(), deadline_ms=deadline_ms)
        if steps is not None:
            options = replace(options, steps=steps)
        if not options.steps or self._has("refine"):
            return options, []
        if steps is not None and not allow_unrefined:
            raise self._lacking(steps)
        return replace(options, steps=0), [
            f"not refined, though {options.steps} steps are {'usual' if steps is None else 'asked for'}: "
            f"the bundle has no {self._flavour()} file for the refine engine"
        ]

    def prepare(self, faces: int, options: RefinementOptions) -> None:
        """Open what `run` needs for so many faces; with a deadline, also time a run if none was timed yet."""
        if not options.steps:
            return
        name = self._name(faces)
        engine = self._open(name)
        self._open("embedder"), self._open("generator")
        if options.deadline_ms is not None and name not in self._run_ms:
            feeds = {port.name: np.zeros(port.shape, np.float32) for port in engine.inputs}
            engine.run(feeds)  # the first run of an engine is slower than all others
            start = time.perf_counter()
            engine.run(feeds)
            self._run_ms[name] = (time.perf_counter() - start) * 1e3

    def run(self, z: Floats, y: Floats, images: Floats, options: RefinementOptions) -> Refined:
        """Refine z [n, L] at conditions y [n, groups] towards images [n, 3, S, S] in [-1, 1].

        Raises EdgeageError if there are steps to do and no refine engine.
        """
        if not options.steps:
            return unrefined(z)
        if not self._has("refine"):
            raise self._lacking(options.steps)
        start = time.perf_counter()
        embedder, generator = self._open("embedder"), self._open("generator")
        check = Forward(generator, embedder)
        target = check.embed(images)
        name = self._name(len(z))
        if options.deadline_ms is not None:
            spent = (time.perf_counter() - start) * 1e3
            options = replace(options, deadline_ms=max(options.deadline_ms - spent, 0.0))
        expected = self._run_ms.get(name)
        refined = refine(self._open(name), z, y, target, images, options, check=check, expected_ms=expected)
        if not refined.evaluations:  # one slow run must not forbid all others: `prepare` times the next anew
            self._run_ms.pop(name, None)
        elif options.deadline_ms is not None:  # else `prepare` has not warmed the engine up
            self._run_ms[name] = refined.evaluation_ms
        return refined

    def report(self, refined: Refined, options: RefinementOptions) -> dict[str, Any]:
        """JSON about a refinement, see `AgedPhoto.refinement`."""
        if not options.steps:
            return {"steps": 0, "note": "K=0: z is the encoder's, not refined", "faces": []}
        note = f"K={options.steps}: {options.method} steps from {options.step:g}, decay {options.decay:g}"
        if options.momentum:
            note += f", momentum {options.momentum:g}"
        if options.deadline_ms is not None:
            note += f", within {options.deadline_ms:g} ms"
        faces = [
            {
                "steps_done": int(refined.steps_done[face]),
                "best_step": int(refined.best_step[face]),
                "cosine_before": _number(refined.cosine_before[face]),
                "cosine_after": _number(refined.cosine_after[face]),
                "flag": flag,
                "milliseconds": round(refined.milliseconds, 3),
            }
            for face, flag in enumerate(refined.flags)
        ]
        return {"steps": options.steps, "note": note, "faces": faces}

    def _has(self, name: str) -> bool:
        entry = self._manifest.engines.get(name)
        return entry is not None and choose_file(name, entry, self._engine_name, self._precision) is not None

    def _name(self, faces: int) -> str:
        """The batch engine is worth its padding from two faces on."""
        return "refine_batch" if faces > 1 and self._has("refine_batch") else "refine"

    def _flavour(self) -> str:
        return f"{ENGINE_FORMATS[self._engine_name]} {self._precision}"

    def _lacking(self, steps: int) -> EdgeageError:
        return EdgeageError(
            f"{steps} refinement steps asked for, but {self._manifest.name} has no {self._flavour()} file "
            "for the refine engine; use --steps 0, --allow-unrefined, another bundle, --engine or --precision"
        )


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
