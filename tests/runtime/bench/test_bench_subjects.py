"""Every subject of the shipped bundle runs; what cannot be is refused before anything is measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from edgeage.errors import EdgeageError
from edgeage.runtime.bench.cold import PARTS, start_cold
from edgeage.runtime.bench.run import prepare_all
from edgeage.runtime.bench.subjects import OLD_TFLITE, Spec, own_photo, parse_spec, prepare
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.engines import packages
from edgeage.runtime.session import load

SHIPPED = Path(__file__).parents[3] / "models" / "edge64.agebundle"


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(SHIPPED)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("encoder", Spec("encoder", "onnxruntime", "int8", 4)),
        ("encoder,engine=litert", Spec("encoder", "litert", "int8", 4)),
        ("refinement,steps=5, threads=2", Spec("refinement", "onnxruntime", "int8", 2, 5)),
        ("cold.encoder,precision=float32", Spec("cold.encoder", "onnxruntime", "float32", 4)),
    ],
)
def test_a_subject_is_read(text: str, spec: Spec) -> None:
    assert parse_spec(text, Spec("", "onnxruntime", threads=4)) == spec


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("encoder,colour=red", "'colour=red' is no setting; they are engine=, precision=, threads=, steps="),
        ("encoder,threads", "'threads' is no setting"),
        ("encoder,threads=two", "threads is 'two', expected a whole number"),
    ],
)
def test_a_subject_that_cannot_be_read_is_refused(text: str, told: str) -> None:
    with pytest.raises(EdgeageError, match=told):
        parse_spec(text)


@pytest.mark.parametrize("name", ["encoder", "generator_all", "refine_batch"])
def test_an_engine_runs(shipped: Bundle, name: str) -> None:
    ready = prepare(shipped, Spec(name))
    assert ready.work() is None
    assert ready.subject.label == f"{name} litert int8 1 thread"
    assert "ai-edge-litert" in ready.subject.description
    assert ready.place is not None
    assert ready.again().work() is None


def test_the_pipeline_runs_stage_by_stage(shipped: Bundle) -> None:
    ready = prepare(shipped, Spec("pipeline", steps=1))
    parts = ready.work()
    assert list(parts) == ["read", "detect", "align", "encode", "refine", "generate", "blend"]
    assert all(nanoseconds > 0 for nanoseconds in parts.values())
    assert (ready.subject.steps, ready.place) == (1, None)


def test_refinement_takes_the_steps_of_the_bundle_unless_told(shipped: Bundle) -> None:
    assert prepare(shipped, Spec("refinement")).subject.steps == shipped.manifest.refinement["steps"] == 3
    assert prepare(shipped, Spec("refinement", steps=0)).subject.steps == 0


def test_the_photo_may_be_given(shipped: Bundle, sample: Path) -> None:
    assert prepare(shipped, Spec("pipeline", steps=0), sample).work()["detect"] > 0
    with pytest.raises(EdgeageError, match="no face found"):
        prepare(shipped, Spec("pipeline", steps=0), np.zeros((64, 64, 3), np.uint8))


def test_the_photo_that_is_made_has_one_face(shipped: Bundle) -> None:
    session = load(shipped)
    (face,) = session.detector().find(own_photo(session))
    assert face.score > 0.7


@pytest.mark.parametrize("name", ["", "encoder"])
def test_a_cold_start_is_split(name: str) -> None:
    request = {"bundle": str(SHIPPED), "engine": "litert", "precision": "int8", "threads": 1}
    parts = start_cold({**request, "name": name, "steps": 1})
    assert tuple(parts) == PARTS
    assert all(nanoseconds > 0 for nanoseconds in parts.values())
    assert parts["import"] > parts["load"] / 10
    assert sum(parts.values()) < 60e9


def test_a_cold_start_that_fails_says_why(tmp_path: Path) -> None:
    request = {"bundle": str(tmp_path), "engine": "litert", "precision": "int8", "threads": 1}
    with pytest.raises(RuntimeError, match=r"exit code 1: .*manifest\.json"):
        start_cold({**request, "name": "encoder", "steps": 0})


def test_a_subject_that_is_not_there_is_refused(shipped: Bundle) -> None:
    with pytest.raises(EdgeageError, match=r"no subject 'decoder'; edge64 has encoder, .*pipeline, cold"):
        prepare(shipped, Spec("decoder"))
    with pytest.raises(EdgeageError, match="unknown engine 'tvm'"):
        prepare(shipped, Spec("encoder", "tvm"))
    with pytest.raises(EdgeageError, match="has no tflite float32 file for the encoder"):
        prepare(shipped, Spec("encoder", precision="float32"))


def test_an_engine_that_is_not_installed_is_refused(shipped: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda distribution: None)
    with pytest.raises(EdgeageError, match="not installed; add it with: pip install"):
        prepare(shipped, Spec("encoder"))


def test_tensorrt_that_is_not_installed_is_refused(shipped: Bundle) -> None:
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("SKIPPED, TensorRT is installed here")
    with pytest.raises(EdgeageError, match="the engine tensorrt is not installed"):
        prepare(shipped, Spec("encoder", "tensorrt"))


def test_steps_without_a_refine_engine_are_refused(built_bundle: Path) -> None:
    plain = open_bundle(built_bundle)
    for name in ("refinement", "pipeline", "cold"):
        with pytest.raises(EdgeageError, match="no onnx int8 file for the refine engine"):
            prepare(plain, Spec(name, "onnxruntime", steps=2))


def test_what_is_lacking_is_told_where_nothing_was_named(shipped: Bundle) -> None:
    specs = [Spec("encoder"), Spec("refine", precision="float32")]
    ready, lacking = prepare_all(shipped, specs, lacking_ok=True)
    assert [one.subject.name for one in ready] == ["encoder"]
    assert "has no tflite float32 file" in lacking["refine litert float32 1 thread"]
    with pytest.raises(EdgeageError, match="float32"):
        prepare_all(shipped, specs)
    with pytest.raises(EdgeageError, match="float32"):
        prepare_all(shipped, specs[1:], lacking_ok=True)


def test_int8_of_the_old_runtime_carries_a_note(shipped: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeage.runtime.bench import subjects
    from edgeage.runtime.engines import open_engine

    monkeypatch.setattr(subjects, "require", lambda engine: engine)
    monkeypatch.setattr(subjects, "open_engine", lambda bundle, name, *rest: open_engine(bundle, name))
    assert prepare(shipped, Spec("encoder", "tflite-runtime")).subject.notes == (OLD_TFLITE,)
    assert prepare(shipped, Spec("encoder")).subject.notes == ()
