"""edgeage age: one photo becomes six, and a strip of them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeage.commands.provenance_options import marks_of, provenance_options, show_marks

if TYPE_CHECKING:
    from edgeage.runtime.aged import AgedPhoto
    from edgeage.runtime.provenance.marking import Marking
    from edgeage.runtime.session import Session


@click.command(
    epilog="""\b
Examples:
  edgeage age photo.jpg --out aged
  edgeage age photo.jpg --out aged --groups 60+,50-59 --from 30-39 --strength 1.3
  edgeage age photo.jpg --out aged --steps 5 --deadline-ms 40
  edgeage age photo.jpg --out aged --engine onnxruntime --precision float32 --mode raw --json"""
)
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the pictures.")
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="NAME.agebundle; the shipped model unless given."
)
@click.option(
    "--engine",
    default="litert",
    show_default=True,
    help="litert, tflite-runtime, onnxruntime or tensorrt.",
)
@click.option(
    "--precision",
    default="int8",
    show_default=True,
    help="int8 or float32; of onnxruntime and tensorrt also float16 or int8-float16; of tensorrt also auto.",
)
@click.option(
    "--mode",
    default="delta",
    show_default=True,
    help="delta adds the generated change to the photo; raw pastes the generated face.",
)
@click.option("--groups", metavar="G,G", help="Age groups to make, e.g. 60+,50-59; all unless given.")
@click.option(
    "--from", "source", metavar="G", help="The face's own group (or age); searched for unless given."
)
@click.option("--strength", type=float, help="0..2 for delta [default: 1.1], 0..1 for raw [default: 1].")
@click.option("--all-faces", is_flag=True, help="Age every face; the largest only unless given.")
@click.option(
    "--steps",
    type=int,
    metavar="K",
    help="Steps of latent refinement, 0 for none; the bundle's unless given.",
)
@click.option(
    "--deadline-ms",
    type=float,
    metavar="MS",
    help="Time for the refinement; the best until then is used.",
)
@click.option(
    "--allow-unrefined", is_flag=True, help="Go on without refinement if the bundle has no engine for it."
)
@click.option("--threads", default=1, show_default=True, help="CPU threads of the engines.")
@click.option("--force", is_flag=True, help="Write over pictures that are there already.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@provenance_options
def command(
    photo: Path,
    out: Path,
    bundle: Path | None,
    engine: str,
    precision: str,
    mode: str,
    groups: str | None,
    source: str | None,
    strength: float | None,
    all_faces: bool,
    steps: int | None,
    deadline_ms: float | None,
    allow_unrefined: bool,
    threads: int,
    force: bool,
    as_json: bool,
    marking: Marking | None,
) -> None:
    """Age the face in PHOTO and write one PNG per age group and a strip of them all."""
    from edgeage.groups import parse_group
    from edgeage.native_output import without_native_info
    from edgeage.runtime.photo.write import STRIP, check_output, photo_name, write_photos
    from edgeage.runtime.provenance.marking import Provenance
    from edgeage.runtime.session import load

    session = load(bundle, engine, precision, threads)
    names = session.profile.groups
    chosen = names if groups is None else [names[parse_group(text, names)] for text in groups.split(",")]
    check_output(out, [*map(photo_name, chosen), STRIP], force=force)  # before the work, not after
    if engine == "tensorrt":
        from edgeage.commands.build_engine import prepare_plans

        prepare_plans(session.bundle, precision, quiet=as_json)
    with without_native_info():
        result = session.age(
            photo, chosen, mode, source, strength, all_faces, steps, deadline_ms, allow_unrefined
        )
    start = time.perf_counter()
    original = photo.read_bytes()
    provenance = Provenance.of(session.bundle, result, marking, original) if marking else None
    boxes = [face.box for face in result.faces]
    paths = write_photos(out, result.photo, result.aged, boxes, provenance=provenance, force=force)
    write_ms = (time.perf_counter() - start) * 1e3
    if as_json:
        summary = result.summary()
        summary["timings_ms"]["write"] = round(write_ms, 3)
        bundle_facts = {"path": str(session.bundle.path), "name": session.bundle.manifest.name}
        document = {"bundle": bundle_facts, **summary, "files": [str(path) for path in paths]}
        document["provenance"] = marks_of(provenance)
        click.echo(json.dumps(document, indent=2))
        return
    _show(result, session, write_ms)
    for warning in result.warnings:
        click.echo(f"note: {warning}", err=True)
    click.echo(f"{len(paths) - 1} photos: {out}/age-GROUP.png")
    click.echo(f"strip:    {paths[-1]}")
    show_marks(provenance)


def _show(result: AgedPhoto, session: Session, write_ms: float) -> None:
    from rich.console import Console
    from rich.table import Table

    height, width = result.photo.shape[:2]
    manifest = session.bundle.manifest
    many = f", {len(result.faces)} faces" if len(result.faces) > 1 else ""
    table = Table(title=f"{manifest.name} on a photo of {width}x{height}{many}", title_justify="left")
    table.add_column("stage")
    table.add_column("ms", justify="right")
    table.add_column("what")
    facts = _facts(result)
    for stage, milliseconds in [*result.timings.items(), ("write", write_ms)]:
        table.add_row(stage, f"{milliseconds:.1f}", facts.get(stage, ""))
    total = sum(result.timings.values()) + write_ms
    table.add_row("all", f"{total:.1f}", "", style="bold")
    Console().print(table)


def _facts(result: AgedPhoto) -> dict[str, Any]:
    face, engines = result.faces[0], result.engines
    decided = "as given" if result.source_decided == "given" else "searched: the nearest reconstruction"
    return {
        "load": "opening the engines, once",
        "detect": f"largest face {face.size:.0f} pixels wide, score {face.score:.2f}",
        "align": f"{face.crop.shape[1]}x{face.crop.shape[0]} pixels",
        "encode": engines["encoder"],
        "refine": _refinement(result.refinement),
        "generate": engines["generator_all"],
        "blend": f"{result.mode}, strength {result.strength:g}, own group {result.source_group} ({decided})",
        "write": "PNG",
    }


def _refinement(refinement: dict[str, Any]) -> str:
    """What was asked for, and how near each face came to its own embedding."""
    lines = [refinement["note"]]
    for face in refinement["faces"]:
        before, after = face["cosine_before"], face["cosine_after"]
        cosine = "" if before is None else f", cosine {before:.3f} -> {after:.3f} at step {face['best_step']}"
        lines.append(f"{face['flag']}{cosine}")
    return "\n".join(lines)
