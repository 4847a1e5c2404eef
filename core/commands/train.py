"""edgeage train: run a recipe's stages, or resume them."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  edgeage train --recipe edge --data utkface:UTKFace.tar --teacher MobileFaceNet.tflite --out runs/edge
  edgeage train --recipe smoke --data procedural:256 --out runs/smoke
  tensorboard --logdir runs"""
)
@click.option("--recipe", required=True, help="A shipped recipe (edge, paper, smoke) or a .json file.")
@click.option(
    "--data",
    required=True,
    metavar="SOURCE",
    help="utkface:FOLDER|TAR, imdb-wiki:FILE.mat, csv:FILE.csv or procedural:COUNT.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Run folder; resumed if it exists."
)
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="MobileFaceNet.tflite, for recipes that distil."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; torch's choice unless given.")
@click.option("--until", type=click.IntRange(1), help="Stop, resumable, after this many more steps.")
@click.option("--save-seconds", default=60.0, show_default=True, help="Time between checkpoints.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def command(
    recipe: str,
    data: str,
    out: Path,
    teacher: Path | None,
    device: str,
    threads: int | None,
    until: int | None,
    save_seconds: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a recipe's stages, or resume them.

    The run folder holds the recipe, the data's fingerprint, TensorBoard logs and one checkpoint that is
    replaced as a whole; after a kill, the same command goes on where it was.
    """
    from edgeage.train.recipes.schema import load_recipe
    from edgeage.train.run import RunOptions, train

    options = RunOptions(
        out=out,
        source=data,
        teacher=teacher,
        device=device,
        threads=threads,
        save_seconds=save_seconds,
        until=until,
        progress=not (quiet or as_json),
    )
    folder = train(load_recipe(recipe), options, say=(lambda text: None) if as_json else click.echo)
    if as_json:
        meta = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        click.echo(json.dumps({"checkpoint": str(folder), "stage": meta["stage"], "step": meta["step"]}))
