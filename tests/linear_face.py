"""A face that is linear in its latent, so that gradient and cosine are known; a check, and a clock to pay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeage.runtime.engines.ports import check_feeds
from edgeage.runtime.manifest import Port
from edgeage.runtime.refinement import Refined

LATENT, GROUPS, EMBEDDING, SIDE = 24, 3, 16, 4
PIXELS = 3 * SIDE * SIDE
RNG = np.random.default_rng(11)
FACE = (RNG.normal(size=(LATENT, PIXELS)) * 0.1).astype(np.float32)
LIGHT = (RNG.normal(size=(GROUPS, PIXELS)) * 0.05).astype(np.float32)
LOOK = RNG.normal(size=(PIXELS, EMBEDDING)).astype(np.float32)
Spoil = Callable[[int, dict[str, np.ndarray]], None]


class Clock:
    """Seconds that pass only when something is paid for."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def image_of(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Row by row: products of matrices round differently in other batches."""
    rows = [a @ FACE + b @ LIGHT for a, b in zip(z, y, strict=True)]
    return np.array(rows, np.float32).reshape(-1, 3, SIDE, SIDE)


def embedding_of(image: np.ndarray) -> np.ndarray:
    return np.array([row.ravel() @ LOOK for row in image], np.float32).reshape(-1, EMBEDDING)


class Linear:
    """G and the embedder are matrices; `spoil(run, outputs)` changes what a run gives."""

    description = "linear"

    def __init__(
        self, batch: int = 1, spoil: Spoil | None = None, clock: Clock | None = None, ms: float = 0
    ) -> None:
        shapes = {"z": (LATENT,), "y": (GROUPS,), "target": (EMBEDDING,), "image": (3, SIDE, SIDE)}
        self.inputs = tuple(Port(name, (batch, *shape)) for name, shape in shapes.items())
        self.outputs = (Port("gradient", (batch, LATENT)), Port("embedding", (batch, EMBEDDING)))
        self.runs, self.spoil, self.clock, self.ms = 0, spoil, clock, ms

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        check_feeds(feeds, self.inputs)
        embedding = embedding_of(image_of(feeds["z"], feeds["y"]))
        back = [LOOK @ row for row in embedding - feeds["target"]]
        outputs = {"gradient": np.array([FACE @ row for row in back]), "embedding": embedding}
        if self.spoil:
            self.spoil(self.runs, outputs)
        self.runs += 1
        if self.clock:
            self.clock.now += self.ms / 1e3
        return outputs


class Checker:
    """The forward pass; remembers latents and can cost time or give other images."""

    def __init__(self, clock: Clock | None = None, ms: float = 0) -> None:
        self.latents: list[np.ndarray] = []
        self.embedded = 0
        self.clock, self.ms = clock, ms
        self.image_of = image_of

    def generate(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        self.latents += list(z)
        if self.clock:
            self.clock.now += self.ms * len(z) / 1e3
        self._seen = image_of(z, y)
        return self.image_of(z, y)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Of what it was last asked for: other images are for the pixel error alone."""
        self.embedded += len(images)
        return embedding_of(self._seen)


def faces(count: int = 1, seed: int = 0, off: float = 0.5) -> dict[str, np.ndarray]:
    """Faces whose latents are `off` by so much per dimension."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(count, LATENT)).astype(np.float32)
    y = np.eye(GROUPS, dtype=np.float32)[rng.integers(0, GROUPS, count)]
    image = image_of(true, y)
    wrong = (true + off * rng.normal(size=true.shape)).astype(np.float32)
    return {"z": wrong, "y": y, "target": embedding_of(image), "image": image}


def cosine_of(z: np.ndarray, given: dict[str, np.ndarray]) -> np.ndarray:
    a, b = embedding_of(image_of(z, given["y"])).astype(float), given["target"].astype(float)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def at(run: int, change: Callable[[dict[str, np.ndarray]], None]) -> Spoil:
    return lambda number, outputs: change(outputs) if number == run else None


def same(one: Refined, other: Refined) -> bool:
    return one.flags == other.flags and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name != "z")
        for name in ("z", "steps_done", "best_step", "cosine_before", "cosine_after")
    )


def set_to(name: str, value: float | np.ndarray, row: int = 0) -> Callable[[dict[str, np.ndarray]], None]:
    def change(outputs: dict[str, np.ndarray]) -> None:
        outputs[name][row] = value

    return change
