"""Results of many devices: read a folder, make rows of a table, and one HTML page that needs no network."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from edgeage import __version__
from edgeage.errors import EdgeageError
from edgeage.files import write_bytes
from edgeage.runtime.bench import plots
from edgeage.runtime.bench.pareto import BUDGET_MS, NOT_RECORDED, pareto
from edgeage.runtime.bench.results import Result, Run, read_results
from edgeage.runtime.bench.verdict import worst

COLUMNS = ("device", "bundle", "subject", "p50", "p90", "p99", "max", "runs", "energy", "memory", "verdict")


def read_folder(place: Path) -> tuple[dict[str, Run], dict[str, str]]:
    """Runs by file name, and why the other .json files were left out.

    `place`: a folder, or one file. EdgeageError if it is not there or holds no file of results.
    """
    if place.is_file():
        return {place.name: read_results(place)}, {}
    if not place.is_dir():
        raise EdgeageError(f"no folder and no file of results at {place}")
    runs: dict[str, Run] = {}
    left_out: dict[str, str] = {}
    for file in sorted(place.rglob("*.json")):
        name = file.relative_to(place).as_posix()
        try:
            runs[name] = read_results(file)
        except EdgeageError as error:
            left_out[name] = str(error).removeprefix(f"{file}: ")
    if not runs:
        told = "; ".join(left_out.values()) or "it holds no .json"
        raise EdgeageError(f"no file of results in {place}: {told}; make one with edgeage bench BUNDLE")
    return runs, left_out


def device_of(run: Run) -> str:
    """Board or computer, and processor, as the run's environment tells them."""
    before = run.environment.get("before", {})
    board = before.get("device")
    names = [board if isinstance(board, str) else None, before.get("cpu", {}).get("name")]
    return ", ".join(dict.fromkeys(name for name in names if name)) or "unknown device"


def rows(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """One row a result, parts left out: COLUMNS, times in ms, None where nothing was measured; and "file"."""
    found = []
    for file, run in runs.items():
        for result in whole(run):
            steady = result.steady_ns
            tiles = {
                f"p{q:g}": one.value / 1e6
                if (one := result.percentile(q)) and one.value is not None
                else None
                for q in (50.0, 90.0, 99.0)
            }
            found.append(
                {
                    "device": device_of(run),
                    "bundle": f"{run.bundle} {run.bundle_sha256[:8]}",
                    "subject": result.subject.label,
                    **tiles,
                    "max": float(steady.max()) / 1e6 if steady.size else None,
                    "runs": int(steady.size),
                    "energy": (result.energy or {}).get("millijoules"),
                    "memory": (result.memory or {}).get("peak_rss_mb"),
                    "verdict": result.verdict.word if run.complete else f"{result.verdict.word}, interrupted",
                    "file": file,
                }
            )
    return found


def whole(run: Run) -> list[Result]:
    return [result for result in run.results if result.part_of is None]


def write_table(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV, atomically."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, (*COLUMNS, "file"))
    writer.writeheader()
    writer.writerows(table)
    write_bytes(path, stream.getvalue().encode())


def write_page(
    path: Path,
    runs: Mapping[str, Run],
    left_out: Mapping[str, str] | None = None,
    budget_ms: float = BUDGET_MS,
) -> None:
    """Write the page, atomically. EdgeageError without jinja2."""
    write_bytes(path, page(runs, left_out or {}, budget_ms).encode())


def require_jinja2() -> None:
    """EdgeageError without it; asked before the long work."""
    if importlib.util.find_spec("jinja2") is None:
        raise EdgeageError('the HTML page needs jinja2; add it with: pip install "edgeage[bench]"')


def page(runs: Mapping[str, Run], left_out: Mapping[str, str], budget_ms: float = BUDGET_MS) -> str:
    """HTML with its style and its plots inside. `budget_ms`: that K is to fit."""
    require_jinja2()
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["ms"] = milliseconds
    template = resources.files("edgeage.runtime.bench").joinpath("report.html.jinja").read_text("utf-8")
    return environment.from_string(template).render(
        version=__version__,
        table=rows(runs),
        columns=COLUMNS,
        runs=[{"file": file, **_told(run, budget_ms)} for file, run in runs.items()],
        left_out=left_out,
        not_recorded=NOT_RECORDED,
    )


def milliseconds(value: float | None) -> str:
    """Three digits that matter; "–" for what is not known."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _told(run: Run, budget_ms: float) -> dict[str, Any]:
    """What the page says of one run."""
    results = whole(run)
    environment = run.environment
    fronts = [
        {**found, "plot": plots.steps_line(found), "front": plots.quality_front(found)}
        for found in pareto(run, budget_ms)
    ]
    roof = environment.get(
        "roofline", {"not available": "not measured; edgeage bench --roofline measures it"}
    )
    return {
        "run": run,
        "device": device_of(run),
        "verdict": worst([result.verdict for result in results]) if results else "TOO SHORT",
        "results": [_result(run, result) for result in results],
        "pareto": fronts,
        "roofline": roof,
        "roof_plot": plots.roof(roof) if "engines" in roof else None,
        "watched": [
            {
                "label": label,
                "told": told,
                "plots": [one for kind in ("mhz", "celsius") if (one := plots.clocks(told["series"], kind))],
            }
            for label, told in environment.get("during", {}).items()
        ],
        "no_energy": _no_energy(results),
        "facts": _facts(environment.get("before", {}), environment.get("after", {})),
    }


def _no_energy(results: Sequence[Result]) -> str | None:
    """Why no result has an energy, if that is one reason: it is then told once."""
    reasons = {(result.energy or {}).get("not available") for result in results}
    return reasons.pop() if len(reasons) == 1 else None


def _result(run: Run, result: Result) -> dict[str, Any]:
    shown = []
    if result.steady_ns.size > 1:
        shown = [
            ("How long runs took", plots.distribution(result)),
            ("The tail", plots.tail(result)),
            ("Over time, warm-up shaded", plots.over_time(result)),
        ]
        if result.minutes_ns:
            shown.append(("Minute by minute", plots.minutes(result)))
    parts = [
        (part.subject.name.rsplit(".", 1)[-1], part.median_ns / 1e6)
        for part in run.results
        if part.part_of == result.subject.name and part.group == result.group and part.median_ns is not None
    ]
    longest = max((median for _, median in parts), default=0.0)
    return {
        "result": result,
        "plots": shown,
        "parts": parts,
        "longest": longest,
        "percentiles": [
            (
                f"p{one.q:g}",
                *(None if end is None else end / 1e6 for end in (one.value, one.low, one.high)),
                one,
            )
            for one in result.percentiles
        ],
    }


def _facts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, before, after where that differs) of the environment."""
    found = []
    for key, value in before.items():
        one, other = _text(value), _text(after.get(key))
        found.append((key.replace("_mhz", ", MHz").replace("_c", ", °C"), one, other if other != one else ""))
    return found


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        if set(value) == {"not available"}:
            return f"not available: {value['not available']}"
        return "; ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
