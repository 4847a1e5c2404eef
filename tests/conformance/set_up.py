"""Set up every other place of `make conformance`: DIR/places.json is for `edgeage conformance --places`.

    set_up.py DIR [--tflite-runtime PYTHON] [--browser COMMAND]

Everything lands in DIR, outside the repository, and is kept for the next run. What cannot be set up here
becomes a place that was not run, with the reason and the command that changes it. Standard library only.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
C_SAMPLE = REPOSITORY / "docs/samples/c"
LITERT = "ai-edge-litert 2.3.0"  # what fetch_litert.sh and requirements-arm64.txt pin
PYTHONS = ("3.10", "3.12", "3.13")
PROCESSORS = {"cortex-a53": "Cortex-A53", "cortex-a76": "Cortex-A76"}
QEMU, CROSS = "qemu-aarch64-static", "aarch64-linux-gnu-gcc"

Place = dict[str, object]


class NotHere(Exception):
    """Why a place cannot be set up, and the command that changes it."""

    def __init__(self, reason: str, enable: str) -> None:
        super().__init__(reason)
        self.reason, self.enable = reason, enable


def call(*command: str | Path) -> None:
    """Run a command; NotHere with the last line that it said if it fails."""
    result = subprocess.run([str(part) for part in command], cwd=REPOSITORY, capture_output=True, text=True)
    if result.returncode:
        said = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
        raise NotHere(f"{Path(command[0]).name} failed: {said}", shlex.join(map(str, command)))


def need(program: str, package: str) -> str:
    if found := shutil.which(program):
        return found
    raise NotHere(f"{program} is not installed", f"apt-get install {package}")


def pip(*arguments: str | Path, python: str | Path = sys.executable) -> None:
    call(python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def build_wheel(folder: Path) -> Path:
    """The runtime's wheel, as a user installs it; RuntimeError if the checkout makes none."""
    shutil.rmtree(folder, ignore_errors=True)
    # a copy: setuptools leaves build/ in the source tree, where other builds of this make run as well
    source = folder / "source"
    layout = configparser.ConfigParser()
    layout.read(REPOSITORY / "setup.cfg")
    folders = [line.split("=")[1].strip() for line in layout["options"]["package_dir"].split("\n") if line]
    for name in folders:
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy2(REPOSITORY / name, source / name)
    try:
        pip("wheel", "--no-deps", "--wheel-dir", folder, source)
    except NotHere as error:  # nothing that this machine lacks
        raise RuntimeError(f"the wheel cannot be built: {error}") from None
    return next(folder.glob("*.whl"))


# -- the C sample ----------------------------------------------------------------------------------


def c_sample(folder: Path, machine: str, compiler: str) -> Path:
    """Fetch the pinned library, build; the program and its library lie side by side."""
    target = folder / f"c-{machine}"
    if not (target / "libLiteRt.so").is_file():
        call(C_SAMPLE / "fetch_litert.sh", machine, target, sys.executable)
    call("make", "-C", C_SAMPLE, f"LITERT={target}", f"BUILD={target}", f"CC={compiler}")
    return target


def c_here(folder: Path) -> list[Place]:
    if os.uname().machine != "x86_64":
        raise NotHere("this machine is not x86-64", "make conformance on an x86-64 machine")
    target = c_sample(folder, "x86_64", need("cc", "gcc libc6-dev"))
    environment = {"LD_LIBRARY_PATH": str(target)}
    return [
        {
            "name": "C sample, x86-64",
            "kind": "c",
            "command": [str(target / "edgeage-c")],
            "environment": environment,
            "tool": LITERT,
            "machine": "x86_64",
        }
    ]


# -- arm64 under qemu ------------------------------------------------------------------------------


def arm64_root(folder: Path) -> dict[str, Path]:
    """Debian's arm64 Python unpacked, once for each processor: LiteRT reads /proc/cpuinfo, which must be that
    processor's, and qemu looks in the prefix first."""
    base = folder / "arm64"
    if not (base / "usr/bin/python3.11").is_file():
        call(HERE / "arm64_root.sh", base)
    roots = {}
    for processor in PROCESSORS:
        root = roots[processor] = folder / f"arm64-{processor}"
        if not (root / "usr/bin/python3.11").is_file():
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(base, root, symlinks=True, copy_function=os.link)
        (root / "proc").mkdir(exist_ok=True)
        shutil.copyfile(HERE / f"cpuinfo.{processor}", root / "proc/cpuinfo")
    return roots


def arm64(folder: Path, wheel: Callable[[], Path]) -> list[Place]:
    qemu = need(QEMU, "qemu-user-static")
    need("apt-get", "apt")
    with ThreadPoolExecutor() as pool:
        packages = pool.submit(arm64_packages, folder, wheel)
        program = pool.submit(c_arm64, folder)
        roots = arm64_root(folder)
        site = packages.result()
        places = []
        for processor, name in PROCESSORS.items():
            emulator = [qemu, "-cpu", processor, "-L", str(roots[processor]), "-E"]
            python = [str(roots[processor] / "usr/bin/python3.11"), "-S", "-m", "edgeage"]
            places.append(
                {
                    "name": f"Python, arm64 {name} (qemu)",
                    "kind": "edgeage",
                    "command": [*emulator, f"PYTHONPATH={site}", *python],
                    "quick": True,
                }
            )
            try:
                target = program.result()
            except NotHere as absent:
                places.append(not_run(f"C sample, arm64 {name} (qemu)", absent))
                continue
            places.append(
                {
                    "name": f"C sample, arm64 {name} (qemu)",
                    "kind": "c",
                    "command": [*emulator, f"LD_LIBRARY_PATH={target}", str(target / "edgeage-c")],
                    "tool": LITERT,
                    "machine": f"aarch64 {name}",
                    "quick": True,
                }
            )
    return places


def c_arm64(folder: Path) -> Path:
    return c_sample(folder, "aarch64", need(CROSS, "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"))


def arm64_packages(folder: Path, wheel: Callable[[], Path]) -> Path:
    """The runtime and the packages that it needs, from wheels for arm64 whose hashes are pinned."""
    site, pins = folder / "arm64-site", HERE / "requirements-arm64.txt"
    target = ("--target", site, "--python-version", "3.11", "--only-binary", ":all:", "--no-deps")
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28)]
    platforms.append("--platform=manylinux2014_aarch64")
    done = site / pins.name
    if not done.is_file() or done.read_bytes() != pins.read_bytes():
        shutil.rmtree(site, ignore_errors=True)
        pip("install", *target, *platforms, "--require-hashes", "-r", pins)
        shutil.copyfile(pins, done)
    pip("install", "--upgrade", *target, wheel())
    return site


# -- other Pythons ---------------------------------------------------------------------------------


def python(version: str, folder: Path, wheel: Callable[[], Path]) -> list[Place]:
    """A venv with the wheel and [litert], as a user makes it."""
    environment = folder / f"python-{version}"
    if not (environment / "bin/edgeage").is_file():
        shutil.rmtree(environment, ignore_errors=True)
        call(find_python(version), "-m", "venv", environment)
        constraints = REPOSITORY / "constraints.txt"
        pip("install", f"{wheel()}[litert]", "--constraint", constraints, python=environment / "bin/python")
    else:
        pip("install", "--no-deps", "--force-reinstall", wheel(), python=environment / "bin/python")
    name, program = f"Python {version}, litert", environment / "bin/edgeage"
    return [{"name": name, "kind": "edgeage", "command": [str(program)]}]


def find_python(version: str) -> str:
    """A working interpreter; pyenv's shims are there for versions that are not chosen, and fail."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*sorted(map(str, pyenv.glob(f"{version}.*/bin/python"))), f"python{version}"]
    for candidate in candidates:
        if shutil.which(candidate):
            result = subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True)
            if not result.returncode:
                return candidate
    raise NotHere(f"no Python {version} with venv", f"pyenv install {version}")


# --------------------------------------------------------------------------------------------------


def tflite_runtime(python: str | None) -> list[Place]:
    if not python or not Path(python).is_file():
        raise NotHere("no environment with tflite-runtime", "make .venv-tflite-runtime/.ready (Python 3.11)")
    command = [python, "-m", "edgeage"]
    name = "Python 3.11, tflite-runtime"
    return [{"name": name, "kind": "edgeage", "command": command, "engine": "tflite-runtime"}]


def browser(command: str | None) -> list[Place]:
    if not command:
        raise NotHere(
            "no command takes the golden vectors through a browser", "make conformance BROWSER=COMMAND"
        )
    return [{"name": "browser (LiteRT.js)", "kind": "values", "command": shlex.split(command)}]


def not_run(name: str, absent: NotHere) -> Place:
    return {"name": name, "not_run": absent.reason, "enable": absent.enable}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tflite-runtime", metavar="PYTHON")
    parser.add_argument("--browser", metavar="COMMAND")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=8) as pool:
        wheel = pool.submit(build_wheel, folder / "wheel").result
        steps: dict[str, Callable[[], list[Place]]] = {
            "C sample, x86-64": lambda: c_here(folder),
            "arm64 (qemu), Python and C": lambda: arm64(folder, wheel),
            **{
                f"Python {version}, litert": lambda version=version: python(version, folder, wheel)
                for version in PYTHONS
            },
            "Python 3.11, tflite-runtime": lambda: tflite_runtime(options.tflite_runtime),
            "browser (LiteRT.js)": lambda: browser(options.browser),
        }
        running = {name: pool.submit(timed, name, step) for name, step in steps.items()}
        places = [place for result in running.values() for place in result.result()]
    (folder / "places.json").write_text(json.dumps(places, indent=2) + "\n")


def timed(name: str, step: Callable[[], list[Place]]) -> list[Place]:
    start = time.perf_counter()
    try:
        places = step()
    except NotHere as absent:
        print(f"set up {name}: NOT HERE, {absent.reason}", flush=True)
        return [not_run(name, absent)]
    print(f"set up {name}: {time.perf_counter() - start:.1f} s", flush=True)
    return places


if __name__ == "__main__":
    main()
