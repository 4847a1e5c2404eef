"""The local server, the site's files, LiteRT.js and the command, without a browser."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import re
from importlib import resources
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from page_support import BUNDLE, SAMPLE
from tests_support import edgeage

from edgeage.demo import litertjs
from edgeage.demo.headless import served
from edgeage.demo.server import make_server
from edgeage.demo.site import content_security_policy, export_site
from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle

PAGE = Path(str(resources.files("edgeage.demo").joinpath("page")))


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    content: bytes


def get(address: str, path: str, **headers: str) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    connection.request("GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()})
    with connection.getresponse() as response:
        answer = Answer(response.status, response.headers, response.read())
    connection.close()
    return answer


def test_headers_let_nothing_out(address: str):
    status, headers, _ = get(address, "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    sources = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    assert sources["default-src"] == "'none'"
    assert sources["connect-src"] == "'self'"
    assert sources["frame-ancestors"] == "'none'"
    assert "unsafe-inline" not in policy
    assert "'unsafe-eval'" not in policy
    assert not re.search(r"https?:|\*|data:|blob:", policy)
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_the_import_map_is_the_one_that_the_policy_allows(site: dict[str, bytes]):
    (inline,) = re.findall(rb"<script(?![^>]*src)[^>]*>(.*?)</script>", site["index.html"], re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline).digest()).decode()
    assert f"'sha256-{digest}'" in content_security_policy(site)
    for target in json.loads(inline)["imports"].values():
        assert target.removeprefix("./") in site


def test_only_this_machine_is_served(site: dict[str, bytes]):
    with make_server(site, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(EdgeageError, match=r"choose another --port"):
            make_server(site, server.server_address[1])


@pytest.mark.parametrize("path", ["/nothing", "/../setup.cfg", "/%2e%2e/setup.cfg", "//etc/passwd", "/page/"])
def test_other_paths_are_not_there(address: str, path: str):
    answer = get(address, path)
    assert answer.status == 404
    assert answer.content == b"not found\n"


def test_files_are_compressed_and_kept(address: str, site: dict[str, bytes]):
    packed = get(address, "/app.mjs", Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Content-Type"].startswith("text/javascript")
    assert gzip.decompress(packed.content) == site["app.mjs"]
    assert get(address, "/app.mjs", If_None_Match=packed.headers["ETag"]).status == 304
    assert get(address, "/app.mjs").content == site["app.mjs"]


def test_every_file_of_the_site_has_a_type(address: str, site: dict[str, bytes]):
    for name in site:
        assert get(address, f"/{name}").content == site[name], name


def test_the_service_worker_keeps_what_the_page_needs(site: dict[str, bytes], bundle: Bundle):
    text = site["sw.js"].decode()
    kept = json.loads(re.search(r"const FILES = (\[.*\]);", text)[1])  # type: ignore[index]
    builds = [name for name in site if name.startswith("litert/wasm/")]
    assert sorted([*kept, *builds, "sw.js"]) == sorted(site)
    assert re.search(r'const VERSION = "[0-9a-f]{16}";', text)
    assert site["bundle/manifest.json"] == (BUNDLE / "manifest.json").read_bytes()


def test_modules_import_only_each_other_and_litert():
    for module in PAGE.glob("*.mjs"):
        for target in re.findall(r'(?:from|import)\s*\(?\s*"([^"]+)"', module.read_text()):
            assert target == "@litertjs/core" or (PAGE / target).is_file(), f"{module.name} imports {target}"


def test_the_page_names_no_other_place():
    """Addresses are names of XML namespaces and sources, never fetched; see the licences and the label."""
    for file in PAGE.iterdir():
        if file.suffix in (".mjs", ".js", ".html", ".css", ".webmanifest") and file.name != "label.mjs":
            assert "://" not in file.read_text(), file.name


def test_sample_and_licence_are_those_of_the_repository():
    assert (PAGE / "astronaut.jpg").read_bytes() == SAMPLE.read_bytes()
    licence = (SAMPLE.parents[2] / "LICENSE").read_text()
    assert (PAGE / "licences.txt").read_text().endswith(licence)


def test_the_lock_file_has_the_versions_that_are_checked():
    lock = json.loads(resources.files("edgeage.demo").joinpath("package-lock.json").read_text())
    for name in ("core", "wasm-utils"):
        entry = lock["packages"][f"node_modules/@litertjs/{name}"]
        assert entry["version"] == litertjs.VERSION
        assert entry["integrity"].startswith("sha512-")
    assert not any("resolved" in entry for entry in lock["packages"].values())


def test_a_missing_litertjs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(litertjs.ENVIRONMENT, str(tmp_path))
    result = edgeage("demo", "--no-open", "--port", "0", "--bundle", str(BUNDLE))
    assert result.returncode == 2
    assert "fetch it with: edgeage demo --fetch" in result.stderr


def test_an_altered_litertjs_is_refused(
    site: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in litertjs.FILES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(site[f"litert/{name}"] + (b" " if name == "core.js" else b""))
    monkeypatch.setenv(litertjs.ENVIRONMENT, str(tmp_path))
    with pytest.raises(EdgeageError, match=r"core\.js is not the file of LiteRT\.js"):
        litertjs.read()


def test_without_npm_fetching_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgeageError, match=r"install Node\.js"):
        litertjs.fetch(say=lambda text: None)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'npm error network' >&2; exit 1", "npm could not fetch .*npm error network"),
        (
            "mkdir -p node_modules/@litertjs/core/dist; echo > node_modules/@litertjs/core/dist/index.js",
            "another",
        ),
    ],
)
def test_what_npm_brings_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
):
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    monkeypatch.setenv(litertjs.ENVIRONMENT, str(tmp_path / "kept"))
    with pytest.raises(EdgeageError, match=message):
        litertjs.fetch(say=lambda text: None)
    assert not (tmp_path / "kept").exists()


def test_export_writes_the_site(site: dict[str, bytes], bundle: Bundle, tmp_path: Path):
    out = tmp_path / "site"
    export_site(bundle, out)
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == set(site)
    assert (out / "sw.js").read_bytes() == site["sw.js"]
    with pytest.raises(EdgeageError, match="exists already"):
        export_site(bundle, out)
    export_site(bundle, out, force=True)


def test_the_policy_also_stands_in_the_page(site: dict[str, bytes]):
    """Static hosts send no header; without their help frames alone are not forbidden."""
    with served(site) as address:
        header = get(address, "/index.html").headers["Content-Security-Policy"]
    assert header == content_security_policy(site)
    assert header.startswith("default-src 'none'; ")
    assert "frame-ancestors" not in site["index.html"].decode()
