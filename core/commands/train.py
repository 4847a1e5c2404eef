"""edgeage train: run a recipe's stages, or resume them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  edgeage train --recipe edge --data utkface:UTKFace.tar --teacher MobileFaceNet.tflite --out runs/edge
  edgeage train --recipe smoke --data procedural:256 --out runs/smoke
  edgeage train --recipe recogniser --from runs/edge --data utkface:U.tar --teacher M.tflite --out runs/fr
  torchrun --nproc-per-node 4 -m edgeage train --recipe smoke --data procedural:256 --out runs/four
  tensorboard --logdir runs"""
)
@click.option(
    "--recipe",
    required=True,
    help="A shipped recipe (edge, paper, recogniser, recogniser-relu, smoke) or a .json file.",
)
@click.option(
    "--data",
    required=True,
    metavar="SOURCE",
    help="utkface:FOLDER|TAR, imdb-wiki:FILE.mat, csv:FILE.csv, store:FOLDER (edgeage prepare) or "
    "procedural:COUNT.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Run folder; resumed if it exists."
)
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="MobileFaceNet.tflite, for recipes that distil."
)
@click.option(
    "--from",
    "origin",
    type=click.Path(path_type=Path),
    help="A run or checkpoint whose networks a new run begins with.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; torch's choice unless given.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bf16"]),
    default="auto",
    show_default=True,
    help="bf16 is autocast; auto takes it on CUDA devices that compute in it.",
)
@click.option(
    "--shards",
    type=click.IntRange(1),
    help="Parts that each batch is cut into: gradient accumulation, for less memory. One per process "
    "unless given; a run keeps its number, on any number of processes that divides it.",
)
@click.option("--compile", "compiled", is_flag=True, help="Run the networks through torch.compile.")
@click.option("--until", type=click.IntRange(1), help="Stop, resumable, after this many more steps.")
@click.option("--save-seconds", default=60.0, show_default=True, help="Time between checkpoints.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def command(
    recipe: str,
    data: str,
    out: Path,
    teacher: Path | None,
    origin: Path | None,
    device: str,
    threads: int | None,
    precision: str,
    shards: int | None,
    compiled: bool,
    until: int | None,
    save_seconds: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a recipe's stages, or resume them.

    The run folder holds the recipe, the data's fingerprint, TensorBoard logs and one checkpoint that is
    replaced as a whole; after a kill, the same command goes on where it was. Several GPUs, or several
    machines that see the same files, work together under torchrun.
    """
    from edgeage.train.distributed import StoppedElsewhere, leads, leave
    from edgeage.train.recipes.schema import load_recipe
    from edgeage.train.run import RunOptions, train

    options = RunOptions(
        out=out,
        source=data,
        teacher=teacher,
        origin=origin,
        device=device,
        threads=threads,
        precision=precision,
        shards=shards,
        compile=compiled,
        save_seconds=save_seconds,
        until=until,
        progress=not (quiet or as_json),
    )
    try:
        folder = train(load_recipe(recipe), options, say=(lambda text: None) if as_json else click.echo)
    except StoppedElsewhere as error:  # told by the process that failed
        sys.exit(error.exit_code)
    if as_json and leads():
        meta = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        click.echo(json.dumps({"checkpoint": str(folder), "stage": meta["stage"], "step": meta["step"]}))
    leave()
