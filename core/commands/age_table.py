"""How `edgeage age` shows what it did to one photo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from edgeage.commands.provenance_options import show_marks

if TYPE_CHECKING:
    from edgeage.runtime.aged import AgedPhoto
    from edgeage.runtime.job import Done
    from edgeage.runtime.session import Session


def show(done: Done, session: Session) -> None:
    """The time of each stage, warnings, and where the pictures are."""
    result, folder = done.result, done.files[-1].parent
    height, width = result.photo.shape[:2]
    many = f", {len(result.faces)} faces" if len(result.faces) > 1 else ""
    title = f"{session.bundle.manifest.name} on a photo of {width}x{height}{many}"
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    table.add_column("ms", justify="right")
    table.add_column("what")
    facts = _facts(result)
    timings = {**result.timings, "write": done.write_ms}
    for stage, milliseconds in timings.items():
        table.add_row(stage, f"{milliseconds:.1f}", facts.get(stage, ""))
    table.add_row("all", f"{sum(timings.values()):.1f}", "", style="bold")
    Console().print(table)
    for warning in result.warnings:
        click.echo(f"note: {warning}", err=True)
    click.echo(f"{len(result.aged)} photos: {folder}/age-GROUP.png")
    for file in done.files[len(result.aged) :]:
        kind = "page" if file.suffix == ".html" else file.stem
        click.echo(f"{kind + ':':9} {file}")
    show_marks(done.provenance)


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
