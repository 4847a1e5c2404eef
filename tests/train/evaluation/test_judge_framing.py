"""How aligned faces come into the judges' frames, and what the real judges make of real faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeage.errors import EdgeageError
from edgeage.frames import FRAMES
from edgeage.train.data import open_source
from edgeage.train.evaluation import metrics
from edgeage.train.evaluation.chips import _MEAN_FACE, LANDMARKS, Chipper
from edgeage.train.evaluation.judges import LAX, PublishedJudges


def blob(side: int, centre: np.ndarray, sigma: float) -> torch.Tensor:
    """A bright spot at a place given in fractions of the side."""
    at = (np.arange(side) + 0.5) / side
    spot = np.exp(-((at[None] - centre[0]) ** 2 + (at[:, None] - centre[1]) ** 2) / (2 * sigma**2))
    return torch.from_numpy(spot).float().expand(1, 3, -1, -1)


@pytest.mark.parametrize(("size", "padding"), [(150, 0.25), (64, 0.2)])
@pytest.mark.parametrize("side", [64, 128, 200])
def test_landmarks_come_to_lie_where_dlib_has_them(size: int, padding: float, side: int):
    chipper = Chipper("utkface", size, padding)
    for landmark, wanted in zip(LANDMARKS["utkface"], _MEAN_FACE, strict=True):
        chip = chipper.cut(blob(side, landmark, 0.03))[0, 0].numpy()
        y, x = np.mgrid[:size, :size]
        found = np.array([(chip * x).sum(), (chip * y).sum()]) / chip.sum()
        # the mean landmarks of real faces fit dlib's mean face within 2 % of the chip
        assert found == pytest.approx((padding + wanted) / (2 * padding + 1) * size, abs=0.02 * size)


def test_the_picture_size_hardly_matters():
    spot = [blob(side, np.array([0.45, 0.6]), 0.1) for side in (64, 128, 256)]
    chips = [Chipper("utkface", 64, 0.2).cut(image) for image in spot]
    assert all(torch.allclose(chips[0], chip, atol=0.01) for chip in chips[1:])


def test_large_pictures_are_averaged_not_picked_from():
    noise = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    assert Chipper("utkface", 64, 0.2).cut(noise).std() < 0.3  # 8 x 8 pixels into one


def test_the_frame_agrees_with_the_runtimes_own_landmarks():
    """Two detectors, one frame: the middles of dlib's eye corners are where BlazeFace sees the eyes."""
    ours = LANDMARKS["utkface"]
    eyes = np.array([ours[2:4].mean(0), ours[:2].mean(0)])
    assert eyes == pytest.approx(np.array(FRAMES["utkface"][:2]), abs=0.012)


def test_another_frame_is_refused():
    with pytest.raises(EdgeageError, match="not 'ffhq'"):
        Chipper("ffhq", 150, 0.25)


@pytest.mark.needs_judges
def test_another_frame_is_refused_by_the_judges(judges_dir: Path):
    with pytest.raises(EdgeageError, match="not 'ffhq'"):
        PublishedJudges(judges_dir, "ffhq")


@pytest.mark.needs_faces
@pytest.mark.needs_judges
def test_the_judges_say_of_real_faces_what_was_measured(judges_dir: Path, faces_tar: Path):
    """FINDINGS 5 and 6: mean impostor distance 0.83, mirrored 0.18, MAE of ages 5.7 on the natural mix."""
    faces = open_source(f"utkface:{faces_tar}", 64, limit=400)
    judges = PublishedJudges(judges_dir)
    embeddings = judges.embeddings(faces.images, "")
    impostors = metrics.impostor_distances(embeddings)
    assert impostors.mean() == pytest.approx(0.83, abs=0.02)
    assert 0.01 < (impostors < LAX).mean() < 0.04
    mirrored = judges.embeddings(faces.images[:, :, ::-1], "")
    assert metrics.distances(embeddings, mirrored).mean() == pytest.approx(0.176, abs=0.015)
    ages = judges.ages(faces.images, "")
    assert np.abs(ages - faces.ages).mean() < 7.1
    assert np.corrcoef(ages, faces.ages)[0, 1] > 0.9


@pytest.mark.needs_judges
def test_nothing_in_gives_nothing_out(judges_dir: Path):
    judges = PublishedJudges(judges_dir)
    nobody = np.empty((0, 64, 64, 3), np.uint8)
    assert len(judges.ages(nobody, "")) == len(judges.embeddings(nobody, "")) == 0
