"""The judges where they are, and a judge that is none for everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeage.errors import EdgeageError
from edgeage.train.evaluation.judge_files import FILES, judges_folder, require


@pytest.fixture(scope="session")
def judges_dir() -> Path:
    """The folder of the two judges; the test is skipped, and says why, where they are absent."""
    folder = judges_folder()
    try:
        for file in FILES:
            require(file, folder)
    except EdgeageError as error:
        pytest.skip(f"SKIPPED FOR LACK OF JUDGES: {error}")
    return folder


class FakeJudges:
    """A TEST DOUBLE: mean colours of a 4 x 4 grid for who it is, brightness for age. It judges nothing."""

    def embeddings(self, images: np.ndarray, what: str) -> np.ndarray:
        cells = images.shape[1] // 4
        blocks = images.reshape(len(images), 4, cells, 4, cells, 3).mean((2, 4)) / 255
        return blocks.reshape(len(images), -1).astype(np.float32)

    def ages(self, images: np.ndarray, what: str) -> np.ndarray:
        return images.mean((1, 2, 3)) / 255 * 80

    def describe(self) -> dict[str, str]:
        return {"test double": "0" * 64}


@pytest.fixture(scope="session")
def fake_judges() -> FakeJudges:
    return FakeJudges()
