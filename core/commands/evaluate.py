"""edgeage evaluate: measure a checkpoint by judges that its training never saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PAPER_FACES, REFERENCE_FACES = 100, 60
SYNTHETIC = 10_000


@click.command(
    epilog="""\b
Examples:
  edgeage eval-setup
  edgeage evaluate runs/edge --data utkface:UTKFace.tar
  edgeage evaluate runs/edge --data utkface:UTKFace.tar --part validation --tag "after 5000 steps"
  edgeage evaluate runs/edge --data utkface:other-faces.tar --per-group 50 --paper-table
  edgeage evaluate runs/edge --data utkface:UTKFace.tar --refinement --bundle edge.agebundle --record
  edgeage evaluate runs/edge --data utkface:UTKFace.tar --recogniser --teacher MobileFaceNet.tflite"""
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
@click.option("--synthetic", default=SYNTHETIC, show_default=True, help="Generated faces for the age judge.")
@click.option("--strength", type=float, help="Of the age difference; what edgeage age takes unless given.")
@click.option("--paper-table", is_flag=True, help="L-BFGS by pixels, identity and both.")
@click.option(
    "--paper-faces",
    type=click.IntRange(1),
    help=f"Faces of L-BFGS; {PAPER_FACES} unless given, in --refinement {REFERENCE_FACES}.",
)
@click.option("--refinement", is_flag=True, help="Only refinement, float and INT8; needs --bundle.")
@click.option("--recogniser", is_flag=True, help="Only the recogniser beside its teacher; needs --teacher.")
@click.option("--bundle", type=click.Path(path_type=Path), help="The .agebundle that was exported from RUN.")
@click.option("--record", is_flag=True, help="With --refinement: put the judge's figures into the bundle.")
@click.option(
    "--lfw", type=click.Path(path_type=Path), help="LFW .tar (lfw/pairs.txt and photos): verification."
)
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="MobileFaceNet.tflite: recogniser beside its teacher."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Report folder; RUN/evaluation (or RUN/refinement) unless given.",
)
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
    paper_faces: int | None,
    refinement: bool,
    recogniser: bool,
    bundle: Path | None,
    record: bool,
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

    With --refinement the report is on latent refinement instead: K steps by the float networks and by the
    INT8 engines of --bundle, beside L-BFGS; --record keeps the judge's figures for each K in the bundle's
    manifest, where edgeage bench looks for them. With --recogniser no report is written, only printed.
    """
    import torch

    from edgeage.errors import EdgeageError
    from edgeage.native_output import without_native_info
    from edgeage.runtime.bundle import open_bundle
    from edgeage.runtime.photo.blend import USUAL_STRENGTHS
    from edgeage.train.checkpoint import load_checkpoint
    from edgeage.train.data import open_source
    from edgeage.train.evaluation import evaluate as evaluation
    from edgeage.train.evaluation import forms, refinement_record, refinement_report
    from edgeage.train.evaluation import refinement as refining
    from edgeage.train.evaluation.judges import PublishedJudges
    from edgeage.train.evaluation.report import headlines
    from edgeage.train.teacher import Teacher

    _check_switches(refinement, recogniser, bundle, teacher, paper_table or lfw is not None)
    if record and not refinement:
        raise EdgeageError("--record is for --refinement; give both, or leave it out")
    if refinement and not (synthetic == SYNTHETIC and strength is None):
        raise EdgeageError("--synthetic and --strength are no part of --refinement; leave them out")
    out = out or run / ("refinement" if refinement else "evaluation")
    if out.exists() and not force and not recogniser:
        raise EdgeageError(f"{out} exists already; choose another --out or pass --force")
    quiet = quiet or as_json
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(run)
    opened = None if bundle is None else open_bundle(bundle)
    if opened is not None:
        forms.check_bundle(checkpoint, opened)
        if record:
            refinement_record.check_recordable(opened)
    judging = PublishedJudges(judges, checkpoint.profile.frame, threads, progress=not quiet)
    with without_native_info():
        tutor = None if teacher is None else Teacher(teacher, threads)
        engines, lacking = forms.int8_forms(opened, threads) if opened and refinement else ([], [])
        device = forms.int8_form(opened, forms.DEVICE, threads) if opened and recogniser else None
    size = checkpoint.profile.image_size
    cache = run / "cache" if (run / "cache").is_dir() else None
    listed = open_source(data, size, cache_dir=cache, progress=not quiet)
    say: Callable[[str], None] = (lambda text: None) if as_json else click.echo
    if refinement and opened:
        chosen = refining.Settings(part, faces, per_group, paper_faces or REFERENCE_FACES)
        report, picture = refining.evaluate_refinement(
            checkpoint, opened, listed, judging, engines, chosen, threads=threads, say=say, progress=not quiet
        )
        report["tag"] = tag
        report["not_run"] += lacking
        refinement_report.write_report(report, picture, out, force=force)
        if record:
            refinement_record.record(report, opened)
        lines = [*refinement_report.headlines(report), _last(report, out / refinement_report.TEXT)]
        _show(report, lines, as_json)
        return
    settings = evaluation.Settings(
        part=part,
        faces=faces,
        per_group=per_group,
        synthetic=synthetic,
        strength=USUAL_STRENGTHS["delta"] if strength is None else strength,
        paper_faces=(paper_faces or PAPER_FACES) if paper_table else 0,
    )
    if recogniser and tutor:
        engine = (device, forms.loss_of(opened.manifest)) if opened and device else None
        report = evaluation.evaluate_recogniser(
            checkpoint, listed, judging, tutor, settings, engine=engine, say=say, progress=not quiet
        )
        _show(report, headlines(report), as_json)
        return
    report, picture = evaluation.evaluate(
        checkpoint, listed, judging, settings, lfw=lfw, teacher=tutor, say=say, progress=not quiet
    )
    report["tag"] = tag
    evaluation.write_report(report, picture, out, force=force)
    _show(report, [*headlines(report), _last(report, out / "EVALUATION.md")], as_json)


def _check_switches(
    refinement: bool, recogniser: bool, bundle: Path | None, teacher: Path | None, others: bool
) -> None:
    """EdgeageError for switches that lack what they need, or would be left out silently."""
    from edgeage.errors import EdgeageError

    if refinement and recogniser:
        raise EdgeageError("--refinement and --recogniser are two reports; ask for one at a time")
    if refinement and bundle is None:
        raise EdgeageError("--refinement needs --bundle NAME.agebundle, exported from this run")
    if recogniser and teacher is None:
        raise EdgeageError("--recogniser needs --teacher MobileFaceNet.tflite")
    if bundle is not None and not (refinement or recogniser):
        raise EdgeageError("--bundle is for --refinement and --recogniser; give one of them")
    if (refinement or recogniser) and others:
        raise EdgeageError(
            "--paper-table and --lfw are no part of --refinement or --recogniser; leave them out"
        )
    if refinement and teacher is not None:
        raise EdgeageError("--teacher is no part of --refinement; leave it out, or ask for --recogniser")


def _show(report: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """The headline figures, plain lines that may be copied, or the whole as one JSON document."""
    for line in [json.dumps(report)] if as_json else lines:
        click.echo(line)


def _last(report: dict[str, Any], text: Path) -> str:
    return f"{report['seconds']:.0f} s; everything else is in {text}"
