"""The page in a headless Chromium; tests are skipped, and say why, where a part of that is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from page_support import BUNDLE, PRELUDE, SAMPLE, pack, unpack
from PIL import Image

from edgeage.demo import litertjs
from edgeage.demo.headless import READY, chromium, find_browser, open_page, served
from edgeage.demo.site import make_site
from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.session import Session, load


@pytest.fixture(scope="package")
def bundle() -> Bundle:
    return open_bundle(BUNDLE)


@pytest.fixture(scope="package")
def session(bundle: Bundle) -> Session:
    return load(bundle)


@pytest.fixture(scope="package")
def photo() -> np.ndarray:
    return np.asarray(Image.open(SAMPLE).convert("RGB"))


@pytest.fixture(scope="package")
def site(bundle: Bundle) -> dict[str, bytes]:
    try:
        litertjs.read()
    except EdgeageError:
        pytest.skip(f"SKIPPED FOR LACK OF LITERT.JS: run {litertjs.FETCH}")
    return make_site(bundle)


@pytest.fixture(scope="package")
def address(site: dict[str, bytes]) -> Iterator[str]:
    with served(site) as address:
        yield address


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Its camera sees the sample photo."""
    pytest.importorskip("playwright", reason="SKIPPED FOR LACK OF PLAYWRIGHT: pip install playwright")
    if find_browser() is None:
        pytest.skip("SKIPPED FOR LACK OF A BROWSER: install chromium")
    film = tmp_path_factory.mktemp("camera") / "sample.mjpeg"
    film.write_bytes(SAMPLE.read_bytes() * 2)
    camera = ("--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={film}")
    with chromium(*camera) as browser:
        yield browser


@pytest.fixture(scope="package")
def calculating(browser: Any, address: str) -> Any:
    """A page with the model loaded whose modules are called by themselves, see `call`."""
    return open_page(browser, address)


@pytest.fixture(scope="package")
def call(calculating: Any) -> Callable[..., Any]:
    """`call(body, **values)`: what the body of an async function returns; arrays go in and come out as such.

    `module(name)` imports a module of the page, `picture(array)` makes a `Picture`.
    """

    def run(body: str, **values: Any) -> Any:
        packed = {name: pack(value) for name, value in values.items()}
        return unpack(calculating.evaluate(PRELUDE % (", ".join(values), body), packed))

    return run


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens pages of contexts of their own, with the model loaded; options are a context's."""
    contexts = []

    def open_one(url: str = address, *, ready: bool = True, script: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 390, "height": 844}, **options})
        contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.troubles = troubles = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(url)
        if ready:
            page.wait_for_selector(READY, state="attached")
        return page

    yield open_one
    for context in contexts:
        context.close()
