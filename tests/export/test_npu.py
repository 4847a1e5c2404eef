"""The refine engine's forms for NPUs, made from the shipped bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeage.errors import EdgeageError
from edgeage.export.npu import cosine_to_float, npu_files
from edgeage.runtime.bundle import Bundle, open_bundle

MODEL = Path(__file__).resolve().parents[2] / "models" / "edge64.agebundle"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(MODEL)


def test_wide_activations_are_nearer_to_float_than_narrow_ones(bundle: Bundle) -> None:
    wide, several = npu_files(bundle, steps=1)
    assert (wide.name, several.name) == ("refine.int16x8.tflite", "refine1.int8.tflite")
    assert cosine_to_float(bundle, wide) > 0.97  # 0.981; 8 bits have 0.940
    assert cosine_to_float(bundle, several) > 0.5  # one sign step: signs of small entries differ


def test_ranges_of_another_form_of_the_step_are_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of an older edgeage: its ranges would fit none of the tensors, and nothing else would tell."""
    read = bundle.read

    def older(name: str) -> bytes:
        if name != "ranges.json":
            return read(name)
        ranges = json.loads(read(name))
        ranges["tables"]["refine"]["network"] = "0" * 64
        return json.dumps(ranges).encode()

    monkeypatch.setattr(Bundle, "read", lambda self, name: older(name))
    with pytest.raises(EdgeageError, match=r"of another form of the refinement step .*; export it again"):
        npu_files(bundle)


def test_a_bundle_without_refinement_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = {name: entry for name, entry in bundle.manifest.engines.items() if "refine" not in name}
    manifest = replace(bundle.manifest, engines=engines, refinement={"steps": 0, "note": "left out"})
    monkeypatch.setattr(bundle, "manifest", manifest)
    with pytest.raises(EdgeageError, match="has no refine engine: left out"):
        npu_files(bundle)
