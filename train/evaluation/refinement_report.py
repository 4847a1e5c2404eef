"""The report on refinement as text, as curves, and as a folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from edgeage.files import new_folder, write_json
from edgeage.train.evaluation.tables import aligned, by_section, fact_lines, head, line, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT, TEXT = "refinement.json", "REFINEMENT.md"
CURVES, FACES = "refinement-curves.png", "refinement-faces.png"
NO_CURVES = f"{CURVES}: matplotlib is not installed; pip install matplotlib"
_HEADLINES = {
    "reconstruction": ("judge_distance", "judge_similarity", "same_lax", "same_strict", "milliseconds"),
    "aged, random target": ("judge_distance", "same_lax", "same_strict", "within_one"),
    "references": ("judge_distance", "judge_similarity", "same_lax", "same_strict", "milliseconds"),
}
Figures = dict[str, Any]


def write_report(report: dict[str, Any], sheet: Image.Image, out: Path, *, force: bool = False) -> None:
    """The two texts and two pictures, in a folder that appears whole or not at all.

    Without matplotlib there are no curves, and `report["not_run"]` is told so.
    """
    drawable = find_spec("matplotlib") is not None
    if not drawable:
        report["not_run"].append(NO_CURVES)
    with new_folder(out, replace=force) as folder:
        write_json(folder / REPORT, report)
        (folder / TEXT).write_text(markdown(report), encoding="utf-8")
        sheet.save(folder / FACES)
        if drawable:
            curves(report["derived"]).savefig(folder / CURVES, dpi=120)


def markdown(report: dict[str, Any]) -> str:
    """REFINEMENT.md of what `edgeage.train.evaluation.refinement` measured."""
    lines = ["# Refinement", "", *_story(report)]
    for section, rows in by_section(report).items():
        lines += ["", f"## {section[0].upper()}{section[1:]}", "", *table(rows), *fact_lines(rows)]
    lines += ["", "## Beside the references", "", *_beside(report["derived"])]
    if report["not_run"]:
        lines += ["", "## Not run", "", *(f"- {text}" for text in report["not_run"])]
    return "\n".join(lines) + "\n"


def headlines(report: dict[str, Any]) -> list[str]:
    """The main figures as lines of text."""
    lines: list[str] = []
    for section, rows in by_section(report).items():
        lines += ["", *aligned(section, rows, _HEADLINES[section])]
    lines += ["", *_told(report["derived"])]
    return [*lines, *(f"not run: {text}" for text in report["not_run"])]


def curves(derived: dict[str, Any]) -> Figure:
    """Judge distance against K and against milliseconds, a line for each form, the references level."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    by_steps, by_time = figure.subplots(1, 2, sharey=True)
    for form, found in derived["forms"].items():
        steps = [int(name.removeprefix("K=")) for name in found]
        distances = [figures["judge_distance"] for figures in found.values()]
        times = [figures["milliseconds"] for figures in found.values()]
        by_steps.plot(steps, distances, marker="o", label=form)
        by_time.plot(times, distances, marker="o", label=form)
    for style, (name, figures) in zip((":", "-.", "--"), derived["references"].items(), strict=True):
        for axes in (by_steps, by_time):
            told = f"{name}, {figures['milliseconds']:.0f} ms"
            axes.axhline(figures["judge_distance"], color="grey", linestyle=style, label=told)
    by_steps.set(xlabel="steps K", ylabel="judge distance to the real face")
    by_time.set(xlabel="milliseconds per face (median)")
    shown = [line.get_ydata() for line in by_steps.get_lines()]
    least, most = min(map(min, shown)), max(map(max, shown))
    room = 0.05 * (most - least) or 0.01  # a level at the edge would not be seen
    by_steps.set_ylim(least - room, most + room)
    figure.legend(*by_steps.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(f"Refinement, {derived['faces']} faces")
    return figure


def _story(report: dict[str, Any]) -> list[str]:
    checkpoint, data, told = report["checkpoint"], report["data"], report["bundle"]["refinement"]
    machine, impostors = report["machine"], report["impostors"]
    return [
        *([f"- {report['tag']}"] if report["tag"] else []),
        f"- checkpoint {checkpoint['sha256'][:12]}, profile {checkpoint['profile']}, recipe "
        f"{checkpoint['recipe']}; bundle {report['bundle']['name']}",
        f"- {data['source']} {data['fingerprint'][:12]}: {data['faces']} faces, {data['split']}; mean "
        f"faces of {data['means_from']}; seed {report['settings']['seed']}",
        f"- {told.get('method', 'sign')} steps from {report['settings']['loss']['step']:g}, decay "
        f"{report['settings']['loss']['decay']:g}, pixel weight {told['pixel_weight']:g}; each form encodes, "
        "embeds, refines, checks and generates with its own networks",
        f"- milliseconds: median over faces, one face at a time, of the steps and the checks of their "
        f"latents, without E(x) and the target; {machine['cpu']}, threads {machine['threads']}",
        "- recogniser: cosine of the float recogniser that refinement is steered by. It rises whether or not "
        "the face gets nearer; the judges (distance, similarity) are what counts, and they select nothing",
        f"- {FACES}: the steps of {report['pictured']}, and L-BFGS combined; {CURVES}: means of the faces "
        "that L-BFGS ran on",
        f"- {impostors['pairs']:.0f} impostor pairs of these faces: mean distance {impostors['mean']:.3f}, "
        f"below 0.6 {impostors['false_match_rate_lax']:.4f}, below 0.421 "
        f"{impostors['false_match_rate_strict']:.4f}",
        "- judges: " + ", ".join(f"{name} {digest[:12]}" for name, digest in report["judges"].items()),
        f"- in small print 95 % intervals: Wilson's of shares, bootstrap over faces of the rest; "
        f"{report['seconds']:.0f} s",
    ]


def _beside(derived: dict[str, Any]) -> list[str]:
    lines = [
        f"The same {derived['faces']} faces for all. Gain: share of the way from the float K=0 to "
        f"{derived['best_reference']}, the nearest reference, in mean judge distance.",
        "",
        *head("", ["distance", "similarity", "gain", "ms"]),
    ]
    rows = {f"{form} {k}": one for form, by in derived["forms"].items() for k, one in by.items()}
    for name, one in (rows | derived["references"]).items():
        gain = _with_ends(one["share_of_gain"], "{:.2f}") if "share_of_gain" in one else ""
        numbers = [f"{one['judge_distance']:.3f}", f"{one['judge_similarity']:.3f}"]
        lines.append(line(name, [*numbers, gain, f"{one['milliseconds']:.1f}"]))
    return [*lines, "", *(f"- {text}" for text in _told(derived))]


def _told(derived: dict[str, Any]) -> list[str]:
    """The derived figures as sentences."""
    lines = []
    for form, by in derived["forms"].items():
        shares = ", ".join(f"{k} {_with_ends(one['share_of_gain'], '{:.2f}', '')}" for k, one in by.items())
        lines.append(f"{form}: share of the gain of {derived['best_reference']}: {shares}")
    for form, found in derived["k3_against_k0"].items():
        better, worse = (_with_ends(found[name], "{:.3f}", "") for name in ("improved", "worse"))
        lines.append(
            f"{form}: K=3 is nearer than K=0 on {better} of {found['faces']} faces, farther on {worse}"
        )
    for name, found in derived["similarity_difference"].items():
        apart = ", ".join(f"{k} {_with_ends(one, '{:+.4f}', '')}" for k, one in found.items())
        lines.append(f"similarity, {name}: {apart}")
    for form, times in derived["times_faster_than_combined"].items():
        lines.append(f"{form}: K=3 takes 1/{times:.1f} of the time of L-BFGS combined")
    return lines


def _with_ends(figure: Figures, form: str, tag: str = "sub") -> str:
    """The value and its interval, in small print or in brackets."""
    if figure["value"] is None:
        return "-"
    text = form.format(figure["value"])
    if figure["low"] is None:
        return text
    ends = f"{form.format(figure['low'])}..{form.format(figure['high'])}"
    return f"{text} <{tag}>{ends}</{tag}>" if tag else f"{text} ({ends})"
