"""edgeage video: a clip becomes one clip per age group."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeage.commands.aging_options import ALL_FACES, BUNDLE, MAX_MEGAPIXELS, STRENGTH, THREADS
from edgeage.commands.provenance_options import marks_of, provenance_options, show_marks
from edgeage.errors import EdgeageError

if TYPE_CHECKING:
    from edgeage.runtime.provenance.marking import Marking, Provenance
    from edgeage.runtime.video.age import AgedClip
    from edgeage.runtime.video.sink import Sink


@click.command(
    epilog="""\b
Examples:
  edgeage video clip.mp4 --out aged --groups 60+ --from 30-39
  edgeage video frames --rate 30 --out aged --groups 60+,50-59 --all-faces"""
)
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the clips.")
@BUNDLE
@click.option("--engine", default="litert", show_default=True, help="litert, tflite-runtime or onnxruntime.")
@click.option("--precision", default="int8", show_default=True, help="int8 or float32.")
@click.option("--mode", default="delta", show_default=True, help="delta or raw, as for edgeage age.")
@click.option("--groups", metavar="G,G", help="Age groups to make, a clip each; all unless given.")
@click.option(
    "--from", "source", metavar="G", help="The face's own group (or age); searched on its first frame."
)
@STRENGTH
@ALL_FACES
@click.option(
    "--steps",
    type=int,
    default=0,
    show_default=True,
    metavar="K",
    help="Steps of latent refinement in every frame; delta gains nothing from them.",
)
@click.option("--rate", type=float, metavar="FPS", help="Of a folder of frames [default: 25].")
@MAX_MEGAPIXELS
@THREADS
@click.option("--force", is_flag=True, help="Write over clips that are there already.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@provenance_options
def command(
    clip: Path,
    out: Path,
    bundle: Path | None,
    engine: str,
    precision: str,
    mode: str,
    groups: str | None,
    source: str | None,
    strength: float | None,
    all_faces: bool,
    steps: int,
    rate: float | None,
    max_megapixels: float,
    threads: int,
    force: bool,
    as_json: bool,
    marking: Marking | None,
) -> None:
    """Age the face in CLIP, a video file (needs pip install "edgeage[video]") or a folder of frames.

    A file becomes OUT/NAME-GROUP.mp4 with its sound, a folder OUT/NAME-GROUP/ of PNG frames.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from edgeage.native_output import without_native_info
    from edgeage.runtime.photo.write import check_output
    from edgeage.runtime.provenance.claim import Claim
    from edgeage.runtime.provenance.marking import Provenance
    from edgeage.runtime.session import load
    from edgeage.runtime.video.age import age_clip
    from edgeage.runtime.video.clip import open_clip
    from edgeage.runtime.video.sink import open_sink

    session = load(bundle, engine, precision, threads, max_megapixels)
    plan = session.plan(
        None if groups is None else groups.split(","), mode, source, strength, all_faces, steps
    )
    opened = open_clip(clip, rate, max_megapixels)
    check_output(out, [])
    if marking and (marking.signer or marking.watermark):
        raise EdgeageError(
            "clips get a label in their metadata and --visible-mark; leave out --certificate and --watermark"
        )
    provenance = None
    if marking:
        names, own = session.profile.groups, source or "searched"
        facts = (session.bundle.manifest.name, session.bundle.sha256, tuple(plan.targets), own)
        provenance = Provenance(Claim(*facts, plan.mode, plan.strength), marking, tuple(names))
    with without_native_info():  # at their first use; later the progress bar has stderr
        session.engine("encoder"), session.detector()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        sinks = {}
        for group in plan.targets:
            sinks[group] = open_sink(opened, out, group, provenance, force=force)
            stack.callback(sinks[group].discard)
        bar = stack.enter_context(
            Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        )
        task = bar.add_task("frames", total=opened.count or None)
        done = age_clip(session, opened, plan, sinks, lambda: bar.advance(task))
        for sink in sinks.values():
            sink.finish()
    _say(done, sinks, plan.warnings, provenance, as_json)


def _say(
    done: AgedClip,
    sinks: dict[str, Sink],
    warnings: tuple[str, ...],
    provenance: Provenance | None,
    as_json: bool,
) -> None:
    notes = [*warnings, *dict.fromkeys(note for sink in sinks.values() for note in sink.notes)]
    files = {group: str(sink.path) for group, sink in sinks.items()}
    if as_json:
        facts = {
            "frames": done.frames,
            "with_face": done.with_face,
            "own_groups": done.tracks,
            "timings_ms": {stage: round(spent, 3) for stage, spent in done.timings.items()},
            "files": files,
            "warnings": notes,
            "provenance": _marks(provenance, files),
        }
        click.echo(json.dumps(facts, indent=2))
        return
    for note in notes:
        click.echo(f"note: {note}", err=True)
    each = sum(done.timings.values()) / done.frames
    click.echo(
        f"{done.frames} frames, a face aged in {done.with_face}, own group {', '.join(done.tracks)}; "
        f"{each:.1f} ms a frame without reading and writing"
    )
    for group, file in files.items():
        click.echo(f"{group:6} {file}")
    if provenance is None or Path(file).is_dir():
        show_marks(provenance)
    else:
        click.echo("marks:  a plain-text label in the comment of each file")


def _marks(provenance: Provenance | None, files: dict[str, str]) -> dict[str, Any]:
    marks = marks_of(provenance)
    if provenance and not all(Path(file).is_dir() for file in files.values()):
        marks["metadata"] = "a plain-text label in the file's comment"
    return marks
