"""MODEL_CARD.md: what the model is for, what it was made from, and what was measured on its engines."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from edgeage.runtime.manifest import Manifest

# What the owners of the data sources ask for, by kind of source ("utkface:..." -> "utkface").
DATA_TERMS = {
    "utkface": "UTKFace: non-commercial research only; the photos' rights stay with their owners",
    "imdb-wiki": "IMDB-WIKI: academic research only; the photos' rights stay with their owners",
    "procedural": "procedural faces, drawn by edgeage: no terms of others",
    "csv": "images of the model's maker: ask them for the terms",
}


def data_terms(source: str) -> str:
    """Terms that come with data from `source`, "kind:where" or just the kind."""
    kind = source.partition(":")[0]
    return DATA_TERMS.get(kind, f"terms of the data source {kind or 'unknown'} were not recorded")


def render(manifest: Manifest, operators: Mapping[str, Mapping[str, int]]) -> str:
    """The card as Markdown.

    Args:
        operators: names and counts in each engine's INT8 TFLite file.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["figure"] = figure
    text = resources.files("edgeage.export").joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(manifest=manifest, operators=operators)


def figure(value: Any, digits: int = 2) -> str:
    """A measured number, or "not run"."""
    return "not run" if value is None else f"{value:.{digits}f}"
