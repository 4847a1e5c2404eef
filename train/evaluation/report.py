"""The report as Markdown: every section as one table, subgroups in compact ones."""

from __future__ import annotations

from typing import Any

# figure -> (heading, how to print it)
_FIGURES = {
    "psnr_db": ("PSNR dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "judge_distance": ("distance", "{:.3f}"),
    "same_lax": ("< 0.6", "{:.3f}"),
    "same_strict": ("< 0.421", "{:.3f}"),
    "same_measured": ("< measured", "{:.3f}"),
    "exact_group": ("exact group", "{:.3f}"),
    "within_one": ("within one", "{:.3f}"),
    "balanced_absolute_error": ("MAE", "{:.1f}"),
    "age_difference": ("age difference", "{:.1f}"),
    "judged_age_change": ("age change", "{:+.1f}"),
    "age_range": ("range, years", "{:.1f}"),
    "age_range_sd": ("SD", "{:.1f}"),
    "monotonicity": ("Spearman", "{:.3f}"),
    "pooled_spearman": ("pooled", "{:.3f}"),
    "hcs": ("HCS", "{:.1f}"),
    "kernel_distance": ("kernel distance", "{:.4f}"),
    "sharpness": ("sharpness", "{:.2f}"),
    "judge_distance_to_0-18": ("distance to 0-18", "{:.3f}"),
    "same_lax_to_0-18": ("to 0-18 < 0.6", "{:.3f}"),
    "same_strict_to_0-18": ("to 0-18 < 0.421", "{:.3f}"),
    "judge_distance_to_60+": ("distance to 60+", "{:.3f}"),
    "same_lax_to_60+": ("to 60+ < 0.6", "{:.3f}"),
    "same_strict_to_60+": ("to 60+ < 0.421", "{:.3f}"),
}
# what the subgroup tables show
_IN_GROUPS = (
    "judge_distance",
    "same_lax",
    "same_strict",
    "exact_group",
    "within_one",
    "age_range",
    "hcs",
    "balanced_absolute_error",
    "psnr_db",
    "same_strict_to_60+",
)


def markdown(report: dict[str, Any]) -> str:
    """EVALUATION.md of what `edgeage.train.evaluation.evaluate` measured."""
    lines = ["# Evaluation", "", *_story(report)]
    sections: dict[str, list[dict[str, Any]]] = {}
    for row in report["rows"]:
        sections.setdefault(row["section"], []).append(row)
    for section, rows in sections.items():
        lines += ["", f"## {section[0].upper()}{section[1:]}", "", *_table(rows), *_facts(rows)]
    lines += ["", "## By label", "", "Faces, then the figures; no intervals here: mind the counts.", ""]
    for rows in sections.values():
        for row in rows:
            if row["by"] and not _trivial(row["name"]):
                lines += _groups(row)
    if report["not_run"]:
        lines += ["", "## Not run", "", *(f"- {text}" for text in report["not_run"])]
    return "\n".join(lines) + "\n"


def _story(report: dict[str, Any]) -> list[str]:
    checkpoint, data, impostors = report["checkpoint"], report["data"], report["impostors"]
    settings = report["settings"]
    refinement = settings["refinement"]
    measured = impostors["threshold_measured"]
    lines = [
        f"- checkpoint {checkpoint['sha256'][:12]}, profile {checkpoint['profile']}, recipe "
        f"{checkpoint['recipe']}, stage {checkpoint['stage']}, step {checkpoint['step']}",
        f"- data {data['source']} {data['fingerprint'][:12]}: {data['faces']} faces, {data['split']}",
        f"- refinement {refinement['identity']}, pixel weight {refinement['pixel_weight']:g}, step "
        f"{refinement['step']:g}, decay {refinement['decay']:g}; delta strength {settings['strength']:g}, "
        f"fixed in advance; seed {settings['seed']}",
        f"- {impostors['pairs']:.0f} impostor pairs of these faces: mean distance {impostors['mean']:.3f}; "
        f"below 0.6 {impostors['false_match_rate_lax']:.4f}, below 0.421 "
        f"{impostors['false_match_rate_strict']:.4f}; threshold of false match rate 1e-3 "
        + ("not estimable" if measured is None else f'{measured:.3f} ("measured")'),
        f"- {report['seconds']:.0f} s; judges "
        + ", ".join(f"{name} {digest[:12]}" for name, digest in report["judges"].items()),
    ]
    return [*([f"- tag: {report['tag']}"] if report["tag"] else []), *lines]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    shown = [name for name in _FIGURES if any(name in row["figures"] for row in rows)]
    lines = [
        "| | " + " | ".join(_FIGURES[name][0] for name in shown) + " |",
        "| --- |" + " ---: |" * len(shown),
    ]
    for row in rows:
        cells = [_cell(name, row["figures"].get(name)) for name in shown]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return lines


def _cell(name: str, figure: dict[str, float | None] | None) -> str:
    if figure is None:
        return ""
    if figure["value"] is None:
        return "-"
    form = _FIGURES[name][1]
    text = form.format(figure["value"])
    if figure["low"] is None:
        return text
    return f"{text} <sub>{form.format(figure['low'])}..{form.format(figure['high'])}</sub>"


def _facts(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        for name, value in row.get("facts", {}).items():
            if isinstance(value, dict):
                value = ", ".join(f"{key} {number:.2f}" for key, number in value.items())
            if value is not None:
                lines.append(f"- {row['name']}, {name.replace('_', ' ')}: {value}")
    return ["", *lines] if lines else []


def _groups(row: dict[str, Any]) -> list[str]:
    shown = [name for name in _IN_GROUPS if name in row["figures"]]
    lines = ["", f"**{row['section']}, {row['name']}**", ""]
    lines += ["| label | | faces | " + " | ".join(_FIGURES[name][0] for name in shown) + " |"]
    lines += ["| --- | --- |" + " ---: |" * (len(shown) + 1)]
    for label, parts in row["by"].items():
        for text, figures in parts.items():
            cells = [
                "-" if figures[name] is None else _FIGURES[name][1].format(figures[name]) for name in shown
            ]
            lines.append(f"| {label} | {text} | {figures['faces']} | " + " | ".join(cells) + " |")
    return lines


def _trivial(name: str) -> bool:
    return name.startswith(("return the input", "mean face", "no model"))


def headlines(report: dict[str, Any]) -> list[str]:
    """The main figures as aligned lines of text."""
    wanted = {
        "reconstruction": (
            "psnr_db",
            "judge_distance",
            "same_lax",
            "same_strict",
            "same_measured",
            "sharpness",
        ),
        "aged, random target": ("judge_distance", "same_lax", "same_strict", "within_one", "hcs"),
        "all ages": (
            "age_range",
            "pooled_spearman",
            "exact_group",
            "within_one",
            "sharpness",
            "same_lax_to_60+",
            "same_strict_to_60+",
        ),
        "cyclic": ("psnr_db", "judge_distance", "same_lax", "same_strict"),
        "synthetic faces": ("exact_group", "within_one", "balanced_absolute_error"),
        "paper's table": ("same_lax", "same_strict", "psnr_db"),
    }
    lines = []
    for section, names in wanted.items():
        rows = [row for row in report["rows"] if row["section"] == section]
        if rows:
            width = max(len(row["name"]) for row in rows)
            lines += ["", f"{section:{width}}  " + "  ".join(f"{_FIGURES[name][0]:>14}" for name in names)]
        for row in rows:
            values = [row["figures"].get(name, {"value": None})["value"] for name in names]
            cells = [
                "-" if v is None else _FIGURES[n][1].format(v) for n, v in zip(names, values, strict=True)
            ]
            lines.append(f"{row['name']:{width}}  " + "  ".join(f"{cell:>14}" for cell in cells))
    return lines
