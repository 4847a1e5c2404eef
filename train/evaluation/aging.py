"""Sections on other ages: a random other group for each face, and all groups for every face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgeage.groups import AGE_GROUPS
from edgeage.train.data.listing import Pixels
from edgeage.train.evaluation import metrics
from edgeage.train.evaluation.judges import Judges
from edgeage.train.evaluation.outputs import Model, add_difference, pixels
from edgeage.train.evaluation.reconstruction import identity_figures, kernel_figure, sharpness_figure
from edgeage.train.evaluation.rows import Pooled, Row
from edgeage.train.evaluation.subject import Subject

# Makes the aged pictures of all faces for target groups [n].
Ager = Callable[[NDArray[np.int64]], Pixels]
YOUNGEST, OLDEST = 0, len(AGE_GROUPS) - 1


def random_targets(groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """For each face one of the other groups, all equally likely."""
    count = len(AGE_GROUPS)
    return (groups + np.random.default_rng((seed, 1)).integers(1, count, len(groups))) % count


def trivial_agers(subject: Subject) -> dict[str, Ager]:
    """Name -> how it ages without a model."""

    def no_model(targets: NDArray[np.int64]) -> Pixels:
        means = subject.mean_faces.astype(np.int64)
        changed = subject.images + means[targets] - means[subject.groups]
        return changed.clip(0, 255).astype(np.uint8)

    return {
        "return the input": lambda targets: subject.images,
        "mean face of the target": lambda targets: subject.mean_faces[targets],
        "no model: input + mean face of target - of source": no_model,
    }


def agers(subject: Subject, model: Model, latents: dict[int, Tensor], strength: float) -> dict[str, Ager]:
    """Name -> how it ages: the trivial ways first, then the model's."""

    def raw(latent: Tensor) -> Ager:
        return lambda targets: pixels(model.generate(latent, targets))

    def delta(targets: NDArray[np.int64]) -> Pixels:
        aged, source = (model.generate(latents[0], groups) for groups in (targets, subject.groups))
        return add_difference(subject.images, aged, source, strength)

    return {
        **trivial_agers(subject),
        **{f"raw K={k}": raw(latent) for k, latent in latents.items()},
        f"delta x{strength:g} K=0": delta,
    }


def aged(subject: Subject, ways: dict[str, Ager], targets: NDArray[np.int64], judges: Judges) -> list[Row]:
    """One other group for each face: is it still the person, is it the age?"""
    gap = np.abs(targets - subject.groups)
    labels = {
        "target group": np.array(AGE_GROUPS)[targets],
        "group distance": gap.astype(np.str_),
    }
    rows = []
    for name, age in ways.items():
        images = age(targets)
        embeddings, ages = judges.embeddings(images, name), judges.ages(images, name)
        off = np.abs(metrics.judged_groups(ages) - targets)
        identity = identity_figures(subject, embeddings)
        difference = np.abs(ages - subject.mean_ages[targets])
        rows.append(
            Row(
                "aged, random target",
                name,
                {**identity, "exact_group": off == 0, "within_one": off <= 1, "age_difference": difference},
                {
                    "hcs": _consistency(identity["same_strict"], difference),
                    "kernel_distance": kernel_figure(subject, embeddings),
                    "sharpness": sharpness_figure(subject, images),
                },
                labels,
            )
        )
    return rows


def all_ages(subject: Subject, ways: dict[str, Ager], judges: Judges) -> list[Row]:
    """Every face at every group: does the judged age follow, how far does it reach, who is at its ends?"""
    groups = np.arange(len(AGE_GROUPS))
    rows = []
    for name, age in ways.items():
        ages, sharpness = [], []
        ends: dict[str, NDArray[Any]] = {}
        for group in groups:
            images = age(np.full(len(subject), group))
            ages.append(judges.ages(images, f"{name} at {AGE_GROUPS[group]}"))
            sharpness.append(metrics.sharpness(images))
            if group in (YOUNGEST, OLDEST):
                embeddings = judges.embeddings(images, f"{name} at {AGE_GROUPS[group]}")
                ends |= identity_figures(subject, embeddings, f"_to_{AGE_GROUPS[group]}")
        rows.append(_follow(subject, name, np.stack(ages, 1), np.stack(sharpness, 1), ends))
    return rows


def _follow(
    subject: Subject,
    name: str,
    ages: NDArray[np.float64],
    sharpness: NDArray[np.float64],
    ends: dict[str, NDArray[Any]],
) -> Row:
    """The row of judged ages [n, groups]."""
    targets = np.arange(ages.shape[1])
    off = np.abs(metrics.judged_groups(ages) - targets)
    reach = ages[:, OLDEST] - ages[:, YOUNGEST]
    return Row(
        "all ages",
        name,
        {
            "age_range": reach,
            "monotonicity": metrics.monotonicity(ages),
            "exact_group": (off == 0).mean(1),
            "within_one": (off <= 1).mean(1),
            "age_difference": np.abs(ages - subject.mean_ages).mean(1),
            **ends,
        },
        {
            "age_range_sd": lambda faces: float(reach[faces].std()),
            "pooled_spearman": lambda faces: metrics.spearman(
                ages[faces].ravel(), np.tile(targets, len(faces))
            ),
            "sharpness": lambda faces: float(sharpness[faces].mean() / subject.sharpness[faces].mean()),
        },
        facts={
            "judged_age_at": dict(zip(AGE_GROUPS, ages.mean(0).tolist(), strict=True)),
            "sharpness_at": dict(
                zip(AGE_GROUPS, (sharpness.mean(0) / subject.sharpness.mean()).tolist(), strict=True)
            ),
        },
    )


def _consistency(same: NDArray[np.bool_], difference: NDArray[np.float64]) -> Pooled:
    return lambda faces: metrics.harmonic_consistency(
        float(same[faces].mean()), float(difference[faces].mean())
    )
