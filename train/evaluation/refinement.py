"""Refinement measured by the judges: each form of the model at each K, beside L-BFGS and trivial rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from edgeage import __version__
from edgeage.machine import cpu_name
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.descent import NO_STEPS
from edgeage.runtime.refinement import RefinementOptions
from edgeage.train.checkpoint import Checkpoint
from edgeage.train.data import Faces
from edgeage.train.data.listing import Pixels
from edgeage.train.evaluation import aging, metrics, pictures
from edgeage.train.evaluation.evaluate import check_faces, checkpoint_facts, data_facts, impostor_facts
from edgeage.train.evaluation.forms import Form, Way, check_bundle, float_form, loss_of, refined
from edgeage.train.evaluation.judges import FIXED_THRESHOLDS, Judges
from edgeage.train.evaluation.outputs import Model, pixels, tensors
from edgeage.train.evaluation.reconstruction import identity_figures
from edgeage.train.evaluation.refinement_figures import Judged, derive
from edgeage.train.evaluation.rows import Row, summarise
from edgeage.train.evaluation.subject import Subject, draw, spaced
from edgeage.train.latent_optimization import MODES, Face, Mode, RefinementSettings, optimise

SCHEMA = 1
STEPS = (0, 1, 3, 5, 8)
_SHOWN_STEPS = (0, 3, 8)
_SHOWN = 8  # faces in the picture


@dataclass(frozen=True)
class Settings:
    """Which faces, and on how many of them L-BFGS runs; all of it stands in the report.

    Attributes:
        part: "test" (figures to report), "validation" (figures to choose by) or "all".
        faces, per_group: take fewer faces at random, or equally many of each age group.
        references: faces of the L-BFGS references, three runs for each.
    """

    part: str = "test"
    faces: int | None = None
    per_group: int | None = None
    references: int = 60
    seed: int = 0


def evaluate_refinement(
    checkpoint: Checkpoint,
    bundle: Bundle,
    faces: Faces,
    judges: Judges,
    int8: Sequence[Form],
    settings: Settings | None = None,
    *,
    threads: int = 1,
    say: Callable[[str], None] = lambda text: None,
    progress: bool = False,
) -> tuple[dict[str, Any], Image.Image]:
    """Everything that the report holds, as JSON values, and the sheet of faces (of the last of `int8`).

    `int8` are the bundle's forms, see `edgeage.train.evaluation.forms.int8_forms`; `threads` is what they and
    torch run with, for the report.

    Raises EdgeageError for a bundle of another checkpoint or without refine engine, faces of another size or
    groups, an unknown part, or too few faces.
    """
    settings = settings or Settings()
    begun = time.monotonic()
    check_bundle(checkpoint, bundle)
    check_faces(checkpoint, faces)
    told = bundle.manifest.refinement
    options, loss = RefinementOptions.from_manifest(told), loss_of(bundle.manifest)
    model = Model(checkpoint, progress=progress)
    forms = [float_form(model, checkpoint.profile, loss, bundle.preconditioner()), *int8]
    subject, choice = draw(faces, checkpoint, settings, judges, say)
    jury = _Jury(subject, model, judges)
    targets = aging.random_targets(subject.groups, settings.seed)

    rows = [
        Row("reconstruction", name, jury.figures(images, name))
        for name, images in (
            ("return the input", subject.images),
            ("mean face of the group", subject.mean_faces[subject.groups]),
        )
    ]
    ways: dict[str, dict[int, Way]] = {}
    judged: dict[str, dict[int, Judged]] = {}
    agers = aging.trivial_agers(subject)
    for form in forms:
        say(f"{form.name}: up to {max(STEPS)} steps")
        found = refined(form, subject.images, subject.groups, STEPS, options, progress=progress)
        ways[form.name], judged[form.name] = found, {}
        for k, way in found.items():
            name = f"{form.name} K={k}"
            row = _row(name, jury.figures(form.generate(way.latents, subject.groups), name), way)
            rows.append(row)
            judged[form.name][k] = Judged.of(row.per_face, way.milliseconds)
            agers[name] = _ager(form, way)
    say("other ages")
    rows += aging.aged(subject, agers, targets, judges)
    few = spaced(len(subject), settings.references)
    say(f"L-BFGS on {len(few)} faces")
    reference_rows, references, latents = _references(jury, few, loss, progress)
    report = {
        "schema": SCHEMA,
        "edgeage": __version__,
        "checkpoint": checkpoint_facts(checkpoint),
        "bundle": {"name": bundle.manifest.name, "refinement": told, "lineage": bundle.manifest.lineage},
        "forms": {
            form.name: {name: engine.description for name, engine in form.engines.items()} for form in forms
        },
        "machine": {"cpu": cpu_name(), "threads": threads},
        "data": data_facts(faces, choice),
        "settings": {**asdict(settings), "steps": STEPS, "loss": asdict(loss)},
        "judges": judges.describe(),
        "thresholds": FIXED_THRESHOLDS,
        "impostors": impostor_facts(subject),
        "rows": [summarise(row, subject.labels) for row in rows]
        + [summarise(row, subject.at(few).labels) for row in reference_rows],
        "derived": derive(judged, few, references),
        "pictured": forms[-1].name,
        "not_run": [],
        "tag": "",
        "seconds": time.monotonic() - begun,
    }
    device = forms[-1]
    return report, _sheet(subject, few, device, ways[device.name], model, latents["combined"])


class _Jury:
    """The figures of pictures that should be the real faces."""

    def __init__(self, subject: Subject, model: Model, judges: Judges) -> None:
        self.subject, self.model, self.judges = subject, model, judges
        self._own = model.embed(subject.images).numpy()

    def figures(
        self, images: Pixels, what: str, faces: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Figure -> [n] of all faces, or of pictures of some of them."""
        subject, own = self.subject, self._own
        if faces is not None:
            subject, own = subject.at(faces), own[faces]
        embeddings = self.judges.embeddings(images, what)
        return {
            "psnr_db": metrics.psnr(images, subject.images),
            "ssim": metrics.ssim(images, subject.images),
            **identity_figures(subject, embeddings),
            "judge_similarity": metrics.cosines(embeddings, subject.embeddings),
            "recogniser_cosine": metrics.cosines(self.model.embed(images).numpy(), own),
        }


def _row(name: str, figures: dict[str, NDArray[Any]], way: Way) -> Row:
    flags = {flag: way.flags.count(flag) for flag in dict.fromkeys(way.flags) if flag != NO_STEPS}
    return Row(
        "reconstruction",
        name,
        {**figures, "evaluations": way.evaluations, "checks": way.checks},
        {"milliseconds": lambda faces: float(np.median(way.milliseconds[faces]))},
        facts={"ended": flags} if flags else {},
    )


def _ager(form: Form, way: Way) -> aging.Ager:
    return lambda targets: form.generate(way.latents, targets)


def _references(
    jury: _Jury, few: NDArray[np.int64], loss: RefinementSettings, progress: bool
) -> tuple[list[Row], dict[str, Judged], dict[Mode, Tensor]]:
    """L-BFGS of the float networks from E(x), with its time and its evaluations of loss and gradient."""
    subject, model = jury.subject.at(few), jury.model
    start = model.encode(subject.images)
    face = Face.of(tensors(subject.images), model.condition(subject.groups), model.embedder)
    rows, references, latents = [], {}, {}
    for mode in MODES:
        name = f"L-BFGS {mode}"
        latents[mode], milliseconds, evaluations = _optimised(
            model, start, face, mode, loss, name if progress else None
        )
        figures = jury.figures(pixels(model.generate(latents[mode], subject.groups)), name, few)
        rows.append(
            Row(
                "references",
                name,
                {**figures, "evaluations": evaluations},
                {"milliseconds": lambda faces, taken=milliseconds: float(np.median(taken[faces]))},
            )
        )
        references[name] = Judged.of(figures, milliseconds)
    return rows, references, latents


def _optimised(
    model: Model, start: Tensor, face: Face, mode: Mode, loss: RefinementSettings, label: str | None
) -> tuple[Tensor, NDArray[np.float64], NDArray[np.int64]]:
    """Latents [n, L], milliseconds [n] and evaluations [n]; one face after the other, to time each."""
    runs = 0

    def generator(z: Tensor, y: Tensor) -> Tensor:
        nonlocal runs
        runs += 1
        return model.generator(z, y)

    found, milliseconds, evaluations = [], [], []
    for row in tqdm(range(len(start)), desc=label, unit="face", leave=False, disable=label is None):
        one = slice(row, row + 1)
        alone = Face(face.images[one], face.conditions[one], face.target[one])
        begun, runs = time.perf_counter(), 0
        found.append(optimise(generator, model.embedder, start[one], alone, mode, loss))
        milliseconds.append((time.perf_counter() - begun) * 1e3)
        evaluations.append(runs)
    return torch.cat(found), np.array(milliseconds), np.array(evaluations)


def _sheet(
    subject: Subject,
    few: NDArray[np.int64],
    form: Form,
    ways: dict[int, Way],
    model: Model,
    combined: Tensor,
) -> Image.Image:
    """Input, steps of one form and the combined reference, of faces of all groups."""
    shown = pictures.spread(subject.groups[few], _SHOWN)
    rows = few[shown]
    groups = subject.groups[rows]
    columns = {"input": subject.images[rows]}
    kind = form.name.split()[0]  # a whole name is wider than a face
    columns |= {f"{kind} K={k}": form.generate(ways[k].latents[rows], groups) for k in _SHOWN_STEPS}
    columns["combined"] = pixels(model.generate(combined[shown], groups))
    return pictures.grid(columns, [f"{age} years" for age in subject.ages[rows]])
