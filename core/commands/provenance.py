"""edgeage provenance: what marks pictures carry."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeage.errors import EdgeageError

if TYPE_CHECKING:
    from rich.text import Text

    from edgeage.runtime.provenance.credentials import Credentials
    from edgeage.runtime.provenance.label import Label
    from edgeage.runtime.provenance.report import Report
    from edgeage.runtime.provenance.watermark import Found

_VERDICTS = {
    "trusted": "[green]holds, signer trusted[/]",
    "valid": "[yellow]holds, but nobody vouches for the signer[/]",
    "invalid": "[red]DOES NOT HOLD: changed after signing, or wrongly signed[/]",
    "remote": "[yellow]kept elsewhere, not fetched[/]",
}


@click.command(
    epilog="""\b
Examples:
  edgeage provenance aged/age-60+.png
  edgeage provenance aged/*.png --json
  edgeage provenance photo.jpg --trust trust.pem

Exit code: 0 if every file carries a mark, 1 if one carries none, 2 if one cannot be read."""
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--trust",
    type=click.Path(path_type=Path),
    metavar="PEM",
    help="Certificates whose C2PA signers are trusted; none unless given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
def command(files: tuple[Path, ...], trust: Path | None, as_json: bool) -> None:
    """Show the label in the metadata, the C2PA manifest and the watermark of each FILE. Uses no network."""
    from edgeage.runtime.provenance.report import examine

    trusted = _read_trust(trust) if trust else None
    reports: list[Report] = []
    bad: dict[str, str] = {}
    for path in files:
        try:
            reports.append(examine(path, trusted))
        except EdgeageError as error:
            bad[str(path)] = str(error)
    if as_json:
        rows = [report.to_dict() for report in reports]
        rows += [{"file": file, "found": False, "error": why} for file, why in bad.items()]
        click.echo(json.dumps(rows, indent=2))
    else:
        for report in reports:
            _show(report)
    for why in bad.values():
        click.echo(f"edgeage: error: {why}", err=True)
    sys.exit(2 if bad else int(not all(report.found for report in reports)))


def _read_trust(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeError) as error:
        raise EdgeageError(f"cannot read the certificates {path}: {error}") from None
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise EdgeageError(f"{path} holds no PEM certificates")
    return text


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    click.echo(report.file)
    table = Table("mark")
    table.add_column("what it says", overflow="fold")
    table.add_row("label", _text(_label(report.label)))
    if report.c2pa:
        table.add_row("C2PA", _VERDICTS.get(report.c2pa.state, report.c2pa.state))
        for line in _manifest(report.c2pa):
            table.add_row("", _text(line))
    else:
        unread = any("C2PA" in problem for problem in report.problems)
        table.add_row("C2PA", "not checked, see below" if unread else "none")
    table.add_row("watermark", _watermark(report.watermark))
    Console().print(table)
    for problem in report.problems:
        click.echo(f"note: {_text(problem)}", err=True)
    if not report.found:
        click.echo("no mark found; that does not prove that the picture is unaltered")


def _text(foreign: str) -> Text:
    """What a stranger wrote into a file, without the control characters that could steer the terminal."""
    from rich.text import Text

    return Text("".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in foreign))


def _label(label: Label | None) -> str:
    if label is None:
        return "not read, see below"
    lines = [label.text, f"IPTC digital source type: {label.source_type.rpartition('/')[2]}"]
    if claim := label.claim:
        lines.append(f"own group {claim.own_group}, strength {claim.strength:g}")
    return "\n".join(line for line in lines if not line.endswith(": ") and line) or "none"


def _manifest(manifest: Credentials) -> list[str]:
    lines = [f"signed by {manifest.signer or 'nobody'} ({manifest.issuer or 'no organisation named'})"]
    lines += [f"made with {manifest.generator}"] if manifest.generator else []
    lines += [f"did: {action}" for action in manifest.actions]
    facts = sorted((manifest.facts or {}).items())
    lines += [f"{name.replace('_', ' ')}: {value}" for name, value in facts]
    lines += [f"from: {one}" for one in manifest.ingredients]
    return lines + [f"why: {reason}" for reason in manifest.reasons]


def _watermark(found: Found | None) -> str:
    if found is None:
        return "none found"
    payload = found.payload
    group = "several age groups" if payload.group is None else f"age group {payload.group + 1} of its bundle"
    how = f", in a crop to {found.kept:.0%} of the side" if found.kept < 1 else ""
    how += ", mirrored" if found.mirrored else ""
    mode = "raw" if payload.raw else "delta"
    return f"edgeage, {group}, mode {mode}, bundle SHA-256 {payload.bundle}... (score {found.score:.1f}{how})"
