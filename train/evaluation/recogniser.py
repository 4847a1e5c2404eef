"""What the recogniser of the engines is worth: on LFW, and as a stand-in for its teacher in refinement."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeage.train.data import Faces
from edgeage.train.data.listing import Pixels
from edgeage.train.evaluation.forms import Form
from edgeage.train.evaluation.judges import Judges
from edgeage.train.evaluation.lfw import Pairs, verification
from edgeage.train.evaluation.metrics import distances
from edgeage.train.evaluation.outputs import Model, pixels, tensors
from edgeage.train.evaluation.pictures import spread
from edgeage.train.evaluation.subject import Subject, spaced
from edgeage.train.latent_optimization import (
    Embedder,
    Face,
    Generator,
    Mode,
    RefinementSettings,
    losses,
    refine,
)
from edgeage.train.teacher import Teacher

_FACES = 60  # the teacher's gradients are slow
_FITTED = 1500
_BATCH = 32


def gradient_agreement(
    generator: Generator, a: Embedder, b: Embedder, z: Tensor, y: Tensor, images: Tensor
) -> Tensor:
    """Cosine between the gradients by z of a's and of b's identity loss 1 - cos(e(G(z, y)), e(x)), [n].

    What refining with b instead of a is worth follows it closely; the cosine of embeddings does not.
    """
    of_a, of_b = (
        _gradient(generator, embedder, z, Face.of(images, y, embedder), RefinementSettings(), "identity")
        for embedder in (a, b)
    )
    return F.cosine_similarity(of_a, of_b, dim=1)


def engine_beside_teacher(
    subject: Subject,
    model: Model,
    latent: Tensor,
    teacher: Teacher,
    form: Form,
    settings: RefinementSettings,
) -> dict[str, Any]:
    """Cosine of a refine engine's gradient to the teacher's, and to that of the float networks it is made of.

    All three are of the loss of `settings`, pixels and all, at the same latents; the target is the form's own
    embedding of the face, as on the device.
    """
    rows = spread(subject.groups, _FACES)
    few, z = subject.at(rows), latent[torch.from_numpy(rows)]
    images, conditions = tensors(few.images), model.condition(few.groups)
    feeds = {"z": z, "y": conditions, "target": torch.from_numpy(form.embed(few.images)), "image": images}
    engine = torch.cat(
        [
            torch.from_numpy(
                form.engines["refine"].run({k: v[i : i + 1].numpy() for k, v in feeds.items()})["gradient"]
            )
            for i in range(len(few))
        ]
    )
    floats: dict[str, Tensor] = {}
    for name, embedder in (("recogniser", model.embedder), ("teacher", teacher)):
        parts = [
            _gradient(
                model.generator,
                embedder,
                z[part],
                Face.of(images[part], conditions[part], embedder),
                settings,
                "combined",
            )
            for part in _parts(len(few))
        ]
        floats[name] = torch.cat(parts)

    def agreement(a: Tensor, b: Tensor) -> float:
        return float(F.cosine_similarity(a, b, dim=1).mean())

    return {
        "form": form.name,
        "faces": len(few),
        "engine_to_teacher": agreement(engine, floats["teacher"]),
        "float_to_teacher": agreement(floats["recogniser"], floats["teacher"]),
        "engine_to_float": agreement(engine, floats["recogniser"]),
    }


def on_lfw(pairs: Pairs, model: Model, judges: Judges, teacher: Teacher | None) -> dict[str, Any]:
    """Verification by the recogniser, its teacher and the judge, all on the same small faces."""
    faces = tensors(pairs.images)
    report = {
        "photos": len(pairs.images),
        "faces_not_found": pairs.missed,
        "pairs": len(pairs.same),
        "folds": len(np.unique(pairs.fold)),
        "recogniser": verification(pairs, _embed(model.embedder, faces), cosine=True),
        "judge": verification(pairs, judges.embeddings(pairs.images, "LFW"), cosine=False),
    }
    if teacher is not None:
        report["teacher"] = verification(pairs, teacher.embed(faces), cosine=True)
    return report


def beside_teacher(
    subject: Subject,
    model: Model,
    latent: Tensor,
    teacher: Teacher,
    training: Faces | None,
    judges: Judges,
    settings: RefinementSettings,
    steps: tuple[int, ...],
) -> dict[str, Any]:
    """Agreement with the teacher on unseen faces, and the share of its gain in refinement."""
    rows = spread(subject.groups, _FACES)
    few, z = subject.at(rows), latent[torch.from_numpy(rows)]
    faces, conditions = tensors(few.images), model.condition(few.groups)
    agreement = [
        gradient_agreement(model.generator, model.embedder, teacher, z[part], conditions[part], faces[part])
        for part in _parts(len(few))
    ]
    found: dict[str, Any] = {"faces": len(few), "gradient_cosine": float(torch.cat(agreement).mean())}
    if training is not None:
        some = spaced(len(training), _FITTED)
        found["embedding_cosine"] = teacher_cosine(model, teacher, subject.images, training.images[some])
    distance: dict[str, dict[int, float]] = {}
    for name, embedder in (("recogniser", model.embedder), ("teacher", teacher)):
        refined = [
            refine(
                model.generator,
                embedder,
                z[part],
                Face.of(faces[part], conditions[part], embedder),
                steps,
                settings,
            )
            for part in _parts(len(few))
        ]
        distance[name] = {}
        for k in steps:
            images = pixels(model.generate(torch.cat([part[k] for part in refined]), few.groups))
            embeddings = judges.embeddings(images, f"refined by the {name}, K={k}")
            distance[name][k] = float(distances(embeddings, few.embeddings).mean())
    start = distance["teacher"][0]
    found["judge_distance"] = {name: {f"K={k}": v for k, v in by.items()} for name, by in distance.items()}
    found["share_of_gain"] = {
        f"K={k}": (start - distance["recogniser"][k]) / (start - distance["teacher"][k])
        for k in steps
        if k and distance["teacher"][k] < start
    }
    return found


def teacher_cosine(model: Model, teacher: Teacher, unseen: Pixels, training: Pixels) -> float:
    """Mean cosine between the recogniser's and the teacher's embeddings of unseen faces.

    The recogniser has the teacher's directions in a basis of its own: the rotation that lays one on the
    other (orthogonal Procrustes) is found on training faces.
    """
    own, theirs = (
        [F.normalize(torch.from_numpy(embed(tensors(images))), dim=1) for images in (training, unseen)]
        for embed in (lambda faces: _embed(model.embedder, faces), teacher.embed)
    )
    u, _, v = torch.linalg.svd(theirs[0].T @ own[0], full_matrices=False)
    return float(F.cosine_similarity(theirs[1] @ (u @ v), own[1], dim=1).mean())


def _gradient(
    generator: Generator, embedder: Embedder, z: Tensor, face: Face, settings: RefinementSettings, mode: Mode
) -> Tensor:
    latent = z.detach().requires_grad_()
    loss = losses(generator, embedder, latent, face, settings, mode)[0]
    return torch.autograd.grad(loss.sum(), latent)[0]


@torch.no_grad()
def _embed(embedder: Embedder, faces: Tensor) -> Any:
    return torch.cat([embedder(faces[part]) for part in _parts(len(faces))]).numpy()


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]
