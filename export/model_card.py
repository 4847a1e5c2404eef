"""MODEL_CARD.md: what the model is for, what it was made from, and what was measured on its engines."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from edgeage.errors import EdgeageError
from edgeage.files import read_json
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


def render(
    manifest: Manifest,
    operators: Mapping[str, Mapping[str, int]],
    evaluation: Mapping[str, Any] | None = None,
) -> str:
    """The card as Markdown.

    Args:
        operators: names and counts in each engine's INT8 TFLite file.
        evaluation: report of `edgeage evaluate` on the same checkpoint; without it the judges' part says
            "not run".
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(figure=figure, judged=_judged, by_label=_by_label)
    text = resources.files("edgeage.export").joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(manifest=manifest, operators=operators, evaluation=evaluation)


def read_evaluation(folder: Path, checkpoint: str) -> dict[str, Any]:
    """The report of `edgeage evaluate` in `folder`, its text under "text".

    Raises EdgeageError if it is unreadable or of another checkpoint (`checkpoint`: SHA-256 of the weights).
    """
    report: Any = read_json(folder / "evaluation.json", "evaluation report")
    try:
        of, _ = report["checkpoint"]["sha256"], report["rows"]
        text = (folder / "EVALUATION.md").read_text(encoding="utf-8")
    except (OSError, KeyError, TypeError) as error:
        raise EdgeageError(f"{folder} holds no whole evaluation report: {error!r}") from None
    if of != checkpoint:
        raise EdgeageError(
            f"{folder} judges checkpoint {str(of)[:12]}..., this one is {checkpoint[:12]}...; "
            "run edgeage evaluate on it"
        )
    return {**report, "text": text}


def _judged(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the card tells of each output, the trivial ones included; None where a figure has no meaning."""
    wanted = ("psnr_db", "same_lax", "same_strict", "within_one", "age_range")
    told = []
    for section in ("reconstruction", "aged, random target", "all ages"):
        for row in evaluation["rows"]:
            if row["section"] == section:
                figures = {key: _value(row["figures"], key) for key in wanted}
                told.append({"name": f"{section}: {row['name']}", **figures})
    return told


def _by_label(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = {(row["section"], row["name"]): row["by"] for row in evaluation["rows"]}
    delta = next(by for (section, name), by in rows.items() if section == "all ages" and "delta" in name)
    told = []
    for kind, labels in rows["reconstruction", "K=0"].items():
        for label, found in labels.items():
            other = delta.get(kind, {}).get(label, {})
            told.append(
                {
                    "label": f"{kind} {label}",
                    "faces": found["faces"],
                    "reconstruction": _value(found, "same_strict"),
                    "delta": _value(other, "same_strict_to_60+"),
                    "age_range": _value(other, "age_range"),
                }
            )
    return told


def _value(figures: Mapping[str, Any], key: str) -> float | None:
    """A figure as the report holds it: a number, or {"value", "low", "high"}."""
    found = figures.get(key)
    value: float | None = found["value"] if isinstance(found, Mapping) else found
    return value


def figure(value: Any, digits: int = 2) -> str:
    """A measured number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"
