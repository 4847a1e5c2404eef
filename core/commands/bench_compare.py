"""edgeage bench compare: the ratio of two subjects that take turns, or of two files of results."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgeage.runtime.bench.compare import Pair


@click.command(
    epilog="""\b
Examples:
  edgeage bench compare encoder encoder,engine=onnxruntime --bundle models/edge64.agebundle
  edgeage bench compare refinement,steps=3 refinement,steps=5
  edgeage bench compare before.json after.json --fail-if-slower

\b
Exit code: 0, or 3 with --fail-if-slower where the whole interval is above 1 + threshold."""
)
@click.argument("a")
@click.argument("b")
@click.option("--bundle", type=click.Path(path_type=Path), help="Of subjects; the shipped one if not given.")
@click.option("--loads", type=int, help="How often both subjects are loaded anew.  [15]")
@click.option("--rounds", type=int, help="At least so many rounds a load, after the warm-up.  [60]")
@click.option(
    "--threshold", default=2.0, show_default=True, help="Per cent that are of no practical interest."
)
@click.option("--fail-if-slower", is_flag=True, help="Exit 3 if B is slower than A.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def command(
    a: str,
    b: str,
    bundle: Path | None,
    loads: int | None,
    rounds: int | None,
    threshold: float,
    fail_if_slower: bool,
    as_json: bool,
) -> None:
    """Say whether B is slower than A: faster, slower or inconclusive, with the ratio's interval.

    A and B are subjects as `edgeage bench` has them, measured here in turn, or files that it wrote.
    """
    from edgeage.errors import EdgeageError
    from edgeage.runtime.bench.compare import Compared, compare_runs
    from edgeage.runtime.bench.results import read_results
    from edgeage.runtime.bench.verdict import EXIT_REQUIREMENT

    if not 0 < threshold < 100:
        raise EdgeageError(f"the threshold is {threshold:g} %; give a number between 0 and 100")
    files = [text.endswith(".json") or Path(text).is_file() for text in (a, b)]
    if all(files):
        compared = compare_runs(read_results(Path(a)), read_results(Path(b)), threshold / 100)
    elif any(files):
        raise EdgeageError("one of the two is a file and the other is not; give two subjects or two files")
    else:
        compared = Compared((_take_turns(a, b, bundle, loads, rounds, threshold / 100, quiet=as_json),))
    if as_json:
        click.echo(json.dumps(compared.to_dict(), indent=2))
    else:
        from edgeage.commands.bench_compare_tables import show_compared

        show_compared(compared)
    slower = any(pair.comparison.outcome == "slower" for pair in compared.pairs)
    sys.exit(EXIT_REQUIREMENT if slower and fail_if_slower else 0)


def _take_turns(
    a: str,
    b: str,
    bundle: Path | None,
    loads: int | None,
    rounds: int | None,
    threshold: float,
    *,
    quiet: bool,
) -> Pair:
    from rich.console import Console
    from rich.progress import Progress

    from edgeage.native_output import without_native_info
    from edgeage.runtime.bench.compare import LOADS, ROUNDS, take_turns
    from edgeage.runtime.bench.subjects import Prepared, Spec, parse_spec, prepare
    from edgeage.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    specs = [parse_spec(text, Spec("")) for text in (a, b)]
    loads = LOADS if loads is None else loads

    def make() -> tuple[Prepared, Prepared]:
        return prepare(opened, specs[0]), prepare(opened, specs[1])

    console = Console(stderr=True)
    hidden: Any = nullcontext()
    bars = Progress(
        console=console, auto_refresh=False, transient=True, disable=quiet or not console.is_terminal
    )
    with without_native_info() if not console.is_terminal else hidden, bars:
        task = bars.add_task("loads", total=loads)
        return take_turns(
            make,
            loads=loads,
            rounds=ROUNDS if rounds is None else rounds,
            threshold=threshold,
            tick=lambda done: bars.update(task, completed=done, refresh=True),
        )
