"""What `edgeage verify` shows: a table per engine, what the judges say, and a sheet of faces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgeage.export.bundle_check import Findings
    from edgeage.export.face_parity import Pixels
    from edgeage.runtime.bundle import Bundle

_ERROR_GAIN = 8  # of the error map: 16 levels are half of white
_SHOWN = 6  # faces on the sheet


def show(bundle: Bundle, found: Findings, origin: str) -> None:
    """Print everything that was found."""
    from rich.console import Console

    console = Console()
    console.print(f"[bold]{bundle.manifest.name}[/bold]  {bundle.path}", highlight=False)
    count = len(bundle.manifest.files)
    console.print(f"all {count} files have their sha256; faces: {origin}", highlight=False)
    exact = "must be exact" if found.same_kernels else "other tools or processor: exact only within the gates"
    console.print(f"stored INT8 codes: {exact}", highlight=False)
    for link, problem in found.lineage.items():
        click.echo(f"  {link}: {problem or 'ok'}")
    for engine in bundle.manifest.engines:
        console.print(_engine_table(engine, found))
    click.echo("SQNR, PSNR in dB; LSB, mean: difference in output codes; whole: float to INT8")
    if found.figures:
        console.print(_faces_table(found.figures))
        click.echo(
            "all age groups, max in 8-bit levels; cosine: of the face to the input, by the judge, and the\n"
            "drop that the link costs; age shift: later less former in years, and its mean size; (input):\n"
            "the input returned, which no model made"
        )
        if "other_person" in found.figures:
            click.echo(f"cosine of two different inputs: {found.figures['other_person']:.4f}")
        if "baseline" in found.figures:
            console.print(_groups_table(found.figures))
    for what, reason in found.reasons().items():
        click.echo(f"not run: {what}: {reason}")
    for fault in found.faults:
        click.echo(f"FAILED {fault}")
    if not found.faults:
        click.echo("every gate holds")


def _table(title: str, first: str, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _engine_table(engine: str, found: Findings) -> Any:
    table = _table(engine, "link", "on", "SQNR", "PSNR", "cosine", "LSB", "mean", "")
    for part, chain in found.chains.items():
        for port, links in chain.get(engine, {}).items():
            for link, one in links.items():
                where = f"{engine}.{port} on {part}"
                bad = any((fault.where, fault.link) == (where, link) for fault in found.faults)
                whole = " (whole)" if link == "onnx -> int8" else ""
                table.add_row(
                    link + whole,
                    part,
                    _decibel(one.sqnr_db),
                    _decibel(one.psnr_db),
                    f"{one.cosine:.4f}",
                    _number(one.lsb_max, ".0f"),
                    _number(one.lsb_mean, ".3f"),
                    "FAILED" if bad else "ok",
                )
    for link in found.links_not_run.get(engine, {}):
        table.add_row(link, "", *["-"] * 5, "not run")
    return table


def _faces_table(figures: dict[str, Any]) -> Any:
    title = f"whole faces, encoder to generator ({figures['count']})"
    table = _table(title, "link", "PSNR", "max", "cosine", "drop", "age shift", "size")
    for link, one in figures["links"].items():
        table.add_row(link, _decibel(one["psnr_db"]), f"{one['level_max']:.0f}", *_judged(one))
    for link, one in figures.get("baseline", {}).items():
        if link == "onnx -> int8":
            table.add_row("onnx -> (input)", "-", "-", *_judged(one))
    return table


def _groups_table(figures: dict[str, Any]) -> Any:
    table = _table("float to INT8 by age group", "group", "cosine", "drop", "age shift", "size")
    for group, one in figures["links"].get("onnx -> int8", {}).get("groups", {}).items():
        table.add_row(group, *_judged(one))
    return table


def _judged(one: dict[str, Any]) -> tuple[str, ...]:
    if "cosine_drop" not in one:
        return ("-",) * 4
    shift = f"{one['age_shift']:+.2f}"
    if "age_shift_error" in one:
        shift += f" ± {one['age_shift_error']:.2f}"
    return f"{one['cosine']:.4f}", f"{one['cosine_drop']:+.4f}", shift, f"{one['age_shift_abs']:.2f}"


def _decibel(value: float | None) -> str:
    return "equal" if value == 200 else _number(value, ".1f")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def contact_sheet(faces: Pixels, made: dict[str, Pixels], groups: Sequence[str]) -> Image:
    """A few faces, each at another age group: input, float, Q/DQ, INT8, and the error of INT8 times 8."""
    import numpy as np

    from edgeage.train.evaluation.pictures import grid

    rows = [(i * max(len(faces) // _SHOWN, 1) % len(faces), i % len(groups)) for i in range(_SHOWN)]
    captions = {"onnx": "float", "qdq": "Q/DQ", "int8": "INT8"}
    columns = {"input": np.stack([faces[face] for face, _ in rows])}
    for name, caption in captions.items():
        if name in made:
            columns[caption] = np.stack([made[name][face, group] for face, group in rows])
    if {"float", "INT8"} <= set(columns):
        error = np.abs(columns["INT8"].astype(np.int32) - columns["float"]) * _ERROR_GAIN
        columns[f"error x{_ERROR_GAIN}"] = np.clip(error, 0, 255).astype(np.uint8)
    return grid(columns, [groups[group] for _, group in rows])
