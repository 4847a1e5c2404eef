"""The evaluation from a checkpoint to its report; what judges is handed in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from edgeage import __version__
from edgeage.errors import EdgeageError
from edgeage.files import new_folder, write_json
from edgeage.groups import AGE_GROUPS
from edgeage.train.checkpoint import Checkpoint
from edgeage.train.data import Faces
from edgeage.train.evaluation import aging, pictures
from edgeage.train.evaluation.forms import Form
from edgeage.train.evaluation.judges import FIXED_THRESHOLDS, Judges
from edgeage.train.evaluation.lfw import read_lfw
from edgeage.train.evaluation.outputs import Model
from edgeage.train.evaluation.recogniser import beside_teacher, engine_beside_teacher, on_lfw
from edgeage.train.evaluation.reconstruction import controls, cyclic, paper_table, reconstruction
from edgeage.train.evaluation.report import markdown
from edgeage.train.evaluation.rows import Row, summarise
from edgeage.train.evaluation.subject import Choice, Subject, draw
from edgeage.train.evaluation.synthetic import synthetic_ages
from edgeage.train.latent_optimization import RefinementSettings
from edgeage.train.teacher import Teacher

REPORT = "evaluation.json"
PICTURES = "faces.png"
STEPS = (0, 3, 8)
_SHOWN = 12


@dataclass(frozen=True)
class Settings:
    """How a checkpoint is evaluated; all of it stands in the report.

    Attributes:
        part: "test" (figures to report), "validation" (figures to choose by) or "all".
        faces, per_group: take fewer faces at random, or equally many of each age group.
        synthetic: generated faces for the age judge; 0 leaves the section out.
        strength: of the age difference in delta mode; fix it before looking at figures.
        paper_faces: faces of the paper's table (three L-BFGS runs for each); 0 leaves it out.
    """

    part: str = "test"
    faces: int | None = None
    per_group: int | None = None
    synthetic: int = 10_000
    strength: float = 1.0
    paper_faces: int = 0
    seed: int = 0
    refinement: RefinementSettings = field(default_factory=RefinementSettings)


def evaluate(
    checkpoint: Checkpoint,
    faces: Faces,
    judges: Judges,
    settings: Settings | None = None,
    *,
    lfw: Path | None = None,
    teacher: Teacher | None = None,
    say: Callable[[str], None] = lambda text: None,
    progress: bool = False,
) -> tuple[dict[str, Any], Image.Image]:
    """Everything that the report holds, as JSON values, and the picture grid.

    With an `lfw` archive the checkpoint's recogniser is verified on it; with the `teacher` it was distilled
    from, its gradients and its gain in refinement are set beside the teacher's.

    Raises EdgeageError for faces of another size or groups, an unknown part, or too few faces.
    """
    settings = settings or Settings()
    begun = time.monotonic()
    check_faces(checkpoint, faces)
    if not 0 < settings.strength <= 3:
        raise EdgeageError(f"strength {settings.strength:g} of the age difference must lie in 0..3")
    subject, choice = draw(faces, checkpoint, settings, judges, say)
    model = Model(checkpoint, progress=progress)
    start = model.encode(subject.images)
    say(f"refining up to {max(STEPS)} steps")
    latents = model.refine(subject.images, subject.groups, start, STEPS, settings.refinement)
    targets = aging.random_targets(subject.groups, settings.seed)
    ways = aging.agers(subject, model, latents, settings.strength)

    rows = controls(subject, judges)
    say("reconstruction, and other ages")
    rows += reconstruction(subject, model, latents, judges)
    rows += cyclic(subject, model, latents[0], targets, judges)
    rows += aging.aged(subject, ways, targets, judges)
    few = {name: way for name, way in ways.items() if name != "raw K=3"}
    rows += aging.all_ages(subject, few, judges)
    not_run = []
    extras: dict[str, Any] = {}
    if teacher is None:
        not_run.append("the recogniser beside its teacher (--teacher)")
    else:
        say("the recogniser beside its teacher")
        extras["recogniser"] = beside_teacher(
            subject, model, start, teacher, choice.training, judges, settings.refinement, STEPS
        )
    if lfw is None:
        not_run.append("the recogniser on LFW (--lfw)")
    else:
        say("the recogniser on LFW")
        pairs = read_lfw(lfw, checkpoint.profile, progress=progress)
        extras["lfw"] = on_lfw(pairs, model, judges, teacher)
    if settings.synthetic:
        say(f"ages of {settings.synthetic} synthetic faces")
        rows += synthetic_ages(subject, model, choice.training, settings.synthetic, settings.seed, judges)
        if choice.training is None:
            not_run.append("synthetic faces from a fitted normal: the training faces are not at hand")
    else:
        not_run.append("synthetic faces (--synthetic 0)")
    if settings.paper_faces:
        say(f"the paper's table on {settings.paper_faces} faces")
        rows += paper_table(
            subject, model, judges, settings.paper_faces, settings.refinement, progress=progress
        )
    else:
        not_run.append("the paper's table of reconstructions by L-BFGS (--paper-table)")

    report = {
        "edgeage": __version__,
        "checkpoint": checkpoint_facts(checkpoint),
        "data": data_facts(faces, choice),
        "settings": asdict(settings),
        "judges": judges.describe(),
        "thresholds": FIXED_THRESHOLDS,
        "impostors": impostor_facts(subject),
        "rows": [summarise(row, subject.labels if _of_faces(row, subject) else {}) for row in rows],
        **extras,
        "not_run": not_run,
        "tag": "",
        "seconds": time.monotonic() - begun,
    }
    return report, _picture(subject, model, latents, settings.strength)


def evaluate_recogniser(
    checkpoint: Checkpoint,
    faces: Faces,
    judges: Judges,
    teacher: Teacher,
    settings: Settings | None = None,
    *,
    engine: tuple[Form, RefinementSettings] | None = None,
    say: Callable[[str], None] = lambda text: None,
    progress: bool = False,
) -> dict[str, Any]:
    """The report's "recogniser" alone; with the engines of a bundle, and what its refine engine minimises,
    also the gradient of that engine.

    Raises EdgeageError as `evaluate`.
    """
    settings = settings or Settings()
    check_faces(checkpoint, faces)
    subject, choice = draw(faces, checkpoint, settings, judges, say)
    model = Model(checkpoint, progress=progress)
    start = model.encode(subject.images)
    found = beside_teacher(
        subject, model, start, teacher, choice.training, judges, settings.refinement, STEPS
    )
    if engine is not None:
        found["refine_engine"] = engine_beside_teacher(subject, model, start, teacher, *engine)
    return {
        "checkpoint": checkpoint_facts(checkpoint),
        "data": data_facts(faces, choice),
        "recogniser": found,
    }


def write_report(report: dict[str, Any], picture: Image.Image, out: Path, *, force: bool = False) -> None:
    """evaluation.json, EVALUATION.md and faces.png in a folder that appears whole or not at all."""
    with new_folder(out, replace=force) as folder:
        write_json(folder / REPORT, report)
        (folder / "EVALUATION.md").write_text(markdown(report), encoding="utf-8")
        picture.save(folder / PICTURES)


def check_faces(checkpoint: Checkpoint, faces: Faces) -> None:
    """EdgeageError for faces of another size than the model's, or a model of other age groups."""
    profile = checkpoint.profile
    if faces.image_size != profile.image_size:
        raise EdgeageError(
            f"faces of {faces.image_size} px for a model of {profile.image_size} px; open the data so"
        )
    if profile.groups != AGE_GROUPS:
        raise EdgeageError(
            f"the judges' ages are read in the groups {', '.join(AGE_GROUPS)}; "
            f"this model has {', '.join(profile.groups)}"
        )


def _of_faces(row: Row, subject: Subject) -> bool:
    """Whether the row's figures belong to the real faces one by one (and so to their labels)."""
    return row.section != "synthetic faces" and len(next(iter(row.per_face.values()))) == len(subject)


def data_facts(faces: Faces, choice: Choice) -> dict[str, Any]:
    """JSON: what faces were evaluated."""
    return {
        "source": faces.source,
        "fingerprint": faces.fingerprint,
        "faces": len(choice.faces),
        "groups": choice.faces.group_counts(),
        "split": choice.split,
        "means_from": "the training part" if choice.training else "the evaluated faces themselves",
    }


def impostor_facts(subject: Subject) -> dict[str, float | None]:
    """JSON: how far different persons are apart."""
    return {name: value if np.isfinite(value) else None for name, value in subject.impostors.items()}


def checkpoint_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """JSON: what was evaluated."""
    meta = checkpoint.meta
    parameters = {
        name: sum(tensor.numel() for tensor in network.parameters())
        for name, network in checkpoint.networks.items()
    }
    return {
        "sha256": checkpoint.sha256,
        "profile": checkpoint.profile.name,
        "recipe": meta.get("recipe", {}).get("name", "unknown"),
        "stage": meta.get("stage"),
        "step": meta.get("step"),
        "git": meta.get("git"),
        "parameters": parameters,
    }


def _picture(subject: Subject, model: Model, latents: dict[int, Tensor], strength: float) -> Image.Image:
    """x, reconstructions, raw ages after the most steps, delta ages, of faces of all groups."""
    shown = pictures.spread(subject.groups, _SHOWN)
    few = subject.at(shown)
    some = {k: latent[shown] for k, latent in latents.items()}
    ways = aging.agers(few, model, some, strength)
    *_, raw, delta = ways
    columns = {"x": few.images}
    columns |= {f"K={k}": ways[f"raw K={k}"](few.groups) for k in some}
    for caption, way in (("raw", raw), ("delta", delta)):
        for group, name in enumerate(AGE_GROUPS):
            columns[f"{caption} {name}"] = ways[way](np.full(len(few), group))
    return pictures.grid(columns, [f"{age} years" for age in few.ages])
