"""edgeage age: one photo becomes six, and a strip of them; several photos become a folder each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeage.commands.aging_options import ALL_FACES, BUNDLE, MAX_MEGAPIXELS, STRENGTH, THREADS
from edgeage.commands.provenance_options import marks_of, provenance_options

if TYPE_CHECKING:
    from edgeage.runtime.provenance.marking import Marking


@click.command(
    epilog="""\b
Examples:
  edgeage age photo.jpg --out aged
  edgeage age photo.jpg --out aged --groups 60+,50-59 --from 30-39 --strength 1.3
  edgeage age photo.jpg --out aged --morph webp --html
  edgeage age photo.jpg --out aged --steps 5 --deadline-ms 40
  edgeage age photo.jpg --out aged --engine onnxruntime --precision float32 --mode raw --json
  edgeage age holiday portraits/me.jpg --out aged --groups 60+ --json-lines"""
)
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the pictures.")
@BUNDLE
@click.option(
    "--engine",
    default="litert",
    show_default=True,
    help="litert, tflite-runtime, onnxruntime or tensorrt.",
)
@click.option(
    "--precision",
    default="int8",
    show_default=True,
    help="int8 or float32; of onnxruntime and tensorrt also float16 or int8-float16; of tensorrt also auto.",
)
@click.option(
    "--mode",
    default="delta",
    show_default=True,
    help="delta adds the generated change to the photo; raw pastes the generated face.",
)
@click.option("--groups", metavar="G,G", help="Age groups to make, e.g. 60+,50-59; all unless given.")
@click.option(
    "--from", "source", metavar="G", help="The face's own group (or age); searched for unless given."
)
@STRENGTH
@ALL_FACES
@click.option(
    "--steps",
    type=int,
    metavar="K",
    help="Steps of latent refinement, 0 for none; the bundle's unless given.",
)
@click.option(
    "--deadline-ms",
    type=float,
    metavar="MS",
    help="Time for the refinement; the best until then is used.",
)
@click.option(
    "--allow-unrefined", is_flag=True, help="Go on without refinement if the bundle has no engine for it."
)
@click.option("--morph", metavar="KIND", help="gif or webp: also write an animation over the groups.")
@click.option("--html", "page", is_flag=True, help="Also write a page that compares photo and aged photos.")
@MAX_MEGAPIXELS
@THREADS
@click.option("--force", is_flag=True, help="Write over pictures that are there already.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@click.option("--json-lines", is_flag=True, help="Print one line of JSON per photo, each when it is done.")
@provenance_options
def command(
    photos: tuple[Path, ...],
    out: Path,
    bundle: Path | None,
    engine: str,
    precision: str,
    mode: str,
    groups: str | None,
    source: str | None,
    strength: float | None,
    all_faces: bool,
    steps: int | None,
    deadline_ms: float | None,
    allow_unrefined: bool,
    morph: str | None,
    page: bool,
    max_megapixels: float,
    threads: int,
    force: bool,
    as_json: bool,
    json_lines: bool,
    marking: Marking | None,
) -> None:
    """Age the face in each of PHOTOS: one PNG per age group and a strip of them all.

    Of one photo they go to the folder OUT itself. Of several, or of folders (with all that is in them), each
    photo gets a folder of its own name there; what cannot be aged is reported and left out, exit code 1. The
    same command again goes on where it was stopped.
    """
    from edgeage.commands.age_batch import age_batch
    from edgeage.commands.age_table import show
    from edgeage.errors import EdgeageError
    from edgeage.native_output import without_native_info
    from edgeage.runtime.job import Job
    from edgeage.runtime.session import load

    if as_json and json_lines:
        raise EdgeageError("--json and --json-lines are two forms of the same; choose one")
    session = load(bundle, engine, precision, threads, max_megapixels)
    chosen = None if groups is None else groups.split(",")
    plan = session.plan(chosen, mode, source, strength, all_faces, steps, deadline_ms, allow_unrefined)
    job = Job(session, plan, (engine, precision), morph, page, marking)
    if engine == "tensorrt":
        from edgeage.commands.build_engine import prepare_plans

        prepare_plans(session.bundle, precision, quiet=as_json or json_lines)
    if len(photos) > 1 or photos[0].is_dir():
        with without_native_info():  # at their first use; later the progress bar has stderr
            session.engine("encoder"), session.detector()
        form = "lines" if json_lines else "document" if as_json else "text"
        raise SystemExit(age_batch(job, photos, out, form, force=force))

    job.check_output(out, force=force)  # before the work, not after
    with without_native_info():
        done = job.age(photos[0], out, force=force)
    if as_json or json_lines:
        document = {"bundle": job.bundle_facts(), **done.facts(), "provenance": marks_of(done.provenance)}
        click.echo(json.dumps(document, indent=None if json_lines else 2))
        return
    show(done, session)
