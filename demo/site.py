"""What the page consists of, by address: its own files, LiteRT.js, a bundle's engines, the detector."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from edgeage import __version__
from edgeage.demo import litertjs
from edgeage.errors import EdgeageError
from edgeage.files import new_folder
from edgeage.runtime.bundle import Bundle

PACKED = "engines/packed.int8-float-io.tflite"
NEEDED = ("encoder", "embedder", "generator", "generator_all")
_BUILDS = ("litert_wasm_internal", "litert_wasm_compat_internal")


def make_site(bundle: Bundle) -> dict[str, bytes]:
    """Address below the page's own -> content. The bundle's files are those of its manifest, checked.

    Raises EdgeageError if the bundle lacks an engine that the page needs, or LiteRT.js is not there.
    """
    manifest = bundle.manifest
    if PACKED not in manifest.files or any(engine not in manifest.engines for engine in NEEDED):
        raise EdgeageError(f"{bundle.path} has no {PACKED} with all engines; export the bundle again")
    files = dict(_page())
    files |= {f"litert/{name}": content for name, content in litertjs.read().items()}
    files["detector.tflite"] = (
        resources.files("edgeage.runtime.photo").joinpath("blazeface_short_range.tflite").read_bytes()
    )
    files["bundle/manifest.json"] = bundle.manifest_bytes()
    files[f"bundle/{PACKED}"] = bundle.read(PACKED)
    about = {
        "version": __version__,
        "packed": PACKED,
        "bytes": {"packed": len(files[f"bundle/{PACKED}"]), "detector": len(files["detector.tflite"])},
    }
    files["site.json"] = json.dumps(about, indent=2).encode()
    files["sw.js"] = _service_worker(files)
    return files


def content_security_policy(site: Mapping[str, bytes]) -> str:
    """The one that index.html declares; as a header it also forbids frames around the page."""
    found = re.search(rb'http-equiv="Content-Security-Policy"\s+content="([^"]+)"', site["index.html"])
    assert found is not None  # a test holds this
    policy = re.sub(r"\s+", " ", found[1].decode().strip())
    return f"{policy}; frame-ancestors 'none'"


def export_site(bundle: Bundle, path: Path, *, force: bool = False) -> None:
    """Write all files into a folder for a static host; EdgeageError if it exists, unless `force`."""
    site = make_site(bundle)
    with new_folder(path, replace=force) as folder:
        for name, content in site.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def _page() -> list[tuple[str, bytes]]:
    files = resources.files("edgeage.demo").joinpath("page").iterdir()
    return [(file.name, file.read_bytes()) for file in files if file.is_file()]


def _service_worker(files: Mapping[str, bytes]) -> bytes:
    """sw.js with the list of what it keeps, and a version that changes with any of it."""
    version = hashlib.sha256(b"".join(hashlib.sha256(files[name]).digest() for name in sorted(files)))
    # of the WebAssembly builds the page names the one that it uses
    kept = [name for name in sorted(files) if name != "sw.js" and not any(build in name for build in _BUILDS)]
    text = files["sw.js"].decode()
    text = text.replace('"VERSION"', json.dumps(version.hexdigest()[:16]))
    return text.replace('["FILES"]', json.dumps(kept)).encode()
