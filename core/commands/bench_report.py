"""edgeage bench report: one table over many files of results, and one page to look at."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  edgeage bench report bench-results
  edgeage bench report bench-results/edge64-20260101T120000Z.json --html result.html
  edgeage bench report devices --html devices.html --csv devices.csv"""
)
@click.argument("place", type=click.Path(path_type=Path), metavar="DIR|FILE")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page; no network needed."
)
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the table.")
@click.option("--budget-ms", default=33.0, show_default=True, help="That K refinement steps are to fit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
def command(
    place: Path, html: Path | None, csv_file: Path | None, budget_ms: float, as_json: bool, force: bool
) -> None:
    """Show results of one device or many, read from DIR (with its subfolders) or FILE."""
    from edgeage.errors import EdgeageError
    from edgeage.runtime.bench.report import read_folder, rows, write_page, write_table

    for file in (html, csv_file):
        if file is not None and file.exists() and not force:
            raise EdgeageError(f"{file} exists already; choose another name or pass --force")
    runs, left_out = read_folder(place)
    table = rows(runs)
    if html is not None:
        write_page(html, runs, left_out, budget_ms)
    if csv_file is not None:
        write_table(csv_file, table)
    if as_json:
        click.echo(json.dumps({"rows": table, "left out": left_out}, indent=2))
        return
    from edgeage.commands.bench_compare_tables import show_rows, show_steps

    show_rows(table, left_out)
    for run in runs.values():
        show_steps(run, budget_ms)
    for file in (html, csv_file):
        if file is not None:
            click.echo(f"written: {file}")
