"""edgeage evaluate: measure a checkpoint by judges that its training never saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

PAPER_FACES = 100


@click.command(
    epilog="""\b
Examples:
  edgeage eval-setup
  edgeage evaluate runs/edge --data utkface:UTKFace.tar
  edgeage evaluate runs/edge --data utkface:UTKFace.tar --part validation --tag "after 5000 steps"
  edgeage evaluate runs/edge --data utkface:other-faces.tar --per-group 50 --paper-table"""
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="SOURCE", help="Faces with ages; see edgeage train.")
@click.option(
    "--part",
    default="test",
    show_default=True,
    help="test, validation or all, of the training's data. Other data are used whole.",
)
@click.option("--faces", type=click.IntRange(1), help="At most so many faces, chosen at random.")
@click.option("--per-group", type=click.IntRange(1), help="So many faces of each age group.")
@click.option("--synthetic", default=10_000, show_default=True, help="Generated faces for the age judge.")
@click.option("--strength", type=float, help="Of the age difference; what edgeage age takes unless given.")
@click.option("--paper-table", is_flag=True, help="L-BFGS by pixels, identity and both.")
@click.option("--paper-faces", default=PAPER_FACES, show_default=True, help="Faces of the paper's table.")
@click.option(
    "--lfw", type=click.Path(path_type=Path), help="LFW .tar (lfw/pairs.txt and photos): verification."
)
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="MobileFaceNet.tflite: recogniser beside its teacher."
)
@click.option("--out", type=click.Path(path_type=Path), help="Report folder; RUN/evaluation unless given.")
@click.option("--judges", type=click.Path(path_type=Path), help="Folder of edgeage eval-setup.")
@click.option("--tag", default="", help="A remark that stands in the report.")
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
@click.option("--force", is_flag=True, help="Replace the report if it exists.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
def command(
    run: Path,
    data: str,
    part: str,
    faces: int | None,
    per_group: int | None,
    synthetic: int,
    strength: float | None,
    paper_table: bool,
    paper_faces: int,
    lfw: Path | None,
    teacher: Path | None,
    out: Path | None,
    judges: Path | None,
    tag: str,
    threads: int,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure the checkpoint of RUN: identity, age, sharpness, beside trivial baselines.

    Two judges that training never sees say who it is and how old. The report (evaluation.json,
    EVALUATION.md, faces.png) tells every figure with its interval, and by gender and race label.
    """
    import torch

    from edgeage.errors import EdgeageError
    from edgeage.native_output import without_native_info
    from edgeage.runtime.photo.blend import USUAL_STRENGTHS
    from edgeage.train.checkpoint import load_checkpoint
    from edgeage.train.data import open_source
    from edgeage.train.evaluation.evaluate import Settings, evaluate, write_report
    from edgeage.train.evaluation.judges import PublishedJudges
    from edgeage.train.teacher import Teacher

    out = out or run / "evaluation"
    if out.exists() and not force:
        raise EdgeageError(f"{out} exists already; choose another --out or pass --force")
    quiet = quiet or as_json
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(run)
    judging = PublishedJudges(judges, checkpoint.profile.frame, threads, progress=not quiet)
    size = checkpoint.profile.image_size
    cache = run / "cache" if (run / "cache").is_dir() else None
    listed = open_source(data, size, cache_dir=cache, progress=not quiet)
    settings = Settings(
        part=part,
        faces=faces,
        per_group=per_group,
        synthetic=synthetic,
        strength=USUAL_STRENGTHS["delta"] if strength is None else strength,
        paper_faces=paper_faces if paper_table else 0,
    )
    with without_native_info():
        tutor = None if teacher is None else Teacher(teacher, threads)
    report, picture = evaluate(
        checkpoint,
        listed,
        judging,
        settings,
        lfw=lfw,
        teacher=tutor,
        say=(lambda text: None) if as_json else click.echo,
        progress=not quiet,
    )
    report["tag"] = tag
    write_report(report, picture, out, force=force)
    if as_json:
        click.echo(json.dumps(report))
    else:
        _show(report, out)


def _show(report: dict[str, Any], out: Path) -> None:
    """The headline figures, plain lines that may be copied."""
    from edgeage.train.evaluation.report import headlines

    for line in headlines(report):
        click.echo(line)
    click.echo(f"{report['seconds']:.0f} s; everything else is in {out / 'EVALUATION.md'}")
