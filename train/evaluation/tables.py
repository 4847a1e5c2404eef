"""Figures as text: how each is headed and printed, as tables for Markdown and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# figure -> (heading, how it is printed), in the order of the columns
FIGURES = {
    "psnr_db": ("PSNR dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "judge_distance": ("distance", "{:.3f}"),
    "judge_similarity": ("similarity", "{:.3f}"),
    "same_lax": ("< 0.6", "{:.3f}"),
    "same_strict": ("< 0.421", "{:.3f}"),
    "same_measured": ("< measured", "{:.3f}"),
    "exact_group": ("exact group", "{:.3f}"),
    "within_one": ("within one", "{:.3f}"),
    "absolute_error": ("MAE", "{:.1f}"),
    "age_difference": ("age difference", "{:.1f}"),
    "judged_age_change": ("age change", "{:+.1f}"),
    "age_range": ("range, years", "{:.1f}"),
    "age_range_sd": ("SD", "{:.1f}"),
    "monotonicity": ("Spearman", "{:.3f}"),
    "pooled_spearman": ("pooled", "{:.3f}"),
    "hcs": ("HCS", "{:.1f}"),
    "kernel_distance": ("kernel distance", "{:.4f}"),
    "sharpness": ("sharpness", "{:.2f}"),
    "recogniser_cosine": ("recogniser", "{:.3f}"),
    "milliseconds": ("ms", "{:.1f}"),
    "evaluations": ("evaluations", "{:.1f}"),
    "checks": ("checks", "{:.1f}"),
    "judge_distance_to_0-18": ("distance to 0-18", "{:.3f}"),
    "same_lax_to_0-18": ("to 0-18 < 0.6", "{:.3f}"),
    "same_strict_to_0-18": ("to 0-18 < 0.421", "{:.3f}"),
    "judge_distance_to_60+": ("distance to 60+", "{:.3f}"),
    "same_lax_to_60+": ("to 60+ < 0.6", "{:.3f}"),
    "same_strict_to_60+": ("to 60+ < 0.421", "{:.3f}"),
}
Row = dict[str, Any]


def by_section(report: dict[str, Any]) -> dict[str, list[Row]]:
    """The rows of a report under their sections, both in order; none if it has none."""
    sections: dict[str, list[Row]] = {}
    for row in report.get("rows", []):
        sections.setdefault(row["section"], []).append(row)
    return sections


def table(rows: list[Row]) -> list[str]:
    """Markdown: a line for each row, a column for each figure that any of them has."""
    shown = [name for name in FIGURES if any(name in row["figures"] for row in rows)]
    lines = head("", [FIGURES[name][0] for name in shown])
    for row in rows:
        lines.append(line(row["name"], [cell(name, row["figures"].get(name)) for name in shown]))
    return lines


def aligned(title: str, rows: list[Row], figures: Sequence[str]) -> list[str]:
    """Some figures of the rows as lines of text, in columns under their headings."""
    width = max(len(text) for text in (title, *(row["name"] for row in rows)))
    lines = [(title, [FIGURES[name][0] for name in figures])]
    lines += [(row["name"], [plain(name, row["figures"].get(name)) for name in figures]) for row in rows]
    return [f"{name:{width}}" + "".join(f"{text:>17}" for text in texts) for name, texts in lines]


def head(first: str, headings: list[str]) -> list[str]:
    """The head of a Markdown table, with the line below it."""
    return [line(first, headings), "| --- |" + " ---: |" * len(headings)]


def line(first: str, cells: list[str]) -> str:
    """A line of a Markdown table."""
    return f"| {first} | " + " | ".join(cells) + " |"


def plain(name: str, figure: dict[str, float | None] | None) -> str:
    """A figure's value as text; "-" where nothing could be measured, "" where nothing was."""
    if figure is None:
        return ""
    return "-" if figure["value"] is None else FIGURES[name][1].format(figure["value"])


def cell(name: str, figure: dict[str, float | None] | None) -> str:
    """A figure's value, and its interval in small print."""
    text = plain(name, figure)
    if figure is None or figure["low"] is None:
        return text
    low, high = (FIGURES[name][1].format(figure[end]) for end in ("low", "high"))
    return f"{text} <sub>{low}..{high}</sub>"


def fact_lines(rows: list[Row]) -> list[str]:
    """Markdown: what else is told of the rows, as a list."""
    lines = [f"- {row['name']}: {text}" for row in rows for text in flat(row.get("facts", {}))]
    return ["", *lines] if lines else []


def flat(facts: dict[str, Any]) -> list[str]:
    """Nested numbers as one line of text for each name."""

    def told(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {told(inner)}" for name, inner in value.items())
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    return [f"{name.replace('_', ' ')}: {told(value)}" for name, value in facts.items() if value is not None]
