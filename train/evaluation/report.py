"""The report as text: every section as one table, then the same rows by label; and the headlines alone."""

from __future__ import annotations

from typing import Any

# figure -> (heading, how it is printed), in the order of the columns
_FIGURES = {
    "psnr_db": ("PSNR dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "judge_distance": ("distance", "{:.3f}"),
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
    "judge_distance_to_0-18": ("distance to 0-18", "{:.3f}"),
    "same_lax_to_0-18": ("to 0-18 < 0.6", "{:.3f}"),
    "same_strict_to_0-18": ("to 0-18 < 0.421", "{:.3f}"),
    "judge_distance_to_60+": ("distance to 60+", "{:.3f}"),
    "same_lax_to_60+": ("to 60+ < 0.6", "{:.3f}"),
    "same_strict_to_60+": ("to 60+ < 0.421", "{:.3f}"),
}
# What the terminal shows of a section, and what is told by label.
_HEADLINES = {
    "reconstruction": ("psnr_db", "judge_distance", "same_lax", "same_strict", "sharpness"),
    "cyclic": ("psnr_db", "judge_distance", "same_lax", "same_strict"),
    "aged, random target": ("same_lax", "same_strict", "within_one", "hcs"),
    "all ages": (
        "age_range",
        "pooled_spearman",
        "within_one",
        "sharpness",
        "same_lax_to_60+",
        "same_strict_to_60+",
    ),
    "synthetic faces": ("exact_group", "within_one", "absolute_error"),
    "paper's table": ("same_lax", "same_strict", "psnr_db"),
}
_BY_LABEL = {
    "reconstruction": ("psnr_db", "same_lax", "same_strict"),
    "cyclic": ("same_lax",),
    "aged, random target": ("same_lax", "same_strict", "within_one"),
    "all ages": ("age_range", "within_one", "same_strict_to_60+"),
    "synthetic faces": ("exact_group",),
}
Row = dict[str, Any]


def markdown(report: dict[str, Any]) -> str:
    """EVALUATION.md of what `edgeage.train.evaluation.evaluate` measured."""
    lines = ["# Evaluation", "", *_story(report)]
    for section, rows in _sections(report).items():
        lines += ["", f"## {section[0].upper()}{section[1:]}", "", *_table(rows), *_facts(rows)]
    for name, title in (("lfw", "Recogniser on LFW"), ("recogniser", "Recogniser beside its teacher")):
        if name in report:
            lines += ["", f"## {title}", "", *(f"- {text}" for text in _flat(report[name]))]
    lines += ["", "## By label", "", "No intervals here: mind the number of faces under each label."]
    for section, rows in _sections(report).items():
        for figure in _BY_LABEL.get(section, ()):
            lines += _by_label(section, figure, rows)
    if report["not_run"]:
        lines += ["", "## Not run", "", *(f"- {text}" for text in report["not_run"])]
    return "\n".join(lines) + "\n"


def headlines(report: dict[str, Any]) -> list[str]:
    """The main figures as aligned lines of text."""
    lines: list[str] = []
    for section, rows in _sections(report).items():
        figures = _HEADLINES.get(section)
        if figures is None:
            continue
        width = max(len(text) for text in (section, *(row["name"] for row in rows)))
        table = [(section, [_FIGURES[name][0] for name in figures])]
        table += [(row["name"], [_plain(name, row["figures"].get(name)) for name in figures]) for row in rows]
        lines.append("")
        lines += [f"{name:{width}}" + "".join(f"{cell:>17}" for cell in cells) for name, cells in table]
    for name in ("lfw", "recogniser"):
        lines += ["", *(f"{name}: {text}" for text in _flat(report[name]))] if name in report else []
    return lines


def _sections(report: dict[str, Any]) -> dict[str, list[Row]]:
    sections: dict[str, list[Row]] = {}
    for row in report["rows"]:
        sections.setdefault(row["section"], []).append(row)
    return sections


def _story(report: dict[str, Any]) -> list[str]:
    checkpoint, data, impostors = report["checkpoint"], report["data"], report["impostors"]
    settings, measured = report["settings"], impostors["threshold_measured"]
    refinement = settings["refinement"]
    told = "not estimable" if measured is None else f'{measured:.3f} ("measured" below)'
    return [
        *([f"- {report['tag']}"] if report["tag"] else []),
        f"- checkpoint {checkpoint['sha256'][:12]}, profile {checkpoint['profile']}, recipe "
        f"{checkpoint['recipe']}, stage {checkpoint['stage']}, step {checkpoint['step']}",
        f"- {data['source']} {data['fingerprint'][:12]}: {data['faces']} faces, {data['split']}; mean "
        f"faces of {data['means_from']}",
        f"- refinement: {refinement['identity']}, pixel weight {refinement['pixel_weight']:g}, step "
        f"{refinement['step']:g}, decay {refinement['decay']:g}; delta strength {settings['strength']:g}, "
        f"fixed in advance; seed {settings['seed']}",
        f"- {impostors['pairs']:.0f} impostor pairs of these faces: mean distance {impostors['mean']:.3f}, "
        f"below 0.6 {impostors['false_match_rate_lax']:.4f}, below 0.421 "
        f"{impostors['false_match_rate_strict']:.4f}; false match rate 1e-3 at {told}",
        "- judges: " + ", ".join(f"{name} {digest[:12]}" for name, digest in report["judges"].items()),
        f"- in small print 95 % intervals: Wilson's of shares, bootstrap over faces of the rest; "
        f"{report['seconds']:.0f} s",
    ]


def _table(rows: list[Row]) -> list[str]:
    shown = [name for name in _FIGURES if any(name in row["figures"] for row in rows)]
    lines = _head("", [_FIGURES[name][0] for name in shown])
    for row in rows:
        lines.append(_line(row["name"], [_cell(name, row["figures"].get(name)) for name in shown]))
    return lines


def _by_label(section: str, figure: str, rows: list[Row]) -> list[str]:
    """One figure: rows of the section, a column for each label's value."""
    rows = [row for row in rows if row["by"] and figure in row["figures"]]
    if not rows:
        return []
    lines = ["", f"**{section}: {_FIGURES[figure][0]}**", ""]
    every = ((label, text) for row in rows for label, texts in row["by"].items() for text in texts)
    columns = list(dict.fromkeys(every))
    ambiguous = ("target group", "group distance")
    lines += _head("", [f"{label} {text}" if label in ambiguous else text for label, text in columns])
    parts = [[row["by"].get(label, {}).get(text) for label, text in columns] for row in rows]
    counts = [[part["faces"] if part else None for part in found] for found in parts]
    if all(found == counts[0] for found in counts):
        lines.append(_line("faces", [str(count or "") for count in counts[0]]))
    for row, found in zip(rows, parts, strict=True):
        lines.append(_line(row["name"], [_plain(figure, part and {"value": part[figure]}) for part in found]))
    return lines


def _head(first: str, headings: list[str]) -> list[str]:
    return [_line(first, headings), "| --- |" + " ---: |" * len(headings)]


def _line(first: str, cells: list[str]) -> str:
    return f"| {first} | " + " | ".join(cells) + " |"


def _plain(name: str, figure: dict[str, float | None] | None) -> str:
    if figure is None:
        return ""
    return "-" if figure["value"] is None else _FIGURES[name][1].format(figure["value"])


def _cell(name: str, figure: dict[str, float | None] | None) -> str:
    text = _plain(name, figure)
    if figure is None or figure["low"] is None:
        return text
    low, high = (_FIGURES[name][1].format(figure[end]) for end in ("low", "high"))
    return f"{text} <sub>{low}..{high}</sub>"


def _facts(rows: list[Row]) -> list[str]:
    lines = [f"- {row['name']}: {text}" for row in rows for text in _flat(row.get("facts", {}))]
    return ["", *lines] if lines else []


def _flat(facts: dict[str, Any]) -> list[str]:
    """Nested numbers as one line of text for each name."""

    def told(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {told(inner)}" for name, inner in value.items())
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    return [f"{name.replace('_', ' ')}: {told(value)}" for name, value in facts.items() if value is not None]
