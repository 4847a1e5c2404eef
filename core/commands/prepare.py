"""edgeage prepare: a large data set, decoded, aligned and packed once."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  edgeage prepare imdb-wiki:imdb/imdb.mat --out imdb64 --workers 16 --near-duplicates 2
  edgeage train --recipe paper --data store:imdb64 --out runs/paper
  edgeage prepare --verify imdb64"""
)
@click.argument("source", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the store; finished if it was begun.")
@click.option("--image-size", default=64, show_default=True, help="Side of the images in pixels.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option(
    "--align",
    default="auto",
    show_default=True,
    help="Find the face and lay it into the training frame: auto (photos only), always or never.",
)
@click.option(
    "--near-duplicates",
    type=click.IntRange(0, 4),
    metavar="BITS",
    help="Also drop pictures that differ in at most so many bits of a 64-bit hash; 2 finds one photo "
    "saved twice. May be changed on a finished store.",
)
@click.option("--limit", type=click.IntRange(1), help="At most so many images, chosen by their names.")
@click.option("--shard-size", type=click.IntRange(1), default=8192, show_default=True, help="Images a shard.")
@click.option(
    "--verify", type=click.Path(path_type=Path), metavar="STORE", help="Check every byte of a store."
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def command(
    source: str | None,
    out: Path | None,
    image_size: int,
    workers: int,
    align: str,
    near_duplicates: int | None,
    limit: int | None,
    shard_size: int,
    verify: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Decode SOURCE (utkface:, imdb-wiki: or csv:) into a store that training maps into memory.

    After a kill the same command goes on where it was.
    """
    from edgeage.errors import EdgeageError
    from edgeage.train.data.prepare import Options, prepare
    from edgeage.train.data.store import verify_store

    if verify is not None:
        if source is not None or out is not None:
            raise EdgeageError("--verify takes the store alone; leave SOURCE and --out away")
        faces = verify_store(verify)
    elif source is None or out is None:
        raise EdgeageError("give SOURCE and --out STORE, or --verify STORE; see edgeage prepare --help")
    else:
        options = Options(
            image_size=image_size,
            align=align,
            limit=limit,
            shard_size=shard_size,
            near_duplicates=near_duplicates,
            workers=workers,
            progress=not (quiet or as_json),
        )
        faces = prepare(source, out, options)
    if as_json:
        click.echo(json.dumps({"store": str(verify or out), **faces.to_dict()}))
    else:
        click.echo(faces.report())
        click.echo(f"verified: {verify}" if verify else f"train with --data store:{out}")
    empty = [name for name, count in faces.group_counts().items() if not count]
    if empty:
        groups = ", ".join(empty)
        click.echo(
            f"WARNING: no face in {groups}: training will refuse this store; add such images", err=True
        )
