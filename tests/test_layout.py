"""The folders on disk, the packages in setup.cfg, and what is installed agree."""

from __future__ import annotations

import configparser
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("calibration", "demo", "export", "runtime", "train")


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def packages_on_disk() -> dict[str, Path]:
    """Import name -> folder of every folder with an __init__.py."""
    packages = {}
    for top in ("core", *FOLDERS):
        for file in (ROOT / top).rglob("__init__.py"):
            parts = file.parent.relative_to(ROOT).parts
            inner = parts[1:] if top == "core" else parts
            packages[".".join(("edgeage", *inner))] = file.parent
    return packages


def test_every_folder_with_code_is_a_package():
    bare = {
        file.parent.relative_to(ROOT).as_posix()
        for top in ("core", *FOLDERS)
        for file in (ROOT / top).rglob("*.py")
        if not (file.parent / "__init__.py").is_file()
    }
    assert bare == set()


def test_every_package_is_listed(config: configparser.ConfigParser):
    listed = config["options"]["packages"].split()
    assert len(listed) == len(set(listed))
    assert set(listed) == set(packages_on_disk())


def test_every_data_file_is_package_data(config: configparser.ConfigParser):
    """Any file that is not Python and lies in a package is installed with it."""
    left_out = []
    patterns = dict(config["options.package_data"].items())
    for package, folder in packages_on_disk().items():
        listed = [pattern.strip() for pattern in patterns.get(package, "").split(",") if pattern.strip()]
        left_out += [
            str(file.relative_to(ROOT))
            for file in folder.iterdir()
            if file.is_file()
            and file.suffix not in (".py", ".pyc")
            and not any(file.match(pattern) for pattern in listed)
        ]
    assert left_out == []


def test_every_pattern_of_package_data_finds_something(config: configparser.ConfigParser):
    folders = packages_on_disk()
    idle = [
        f"{package}: {pattern.strip()}"
        for package, patterns in config["options.package_data"].items()
        for pattern in patterns.split(",")
        if not list(folders[package].glob(pattern.strip()))
    ]
    assert idle == []


def test_pyproject_does_not_describe_the_project_a_second_time():
    assert "\n[project" not in (ROOT / "pyproject.toml").read_text()


def test_every_requirement_is_pinned(config: configparser.ConfigParser):
    """constraints.txt names all that the extras ask for; TensorRT and tflite-runtime live elsewhere."""
    pinned = names((ROOT / "constraints.txt").read_text())
    asked = names(config["options"]["install_requires"])
    for extra, lines in config["options.extras_require"].items():
        if extra not in ("tensorrt", "tflite-runtime"):
            asked |= names(lines)
    assert asked - {"edgeage"} - pinned == set()
    old = names((ROOT / "constraints-tflite-runtime.txt").read_text())
    assert names(config["options"]["install_requires"]) | {"tflite-runtime"} <= old


def names(text: str) -> set[str]:
    """Names of the requirements in lines of text."""
    found = set()
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            name = line.strip()
            for mark in "=<>!~;[ ":
                name = name.split(mark)[0]
            found.add(name.lower())
    return found


def test_an_installation_owns_only_edgeage():
    """Top-level names such as `train` must never land in somebody's site-packages."""
    # not from the checkout: a stale edgeage.egg-info there would answer for the installation
    code = (
        "import importlib.metadata as m\n"
        "try: print(*{f.parts[0] for f in m.files('edgeage') or []})\n"
        "except m.PackageNotFoundError: print('absent')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    tops = set(result.stdout.split())
    if tops == {"absent"}:
        pytest.skip("edgeage is not installed here, only on the path")
    assert not tops & {"core", "tests", "benchmarks", *FOLDERS}


def test_what_is_imported_is_this_checkout_or_an_installation():
    code = "import edgeage, edgeage.runtime; print(edgeage.__file__); print(edgeage.runtime.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    core, runtime = (Path(line) for line in result.stdout.split("\n")[:2])
    assert runtime.parent.parent == core.parent


def test_the_source_archive_takes_everything_that_is_kept_in_git():
    if not (ROOT / ".git").exists():
        pytest.skip("an unpacked source archive, not a clone")
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    grafted, single = set(), []
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        verb, *arguments = line.split() or [""]
        if verb in ("graft", "recursive-include"):
            grafted.add(arguments[0])
        elif verb == "include":
            single += arguments
    left_out = [
        name
        for name in kept.stdout.splitlines()
        if name.split("/")[0] not in grafted
        and not any("/" not in name and fnmatch(name, pattern) for pattern in single)
    ]
    assert [name for name in left_out if name != ".gitignore"] == []


def test_no_top_level_folder_is_called_edgeage():
    """setuptools would take it for the package and leave out core/."""
    assert not (ROOT / "edgeage").exists()
