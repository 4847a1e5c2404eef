"""Cut a face out of a photo the way it lies in the training images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.photo.detect import Face
from edgeage.runtime.photo.resample import Matrix, resample

ALIGNED_BY = 4  # the first keypoints of a face: both eyes, nose tip, mouth centre

# Frames (`edgeage.frames`, and with them every bundle's manifest) were measured with single looks of
# BlazeFace, which sees faces 1 % of the crop's side too far left; the detector now takes the mean with
# mirrored looks. This is its mean keypoints minus the frame's, on 1,198 UTKFace crops. Clients that look once
# need no such shift.
_SINCE_MEASURED = np.array([(0.0069, 0.0036), (0.0034, 0.0002), (0.0121, -0.0017), (0.0125, 0.0006)])


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> Matrix:
    """The rotation, scale and shift that takes points [n, 2] nearest to `target` in the least squares.

    No reflection. Source: Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns", 1991.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    covariance = (target - target_mean).T @ centred / len(source)
    u, singular, vt = np.linalg.svd(covariance)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    scale = (singular * signs).sum() / centred.var(axis=0).sum()
    linear = scale * (u * signs) @ vt
    return np.column_stack([linear, target_mean - linear @ source_mean])


def photo_to_crop(face: Face, frame: Sequence[tuple[float, float]], size: int) -> Matrix:
    """The matrix from photo coordinates to those of the aligned crop of `size` pixels.

    `frame`: where the first `ALIGNED_BY` keypoints belong, in fractions of the crop's side.
    """
    return similarity(face.keypoints[:ALIGNED_BY], (np.asarray(frame) + _SINCE_MEASURED) * size)


def align(photo: NDArray[np.uint8], crop_to_photo: Matrix, size: int) -> NDArray[np.uint8]:
    """The aligned crop, uint8 [size, size, 3]; beyond the photo its border is repeated."""
    return resample(photo, crop_to_photo, (size, size), oversampling=2)
