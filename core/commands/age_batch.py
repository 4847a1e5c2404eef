"""Many photos of `edgeage age`: each becomes a folder as a whole; a rerun goes on where one was stopped."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgeage.commands.provenance_options import marks_of
from edgeage.errors import EdgeageError, OutputError
from edgeage.files import new_folder, read_json, sha256, write_json

if TYPE_CHECKING:
    from edgeage.runtime.job import Job

RECORD = "result.json"  # in each photo's folder: the settings and the photo that it was made from
# What is taken from a folder; HEIC cannot be read, and is reported rather than passed over.
_PLAIN = ".jpg .jpeg .jpe .jfif .mpo .png .webp .avif .tif .tiff .bmp .gif .ppm .pgm .jp2 .heic .heif"
SUFFIXES = frozenset(_PLAIN.split(" "))
_STOPPED = 130  # exit code of a program that was stopped by Ctrl-C


@dataclass(frozen=True)
class Item:
    """A photo and the name of its folder under the output, mirrored from where it was found."""

    photo: Path
    name: str


def age_batch(job: Job, photos: Sequence[Path], out: Path, form: str, *, force: bool) -> int:
    """Age every photo into `out`; the exit code: 0, or 1 if a photo failed, or 130 after Ctrl-C.

    `form`: "text", "lines" (JSON, each photo when it is done) or "document" (JSON, at the end). Raises
    EdgeageError if there is no photo or nothing can be written: no other photo would fare better.
    """
    from edgeage.runtime.photo.write import check_output

    items, passed_over = find_photos(photos, out)
    check_output(out, [])
    results, stopped = [], False
    with _progress() as progress:
        task = progress.add_task("aging", total=len(items))
        try:
            for item in items:
                result = _age(job, item, out, force=force)
                results.append(result)
                if form == "lines":
                    click.echo(json.dumps(result))
                elif form == "text":
                    _say(result)
                progress.advance(task)
        except KeyboardInterrupt:
            stopped = True
        except OutputError as error:
            kept = sum(result["status"] != "failed" for result in results)
            raise OutputError(
                f"{error}; stopped, {kept} finished photos stay: the same command goes on when that is mended"
            ) from None
    counts = Counter(result["status"] for result in results)
    numbers = {status: counts[status] for status in ("aged", "done already", "failed")}
    numbers["not reached"] = len(items) - len(results)
    if form == "document":
        document = {"bundle": job.bundle_facts(), "settings": job.settings(), "photos": results}
        click.echo(json.dumps({**document, "counts": numbers, "passed_over": passed_over}, indent=2))
    summary = ", ".join(f"{count} {status}" for status, count in numbers.items() if count)
    click.echo(f"{summary}; in {out}", err=form != "text")
    if passed_over:
        click.echo(f"note: passed over, without a picture's suffix: {_few(passed_over)}", err=True)
    if stopped:
        click.echo("stopped; finished photos stay, the same command goes on from here", err=True)
        return _STOPPED
    return 1 if counts["failed"] else 0


def find_photos(arguments: Iterable[Path], out: Path) -> tuple[list[Item], list[str]]:
    """The photos named and those in the folders named, in order; and the files there that are none.

    Hidden files and what lies in `out` are left alone. EdgeageError if there is no photo, or two would take
    the same name.
    """
    folders = [argument for argument in arguments if argument.is_dir()]
    items: dict[str, Item] = {}
    passed_over: list[str] = []
    for argument in arguments:
        found = [argument]
        if argument in folders:
            inside = list(_files(argument, out.resolve()))
            found = [file for file in inside if file.suffix.lower() in SUFFIXES]
            passed_over += [str(file) for file in inside if file.suffix.lower() not in SUFFIXES]
        for photo in found:
            name = photo.name
            if argument in folders:  # several folders keep their names
                top = argument.resolve().name if len(folders) > 1 else ""
                name = (Path(top) / photo.relative_to(argument)).as_posix()
            if name in items and items[name].photo.resolve() != photo.resolve():
                raise EdgeageError(
                    f"{items[name].photo} and {photo} would both become {name}; age them into two folders"
                )
            items.setdefault(name, Item(photo, name))
    if not items:
        where = ", ".join(map(str, folders))
        raise EdgeageError(f"no photo in {where}; photos end in {', '.join(sorted(SUFFIXES))}")
    return list(items.values()), passed_over


def _files(folder: Path, out: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (Path(parent) / name).resolve() != out
        )
        yield from (Path(parent) / name for name in sorted(files) if not name.startswith("."))


def _age(job: Job, item: Item, out: Path, *, force: bool) -> dict[str, Any]:
    """What became of one photo, as JSON values; OutputError if nothing can be written at all."""
    facts: dict[str, Any] = {"photo": str(item.photo), "folder": str(out / item.name)}
    try:
        made_from = {"settings": job.settings(), "sha256": _digest(item.photo)}
        if _is_done(out / item.name, made_from, force=force):
            return {**facts, "status": "done already"}
        return {**facts, "status": "aged", **_write(job, item.photo, out / item.name, made_from, force=force)}
    except OutputError:
        raise
    except EdgeageError as error:
        return {**facts, "status": "failed", "error": str(error)}


def _write(job: Job, photo: Path, folder: Path, made_from: dict[str, Any], *, force: bool) -> dict[str, Any]:
    """Age a photo into a folder that is there as a whole or not at all."""
    try:
        with new_folder(folder, replace=force) as temporary:
            done = job.age(photo, temporary)
            files = [str(folder / path.name) for path in done.files]
            facts = {**done.facts(), "files": files, "provenance": marks_of(done.provenance)}
            write_json(temporary / RECORD, {**made_from, "result": facts})
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from None
    return facts


def _is_done(folder: Path, made_from: dict[str, Any], *, force: bool) -> bool:
    """Whether a folder was made from this photo with these settings; EdgeageError if from others."""
    if not folder.exists() or force:
        return False
    if not (folder / RECORD).is_file():
        raise EdgeageError(f"{folder} exists and is no batch's; choose another --out or pass --force")
    record = read_json(folder / RECORD, "record of a batch")
    if not isinstance(record, dict) or {key: record.get(key) for key in made_from} != made_from:
        raise EdgeageError(
            f"{folder} was made with other settings or from another photo; choose another --out or "
            "pass --force"
        )
    return True


def _digest(photo: Path) -> str:
    try:
        return sha256(photo)
    except OSError as error:
        raise EdgeageError(f"cannot read the photo {photo}: {error.strerror}") from None


def _say(result: dict[str, Any]) -> None:
    if result["status"] == "failed":
        named = "" if result["photo"] in result["error"] else f"{result['photo']}: "
        click.echo(f"failed        {named}{result['error']}", err=True)
        return
    about = ""
    if result["status"] == "aged":
        seconds = sum(result["timings_ms"].values()) / 1e3
        about = f"  own group {result['source_group']} ({result['source_decided']}), {seconds:.2f} s"
    click.echo(f"{result['status']:13} {result['photo']} -> {result['folder']}{about}")
    for warning in result.get("warnings", ()):
        click.echo(f"  note: {warning}", err=True)


def _few(names: list[str]) -> str:
    """At most three names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _progress() -> Progress:
    """On stderr, and only where somebody watches."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
