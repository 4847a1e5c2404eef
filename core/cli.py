"""The command line: lazy verbs, one file each in `core/commands`, so that --help stays light."""

from __future__ import annotations

import importlib
import sys

import click

from edgeage import __version__
from edgeage.errors import EdgeageError

VERBS = {
    "age": "Age the face in a photo with a bundle's engines.",
    "bench": "Measure latency: percentiles with intervals, and a verdict on them.",
    "build-engine": "Build a bundle's TensorRT plans on this device.",
    "calibrate": "Report what INT8 costs a checkpoint, layer by layer.",
    "conformance": "Compare every engine here and elsewhere with a bundle's golden vectors.",
    "demo": "Age photos in the browser, on a page that keeps them to itself.",
    "doctor": "Say what this machine can do, and the command that adds what is missing.",
    "eval-setup": "Fetch the judges that evaluation needs.",
    "evaluate": "Measure a checkpoint by judges that its training never saw.",
    "export": "Turn a checkpoint into a bundle of INT8 engines.",
    "inspect": "Verify a bundle and show what is in it.",
    "npu-refine": "Write forms of a bundle's refine engine that only NPUs are good for.",
    "prepare": "Decode, align and pack a large data set once, for training.",
    "provenance": "Show what marks pictures carry: label, C2PA manifest, watermark.",
    "tune-refine": "Tune how latent refinement steps, for a checkpoint.",
    "train": "Train a recipe's stages, or resume them.",
    "video": "Age the face in a video file or a folder of frames.",
    "verify": "Measure a bundle's engines again and compare each form of a network with the one before.",
    "verify-on-device": "Run a bundle's golden vectors on this device, with latency and a report.",
}


class LazyGroup(click.Group):
    """Imports a verb's module only when that verb runs."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"edgeage.commands.{name.replace('-', '_')}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: edgeage age photo.jpg --out aged",
)
@click.version_option(__version__, prog_name="edgeage")
def cli() -> None:
    """Face aging on the edge: train, export to INT8 engines, run on the device."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point: errors meant for users are one line on stderr and exit code 2."""
    try:
        cli.main(arguments, prog_name="edgeage", standalone_mode=True)
    except EdgeageError as error:
        click.echo(f"edgeage: error: {error}", err=True)
        sys.exit(error.exit_code)
