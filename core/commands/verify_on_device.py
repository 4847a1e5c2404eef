"""edgeage verify-on-device: does a bundle do on this device what it says, and how fast."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

FIGURES, PAGE = "verify-on-device.json", "verify-on-device.html"


@click.command(
    epilog="""\b
Examples:
  edgeage verify-on-device edge64.agebundle --out report
  edgeage verify-on-device edge64.agebundle --precision int8 --rounds 1000
  edgeage verify-on-device edge64.agebundle --engine litert --precision int8 --json"""
)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--engine",
    default="tensorrt",
    show_default=True,
    help="tensorrt, litert, tflite-runtime or onnxruntime.",
)
@click.option(
    "--precision", help="int8, float16 or float32; of tensorrt also auto. [default: auto, int8 elsewhere]"
)
@click.option(
    "--rounds", default=400, show_default=True, type=click.IntRange(1), help="Timed runs per engine."
)
@click.option("--threads", default=1, show_default=True, help="CPU threads; TensorRT has none.")
@click.option("--rebuild", is_flag=True, help="Build the plans again even if the cache has them.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of plans, see edgeage build-engine.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the report, JSON and HTML.")
@click.option("--force", is_flag=True, help="Replace --out if it exists.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON document instead of tables.")
def command(
    bundle: Path | None,
    engine: str,
    precision: str | None,
    rounds: int,
    threads: int,
    rebuild: bool,
    cache: Path | None,
    out: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run BUNDLE's golden vectors (the shipped model's unless given) in an engine of this device.

    Compares within stated tolerances, measures latency and, where there is a sensor, power; of TensorRT also
    builds the plans, says how many layers are INT8, and tries the plan cache. The report names no path of
    yours: attach it to an issue. Exit code 1 if something does not hold, 2 for bad input.
    """
    from edgeage.commands.build_engine import build_progress
    from edgeage.errors import EdgeageError
    from edgeage.native_output import without_native_info
    from edgeage.runtime.bundle import open_bundle
    from edgeage.runtime.engines import AUTO, check_engine_name, check_precision
    from edgeage.runtime.on_device.verify import verify_on_device

    if out is not None and out.exists() and not force:
        raise EdgeageError(f"{out} exists already; choose another --out or pass --force")
    if out is not None and out.exists() and not (out / FIGURES).is_file():
        raise EdgeageError(f"{out} was not written by edgeage verify-on-device; it will not be replaced")
    precision = precision or (AUTO if check_engine_name(engine) == "tensorrt" else "int8")
    check_precision(precision, engine)
    opened = open_bundle(bundle)
    device: Any = None
    with build_progress(quiet or as_json) as progress:
        if engine == "tensorrt":
            from edgeage.runtime.engines.tensorrt.cache import PlanCache
            from edgeage.runtime.engines.tensorrt.prepare import Workshop
            from edgeage.runtime.on_device.plans import OnDevice

            device = OnDevice(Workshop(PlanCache(cache)), force=rebuild, rounds=rounds, progress=progress)
        with without_native_info():
            document, pictures = verify_on_device(
                opened, engine, precision, threads=threads, rounds=rounds, device=device, progress=progress
            )
    if out is not None:
        _write(out, document, pictures, force=force)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(document)
        if out is not None:
            click.echo(f"report: {out / PAGE} and {out / FIGURES}")
    sys.exit(1 if document["faults"] else 0)


def _write(out: Path, document: dict[str, Any], pictures: dict[str, Any], *, force: bool) -> None:
    from edgeage.files import new_folder, write_bytes, write_json
    from edgeage.runtime.on_device.report import report_html

    with new_folder(out, replace=force) as folder:
        write_json(folder / FIGURES, document)
        write_bytes(folder / PAGE, report_html(document, pictures).encode())


def _show(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{document['bundle']} in {document['engine']}, {document['precision']}"
    table = Table("engine", "golden vectors", "INT8", title=title, title_justify="left")
    for column in ("p50 ms", "p90 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for name, facts in document["engines"].items():
        golden = "\n".join(
            f"{one['port']} {one['measure']} {one['value']:.4g} {'<=' if one['at_most'] else '>='} "
            f"{one['limit']:g}{'' if one['ok'] else ' FAILED'}"
            for one in facts["golden"]
        )
        coverage = facts.get("coverage", {})
        int8 = (
            f"{coverage['int8_matrix_layers']}/{coverage['matrix_layers']}" if "layers" in coverage else "-"
        )
        figures = facts["latency"]["percentiles"].values()
        table.add_row(name, golden, int8, *(_milliseconds(one) for one in figures))
    Console().print(table)
    whole = document["whole_face"]
    if "percentiles" in whole:
        click.echo(f"whole face on the device: p50 {_milliseconds(whole['percentiles']['p50'])} ms")
    for part in ("cache", "power", "whole_face"):
        if "not run" in document[part]:
            click.echo(f"not run: {part.replace('_', ' ')}: {document[part]['not run']}")
    for rail, load in document["power"].get("load", {}).items():
        click.echo(f"{rail}: {load['mean_w']:.2f} W under load, {load['max_w']:.2f} W at most")
    for fault in document["faults"]:
        click.echo(f"FAILED {fault}")
    if not document["faults"]:
        click.echo("everything holds")


def _milliseconds(one: dict[str, Any]) -> str:
    return "not estimable" if one["value"] is None else f"{one['value']:.3f}"
