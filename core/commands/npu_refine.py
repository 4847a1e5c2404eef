"""edgeage npu-refine: a bundle's refine engine with 16-bit activations, and with its steps unrolled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command(
    epilog="""\b
Examples:
  edgeage npu-refine mine.agebundle --out npu
  edgeage npu-refine mine.agebundle --out npu --steps 5 --json"""
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the two files.")
@click.option(
    "--steps", type=click.IntRange(1), metavar="K", help="Unrolled steps; the bundle's K unless given."
)
@click.option("--force", is_flag=True, help="Replace the folder if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(bundle: Path, out: Path, steps: int | None, force: bool, as_json: bool) -> None:
    """Write two forms of the refine engine of BUNDLE for NPUs, with what Arm's vela says of each.

    refine.int16x8.tflite is one step with 16-bit activations: a gradient nearly as good as in float.
    refineK.int8.tflite makes K steps along the gradient's sign in one call, (z, y, target, image) -> z. On a
    CPU the first is slow, and neither chooses the best latent as the host's loop does.
    """
    from edgeage.export.compilers import vela
    from edgeage.export.npu import cosine_to_float, npu_files
    from edgeage.files import new_folder, write_bytes, write_json
    from edgeage.native_output import without_native_info
    from edgeage.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    report: dict[str, Any] = {"bundle": opened.manifest.name, "files": {}}
    with new_folder(out, replace=force) as folder:
        for file in npu_files(opened, steps):
            write_bytes(folder / file.name, file.content)
            with without_native_info():
                cosine = cosine_to_float(opened, file)
            told: dict[str, Any] = {"bytes": len(file.content), "cosine": cosine}
            if vela.executable() is None:
                told["vela"] = {"not run": f"ethos-u-vela is not installed; {vela.INSTALL}"}
            else:
                told["vela"] = {name: vela.report(file.content, name) for name in vela.ACCELERATORS}
            report["files"][file.name] = told
        write_json(folder / "report.json", report)
    if as_json:
        click.echo(json.dumps(report))
        return
    for name, told in report["files"].items():
        click.echo(f"{out / name}  {told['bytes'] / 1e6:.2f} MB, cosine to float {told['cosine']:.3f}")
        for accelerator, found in told["vela"].items():
            if "milliseconds" in found:
                found = (
                    f"{found['cpu_operators']} operators on the CPU, {found['milliseconds']:.1f} ms estimated"
                )
            click.echo(f"  {accelerator}: {found}")
