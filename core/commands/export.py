"""edgeage export: a checkpoint becomes a bundle of INT8 engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgeage.export.pipeline import Report

# Where what an engine tells apart comes near the INT8 error (dB).
_FAINT = 10.0


CALIBRATOR_HELP = (
    "minmax, percentile-99.999, percentile-99.99, percentile-99.9, mse, entropy, or auto: "
    "the one with the least error of the INT8 output, for each network."
)
TARGET_HELP = "Output SQNR that each INT8 network must reach; layers in the way stay float32."


@click.command(
    epilog="""\b
Examples:
  edgeage export runs/edge --calibration utkface:UTKFace.tar --out edge64.agebundle
  edgeage export runs/edge --calibration utkface:UTKFace.tar --out e.agebundle --evaluation judged
  edgeage export runs/smoke --calibration procedural:400 --out smoke.agebundle --name smoke"""
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--calibration",
    required=True,
    metavar="SOURCE",
    help="Faces to calibrate and check with: utkface:FOLDER|TAR, imdb-wiki:FILE.mat, csv:FILE.csv "
    "or procedural:COUNT.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder NAME.agebundle to make.")
@click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    help="Report folder of edgeage evaluate on this checkpoint, for the model card.",
)
@click.option(
    "--judges",
    type=click.Path(path_type=Path),
    help="Folder of edgeage eval-setup: the manifest then says what each form costs in likeness and age.",
)
@click.option(
    "--refinement", type=click.Path(path_type=Path), help="Settings that edgeage tune-refine wrote."
)
@click.option("--no-refine", is_flag=True, help="Make no refine engine: a third of the size, and K = 0.")
@click.option(
    "--no-float16", is_flag=True, help="Leave out the float16 graphs for TensorRT: two thirds of the size."
)
@click.option(
    "--samples", type=int, help="Calibration images; unless given, as many (up to 600) as are stable."
)
@click.option("--calibrator", default="auto", show_default=True, help=CALIBRATOR_HELP)
@click.option("--target-db", type=float, metavar="DB", help=TARGET_HELP)
@click.option("--seed", default=0, show_default=True, help="Of the pick of the images.")
@click.option("--name", help="Name of the model; that of the folder unless given.")
@click.option("--force", is_flag=True, help="Replace the bundle if it exists.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def command(
    checkpoint: Path,
    calibration: str,
    out: Path,
    evaluation: Path | None,
    judges: Path | None,
    refinement: Path | None,
    no_refine: bool,
    no_float16: bool,
    samples: int | None,
    calibrator: str,
    target_db: float | None,
    seed: int,
    name: str | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Turn a checkpoint into a bundle of INT8 engines.

    The networks are written as ONNX, calibrated on balanced images, written as INT8 TFLite and Q/DQ ONNX
    from the same scales (and in float16, for TensorRT), and compared with each other. If a comparison
    fails, no bundle is written.
    """
    from edgeage.export.bundle import check_target
    from edgeage.export.calibrated import Options
    from edgeage.export.model_card import read_evaluation
    from edgeage.export.pipeline import export_bundle
    from edgeage.export.refine.calibrate import RefinementSettings, read_settings
    from edgeage.train.calibration_faces import calibration_faces
    from edgeage.train.checkpoint import load_checkpoint

    check_target(out, force=force)
    trained = load_checkpoint(checkpoint)
    judged = None if evaluation is None else read_evaluation(evaluation, trained.sha256)
    settings = RefinementSettings() if refinement is None else read_settings(refinement, trained.sha256)
    judging = None
    if judges is not None:
        from edgeage.train.evaluation.judges import PublishedJudges

        judging = PublishedJudges(judges, trained.profile.frame)
    quiet = quiet or as_json
    faces = calibration_faces(trained, calibration, progress=not quiet)
    if faces.remark:
        click.echo(faces.remark, err=True)
    report = export_bundle(
        trained,
        faces.images,
        faces.groups,
        out,
        name=name or out.stem,
        source=faces.source,
        fingerprint=faces.fingerprint,
        options=Options(
            samples, calibrator, target_db, seed, None if no_refine else settings, half=not no_float16
        ),
        force=force,
        quiet=quiet,
        held_out=faces.held_out,
        evaluation=judged,
        judges=judging,
    )
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        _print(report)


def _print(report: Report) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report.path} in {sum(report.seconds.values()):.0f} s", box=box.SIMPLE)
    for column in ("engine", "file", "MB", "LSB", "mean", "SQNR", "varying"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("engine", "file") else "right")
    for engine, entry in report.manifest.engines.items():
        quality = report.manifest.quality[engine]
        for file in entry.files:
            measured = ["-"] * 4
            if file.format == "tflite":
                lsb = quality["lsb_max"] if file.io == "int8" else quality["float_io_lsb_max"]
                mean = f"{quality['lsb_mean']:.3f}" if file.io == "int8" else "-"
                decibels = (f"{quality[key]:.1f}" for key in ("sqnr_db", "sqnr_varying_db"))
                measured = [f"{lsb:.0f}", mean, *decibels]
                if engine.startswith("refine"):  # a gradient is held by its direction, never by codes
                    measured = ["-", "-", "-", f"cos {quality['cosine']:.2f}"]
            flavour = Path(file.file).name.removeprefix(f"{engine}.").replace("int8-float-io", "float-io")
            table.add_row(engine, flavour, f"{report.sizes[file.file] / 1e6:.2f}", *measured)
    Console().print(table)
    click.echo(
        "LSB, mean: difference in output codes to the Q/DQ twin (float I/O: to the file with int8 I/O)"
    )
    click.echo("SQNR: output against INT8 error in dB; varying: of what differs between inputs")
    click.echo("cos: mean cosine between the INT8 gradient and the float one, on the way of refinement")
    if "refine" not in report.manifest.engines:
        click.echo(f"warning: {report.manifest.refinement['note']}", err=True)
    whole = report.manifest.quality["end_to_end"]
    click.echo(
        f"reconstruction of {whole['count']:.0f} faces ({report.manifest.data['validation']}): "
        f"PSNR float {whole['psnr_float_db']:.2f} dB, INT8 {whole['psnr_int8_db']:.2f} dB, "
        f"mean face of the group {whole['psnr_mean_face_db']:.2f} dB"
    )
    for engine in report.manifest.engines:
        quality = report.manifest.quality[engine]
        if quality["sqnr_varying_db"] < _FAINT and not engine.startswith("refine"):
            click.echo(
                f"warning: the {engine} says nearly the same of every input, and INT8 leaves "
                f"{quality['sqnr_varying_db']:.0f} dB of the difference; is it trained?",
                err=True,
            )
