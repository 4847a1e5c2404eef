"""edgeage build-engine: TensorRT plans of a bundle, built on the device that will run them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgeage.runtime.bundle import Bundle
    from edgeage.runtime.engines.tensorrt.build import Progress
    from edgeage.runtime.engines.tensorrt.prepare import Prepared, Workshop
    from edgeage.runtime.engines.tensorrt.recipe import BuildOptions


@click.command(
    epilog="""\b
Examples:
  edgeage build-engine edge64.agebundle
  edgeage build-engine edge64.agebundle --precision int8 --optimization-level 5
  edgeage build-engine --engines encoder,generator_all --force --json"""
)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    help="int8, float16, float32, or auto: build int8 and float16, keep the faster that is good enough.",
)
@click.option("--engines", metavar="NAME,NAME", help="Only these; all of the bundle unless given.")
@click.option(
    "--optimization-level",
    "level",
    default=3,
    show_default=True,
    help="0..5 of TensorRT's builder; higher builds longer and may run faster.",
)
@click.option(
    "--workspace-mb", type=int, metavar="MB", help="Most scratch memory of a layer; all unless given."
)
@click.option(
    "--dla", type=int, metavar="CORE", help="Build for this DLA core; refused where it cannot hold."
)
@click.option("--force", is_flag=True, help="Build again what the cache has.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Folder of plans [default: $EDGEAGE_TENSORRT_CACHE, else ~/.cache/edgeage/tensorrt].",
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def command(
    bundle: Path | None,
    precision: str,
    engines: str | None,
    level: int,
    workspace_mb: int | None,
    dla: int | None,
    force: bool,
    cache: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Build BUNDLE's TensorRT plans (the shipped model's unless given) on this device, and keep them.

    Plans hold for this device, driver and TensorRT alone; edgeage age --engine tensorrt takes them from the
    cache, and builds what is not there or no longer holds. Needs NumPy, TensorRT and cuda-python only.
    """
    from edgeage.errors import EdgeageError
    from edgeage.runtime.bundle import open_bundle
    from edgeage.runtime.engines import candidates, check_precision
    from edgeage.runtime.engines.tensorrt.cache import PlanCache
    from edgeage.runtime.engines.tensorrt.prepare import Workshop
    from edgeage.runtime.engines.tensorrt.recipe import BuildOptions

    check_precision(precision, "tensorrt")
    options = BuildOptions(level, workspace_mb, dla)
    opened = open_bundle(bundle)
    have = opened.manifest.engines
    can = [name for name, entry in have.items() if candidates(entry, "tensorrt", precision)]
    names = can if engines is None else engines.split(",")
    if unknown := [name for name in names if name not in have]:
        raise EdgeageError(f"the bundle has no engine {', '.join(unknown)}; it has: {', '.join(have)}")
    left_out = [name for name in have if name not in can] if engines is None else []
    workshop = Workshop(PlanCache(cache))
    built = {}
    with build_progress(quiet or as_json) as progress:
        for name in names:
            built[name] = _build(workshop, opened, name, precision, options, force, progress)
    if as_json:
        device = workshop.device.to_dict()
        document = {"bundle": opened.manifest.name, "cache": str(workshop.cache.folder), "device": device}
        click.echo(json.dumps({**document, "engines": built, "no_onnx": left_out}, indent=2))
        return
    _show(workshop, built)
    for name in left_out:
        click.echo(f"not built: {name}: the bundle has no ONNX file of it at {precision}")


def _build(
    workshop: Workshop,
    bundle: Bundle,
    name: str,
    precision: str,
    options: BuildOptions | None,
    force: bool,
    progress: Progress,
) -> dict[str, Any]:
    from edgeage.runtime.engines import AUTO
    from edgeage.runtime.engines.tensorrt.choose import choose_precision

    facts: dict[str, Any] = {}
    if precision == AUTO:
        choice = choose_precision(workshop, bundle, name, options, force=force, progress=progress)
        facts["auto"], precision, force = choice.to_dict(), choice.precision, False
    plan = workshop.prepare(bundle, name, precision, options, force=force, progress=progress)
    return {**facts, **plan_facts(plan)}


def prepare_plans(bundle: Bundle, precision: str, *, quiet: bool) -> None:
    """Build what is not in the cache, with a bar: aging a photo would otherwise be silent for minutes."""
    from edgeage.runtime.engines import candidates
    from edgeage.runtime.engines.tensorrt.prepare import Workshop

    workshop = Workshop()
    with build_progress(quiet) as progress:
        for name, entry in bundle.manifest.engines.items():
            if name != "refine_batch" and candidates(entry, "tensorrt", precision):
                _build(workshop, bundle, name, precision, None, False, progress)


def plan_facts(plan: Prepared) -> dict[str, Any]:
    """A plan as JSON."""
    kept = ("file", "bytes", "seconds", "sha256", "trtexec", "warnings")
    return {
        "precision": plan.recipe.precision,
        "recipe": str(plan.recipe),
        "plan": f"{plan.identity.name}.plan",
        "reused": plan.reused,
        "reason": plan.reason,
        **{key: plan.sidecar[key] for key in kept},
    }


@contextmanager
def build_progress(quiet: bool) -> Iterator[Progress]:
    """Bars of TensorRT's build on stderr, one a phase."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield progress


def _show(workshop: Workshop, built: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    device = workshop.device
    jetson = f", {device.l4t}" if device.l4t else ""
    title = f"{device.name} ({device.compute_capability}), TensorRT {device.tensorrt}{jetson}"
    table = Table("engine", "plan", "MB", "origin", title=title, title_justify="left")
    for name, facts in built.items():
        origin = "cache" if facts["reused"] else f"built in {facts['seconds']:.1f} s: {facts['reason']}"
        if "auto" in facts:
            origin += f"\nauto: {facts['auto']['reason']}"
        table.add_row(name, facts["recipe"], f"{facts['bytes'] / 1e6:.2f}", Text(origin))
    Console().print(table)
    # Outside of the table, whose lines are cut to the terminal's width.
    for name, facts in built.items():
        click.echo(facts["trtexec"])
        for warning in facts["warnings"]:
            click.echo(f"note: {name}: {warning}", err=True)
    click.echo(f"plans: {workshop.cache.folder}")
