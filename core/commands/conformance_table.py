"""What `edgeage conformance` shows: a table of places, the reasons, and what was not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgeage.runtime.bundle import Bundle
    from edgeage.runtime.conformance.report import Outcome
    from edgeage.runtime.conformance.rules import Row


def show(bundle: Bundle, outcomes: Sequence[Outcome]) -> None:
    """Print everything that was found."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("place", "tool", "identical", "largest (mean) difference", title=bundle.path.name)
    for outcome in outcomes:
        if outcome.record is not None:
            same = sum(row.identical for row in outcome.rows)
            table.add_row(
                Text(outcome.name, style="" if outcome.ok else "red"),
                outcome.record.tool,
                f"{same} of {len(outcome.rows)}",
                _differences(outcome.rows),
            )
    Console().print(table)
    _show_reasons(outcomes)
    for outcome in outcomes:
        if outcome.failed:
            click.echo(f"FAILED  {outcome.failed}")
        for row in outcome.rows:
            if not row.ok:
                what = f"{outcome.name}: {row.variant} {row.engine}.{row.port}"
                cosine = "" if row.cosine is None else f", cosine {row.cosine:.3f}"
                found = f"largest {row.largest}, mean {row.mean:.3f}{cosine}"
                click.echo(f"MISSED  {what}: {found}; asked {row.rule}")
        if outcome.not_run:
            click.echo(f"not run  {outcome.name}: {outcome.not_run}; enable it: {outcome.enable}")


def _differences(rows: Sequence[Row]) -> str:
    """Of each engine the worst output that is not identical, in codes; of a refinement step the cosine."""
    from edgeage.runtime.conformance.record import FACE, PHOTO

    found: dict[str, tuple[float, str]] = {}
    for row in rows:
        if row.identical:
            continue
        what = row.variant if row.variant in (FACE, PHOTO) else row.engine
        if row.cosine is not None:
            worse = (1 - row.cosine, f"{what} cosine {row.cosine:.3f}")
        else:
            levels = " levels" if row.variant == PHOTO else ""
            worse = (row.largest + row.mean, f"{what} {row.largest}{levels} ({row.mean:.2g})")
        found[what] = max(found.get(what, worse), worse)
    return ", ".join(text for _, text in found.values())


def _show_reasons(outcomes: Sequence[Outcome]) -> None:
    """One line for each kind of kernels that is here."""
    seen = {outcome.kernels.name: outcome.kernels for outcome in outcomes if outcome.kernels}
    for kernels in seen.values():
        asked = "identical codes are asked for" if kernels.codes is None else "a tolerance is given"
        click.echo(f"{kernels.name}: {asked}; {kernels.reason}")
