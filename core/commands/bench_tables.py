"""What `edgeage bench` prints: one row a result, and the verdicts with their reasons."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeage.runtime.bench.results import Result, Run, Subject
    from edgeage.runtime.bench.statistics import Percentile

COLOURS = {"VALID": "green", "NOISY": "yellow", "DRIFTING": "yellow"}
NOT_ESTIMABLE = "not estimable"


def show_run(run: Run) -> None:
    """The table of a run, then what a reader must know of its subjects."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    state = "" if run.complete else ", INTERRUPTED"
    common = common_settings([result.subject for result in run.results])
    title = ", ".join([run.bundle, f"edgeage {run.edgeage_version}", *common])
    table = Table(title=f"{title}{state}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("ms")
    for heading in ("p50", "p90", "p99", "max", "runs"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("verdict")
    for result in run.results:
        own = [text for text in settings(result.subject) if text not in common]
        name = f"  {result.subject.name.split('.')[-1]}" if result.part_of else result.subject.name
        steady = result.steady_ns
        word = result.verdict.word
        table.add_row(
            Text(name if result.part_of else " ".join([name, *own]), style="dim" if result.part_of else ""),
            *(Text(show_percentile(result.percentile(q))) for q in (50.0, 90.0, 99.0)),
            milliseconds(float(steady.max())) if steady.size else "",
            f"{steady.size} + {result.warmup}",
            Text(word, style=COLOURS.get(word, "red")),
        )
    console = Console()
    console.print(table)
    for line in notes(run):
        console.print(Text(line))


def show_percentile(found: Percentile | None) -> str:
    """The value, and its interval on a second line."""
    if found is None or found.value is None or found.low is None or found.high is None:
        return NOT_ESTIMABLE
    return f"{milliseconds(found.value)}\n{milliseconds(found.low)}–{milliseconds(found.high)}"


def milliseconds(nanoseconds: float) -> str:
    """Three digits that matter: 0.106, 16.4, 171."""
    value = nanoseconds / 1e6
    return f"{value:.{min(max(2 - math.floor(math.log10(max(value, 1e-9))), 0), 6)}f}"


def settings(subject: Subject) -> list[str]:
    """What distinguishes a subject from others of its name, each in a word or two."""
    threads = "1 thread" if subject.threads == 1 else f"{subject.threads} threads"
    steps = [] if subject.steps is None else [f"K={subject.steps}"]
    return [*steps, subject.engine, subject.precision, threads]


def common_settings(subjects: list[Subject]) -> list[str]:
    """Those that all have."""
    each = [settings(subject) for subject in subjects]
    return [text for text in each[0] if all(text in one for one in each)] if each else []


def notes(run: Run) -> list[str]:
    """Reasons of verdicts, placements, notes on subjects, and what did not run, one line each."""
    lines = ["runs are those after the warm-up + the warm-up; below each percentile its 95 % interval"]
    whole = [result for result in run.results if result.part_of is None]
    for result in whole:
        lines += [f"{result.subject.label}: {line}" for line in _about(result)]
    lines += [f"{label}: not run: {why}" for label, why in run.not_run.items()]
    return lines


def _about(result: Result) -> list[str]:
    verdict = result.verdict
    lines = [f"{verdict.word}: {'; '.join(verdict.reasons)}"] if verdict.reasons else []
    if result.placement:
        lines += [result.placement["summary"], *result.placement["notes"]]
    if result.load.rate_hz:
        total = len(result.samples_ns)
        lines.append(f"{result.load.missed} of {total} runs ended after the next should have started")
    if result.load.concurrency > 1 and len(result.starts_ns) > 1:
        span = (result.starts_ns[-1] - result.starts_ns[0]) / 1e9
        lines.append(f"{len(result.starts_ns) / span:.1f} runs a second, {result.load.concurrency} workers")
    if result.minutes_ns:
        medians = ", ".join(f"{one / 1e6:.3f}" for one in result.minutes_ns)
        lines.append(f"median of each minute, ms: {medians}")
    return [*lines, *result.subject.notes]
