"""Sections on the own age: controls of the judges, reconstruction, cyclic identity, the paper's table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgeage.train.batches import gaussian_blur
from edgeage.train.data.listing import Pixels
from edgeage.train.evaluation import metrics
from edgeage.train.evaluation.judges import Judges
from edgeage.train.evaluation.outputs import Model, pixels, tensors
from edgeage.train.evaluation.rows import Pooled, Row
from edgeage.train.evaluation.subject import Subject, spaced
from edgeage.train.latent_optimization import MODES, Face, RefinementSettings, optimise

# What the article reports of its reconstructions, judged by another recogniser on other photos.
PAPER = {"initial": 0.532, "pixelwise": 0.598, "identity": 0.829}


def identity_figures(
    subject: Subject, embeddings: NDArray[np.float32], suffix: str = ""
) -> dict[str, NDArray[Any]]:
    """Distance to each real face's embedding, and "same person" at every threshold."""
    distance = metrics.distances(embeddings, subject.embeddings)
    same = {f"same_{name}{suffix}": distance < limit for name, limit in subject.thresholds.items()}
    return {f"judge_distance{suffix}": distance, **same}


def controls(subject: Subject, judges: Judges) -> list[Row]:
    """What the judges make of changes that leave person and age alone: how far they are to be trusted."""
    changed = {"mirrored": subject.images[:, :, ::-1]} | {
        f"blur sigma {sigma}": pixels(gaussian_blur(tensors(subject.images), sigma)) for sigma in (1, 2)
    }
    rows = []
    for name, images in changed.items():
        embeddings = judges.embeddings(images, name)
        rows.append(
            Row(
                "controls",
                name,
                identity_figures(subject, embeddings)
                | {"judged_age_change": judges.ages(images, name) - subject.judged_ages},
                {
                    "kernel_distance": kernel_figure(subject, embeddings),
                    "sharpness": sharpness_figure(subject, images),
                },
            )
        )
    return rows


def reconstruction(subject: Subject, model: Model, latents: dict[int, Tensor], judges: Judges) -> list[Row]:
    """The face itself after K steps, beside "return the input" and the mean face of its group."""
    pictures = {
        "return the input": subject.images,
        "mean face of the group": subject.mean_faces[subject.groups],
    }
    for k, latent in latents.items():
        pictures[f"K={k}"] = pixels(model.generate(latent, subject.groups))
    return [compare("reconstruction", name, images, subject, judges) for name, images in pictures.items()]


def compare(section: str, name: str, images: Pixels, subject: Subject, judges: Judges) -> Row:
    """A row of pictures that should be the real faces."""
    embeddings = judges.embeddings(images, name)
    return Row(
        section,
        name,
        {
            "psnr_db": metrics.psnr(images, subject.images),
            "ssim": metrics.ssim(images, subject.images),
            **identity_figures(subject, embeddings),
        },
        {
            "kernel_distance": kernel_figure(subject, embeddings),
            "sharpness": sharpness_figure(subject, images),
        },
    )


def cyclic(
    subject: Subject, model: Model, latent: Tensor, targets: NDArray[np.int64], judges: Judges
) -> list[Row]:
    """x -> another age -> encoded again -> back to the own age: what of the person survives the way."""
    aged = pixels(model.generate(latent, targets))
    back = pixels(model.generate(model.encode(aged), subject.groups))
    return [compare("cyclic", "aged and back, K=0", back, subject, judges)]


def paper_table(
    subject: Subject,
    model: Model,
    judges: Judges,
    most: int,
    settings: RefinementSettings,
    *,
    progress: bool = False,
) -> list[Row]:
    """Initial latent, then L-BFGS by pixels, by identity and by both, on `most` of the faces."""
    few = subject.at(spaced(len(subject), most))
    latent = model.encode(few.images)
    face = Face.of(tensors(few.images), model.condition(few.groups), model.embedder)
    found = {"initial": latent}
    for mode in MODES:
        label = f"L-BFGS {mode}" if progress else None
        found[mode] = optimise(model.generator, model.embedder, latent, face, mode, settings, progress=label)
    rows = []
    for name, z in found.items():
        row = compare("paper's table", name, pixels(model.generate(z, few.groups)), few, judges)
        rows.append(Row(row.section, name, row.per_face, row.pooled, facts={"paper": PAPER.get(name)}))
    return rows


def kernel_figure(subject: Subject, embeddings: NDArray[np.float32]) -> Pooled:
    return lambda faces: metrics.kernel_distance(embeddings[faces], subject.embeddings[faces])


def sharpness_figure(subject: Subject, images: Pixels) -> Pooled:
    """Ratio of mean sharpness to that of the real faces: a mean of ratios would be ruled by smooth photos."""
    own = metrics.sharpness(images)
    return lambda faces: float(own[faces].mean() / subject.sharpness[faces].mean())
