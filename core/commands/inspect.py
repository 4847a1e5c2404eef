"""edgeage inspect: what is in a bundle, after every file's hash was checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from edgeage.runtime.bundle import Bundle
    from edgeage.runtime.manifest import Manifest


@click.command(
    epilog="""\b
Examples:
  edgeage inspect
  edgeage inspect edge64.agebundle
  edgeage inspect edge64.agebundle.zip --json"""
)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
def command(bundle: Path | None, as_json: bool) -> None:
    """Verify every file of BUNDLE and show what is in it (the shipped model unless given)."""
    from edgeage.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    opened.verify()
    if as_json:
        sizes = opened.sizes()
        document = {"path": str(opened.path), "verified": True, "sizes": sizes, **opened.manifest.to_dict()}
        click.echo(json.dumps(document, indent=2))
        return
    _show(opened)


def _show(bundle: Bundle) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    manifest, sizes = bundle.manifest, bundle.sizes()
    profile = manifest.profile
    console = Console()
    console.print(f"[bold]{manifest.name}[/bold]  {bundle.path}", highlight=False)
    total = sum(sizes.values()) / 1e6
    console.print(
        f"all {len(sizes)} files verified, {total:.1f} MB; written by edgeage {manifest.edgeage_version}"
    )
    console.print(
        f"profile {profile.name}: {profile.image_size}x{profile.image_size} image, latent "
        f"{profile.latent_size}, groups {' '.join(profile.groups)}, frame {profile.frame}",
        highlight=False,
    )
    console.print(f"refinement: {_refinement(manifest)}", highlight=False)
    table = Table(
        Column("file", no_wrap=True), Column("form", no_wrap=True), "I/O", Column("MB", justify="right")
    )
    scales: dict[str, dict[str, str]] = {}
    for name, entry in manifest.engines.items():
        for file in entry.files:
            form, size = f"{file.precision} {file.format}", f"{sizes[file.file] / 1e6:.2f}"
            table.add_row(file.file, form, file.io, size)
            scales.setdefault(name, {}).update(
                (port.name, f"{port.scale:.6g} * (code - {port.zero_point})")
                for port in (*file.inputs, *file.outputs)
                if port.scale is not None
            )
    console.print(table)
    _tree(console, "int8 inputs and outputs, real value", scales)
    _tree(console, "quality", manifest.quality)
    _tree(console, "parity (edgeage verify measures it again)", _parity(manifest.parity))
    _tree(console, "lineage", manifest.lineage)
    _tree(console, "data", manifest.data)
    _tree(console, "licence", manifest.licence)
    _tree(console, "tools", manifest.tools)


def _refinement(manifest: Manifest) -> str:
    """The host's defaults, and why there is no refinement or what it does."""
    from edgeage.runtime.refinement import RefinementOptions

    usual = RefinementOptions.from_manifest(manifest.refinement)
    how = ""
    if "refine" in manifest.engines:
        how = f", {usual.method} steps from {usual.step:g}, decay {usual.decay:g}"
    return f"K={usual.steps}{how}; {manifest.refinement.get('note', 'no note')}"


def _tree(console: Console, title: str, values: dict[str, Any]) -> None:
    console.print(f"[bold]{title}[/bold]" + ("" if values else " none stated"))
    for key, value in _flat(values):
        console.print(f"  {key}: {value}", highlight=False, markup=False)


def _parity(parity: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The stated chain, one row a link."""
    rows: dict[str, dict[str, str]] = {}
    for engine, ports in parity.get("golden", {}).items():
        for found in ports.values():
            for link, figures in found.items():
                codes = f", at most {figures['lsb_max']:.0f} codes" if "lsb_max" in figures else ""
                rows.setdefault(engine, {})[link] = f"{figures['sqnr_db']:.1f} dB{codes}"
    for link, figures in parity.get("faces", {}).get("links", {}).items():
        judged = (
            f", cosine {-figures['cosine_drop']:+.4f}, years {figures['age_shift']:+.2f}"
            if "cosine_drop" in figures
            else ""
        )
        rows.setdefault("whole faces", {})[link] = f"{figures['psnr_db']:.1f} dB{judged}"
    return rows


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as ("a.b.c", value) rows; hashes cut to what a reader compares."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _brief(value)))
    return rows


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    is_hash = isinstance(value, str) and len(value) == 64 and " " not in value
    return f"{value[:12]}..." if is_hash else str(value)
