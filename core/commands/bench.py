"""edgeage bench: latency with intervals, and a verdict on whether it can be relied on."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeage.errors import EdgeageError

if TYPE_CHECKING:
    from edgeage.runtime.bench.load import Tick
    from edgeage.runtime.bench.subjects import Spec
    from edgeage.runtime.bundle import Bundle

OTHERS = {
    "compare": "The ratio of two subjects or two files of results, with its interval.",
    "report": "One table over many files of results.",
}


class BenchGroup(click.Group):
    """`edgeage bench BUNDLE ...` measures; `edgeage bench compare` and `report` are commands of their own."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        if not arguments or arguments[0] not in (*OTHERS, "run"):
            arguments = ["run", *arguments]
        return super().parse_args(context, arguments)

    def list_commands(self, context: click.Context) -> list[str]:
        return ["run", *OTHERS]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in OTHERS:
            return super().get_command(context, name)
        command: click.Command = importlib.import_module(f"edgeage.commands.bench_{name}").command
        return command


@click.group(cls=BenchGroup)
def command() -> None:
    """Measure latency, compare and report it."""


def seconds(text: str) -> float:
    """Read a duration: 90, 90s, 10m or 1h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise EdgeageError(f"{text!r} is no duration; write 90s, 10m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@command.command(
    "run",
    epilog="""\b
Examples:
  edgeage bench models/edge64.agebundle
  edgeage bench models/edge64.agebundle encoder generator --engine litert --engine onnxruntime --threads 2
  edgeage bench models/edge64.agebundle pipeline --steps 0 --steps 3 --percentile 99
  edgeage bench models/edge64.agebundle refinement --rate 30
  edgeage bench models/edge64.agebundle encoder --sustain 10m
  edgeage bench models/edge64.agebundle generator --require-delegated --max-p90 5 --min-quality psnr_db=40

\b
Other commands:
  edgeage bench compare A B   the ratio of two subjects or files of results, with its interval
  edgeage bench report DIR    one table over many files of results

\b
Exit code: 0 VALID, 10 NOISY, 11 TOO SHORT, 12 DRIFTING, 13 THROTTLED, 14 FELL BACK (the worst of all
subjects); 2 bad input, 3 a requirement is not met, 130 interrupted.""",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("subjects", nargs=-1)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    help="litert, tflite-runtime, onnxruntime, tensorrt, or all that are installed. Repeatable.  [litert]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    default=("int8",),
    help="int8, float32, float16, int8-float16; of tensorrt also auto. Repeatable.  [int8]",
)
@click.option("--threads", multiple=True, type=int, default=(1,), help="Of the engines. Repeatable.  [1]")
@click.option(
    "--steps", multiple=True, type=int, metavar="K", help="Of refinement; the bundle's. Repeatable."
)
@click.option(
    "--photo", type=click.Path(path_type=Path), help="Of the pipeline; a generated one if not given."
)
@click.option(
    "--percentile",
    default=90.0,
    show_default=True,
    help="Measure until this one has an interval: 99 takes 368 independent runs.",
)
@click.option("--runs", type=int, help="Measure so many runs after the warm-up instead.")
@click.option("--max-seconds", default=60.0, show_default=True, help="At most so long, each subject.")
@click.option(
    "--rate", type=float, metavar="HZ", help="Start runs on a schedule; time from the intended start."
)
@click.option("--sustain", metavar="TIME", help="Measure for 10m, with a median per minute.")
@click.option("--concurrency", default=1, show_default=True, help="Workers that run at the same time.")
@click.option("--interleave", is_flag=True, help="Measure all subjects in turn, round by round.")
@click.option("--require-delegated", is_flag=True, help="Exit 3 if a node runs elsewhere than on its target.")
@click.option("--max-p90", type=float, metavar="MS", help="Exit 3 if p90 may be more, by its interval.")
@click.option(
    "--min-quality",
    multiple=True,
    metavar="METRIC=N",
    help="Exit 3 if the manifest records less, e.g. generator.psnr_db=40. Repeatable.",
)
@click.option(
    "--out",
    default="bench-results",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for the file of results, which is named by bundle and time.",
)
@click.option("--roofline", is_flag=True, help="Also measure this machine's peaks and bandwidth, about 3 s.")
@click.option("--html", "as_html", is_flag=True, help="Write an .html page beside it; needs edgeage[bench].")
@click.option("--csv", "as_csv", is_flag=True, help="Write a .csv beside it.")
@click.option("--json", "as_json", is_flag=True, help="Print the file of results instead of a table.")
def run(
    bundle: Path,
    subjects: tuple[str, ...],
    engines: tuple[str, ...],
    precisions: tuple[str, ...],
    threads: tuple[int, ...],
    steps: tuple[int, ...],
    photo: Path | None,
    percentile: float,
    runs: int | None,
    max_seconds: float,
    rate: float | None,
    sustain: str | None,
    concurrency: int,
    interleave: bool,
    require_delegated: bool,
    max_p90: float | None,
    min_quality: tuple[str, ...],
    out: Path,
    roofline: bool,
    as_html: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Measure SUBJECTS of BUNDLE, and say whether the figures can be relied on.

    A subject is an engine (encoder, embedder, generator, generator_all, refine, refine_batch), refinement (K
    steps with all that they need), pipeline (a photo to its six ages, stage by stage), cold (the same in a
    fresh process) or cold.ENGINE; with settings of its own if need be, as in
    encoder,engine=onnxruntime,threads=2. Without any, all but refine_batch and cold.ENGINE are measured.
    """
    from edgeage.native_output import without_native_info
    from edgeage.runtime.bench.load import Plan
    from edgeage.runtime.bench.report import require_jinja2, write_page
    from edgeage.runtime.bench.requirements import Requirements, parse_quality
    from edgeage.runtime.bench.results import write_results
    from edgeage.runtime.bench.roofline import roofline as measure_roofline
    from edgeage.runtime.bench.run import prepare_all, run_bench
    from edgeage.runtime.bench.spreadsheet import write_csv
    from edgeage.runtime.bench.verdict import EXIT_CODES, EXIT_INTERRUPTED, EXIT_REQUIREMENT, worst
    from edgeage.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    plan = Plan(
        percentile,
        runs,
        max_seconds=max_seconds,
        rate_hz=rate,
        sustain_seconds=None if sustain is None else seconds(sustain),
        concurrency=concurrency,
    )
    required = Requirements(require_delegated, max_p90, tuple(map(parse_quality, min_quality)))
    specs = choose_specs(opened, subjects, engines, precisions, threads, steps)
    _check_writable(out)
    if as_html:
        require_jinja2()
    with without_native_info():
        ready, not_run = prepare_all(opened, specs, photo, lacking_ok=not subjects)
    with _progress() as progress:
        done = run_bench(opened, ready, plan, interleave=interleave, not_run=not_run, progress=progress)
    if roofline:
        with without_native_info():
            found = measure_roofline(opened, done.results)
        done = replace(done, environment={**done.environment, "roofline": found})
    stem = f"{opened.manifest.name}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    write_results(out / f"{stem}.json", done)
    if as_csv:
        write_csv(out / f"{stem}.csv", done)
    if as_html:
        write_page(out / f"{stem}.html", {f"{stem}.json": done})
    whole = [result.verdict for result in done.results if result.part_of is None]
    word = worst(whole)
    if as_json:
        click.echo(json.dumps(done.to_dict()))
    else:
        from edgeage.commands.bench_compare_tables import show_roofline, show_steps
        from edgeage.commands.bench_tables import show_run

        show_run(done)
        show_steps(done)
        if roofline:
            show_roofline(found)
        click.echo(f"verdict: {word}")
        click.echo(
            f"results: {out / stem}.json{' and .csv' if as_csv else ''}{' and .html' if as_html else ''}"
        )
    missed = required.missed(done, opened.manifest.quality)
    for line in missed:
        click.echo(f"requirement not met: {line}", err=True)
    if not done.complete:
        click.echo("interrupted: the results are partial, and marked so", err=True)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(EXIT_REQUIREMENT if missed else EXIT_CODES[word])


def choose_specs(
    bundle: Bundle,
    subjects: Sequence[str],
    engines: Sequence[str],
    precisions: Sequence[str],
    threads: Sequence[int],
    steps: Sequence[int],
) -> list[Spec]:
    """Every subject with every engine, precision, number of threads and, where they play a part, steps."""
    from edgeage.runtime.bench.subjects import COLD, PIPELINE, REFINEMENT, Spec, parse_spec
    from edgeage.runtime.engines.packages import PACKAGES, problem, require

    if "all" in engines:
        engines = [engine for engine in PACKAGES if problem(engine) is None]
        engines += ["tensorrt"] if importlib.util.find_spec("tensorrt") else []
    for engine in engines:
        if engine in PACKAGES:
            require(engine)
    usual = [name for name in bundle.manifest.engines if name != "refine_batch"]
    specs: dict[Spec, None] = {}
    for text in subjects or (*usual, REFINEMENT, PIPELINE, COLD):
        for engine, precision, count in product(engines or ("litert",), precisions, threads):
            spec = parse_spec(text, Spec("", engine, precision, count))
            stepping = spec.name in (REFINEMENT, PIPELINE, COLD) and spec.steps is None
            for k in (steps if stepping else ()) or (spec.steps,):
                specs[parse_spec(text, Spec("", engine, precision, count, k))] = None
    return list(specs)


def _check_writable(folder: Path) -> None:
    """Before the work, not after."""
    import os

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeageError(
            f"cannot make the folder {folder}: {error.strerror}; choose another --out"
        ) from None
    if not os.access(folder, os.W_OK):
        raise EdgeageError(f"cannot write into {folder}; choose another --out")


@contextmanager
def _progress() -> Iterator[Callable[[str], Tick]]:
    """A bar on stderr, drawn between runs only: a thread that draws would disturb what is measured."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[runs]} runs"))
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:

        def begin(label: str) -> Tick:
            task = bars.add_task(label, total=1.0, runs=0)

            def tick(runs: int, share: float) -> None:
                bars.update(task, completed=share, runs=runs, refresh=True)

            return tick

        yield begin
