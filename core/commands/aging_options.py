"""Options that the verbs which age pictures share."""

from __future__ import annotations

from pathlib import Path

import click

BUNDLE = click.option(
    "--bundle", type=click.Path(path_type=Path), help="NAME.agebundle; the shipped model unless given."
)
STRENGTH = click.option(
    "--strength", type=float, help="0..2 for delta [default: 1.1], 0..1 for raw [default: 1]."
)
ALL_FACES = click.option("--all-faces", is_flag=True, help="Age every face; the largest only unless given.")
THREADS = click.option("--threads", default=1, show_default=True, help="CPU threads of the engines.")
MAX_MEGAPIXELS = click.option(
    "--max-megapixels", default=80.0, show_default=True, help="Larger pictures are refused; at most 178."
)
