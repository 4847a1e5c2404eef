"""The article's other figure: how much worse an age judge does on generated faces than on real ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    "encoded" takes the codes of the evaluated faces, each at up to all groups.
    """
    real = _row("real faces", subject.judged_ages, subject.groups, subject)
    labelled = float(np.abs(subject.judged_ages - subject.ages).mean())
    real = replace(real, facts={"mean_error_to_the_labelled_age": labelled})
    rng = np.random.default_rng((seed, 2))
    sources = {"prior N(0, I)": rng.standard_normal((count, model.latent_size))}
    if training is not None:
        some = rng.permutation(len(training))[:_CODES]
        codes = model.encode(training.images[np.sort(some)]).double().numpy()
        sources["fitted normal"] = rng.multivariate_normal(codes.mean(0), np.cov(codes.T), count)
    own = model.encode(subject.images).numpy()
    copies = min(len(AGE_GROUPS), max(count // len(own), 1))
    sources["encoded"] = np.tile(own, (copies, 1))
    groups = {name: np.arange(count) % len(AGE_GROUPS) for name in sources}
    groups["encoded"] = np.concatenate([subject.groups + k for k in range(copies)]) % len(AGE_GROUPS)

    rows = [real]
    exact = real.pooled["exact_group"](np.arange(len(subject)))
    for name, latent in sources.items():
        ages = _judged(name, torch.from_numpy(latent.astype(np.float32)), groups[name], model, judges)
        row = _row(name, ages, groups[name], subject)
        gap = exact - row.pooled["exact_group"](np.arange(len(ages)))
        facts = {"points_below_real": 100 * gap, "share_below_real": gap / exact if exact else None}
        rows.append(replace(row, facts=facts | {"share_below_real_in_the_article": PAPER_GAP}))
    return rows


def _judged(
    name: str, latent: Tensor, groups: NDArray[np.int64], model: Model, judges: Judges
) -> NDArray[np.float64]:
    ages = []
    for start in range(0, len(latent), _CHUNK):
        part = slice(start, start + _CHUNK)
        ages.append(judges.ages(pixels(model.generate(latent[part], groups[part], name)), name))
    return np.concatenate(ages)


def _row(name: str, judged: NDArray[np.float64], groups: NDArray[np.int64], subject: Subject) -> Row:
    """Accuracy as the mean over age groups, so that the mix of ages in the data does not matter.

    Errors are to the mean age of the group, for real faces too: nobody knows the age of a generated one.
    """
    off = np.abs(metrics.judged_groups(judged) - groups)

    def balanced(values: NDArray[Any]) -> Pooled:
        def mean_of_groups(faces: NDArray[np.int64]) -> float:
            present = np.unique(groups[faces])
            return float(np.mean([values[faces][groups[faces] == group].mean() for group in present]))

        return mean_of_groups

    return Row(
        "synthetic faces",
        name,
        {"judged_age": judged},
        {
            "exact_group": balanced(off == 0),
            "within_one": balanced(off <= 1),
            "absolute_error": balanced(np.abs(judged - subject.mean_ages[groups])),
        },
        {"target group": np.array(AGE_GROUPS)[groups]},
    )
