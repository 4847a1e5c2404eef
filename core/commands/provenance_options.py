"""The options of every verb that writes pictures: how they are marked. Gives the verb one `marking`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeage.errors import EdgeageError

if TYPE_CHECKING:
    from edgeage.runtime.provenance.marking import Marking, Provenance

_OPTIONS = [
    click.option(
        "--no-provenance",
        is_flag=True,
        help="Write the pictures unmarked, without the label in their metadata.",
    ),
    click.option("--visible-mark", is_flag=True, help='Draw a small "AI-aged" into the lower right corner.'),
    click.option("--watermark", is_flag=True, help="Put an invisible watermark into the pixels."),
    click.option(
        "--certificate",
        type=click.Path(path_type=Path),
        metavar="PEM",
        help="Sign a C2PA manifest: the signer's certificate and those above it.",
    ),
    click.option("--private-key", type=click.Path(path_type=Path), metavar="PEM", help="Of the certificate."),
    click.option(
        "--signing-algorithm",
        metavar="A",
        help="es256, es384, es512, ps256, ps384, ps512 or ed25519; by the key.",
    ),
    click.option(
        "--timestamp-url",
        metavar="URL",
        help="Ask this RFC 3161 authority for the time; the network is used.",
    ),
]


def provenance_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a click command; it gets `marking`: a Marking, or None with --no-provenance."""

    @functools.wraps(verb)
    def with_marking(
        *arguments: Any,
        no_provenance: bool,
        visible_mark: bool,
        watermark: bool,
        certificate: Path | None,
        private_key: Path | None,
        signing_algorithm: str | None,
        timestamp_url: str | None,
        **options: Any,
    ) -> None:
        signing = (certificate, private_key, signing_algorithm, timestamp_url)
        if no_provenance and (visible_mark or watermark or any(signing)):
            raise EdgeageError("--no-provenance excludes the options that mark pictures; leave one out")
        marking = None if no_provenance else _marking(visible_mark, watermark, *signing)
        verb(*arguments, marking=marking, **options)

    for option in reversed(_OPTIONS):
        with_marking = option(with_marking)
    return with_marking


def _marking(
    visible: bool,
    watermark: bool,
    certificate: Path | None,
    private_key: Path | None,
    algorithm: str | None,
    timestamp_url: str | None,
) -> Marking:
    from edgeage.runtime.provenance.credentials import Signer
    from edgeage.runtime.provenance.marking import Marking

    if certificate and private_key:
        return Marking(
            Signer.from_files(certificate, private_key, algorithm, timestamp_url), visible, watermark
        )
    if certificate or private_key or algorithm or timestamp_url:
        raise EdgeageError("a C2PA manifest needs both --certificate and --private-key")
    return Marking(None, visible, watermark)


def marks_of(provenance: Provenance | None) -> dict[str, Any]:
    """What was written, for --json."""
    if provenance is None:
        return {"marked": False}
    return {"marked": True, **provenance.marking.describe(), "notes": list(provenance.notes)}


def show_marks(provenance: Provenance | None) -> None:
    """The same as lines for people."""
    if provenance is None:
        click.echo(
            "marks:    NONE, as --no-provenance asks: the files do not say that they were made with AI"
        )
        return
    marks = provenance.marking.describe()
    click.echo(f"marks:    {marks['metadata']} in each file (edgeage provenance FILE shows them)")
    click.echo(f"          C2PA manifest {marks['c2pa']}")
    for mark in ("watermark", "visible_mark"):
        if marks[mark] != "not asked for":
            click.echo(f"          {mark.replace('_', ' ')}: {marks[mark]}")
    for note in provenance.notes:
        click.echo(f"note: {note}", err=True)
