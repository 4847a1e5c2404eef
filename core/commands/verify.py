"""edgeage verify: measure a bundle's engines again, link by link, and have judges look at the faces."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgeage.export.bundle_check import Findings
    from edgeage.export.face_parity import Judges, Pixels
    from edgeage.runtime.bundle import Bundle
    from edgeage.train.checkpoint import Checkpoint

FIGURES = "parity.json"
_PHOTOS = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2"}


@click.command(
    epilog="""\b
Examples:
  edgeage verify edge64.agebundle
  edgeage verify edge64.agebundle --images photos --out report
  edgeage verify edge64.agebundle --checkpoint runs/edge --images utkface:UTKFace.tar --json"""
)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Run that it was exported from: adds torch's links."
)
@click.option(
    "--images",
    multiple=True,
    metavar="WHERE",
    help="Your own: a photo or a folder of photos (may be given several times), or a source of aligned "
    "faces (utkface:..., procedural:COUNT; see edgeage export).",
)
@click.option(
    "--faces", "count", default=60, show_default=True, type=click.IntRange(1), help="At most so many faces."
)
@click.option("--judges", type=click.Path(path_type=Path), help="Folder of edgeage eval-setup.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for parity.json and faces.png.")
@click.option("--force", is_flag=True, help="Replace --out if it exists.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
def command(
    bundle: Path | None,
    checkpoint: Path | None,
    images: tuple[str, ...],
    count: int,
    judges: Path | None,
    out: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Check BUNDLE (the shipped model unless given): its hashes, and every form of its networks.

    Each form (torch, ONNX as exported, canonical ONNX, Q/DQ, INT8 with int8 and with float I/O) is compared
    with the one before, on the golden vectors and on your images. Judges, where they are found, say what a
    link costs in likeness and apparent age. Exit code 1 if a gate fails, 2 for bad input.
    """
    from edgeage.errors import EdgeageError
    from edgeage.export.bundle_check import check_bundle, open_forms
    from edgeage.native_output import without_native_info
    from edgeage.runtime.bundle import open_bundle

    if out is not None and out.exists() and not force:
        raise EdgeageError(f"{out} exists already; choose another --out or pass --force")
    if out is not None and out.exists() and not (out / FIGURES).is_file():
        raise EdgeageError(f"{out} was not written by edgeage verify; it will not be replaced")
    quiet = quiet or as_json
    opened = open_bundle(bundle)
    opened.verify()
    trained = None
    if checkpoint is not None:
        from edgeage.train.checkpoint import load_checkpoint

        trained = load_checkpoint(checkpoint)
    with without_native_info():
        forms = open_forms(opened, trained)
        faces, origin = _faces(opened, images, count, trained)
    judging, why_not = _judges(judges, opened.manifest.profile.frame, quiet=quiet)
    found = check_bundle(opened, forms, faces, judging)
    if why_not:
        found.not_run["judges"] = why_not
    document = {"bundle": str(opened.path), "faces": origin, **found.to_dict()}
    if out is not None:
        _write(out, document, found, opened, force=force)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        from edgeage.commands.verify_tables import show

        show(opened, found, origin)
        if out is not None:
            click.echo(f"figures and faces of each form: {out}")
    sys.exit(1 if found.faults else 0)


def _faces(
    bundle: Bundle, images: tuple[str, ...], count: int, checkpoint: Checkpoint | None
) -> tuple[Pixels | None, str]:
    """Aligned faces, uint8 [n, S, S, 3], and what they are; None and the golden face without --images."""
    from edgeage.errors import EdgeageError

    if not images:
        return None, "the golden face"
    is_source = [":" in text and not Path(text).exists() for text in images]
    if not any(is_source):
        return _photos(bundle, images, count)
    if len(images) > 1:
        raise EdgeageError("--images takes one source of faces, or photos and folders; not both")
    return _source(bundle, images[0], count, checkpoint)


def _photos(bundle: Bundle, images: tuple[str, ...], count: int) -> tuple[Pixels, str]:
    import numpy as np

    from edgeage.errors import EdgeageError
    from edgeage.runtime.photo.crop import face_crop
    from edgeage.runtime.photo.detect import Detector

    files: list[Path] = []
    for path in map(Path, images):
        if path.is_dir():
            files += sorted(one for one in path.iterdir() if one.suffix.lower() in _PHOTOS)
        else:
            files.append(path)
    if not files:
        raise EdgeageError(f"no photo in {', '.join(images)}; photos end in {' '.join(sorted(_PHOTOS))}")
    manifest, detector = bundle.manifest, Detector()
    size = manifest.profile.image_size
    crops = [face_crop(one, detector, manifest.frame_keypoints, size) for one in files[:count]]
    return np.stack(crops), f"{len(crops)} photos"


def _source(bundle: Bundle, text: str, count: int, checkpoint: Checkpoint | None) -> tuple[Pixels, str]:
    """Faces spread over the age groups; those that training never saw, if the checkpoint tells."""
    from edgeage.calibration.samples import balanced
    from edgeage.train.data import open_source
    from edgeage.train.recipes.schema import held_out_by

    faces = open_source(text, image_size=bundle.manifest.profile.image_size)
    name, of_training = faces.source, bundle.manifest.data.get("training", {}).get("fingerprint")
    if faces.fingerprint == of_training:
        if checkpoint is not None:
            _, _, faces = held_out_by(checkpoint.meta.get("recipe", {})).split(faces)
            name += ", test part, which training never saw"
        else:
            name += ", which training saw (with --checkpoint: only those it never saw)"
    chosen = faces.select(balanced(faces.groups, count))
    return chosen.images, f"{len(chosen)} faces of {name}"


def _judges(folder: Path | None, frame: str, *, quiet: bool) -> tuple[Judges | None, str]:
    """The judges, or why they do not run; asked for by name, they must be there."""
    from edgeage.errors import EdgeageError

    try:
        from edgeage.train.evaluation.judges import PublishedJudges

        return PublishedJudges(folder, frame, progress=not quiet), ""
    except ImportError as error:
        reason = f'{error.name} is not installed; add it with: pip install "edgeage[eval]"'
        if folder is not None:
            raise EdgeageError(f"the judges cannot run: {reason}") from None
        return None, reason
    except EdgeageError as error:
        if folder is not None:
            raise
        return None, str(error)


def _write(out: Path, document: dict[str, Any], found: Findings, bundle: Bundle, *, force: bool) -> None:
    from edgeage.commands.verify_tables import contact_sheet
    from edgeage.files import new_folder, write_json

    with new_folder(out, replace=force) as folder:
        write_json(folder / FIGURES, document)
        if found.inputs is not None and found.made:
            sheet = contact_sheet(found.inputs, found.made, bundle.manifest.profile.groups)
            sheet.save(folder / "faces.png")
