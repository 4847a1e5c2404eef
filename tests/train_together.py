"""Runs that torchrun starts: `torchrun train_together.py FOLDER` does every job of FOLDER/jobs.json in turn.

Each process writes what came of each job to FOLDER/rank-N.json. What a job may ask for beside options of a
run: "poison" and "signal", both at a step of the last process; "full", a disk without room.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgeage.errors import EdgeageError
from edgeage.train.batches import Sampler
from edgeage.train.distributed import join_processes, leave
from edgeage.train.recipes.schema import load_recipe
from edgeage.train.run import RunOptions, train

LAST = int(os.environ.get("WORLD_SIZE", "1")) - 1


class TeacherDouble(nn.Module):
    """Maps an image to a unit embedding, differentiably, as the teacher does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 192))
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.layers(images), dim=1)

    def embed(self, images: Tensor) -> NDArray[np.float32]:
        embeddings: NDArray[np.float32] = self(images).numpy()
        return embeddings


@contextmanager
def prepared(job: dict[str, Any]) -> Iterator[None]:
    """The teacher's double, and what goes wrong."""
    draw, drawn = Sampler.draw, 0

    def draw_and_fail(self: Sampler, *args: Any, **kwargs: Any) -> Any:
        nonlocal drawn
        drawn += 1
        batch = draw(self, *args, **kwargs)
        if drawn == job.get("signal"):
            signal.raise_signal(signal.SIGTERM)
        if drawn == job.get("poison"):
            batch.images.fill_(float("nan"))
        return batch

    with mock.patch("edgeage.train.inputs.load_teacher", return_value=TeacherDouble()):
        if int(os.environ.get("RANK", "0")) == LAST and ("signal" in job or "poison" in job):
            with mock.patch.object(Sampler, "draw", draw_and_fail):
                yield
        elif "full" in job:
            full = OSError(errno.ENOSPC, "No space left on device")
            with mock.patch("edgeage.train.checkpoint.save_file", side_effect=full):
                yield
        else:
            yield


def run(job: dict[str, Any]) -> str:
    """Do one job; returns its error's class and message, "" if there was none."""
    options = RunOptions(
        out=Path(job["out"]), source="procedural:96", threads=1, progress=False, **job.get("options", {})
    )
    with prepared(job):
        try:
            train(load_recipe(job["recipe"]), options, say=lambda text: None)
        except EdgeageError as error:
            return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    jobs = json.loads((folder / "jobs.json").read_text(encoding="utf-8"))
    with join_processes("cpu"):  # once: torch does not join the same processes a second time
        results = [run(job) for job in jobs]
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(results), encoding="utf-8")
    leave()
