"""edgeage tune-refine: how the refinement of a checkpoint should step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeage.train.calibration_faces import CalibrationFaces
    from edgeage.train.checkpoint import Checkpoint
    from edgeage.train.teacher import Teacher

CURVATURE_FACES = 72  # of the training part, for the preconditioner


@click.command(
    epilog="""\b
Examples:
  edgeage tune-refine runs/edge --data utkface:UTKFace.tar --teacher MobileFaceNet.tflite --out refine.json
  edgeage export runs/edge --calibration utkface:UTKFace.tar --refinement refine.json --out mine.agebundle
  edgeage tune-refine runs/edge --data utkface:U.tar --teacher M.tflite --bundle e.agebundle --out r8.json"""
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="SOURCE", help="The training's faces; their validation part.")
@click.option("--teacher", required=True, type=click.Path(path_type=Path), help="MobileFaceNet.tflite.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Search the steps again on the INT8 engines of this bundle, exported from RUN.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
@click.option("--steps", default=3, show_default=True, help="K that is tuned for.")
@click.option("--trials", default=40, show_default=True, help="Ways of stepping that are tried.")
@click.option("--faces", default=64, show_default=True, type=click.IntRange(2), help="Faces, at most.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole JSON document.")
def command(
    run: Path,
    data: str,
    teacher: Path,
    bundle: Path | None,
    out: Path,
    steps: int,
    trials: int,
    faces: int,
    seed: int,
    threads: int,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Tune the latent refinement: method, step, decay, momentum and pixel weight, by random search, and the
    preconditioner of its gradient.

    Ways of stepping are scored by the teacher, which is not in the loss, and by pixels, on the validation
    part of the training's faces. The judges take no part.

    With --bundle, step, decay and momentum are searched on the device's INT8 engines, which point beside the
    exact gradient and like shorter steps; pixel weight and preconditioner are inside them and stay.
    """
    import torch

    from edgeage.errors import EdgeageError
    from edgeage.files import write_json
    from edgeage.train.calibration_faces import calibration_faces
    from edgeage.train.checkpoint import load_checkpoint
    from edgeage.train.evaluation.pictures import spread
    from edgeage.train.teacher import Teacher

    if out.exists() and not force:
        raise EdgeageError(f"{out} exists already; choose another name or pass --force")
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(run)
    quiet = quiet or as_json
    found = calibration_faces(checkpoint, data, progress=not quiet)
    if found.held_out is None:
        raise EdgeageError(
            f"{data} is not what {run} was trained on, so it has no validation part; give that"
        )
    rows = spread(found.held_out[1], faces)
    images, groups = found.held_out[0][rows], found.held_out[1][rows]
    tutor = Teacher(teacher, threads)
    if bundle is None:
        report = _in_float(checkpoint, found, images, groups, tutor, (steps, trials, seed), quiet)
    else:
        report = _on_device(checkpoint, bundle, images, groups, tutor, (steps, trials, seed), quiet, threads)
    write_json(out, {"checkpoint": checkpoint.sha256, **report})
    if as_json:
        click.echo(json.dumps(report))
        return
    click.echo(f"{'':26}teacher  pixels (mse)  score")
    for name, figures in report["rows"].items():
        click.echo(f"{name:26}{figures['teacher_cosine']:7.4f}{figures['mse']:14.5f}{figures['score']:7.4f}")
    chosen = report["settings"]
    click.echo(f"chosen of {trials}: " + ", ".join(f"{key} {value}" for key, value in chosen.items()))
    click.echo(f"{out}: edgeage export --refinement {out} puts it into a bundle")


def _in_float(
    checkpoint: Checkpoint,
    found: CalibrationFaces,
    images: NDArray[np.uint8],
    groups: NDArray[np.int64],
    teacher: Teacher,
    search: tuple[int, int, int],
    quiet: bool,
) -> dict[str, Any]:
    """Everything, on the checkpoint's networks."""
    from edgeage.train.curvature import curvature
    from edgeage.train.evaluation.outputs import Model, tensors
    from edgeage.train.evaluation.pictures import spread
    from edgeage.train.latent_optimization import Face
    from edgeage.train.refinement_tuning import Bench, tune

    model = Model(checkpoint)
    some = spread(found.groups, CURVATURE_FACES)
    curved = curvature(
        model.generator,
        model.embedder,
        model.encode(found.images[some]),
        model.condition(found.groups[some]),
        progress=not quiet,
    )
    face = Face.of(tensors(images), model.condition(groups), model.embedder)
    bench = Bench(model.generator, model.embedder, teacher, model.encode(images), face, curved)
    return tune(bench, *search, progress=not quiet)


def _on_device(
    checkpoint: Checkpoint,
    path: Path,
    images: NDArray[np.uint8],
    groups: NDArray[np.int64],
    teacher: Teacher,
    search: tuple[int, int, int],
    quiet: bool,
    threads: int,
) -> dict[str, Any]:
    """The steps alone, on a bundle's INT8 engines."""
    from edgeage.native_output import without_native_info
    from edgeage.runtime.bundle import open_bundle
    from edgeage.train.device_tuning import tune_on_device
    from edgeage.train.evaluation.forms import DEVICE, check_bundle, int8_form

    bundle = open_bundle(path)
    check_bundle(checkpoint, bundle)
    with without_native_info():
        form = int8_form(bundle, DEVICE, threads)
    return tune_on_device(form, bundle, teacher, images, groups, *search, progress=not quiet)
