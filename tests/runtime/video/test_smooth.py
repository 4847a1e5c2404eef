"""Filters and tracks: less jitter, hardly any lag."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeage.runtime.photo.detect import Detector, Face
from edgeage.runtime.photo.resample import resample
from edgeage.runtime.video.smooth import Mean, OneEuro
from edgeage.runtime.video.track import _CUTOFF, _SPEED, Track, Tracker

SECONDS = 1 / 25


def filtered(values: np.ndarray) -> np.ndarray:
    smooth = OneEuro(_CUTOFF, _SPEED)
    return np.array([smooth(value, SECONDS) for value in values])


def test_a_still_face_loses_most_of_its_jitter() -> None:
    noisy = 5 + np.random.default_rng(0).normal(0, 0.0025, (200, 8, 2))  # face widths, as measured
    assert filtered(noisy)[25:].std(axis=0).mean() < 0.6 * noisy.std(axis=0).mean()


def test_a_moving_face_is_not_left_behind() -> None:
    """One face width in a second: less than a hundredth of a width of lag."""
    random = np.random.default_rng(1)
    path = np.arange(100)[:, None, None] * SECONDS * np.ones((1, 8, 2))
    out = filtered(path + random.normal(0, 0.005, path.shape))
    assert abs((out - path)[25:].mean()) < 0.01
    slow = np.zeros_like(path)
    assert filtered(slow).tolist() == slow.tolist()


@given(st.floats(-100, 100), st.floats(0.001, 2))
def test_a_constant_stays(value: float, seconds: float) -> None:
    euro, mean = OneEuro(1.0, 1.0), Mean(0.3)
    for _ in range(5):
        assert euro(np.array([value]), seconds)[0] == pytest.approx(value)
        assert mean(np.array([value], np.float32), seconds)[0] == np.float32(value)


def test_the_mean_forgets_by_its_time_constant() -> None:
    mean = Mean(0.3)
    mean(np.zeros(1, np.float32), SECONDS)
    for _ in range(round(0.3 / 0.01)):
        value = mean(np.ones(1, np.float32), 0.01)
    assert value[0] == pytest.approx(1 - np.exp(-1), abs=0.01)


def moved(portrait: np.ndarray, x: float) -> np.ndarray:
    noise = np.random.default_rng(int(x * 1000)).normal(0, 8, (400, 512, 3))
    shown = resample(portrait, np.array([[1.0, 0, -x], [0, 1, 0]]), (512, 400)).astype(float)
    return np.clip(shown + noise, 0, 255).astype(np.uint8)


def test_tracks_follow_a_face_more_steadily_than_the_detector(portrait: np.ndarray) -> None:
    detector = Detector()
    tracker, raw, smooth = Tracker(detector, all_faces=False), [], []
    before: list[Face] = []
    for frame in range(24):
        x = 0.01 * frame if frame < 16 else 4.0 * (frame - 16)
        pixels = moved(portrait, x)
        before = detector.follow(pixels, before) if before else detector.find(pixels)
        (track,) = tracker.update(pixels, SECONDS)
        raw.append(before[0].keypoints[:4] - [x, 0])
        smooth.append(track.face.keypoints[:4] - [x, 0])
        assert track.weight == 1
    jitter = [np.abs(np.diff(np.array(points)[6:16], axis=0)).mean() for points in (raw, smooth)]
    assert jitter[1] < 0.5 * jitter[0]
    lag = np.array(smooth)[20:].mean(axis=0) - np.array(raw)[20:].mean(axis=0)
    assert np.abs(lag).max() < 1.5  # of a face 100 pixels wide that moves by 4 a frame


def test_a_face_that_goes_fades_out_and_one_that_comes_fades_in(portrait: np.ndarray) -> None:
    tracker, empty = Tracker(Detector(), all_faces=False), np.zeros_like(portrait)
    (track,) = tracker.update(portrait, SECONDS)
    assert track.weight == 1
    weights = []
    while tracks := tracker.update(empty, SECONDS):
        weights.append(tracks[0].weight)
    assert weights == sorted(weights, reverse=True)
    assert 4 <= len(weights) <= 7  # a quarter of a second
    assert track.face.size > 0
    for _ in range(40):
        if tracks := tracker.update(portrait, SECONDS):
            break
    assert 0 < tracks[0].weight < 0.5
    assert tracker.update(portrait, 1.0)[0].weight == 1


def test_all_faces_are_followed(couple: np.ndarray) -> None:
    tracker = Tracker(Detector(), all_faces=True)
    assert len(tracker.update(couple, SECONDS)) == 2
    first = [track.face.box for track in tracker.update(couple, SECONDS)]
    assert len(first) == 2
    assert len(tracker.update(couple, 2.0)) == 2  # searched again: no face twice


def test_a_track_keeps_its_shape() -> None:
    keypoints = np.array([[0.0, 0], [40, 0], [20, 25], [20, 45], [-20, 10], [60, 10]])
    track = Track(Face((-30, -30, 70, 70), keypoints, 0.9))
    for step in range(1, 30):
        shift = np.array([step * 5.0, step * -3.0])
        track.update(
            Face((-30 + shift[0], -30 + shift[1], 70 + shift[0], 70 + shift[1]), keypoints + shift, 0.9),
            SECONDS,
        )
        np.testing.assert_allclose(
            track.face.keypoints - track.face.keypoints[0], keypoints - keypoints[0], atol=1e-6
        )
