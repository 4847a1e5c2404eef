"""The Kotlin and Swift samples: they cannot be built here, so what can be held is held."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeage.runtime.bundle import open_bundle
from edgeage.runtime.descent import PIXEL_GUARD
from edgeage.runtime.directions import METHODS

ROOT = Path(__file__).parents[2]
SAMPLES = (ROOT / "docs/samples/kotlin/AgingSession.kt", ROOT / "docs/samples/swift/AgingSession.swift")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.suffix)
def test_samples_name_what_the_bundle_has(path: Path) -> None:
    """Engines, ports, methods and constants; and that they say that they were never compiled."""
    text = path.read_text()
    assert "Not compiled here" in text
    manifest = open_bundle(ROOT / "models/edge64.agebundle").manifest
    engines = {name for name in manifest.engines if f'"{name}"' in text}
    assert engines == {"encoder", "embedder", "generator", "generator_all", "refine"}
    for name in engines:
        for port in (*manifest.engines[name].inputs, *manifest.engines[name].outputs):
            assert f'"{port.name}"' in text
    assert manifest.refinement["method"] in METHODS
    assert f'"{manifest.refinement["method"]}"' in text
    (guard,) = re.findall(r"(?:PIXEL_GUARD|pixelGuard) = ([\d.]+)", text)
    assert float(guard) == PIXEL_GUARD


def test_the_kotlin_sample_type_checks_against_the_signatures_it_calls(tmp_path: Path) -> None:
    if not shutil.which("kotlinc"):
        pytest.skip("SKIPPED, no kotlinc (apt-get install kotlin)")
    sources = [*sorted((ROOT / "tests/conformance/kotlin").glob("*.kt")), SAMPLES[0]]
    command = ["kotlinc", "-nowarn", *sources, "-d", tmp_path / "sample.jar"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "sample.jar").is_file()
