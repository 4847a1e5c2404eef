"""The page in a headless Chromium, for tests, benchmarks and conformance. Needs playwright and a browser.

python -m edgeage.demo.headless BUNDLE VECTORS OUT    a place of `edgeage conformance --places`, kind "values"
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeage.demo.litertjs import VERSION
from edgeage.demo.server import ADDRESS, make_server
from edgeage.demo.site import make_site
from edgeage.errors import EdgeageError
from edgeage.files import read_json, write_json
from edgeage.runtime.bundle import open_bundle

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
READY = "html[data-ready]"  # set when the model is loaded


def find_browser() -> str | None:
    """The Chromium of this machine, if there is one."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def served(site: Mapping[str, bytes]) -> Iterator[str]:
    """The address of the site while the block runs."""
    server = make_server(site, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{ADDRESS}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A headless browser with extra command line arguments; EdgeageError if something for it is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise EdgeageError("playwright is not installed; pip install playwright") from None
    path = find_browser()
    if path is None:
        raise EdgeageError("no Chromium found; install your system's package chromium")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments = ("--no-sandbox", *arguments)  # Chromium refuses to start as root otherwise
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(arguments))
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Browser, address: str) -> Page:
    """A new page with the model loaded."""
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector(READY, state="attached")
    return page


def first_visit(browser: Browser, address: str) -> tuple[int, float]:
    """Bytes that a visit without anything kept transfers, and milliseconds until its model is loaded."""
    context = browser.new_context()
    page = context.new_page()
    client = context.new_cdp_session(page)
    client.send("Network.enable")
    received: list[float] = []
    client.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    page.goto(address)
    page.wait_for_selector(READY, state="attached")
    ready = float(page.evaluate("Number(document.documentElement.dataset.ready)"))
    context.close()
    return int(sum(received)), ready


def golden_values(
    bundle: Path, vectors: Mapping[str, Any], browser: Browser
) -> dict[str, dict[str, list[float]]]:
    """What LiteRT.js makes of golden inputs, {ENGINE: {"file", "signature", "inputs": {INPUT: [numbers]}}}.

    Gives {ENGINE: {OUTPUT: [numbers]}}, all flat and in the files' own order.
    """
    opened = open_bundle(bundle)
    site = make_site(opened) | {f"bundle/{one['file']}": opened.read(one["file"]) for one in vectors.values()}
    with served(site) as address:
        page = open_page(browser, address)
        # as texts: playwright takes a hundred times as long for lists of numbers
        return {engine: json.loads(page.evaluate(_RUN, json.dumps(one))) for engine, one in vectors.items()}


_RUN = """async (text) => {
    const { file, signature, inputs } = JSON.parse(text);
    const { EngineFile } = await import("./engines.mjs");
    const response = await fetch(`bundle/${file}`);
    const engine = await EngineFile.open(new Uint8Array(await response.arrayBuffer()));
    const feeds = Object.entries(inputs).map(([name, values]) => [name, Float32Array.from(values)]);
    const outputs = Object.entries(await engine.run(signature, Object.fromEntries(feeds)));
    return JSON.stringify(Object.fromEntries(outputs.map(([name, values]) => [name, [...values]])));
}"""


def main(arguments: list[str]) -> None:
    if len(arguments) != 3:
        raise EdgeageError("usage: python -m edgeage.demo.headless BUNDLE VECTORS OUT")
    bundle, vectors, out = map(Path, arguments)
    with chromium() as browser:
        values = golden_values(bundle, read_json(vectors, "golden vectors"), browser)
    write_json(out, {"tool": f"LiteRT.js {VERSION}", "values": values})
    print(json.dumps({"engines": list(values), "out": str(out)}))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except EdgeageError as error:
        sys.exit(f"edgeage.demo.headless: error: {error}")
