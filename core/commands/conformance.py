"""edgeage conformance: a bundle's golden vectors through every engine and every machine that is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgeage.runtime.bundle import Bundle
    from edgeage.runtime.conformance.record import Record

ENGINES = ("litert", "tflite-runtime", "onnxruntime")


@click.command(
    epilog="""\b
Examples:
  edgeage conformance edge64.agebundle
  edgeage conformance edge64.agebundle --engine litert --record pi5.npz
  edgeage conformance edge64.agebundle --recorded "Pi 5=pi5.npz"

In a checkout, make conformance sets up and compares other machines and languages."""
)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=click.Choice(ENGINES),
    help="Only these of this machine's engines (may be given several times).",
)
@click.option(
    "--places",
    type=click.Path(path_type=Path),
    help="JSON file of other places and their commands (docs/conformance.md).",
)
@click.option(
    "--recorded", multiple=True, metavar="NAME=FILE", help="What --record, or an app, wrote elsewhere."
)
@click.option(
    "--photo", type=click.Path(path_type=Path), help="Also age this photo wherever the whole pipeline is."
)
@click.option("--quick", is_flag=True, help="With --record: one file of each engine, one thread.")
@click.option(
    "--record", "record_to", type=click.Path(path_type=Path), help="Write what --engine gives, and stop."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON document here as well.")
@click.option("--force", is_flag=True, help="Replace --out or --record if it exists.")
@click.option("--quiet", is_flag=True, help="Do not say which place has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def command(
    bundle: Path | None,
    engines: tuple[str, ...],
    places: Path | None,
    recorded: tuple[str, ...],
    photo: Path | None,
    quick: bool,
    record_to: Path | None,
    out: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compare every engine with BUNDLE's golden vectors (the shipped model unless given), code by code.

    Codes must be identical where LiteRT's version is the bundle's; other kernels have a tolerance, and the
    reason is printed. What did not run is listed with the command that enables it. Exit code 1 if something
    that ran missed its rule, 2 for bad input.
    """
    from edgeage.errors import EdgeageError
    from edgeage.files import write_json
    from edgeage.native_output import without_native_info
    from edgeage.runtime.bundle import open_bundle
    from edgeage.runtime.conformance.places import read_places
    from edgeage.runtime.conformance.record import record
    from edgeage.runtime.conformance.report import conform

    for target in (out, record_to):
        if target is not None and target.exists() and not force:
            raise EdgeageError(f"{target} exists already; choose another name or pass --force")
    opened = open_bundle(bundle)
    if quick and record_to is None:
        raise EdgeageError("--quick goes with --record; a comparison here takes two seconds as it is")
    if record_to is not None:
        if len(engines) > 1:
            raise EdgeageError("--record takes one --engine; a record is of one engine")
        with without_native_info():
            made = record(opened, engines[0] if engines else "litert", photo, quick=quick)
        made.save(record_to)
        click.echo(f"{record_to}: {len(made.codes)} outputs of {made.tool} on {made.machine}")
        return
    listed, records = read_places(places), _read(recorded, opened)
    say = (lambda line: None) if quiet or as_json else (lambda line: click.echo(line, err=True))
    with without_native_info():
        outcomes = conform(opened, engines or ENGINES, listed, records, photo, say)
    ok = all(outcome.ok for outcome in outcomes)
    document = {
        "bundle": str(opened.path),
        "golden": opened.manifest.files["golden.npz"],
        "ok": ok,
        "places": [outcome.to_dict() for outcome in outcomes],
    }
    if out is not None:
        write_json(out, document)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        from edgeage.commands.conformance_table import show

        show(opened, outcomes)
    sys.exit(0 if ok else 1)


def _read(recorded: tuple[str, ...], bundle: Bundle) -> dict[str, Record]:
    from edgeage.errors import EdgeageError
    from edgeage.runtime.conformance.record import read_record

    records = {}
    for text in recorded:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise EdgeageError(f'--recorded takes NAME=FILE, got {text!r}; try --recorded "Pi 5=pi5.npz"')
        records[name] = read_record(Path(path), bundle)
    return records
