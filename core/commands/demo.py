"""edgeage demo: the whole way of a photo in the browser, on a page served to this machine alone."""

from __future__ import annotations

from pathlib import Path

import click

from edgeage.commands.aging_options import BUNDLE


@click.command(
    epilog="""\b
Examples:
  edgeage demo --fetch
  edgeage demo
  edgeage demo --bundle mine.agebundle --port 8765 --no-open
  edgeage demo --export site"""
)
@BUNDLE
@click.option("--port", default=8000, show_default=True, help="Of 127.0.0.1; 0 takes any free one.")
@click.option("--no-open", is_flag=True, help="Do not open the page in a browser.")
@click.option("--fetch", is_flag=True, help="Fetch LiteRT.js with npm, check it, keep it, and stop.")
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    help="Write the page into a new folder for a static host, and stop.",
)
@click.option("--force", is_flag=True, help="With --export: replace the folder.")
def command(
    bundle: Path | None, port: int, no_open: bool, fetch: bool, export: Path | None, force: bool
) -> None:
    """Age photos in the browser: upload or camera, everything computed on the page.

    The page is served to this machine only, and a Content-Security-Policy forbids it any connection but to
    here: no photo can leave it. Once loaded it works offline. LiteRT.js, which runs the engines there, comes
    from npm, once: --fetch.
    """
    from edgeage.demo import litertjs
    from edgeage.demo.server import ADDRESS, make_server
    from edgeage.demo.site import export_site, make_site
    from edgeage.runtime.bundle import open_bundle

    if fetch:
        click.echo(f"LiteRT.js {litertjs.VERSION} is in {litertjs.fetch(say=click.echo)}")
        return
    opened = open_bundle(bundle)
    if export is not None:
        export_site(opened, export, force=force)
        click.echo(f"wrote the page to {export}; docs/browser.md says what its host has to do")
        return
    with make_server(make_site(opened), port) as server:
        address = f"http://{ADDRESS}:{server.server_address[1]}/"
        click.echo(f"{opened.manifest.name} in the browser: {address}  (Ctrl-C ends it)")
        if not no_open:
            import webbrowser

            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("ended")
