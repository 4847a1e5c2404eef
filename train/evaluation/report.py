"""The report as text: every section as one table, then the same rows by label; and the headlines alone."""

from __future__ import annotations

from typing import Any

from edgeage.train.evaluation.tables import (
    FIGURES,
    Row,
    aligned,
    by_section,
    fact_lines,
    flat,
    head,
    line,
    plain,
    table,
)

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


def markdown(report: dict[str, Any]) -> str:
    """EVALUATION.md of what `edgeage.train.evaluation.evaluate` measured."""
    lines = ["# Evaluation", "", *_story(report)]
    for section, rows in by_section(report).items():
        lines += ["", f"## {section[0].upper()}{section[1:]}", "", *table(rows), *fact_lines(rows)]
    for name, title in (("lfw", "Recogniser on LFW"), ("recogniser", "Recogniser beside its teacher")):
        if name in report:
            lines += ["", f"## {title}", "", *(f"- {text}" for text in flat(report[name]))]
    lines += ["", "## By label", "", "No intervals here: mind the number of faces under each label."]
    for section, rows in by_section(report).items():
        for figure in _BY_LABEL.get(section, ()):
            lines += _by_label(section, figure, rows)
    if report["not_run"]:
        lines += ["", "## Not run", "", *(f"- {text}" for text in report["not_run"])]
    return "\n".join(lines) + "\n"


def headlines(report: dict[str, Any]) -> list[str]:
    """The main figures as aligned lines of text, of all that the report has."""
    lines: list[str] = []
    for section, rows in by_section(report).items():
        figures = _HEADLINES.get(section)
        if figures is None:
            continue
        lines += ["", *aligned(section, rows, figures)]
    for name in ("lfw", "recogniser"):
        lines += ["", *(f"{name}: {text}" for text in flat(report[name]))] if name in report else []
    return lines


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


def _by_label(section: str, figure: str, rows: list[Row]) -> list[str]:
    """One figure: rows of the section, a column for each label's value."""
    rows = [row for row in rows if row["by"] and figure in row["figures"]]
    if not rows:
        return []
    lines = ["", f"**{section}: {FIGURES[figure][0]}**", ""]
    every = ((label, text) for row in rows for label, texts in row["by"].items() for text in texts)
    columns = list(dict.fromkeys(every))
    ambiguous = ("target group", "group distance")
    lines += head("", [f"{label} {text}" if label in ambiguous else text for label, text in columns])
    parts = [[row["by"].get(label, {}).get(text) for label, text in columns] for row in rows]
    counts = [[part["faces"] if part else None for part in found] for found in parts]
    if all(found == counts[0] for found in counts):
        lines.append(line("faces", [str(count or "") for count in counts[0]]))
    for row, found in zip(rows, parts, strict=True):
        lines.append(line(row["name"], [plain(figure, part and {"value": part[figure]}) for part in found]))
    return lines
