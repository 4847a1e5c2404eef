"""The tiny bundle, a photo with one face, and faces laid out on canvases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from hypothesis import settings
from PIL import Image

from edgeage import cli

# Time limits per example fail on busy machines, not on wrong code.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

SHIPPED = Path(__file__).parents[2] / "models" / "edge64.agebundle"
SAMPLE = Path(__file__).parents[2] / "docs" / "samples" / "astronaut.jpg"


@pytest.fixture(scope="session")
def built_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "tiny.agebundle"
    tiny_bundle.make(folder)
    return folder


@pytest.fixture(scope="session")
def refining_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with refine engines, K = 3."""
    folder = tmp_path_factory.mktemp("bundles") / "refining.agebundle"
    tiny_bundle.make(folder, refining=True)
    return folder


@pytest.fixture
def bundle_path(built_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    copy = tmp_path / "tiny.agebundle"
    shutil.copytree(built_bundle, copy)
    return copy


@pytest.fixture(scope="session")
def loose_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle without the strongly typed float16 files, as bundles were before those existed."""
    folder = tmp_path_factory.mktemp("bundles") / "edge64.agebundle"
    manifest = json.loads((SHIPPED / "manifest.json").read_text())
    typed = set()
    for engine in manifest["engines"].values():
        typed |= {file["file"] for file in engine["files"] if "float16" in file["precision"]}
        engine["files"] = [file for file in engine["files"] if file["file"] not in typed]
    manifest["files"] = {name: digest for name, digest in manifest["files"].items() if name not in typed}
    for name in manifest["files"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SHIPPED / name, folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def sample() -> Path:
    """A JPEG with one large face."""
    return SAMPLE


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """The sample's pixels, uint8 [512, 512, 3]; the face's box is about 100 pixels wide at (224, 125)."""
    return np.asarray(Image.open(SAMPLE).convert("RGB"))


@pytest.fixture(scope="session")
def couple(portrait: np.ndarray) -> np.ndarray:
    """The same face twice, the right one smaller."""
    canvas = np.full((360, 700, 3), 90, np.uint8)
    canvas[50:306, 30:286] = portrait[:256, 96:352]
    small = Image.fromarray(portrait[:256, 96:352]).resize((160, 160), Image.Resampling.BOX)
    canvas[100:260, 450:610] = np.asarray(small)
    return canvas


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]):
    """Run a command in this process: exit code, stdout, stderr."""

    def run_command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return run_command
