"""edgeage calibrate: how a checkpoint's networks take to INT8, layer by layer, before any engine is built."""

from __future__ import annotations

from pathlib import Path

import click

from edgeage.commands.export import CALIBRATOR_HELP, TARGET_HELP


@click.command(
    epilog="""\b
Examples:
  edgeage calibrate runs/edge --calibration utkface:UTKFace.tar --out calibration
  edgeage calibrate runs/edge --calibration utkface:UTKFace.tar --out mse --calibrator mse --samples 300
  edgeage calibrate runs/smoke --calibration procedural:400 --out strict --target-db 30"""
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--calibration", required=True, metavar="SOURCE", help="Faces; see edgeage export.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Report folder to make.")
@click.option("--samples", type=int, help="Images; unless given, as many (up to 600) as are stable.")
@click.option("--calibrator", default="auto", show_default=True, help=CALIBRATOR_HELP)
@click.option("--target-db", type=float, metavar="DB", help=TARGET_HELP)
@click.option("--seed", default=0, show_default=True, help="Of the pick of the images.")
@click.option("--force", is_flag=True, help="Replace the report if it exists.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
def command(
    checkpoint: Path,
    calibration: str,
    out: Path,
    samples: int | None,
    calibrator: str,
    target_db: float | None,
    seed: int,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Calibrate the networks of CHECKPOINT and report what INT8 costs, layer by layer.

    Writes report.html (pictures inside), report.json and ranges.json. The calibration is the one that
    `edgeage export` makes with the same options.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from edgeage.errors import EdgeageError
    from edgeage.export.calibrated import Options, calibrate_checkpoint
    from edgeage.export.calibration_report import sensitivity, summary_rows, write_report
    from edgeage.export.progress import Clock, Steps
    from edgeage.train.calibration_faces import calibration_faces
    from edgeage.train.checkpoint import load_checkpoint

    if out.exists() and not force:
        raise EdgeageError(f"{out} exists already; choose another --out or pass --force")
    if out.exists() and not (out / "report.json").is_file():
        raise EdgeageError(f"{out} is not a calibration report; choose another --out")
    quiet = quiet or as_json
    trained = load_checkpoint(checkpoint)
    faces = calibration_faces(trained, calibration, progress=not quiet)
    if faces.remark:
        click.echo(faces.remark, err=True)
    clock = Clock()
    with Steps(quiet=quiet) as steps:
        made = calibrate_checkpoint(
            trained,
            faces.images,
            faces.groups,
            fingerprint=faces.fingerprint,
            options=Options(samples, calibrator, target_db, seed, refinement=None),
            held_out=faces.held_out,
            steps=steps,
            clock=clock,
        )
        rows = sensitivity(made, steps)
    write_report(out, made, rows, f"Calibration of {checkpoint.name}", force=force)
    if as_json:
        click.echo((out / "report.json").read_text("utf-8"))
        return
    console = Console()
    summary = summary_rows(made)
    table = Table(title="calibration", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in summary[0]:
        table.add_column(column, no_wrap=column != "calibrator")
    for entry in summary:
        table.add_row(*entry.values())
    console.print(table)
    click.echo("dB: SQNR of the INT8 output, as chosen and with plain min-max; halves: how far ranges of two")
    click.echo(
        "halves of the samples differ; clipped: share of the most clipped tensor; float: nodes in float32"
    )
    for network, layers in rows.items():
        worst = min(layers, key=lambda row: row.alone_db)
        click.echo(
            f"{network}: {worst.layer.name} ({worst.layer.operator}) hurts most, "
            f"{worst.alone_db:.1f} dB when it alone is INT8"
        )
    click.echo(f"everything else is in {out / 'report.html'}")
