"""Metrics as small pure functions. Pictures are uint8 RGB [n, S, S, 3]; a result is one number per face
or, where it says so, one for all."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from edgeage.groups import group_of
from edgeage.train.data.listing import Pixels

Numbers = NDArray[np.float64]
Yes = NDArray[np.bool_]


def psnr(images: Pixels, others: Pixels) -> Numbers:
    """Peak signal-to-noise ratio in dB, [n]; infinite for equal pictures."""
    error = np.square(images.astype(np.float64) - others).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


def ssim(images: Pixels, others: Pixels) -> Numbers:
    """Structural similarity, [n], 1 for equal pictures (Wang et al. 2004: Gaussian window of 11, sigma 1.5).

    The mean over the colour channels and the positions where the window lies inside the picture.
    """
    window, steady = 5, np.square(255 * np.array([0.01, 0.03]))
    result = []
    for a, b in zip(images.astype(np.float64), others.astype(np.float64), strict=True):
        mean_a, mean_b, square_a, square_b, product = (
            gaussian_filter(plane, 1.5, truncate=3.5, axes=(0, 1))[window:-window, window:-window]
            for plane in (a, b, a * a, b * b, a * b)
        )
        covariance = product - mean_a * mean_b
        variances = square_a - mean_a**2 + square_b - mean_b**2
        score = (2 * mean_a * mean_b + steady[0]) * (2 * covariance + steady[1])
        score /= (mean_a**2 + mean_b**2 + steady[0]) * (variances + steady[1])
        result.append(score.mean())
    return np.array(result)


def sharpness(images: Pixels) -> Numbers:
    """Variance of the luma's Laplacian over the centre of the face (12 to 52 of 64 pixels), [n]."""
    side = images.shape[1]
    first, last = round(side * 12 / 64), round(side * 52 / 64)
    luma = images[:, first - 1 : last + 1, first - 1 : last + 1] @ np.array([0.299, 0.587, 0.114])
    middle = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return (around - 4 * middle).var((1, 2))


def distances(embeddings: NDArray[np.floating], others: NDArray[np.floating]) -> Numbers:
    """Euclidean distance row by row, [n]."""
    return np.linalg.norm(embeddings.astype(np.float64) - others, axis=1)


def cosines(embeddings: NDArray[np.floating], others: NDArray[np.floating]) -> Numbers:
    """Cosine similarity row by row, [n]; no row may be all zero."""
    a, b = embeddings.astype(np.float64), others.astype(np.float64)
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def impostor_distances(
    embeddings: NDArray[np.floating],
    identities: NDArray[np.int64] | None = None,
    alike: list[NDArray[np.int64]] | None = None,
) -> Numbers:
    """Distances of all pairs of different faces, without pairs of one known person (identity >= 0).

    Faces of unknown identity count as different persons. `alike`: take only pairs that agree in each of
    these labels.
    """
    first, second = np.triu_indices(len(embeddings), 1)
    keep = np.ones(len(first), bool)
    if identities is not None:
        keep &= (identities[first] != identities[second]) | (identities[first] < 0)
    for labels in alike or []:
        keep &= labels[first] == labels[second]
    return distances(embeddings[first[keep]], embeddings[second[keep]])


def threshold_at(impostors: Numbers, false_match_rate: float) -> float:
    """The largest threshold below which at most this share of the impostors lies.

    NaN if that are fewer than ten of them: too few to tell.
    """
    accepted = math.floor(false_match_rate * len(impostors) + 1e-9)
    if accepted < 10:
        return math.nan
    return float(np.partition(impostors, accepted)[accepted])


def judged_groups(ages: Numbers) -> NDArray[np.int64]:
    """The age group that a judge's age in years falls into, rounded to whole years."""
    return group_of(np.rint(ages).astype(np.int64))


def spearman(values: Numbers, order: NDArray[np.floating] | NDArray[np.integer]) -> float:
    """Spearman's rank correlation of two lists, ties at their mean rank; 0 if either is constant."""
    a, b = rankdata(values), rankdata(order)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / scale) if scale else 0.0


def monotonicity(ages: Numbers) -> Numbers:
    """Spearman of judged age against target group, per face: ages [n, groups] -> [n]."""
    return np.array([spearman(row, np.arange(len(row))) for row in ages])


def harmonic_consistency(same_person: float, age_difference: float) -> float:
    """HCS: harmonic mean of the percentage of kept identities and 100 - 2.5 * mean age difference, 0..100."""
    identity, age = 100 * same_person, max(100 - 2.5 * age_difference, 0.0)
    return 2 * identity * age / (identity + age) if identity + age else 0.0


def kernel_distance(features: NDArray[np.floating], real: NDArray[np.floating]) -> float:
    """Squared maximum mean discrepancy with the kernel (a.b + 1)^3, unbiased (may be below 0); one for all.

    The kernel and the estimator of KID (Binkowski et al. 2018), here on a recogniser's features, scaled so
    that the mean squared norm of the real ones is 1. Row i of both belongs to one face, so these pairs,
    which are not independent, are left out like those of a face with itself. NaN for fewer than two faces.
    """
    if len(real) < 2:
        return math.nan
    scale = math.sqrt(float(np.square(real.astype(np.float64)).sum(1).mean()))
    a, b = features.astype(np.float64) / scale, real.astype(np.float64) / scale

    def kernel(p: Numbers, q: Numbers) -> Numbers:
        return (p @ q.T + 1) ** 3

    def without_itself(square: Numbers) -> float:
        count = len(square)
        return float((square.sum() - np.trace(square)) / (count * (count - 1)))

    return sum(factor * without_itself(kernel(p, q)) for factor, p, q in ((1, a, a), (1, b, b), (-2, a, b)))
