"""What `edgeage bench compare` and `edgeage bench report` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeage.runtime.bench.compare import Compared
    from edgeage.runtime.bench.results import Run

_COLOURS = {"slower": "red", "faster": "green", "inconclusive": "yellow"}


def show_compared(compared: Compared) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from edgeage.runtime.bench.report import milliseconds

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("A, then B")
    for heading in ("A ms", "B ms", "B / A", "95 %"):
        table.add_column(heading, justify="right")
    table.add_column("B is")
    for pair in compared.pairs:
        found = pair.comparison
        outcome = found.outcome + (": the same within the threshold" if found.same else "")
        table.add_row(
            pair.baseline if pair.baseline == pair.subject else f"{pair.baseline}\n{pair.subject}",
            milliseconds(pair.baseline_ms),
            milliseconds(pair.subject_ms),
            f"{found.ratio:.3f}",
            f"{found.low:.3f}–{found.high:.3f}",
            Text(outcome, style=_COLOURS[found.outcome]),
        )
    console = Console()
    console.print(table)
    first = compared.pairs[0].comparison
    console.print(Text(f"ratios within {first.threshold:.1%} of 1 are of no practical interest"))
    if first.paired:
        console.print(Text(f"measured in turn, {len(compared.pairs[0].ratios)} times loaded anew"))
    else:
        console.print(
            Text("measured apart: the intervals do not hold what changed on the machine in between")
        )
    lines = [f"{pair.subject}: {warning}" for pair in compared.pairs for warning in pair.warnings]
    lines += [f"not compared: {line}" for line in compared.unmatched]
    lines += [f"different: {line}" for line in compared.differences]
    for line in lines:
        console.print(Text(line))


def show_steps(run: Run, budget_ms: float = 33.0) -> None:
    """The line of refinement steps, if more than one K was measured."""
    import click

    from edgeage.runtime.bench.pareto import pareto
    from edgeage.runtime.bench.report import milliseconds

    for found in pareto(run, budget_ms):
        line, largest = found["p50"], found["largest_steps"]
        fits = [
            f"{'none' if fit['steps'] is None else fit['steps']} by {name}"
            + " (beyond what was measured)" * fit["extrapolated"]
            for name, fit in largest.items()
        ]
        low, high = map(milliseconds, line["b_95"])
        click.echo(
            f"{found['subject']}: {milliseconds(line['a'])} ms + {milliseconds(line['b'])} ms a step "
            f"({low} to {high}); the largest K that fits {budget_ms:g} ms: {', '.join(fits)}"
        )
        for point in found["points"]:
            if point["similarity"] is not None:
                click.echo(
                    f"  K={point['steps']}: {milliseconds(point['median_ms'])} ms, likeness "
                    f"{point['similarity']:.3f}, same person {point['verified']:.1%} ({found['judge']})"
                )
        if all(point["similarity"] is None for point in found["points"]):
            click.echo("  the judge's score of each K is not recorded in this bundle")


def show_roofline(found: Mapping[str, Any]) -> None:
    """One line an engine: its bound, and how many times that it took."""
    import click

    from edgeage.runtime.bench.report import milliseconds

    if "not available" in found:
        click.echo(f"roofline: not available: {found['not available']}")
        return
    for machine in found["machines"]:
        peaks = ", ".join(f"{rate:.0f} GMAC/s {name}" for name, rate in machine["peak_gmacs"].items())
        speeds = [rate for _, rate in machine["bandwidth_gbs"]]
        reach = f"{peaks}, {min(speeds):.0f} to {max(speeds):.0f} GB/s"
        click.echo(f"this machine, threads {machine['threads']}: {reach}")
    for engine in found["engines"]:
        click.echo(
            f"  {engine['subject']}: {engine['distance']:.1f} times its bound of "
            f"{milliseconds(engine['bound_ms'])} ms ({engine['macs'] / 1e6:.1f} M MACs, "
            f"{(engine['weight_bytes'] + engine['activation_bytes']) / 1e6:.1f} MB)"
        )


def show_rows(rows: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from edgeage.commands.bench_tables import COLOURS
    from edgeage.runtime.bench.report import milliseconds

    console = Console()
    for device, bundle in dict.fromkeys((row["device"], row["bundle"]) for row in rows):
        table = Table(
            title=f"{device}: {bundle}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        table.add_column("subject")
        for heading in ("p50 ms", "p90 ms", "p99 ms", "max ms", "runs", "mJ", "MB"):
            table.add_column(heading, justify="right")
        table.add_column("verdict")
        for row in rows:
            if (row["device"], row["bundle"]) == (device, bundle):
                word = row["verdict"]
                table.add_row(
                    row["subject"],
                    *(milliseconds(row[key]) for key in ("p50", "p90", "p99", "max")),
                    str(row["runs"]),
                    *(milliseconds(row[key]) for key in ("energy", "memory")),
                    Text(word, style=COLOURS.get(word, "red")),
                )
        console.print(table)
    for file, why in left_out.items():
        console.print(Text(f"left out: {file}: {why}"))
