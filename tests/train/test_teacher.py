"""The teacher: refused files, and its torch form against the file in LiteRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeage.errors import EdgeageError
from edgeage.train.teacher import INPUT_SIZE, Teacher, placement


def test_the_frame_lies_where_the_eyes_do():
    """The middle of the 64 px frame in the teacher's frame, from the affine in pixels."""
    middle = placement() @ np.array([0.5, 0.5, 1])
    expected = np.array([1.386 * 31.5 + 0.009 * 31.5 + 12.212, -0.009 * 31.5 + 1.386 * 31.5 + 24.579]) + 0.5
    assert np.allclose(middle * INPUT_SIZE, expected)


def test_an_absent_and_a_wrong_file_are_refused(tmp_path: Path):
    with pytest.raises(EdgeageError, match="npm pack"):
        Teacher(tmp_path / "none.tflite")
    other = tmp_path / "other.tflite"
    other.write_bytes(b"TFL3 something else")
    with pytest.raises(EdgeageError, match="not the published teacher"):
        Teacher(other)


@pytest.mark.needs_teacher
def test_torch_and_the_file_say_the_same(teacher_file: Path):
    teacher = Teacher(teacher_file)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    by_torch = teacher(images)
    # float32 through 50 layers, other summation order: 1e-6 measured on unit embeddings
    assert np.abs(by_torch.numpy() - teacher.embed(images)).max() < 2e-5


@pytest.mark.needs_teacher
def test_the_teacher_has_a_gradient(teacher_file: Path):
    teacher = Teacher(teacher_file)
    image = torch.zeros(1, 3, 64, 64, requires_grad=True)
    teacher(image)[0, 0].backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0
