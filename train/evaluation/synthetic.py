"""The article's other figure: how much worse an age judge does on generated faces than on real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeage.groups import AGE_GROUPS
from edgeage.train.data import Faces
from edgeage.train.evaluation import metrics
from edgeage.train.evaluation.judges import Judges
from edgeage.train.evaluation.outputs import Model, pixels
from edgeage.train.evaluation.rows import Pooled, Row
from edgeage.train.evaluation.subject import Subject

PAPER_GAP = 0.17
_CHUNK = 2000
_CODES = 4000  # training faces whose codes the fitted normal describes


def synthetic_ages(
    subject: Subject, model: Model, training: Faces | None, count: int, seed: int, judges: Judges
) -> list[Row]:
    """Real faces, then `count` faces from each source of latents, every group equally often.

    "prior" is z ~ N(0, I), the article's form. "fitted normal" draws from a normal with the mean and
    covariance of the training faces' codes, which is what a model without a prior loss can be sampled from.
    "encoded" takes the codes of the evaluated faces, each at every group.
    """
    rows = [_row("real faces", subject.judged_ages, subject.ages.astype(float), subject.groups)]
    rng = np.random.default_rng((seed, 2))
    sources = {"prior N(0, I)": rng.standard_normal((count, model.latent_size))}
    if training is not None:
        some = rng.permutation(len(training))[:_CODES]
        codes = model.encode(training.images[np.sort(some)]).double().numpy()
        sources["fitted normal"] = rng.multivariate_normal(codes.mean(0), np.cov(codes.T), count)
    groups = np.arange(count) % len(AGE_GROUPS)
    for name, latent in sources.items():
        rows.append(_judged(name, latent, groups, subject, model, judges))
    codes = model.encode(subject.images).numpy()
    copies = min(len(AGE_GROUPS), max(count // len(codes), 1))
    every = np.concatenate([np.roll(np.arange(len(AGE_GROUPS)), -k)[subject.groups] for k in range(copies)])
    rows.append(_judged("encoded", np.tile(codes, (copies, 1)), every, subject, model, judges))
    return rows


def _judged(
    name: str,
    latent: NDArray[np.floating],
    groups: NDArray[np.int64],
    subject: Subject,
    model: Model,
    judges: Judges,
) -> Row:
    z = torch.from_numpy(latent.astype(np.float32))
    ages = []
    for start in range(0, len(z), _CHUNK):
        part = slice(start, start + _CHUNK)
        ages.append(judges.ages(pixels(model.generate(z[part], groups[part], name)), name))
    return _row(name, np.concatenate(ages), subject.mean_ages[groups], groups)


def _row(name: str, judged: NDArray[np.float64], ages: NDArray[np.float64], groups: NDArray[np.int64]) -> Row:
    """Accuracy as the mean over age groups, so that the mix of ages in the data does not matter."""
    off = np.abs(metrics.judged_groups(judged) - groups)
    error = np.abs(judged - ages)

    def balanced(values: NDArray[Any]) -> Pooled:
        def mean_of_groups(faces: NDArray[np.int64]) -> float:
            present = np.unique(groups[faces])
            return float(np.mean([values[faces][groups[faces] == group].mean() for group in present]))

        return mean_of_groups

    return Row(
        "synthetic faces",
        name,
        {"mean_absolute_error": error},
        {
            "exact_group": balanced(off == 0),
            "within_one": balanced(off <= 1),
            "balanced_absolute_error": balanced(error),
        },
        {"target group": np.array(AGE_GROUPS)[groups]},
    )
