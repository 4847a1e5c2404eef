"""Refinement with a bundle's engines: which of them run, deadlines, and what a session says about it."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle

from edgeage.errors import EdgeageError
from edgeage.groups import one_hot
from edgeage.runtime.aged import STAGES
from edgeage.runtime.bundle import open_bundle
from edgeage.runtime.descent import DEADLINE, NO_STEPS, REFINED
from edgeage.runtime.engines import Engine, Feeds, open_engine
from edgeage.runtime.refinement import RefinementOptions
from edgeage.runtime.refiner import Refiner
from edgeage.runtime.session import Session, load


@pytest.fixture(scope="module")
def session(refining_bundle: Path) -> Session:
    return load(refining_bundle, engine="onnxruntime")


def test_the_bundles_steps_are_taken(session: Session, portrait: np.ndarray) -> None:
    result = session.age(portrait)
    assert result.refinement["steps"] == 3
    assert "K=3: sign steps from 0.05" in result.refinement["note"]
    (face,) = result.refinement["faces"]
    assert face["cosine_after"] > face["cosine_before"] + 0.001
    assert (face["steps_done"], face["flag"]) == (3, REFINED)
    assert face["best_step"] > 0
    assert face["milliseconds"] > 0
    assert tuple(result.timings) == STAGES
    assert set(result.engines) == {"encoder", "generator_all", "refine", "embedder", "generator"}
    assert result.warnings == ()
    assert result.summary()["refinement"] == json.loads(json.dumps(result.refinement))


@pytest.mark.parametrize("source", [None, "30-39"])
def test_what_is_generated_is_the_refined_face(
    session: Session, portrait: np.ndarray, source: str | None
) -> None:
    plain = session.age(portrait, source_group=source, steps=0)
    result = session.age(portrait, source_group=source)
    assert plain.refinement == {"steps": 0, "note": "K=0: z is the encoder's, not refined", "faces": []}
    assert result.source_group == plain.source_group == "30-39"
    (face,) = result.faces
    refined = session.refine(session.encode(face.crop), [2], face.crop[None])
    assert np.array_equal(face.generated, session.generate(refined.z))
    assert not np.array_equal(face.generated, plain.faces[0].generated)
    assert np.array_equal(plain.faces[0].generated, session.generate(session.encode(face.crop)))


def test_the_given_group_is_the_one_refined_at(session: Session, portrait: np.ndarray) -> None:
    old, usual = (session.age(portrait, source_group=group).faces[0] for group in ("60+", "30-39"))
    expected = session.refine(session.encode(old.crop), [5], old.crop[None])
    assert np.array_equal(old.generated, session.generate(expected.z))
    assert not np.array_equal(old.generated, usual.generated)


def test_the_target_is_the_embedding_of_the_crop(session: Session, portrait: np.ndarray) -> None:
    (face,) = session.age(portrait).faces
    image = face.crop.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - 1
    target = session.engine("embedder").run({"image": image})["embedding"][0]
    z = session.encode(face.crop)
    found = session.refine(z, [2], face.crop[None], RefinementOptions(1))
    feeds = {"z": z, "y": one_hot([2]), "target": target[None], "image": image}
    embedding = session.engine("refine").run(feeds)["embedding"][0]
    cosine = embedding @ target / np.linalg.norm(embedding) / np.linalg.norm(target)
    assert found.cosine_before[0] == pytest.approx(cosine, abs=1e-5)


def test_several_faces_share_the_batch_engine(refining_bundle: Path, couple: np.ndarray) -> None:
    fresh = load(refining_bundle, engine="onnxruntime")
    result = fresh.age(couple, ["60+"], all_faces=True)
    assert "refine_batch" in result.engines
    assert "refine" not in result.engines
    assert [face["flag"] for face in result.refinement["faces"]] == [REFINED] * 2
    assert result.faces[0].size > result.faces[1].size
    for face in result.faces:
        alone = fresh.refine(fresh.encode(face.crop), [2], face.crop[None])
        np.testing.assert_allclose(face.generated, fresh.generate(alone.z), atol=1e-4)


def test_steps_on_demand(session: Session, portrait: np.ndarray) -> None:
    assert session.age(portrait, steps=1).refinement["faces"][0]["steps_done"] == 1
    with pytest.raises(EdgeageError, match="40 refinement steps are too many"):
        session.age(portrait, steps=40)
    with pytest.raises(EdgeageError, match="deadline_ms is -1"):
        session.age(portrait, deadline_ms=-1)


def test_without_time_nothing_is_refined_and_it_is_said(session: Session, portrait: np.ndarray) -> None:
    result = session.age(portrait, deadline_ms=0)
    (face,) = result.refinement["faces"]
    assert (face["flag"], face["steps_done"], face["cosine_before"]) == (DEADLINE, 0, None)
    assert "within 0 ms" in result.refinement["note"]
    plain = session.age(portrait, steps=0)
    assert all(np.array_equal(result.aged[group], plain.aged[group]) for group in plain.aged)
    assert session.age(portrait, deadline_ms=60_000).refinement["faces"][0]["flag"] == REFINED


def test_a_bundle_without_refine_engine(built_bundle: Path, portrait: np.ndarray) -> None:
    plain = load(built_bundle, engine="onnxruntime")
    with pytest.raises(EdgeageError, match="2 refinement steps asked for, but tiny has no onnx int8 file"):
        plain.age(portrait, steps=2)
    assert plain.age(portrait).warnings == ()
    assert plain.age(portrait, steps=0).warnings == ()
    result = plain.age(portrait, steps=2, allow_unrefined=True)
    assert result.refinement["steps"] == 0
    (warning,) = result.warnings
    assert warning.startswith("not refined, though 2 steps are asked for")
    crop = result.faces[0].crop
    assert plain.refine(plain.encode(crop), [2], crop[None]).flags == (NO_STEPS,)
    with pytest.raises(EdgeageError, match="no onnx int8 file"):
        plain.refine(plain.encode(crop), [2], crop[None], RefinementOptions(1))


def test_a_precision_without_refine_engine(refining_bundle: Path, portrait: np.ndarray) -> None:
    """The bundle's own steps are left out with a warning, asked ones are an error."""
    exact = load(refining_bundle, engine="onnxruntime", precision="float32")
    result = exact.age(portrait, ["60+"])
    assert result.refinement["steps"] == 0
    assert result.warnings == (
        "not refined, though 3 steps are usual: the bundle has no onnx float32 file for the refine engine",
    )
    with pytest.raises(EdgeageError, match="no onnx float32 file for the refine"):
        exact.age(portrait, steps=3)


class Counted:
    """An engine whose runs are counted by name."""

    def __init__(self, engine: Engine, name: str, runs: Counter[str]) -> None:
        self.inputs, self.outputs, self.description = engine.inputs, engine.outputs, engine.description
        self._engine, self._name, self._runs = engine, name, runs

    def run(self, feeds: Feeds) -> Feeds:
        self._runs[self._name] += 1
        return self._engine.run(feeds)


@pytest.fixture
def counted(refining_bundle: Path) -> tuple[Refiner, Counter[str]]:
    bundle, runs = open_bundle(refining_bundle), Counter[str]()
    engines: dict[str, Counted] = {}

    def opened(name: str) -> Engine:
        if name not in engines:
            engines[name] = Counted(open_engine(bundle, name, "onnxruntime"), name, runs)
        return engines[name]

    return Refiner(bundle.manifest, "onnxruntime", "int8", opened), runs


def some_faces(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    size = tiny_bundle.PROFILE.image_size
    z = rng.normal(size=(count, tiny_bundle.PROFILE.latent_size)).astype(np.float32)
    images = rng.uniform(-1, 1, (count, 3, size, size)).astype(np.float32)
    return z, one_hot([2] * count), images


def test_a_run_is_timed_before_the_first_deadline(counted: tuple[Refiner, Counter[str]]) -> None:
    refiner, runs = counted
    options = RefinementOptions(2)
    refiner.prepare(1, options)
    assert runs == {}  # no deadline, nothing to time
    hasty = RefinementOptions(2, deadline_ms=60_000)
    refiner.prepare(1, hasty)
    assert runs == {"refine": 2}  # to warm up, and to be timed
    refiner.run(*some_faces(1), hasty)
    assert runs["refine"] == 4
    refiner.prepare(1, hasty)
    assert runs["refine"] == 4  # known by now
    refiner.prepare(3, hasty)
    assert runs["refine_batch"] == 2  # its own time


def test_a_run_that_was_too_slow_is_timed_again(counted: tuple[Refiner, Counter[str]]) -> None:
    refiner, runs = counted
    never = RefinementOptions(2, deadline_ms=0)
    refiner.prepare(1, never)
    assert refiner.run(*some_faces(1), never).flags == (DEADLINE,)
    assert runs["refine"] == 2  # nothing but the timing
    refiner.prepare(1, never)
    assert runs["refine"] == 4


def slow_refiner(path: Path, slow: str, seconds: float, first_only: bool = False) -> Refiner:
    """One whose engine `slow` takes so long, at every run or at the first alone."""
    bundle, runs = open_bundle(path), Counter[str]()
    engines: dict[str, Counted] = {}

    class Slow(Counted):
        def run(self, feeds: Feeds) -> Feeds:
            if not (first_only and runs[slow]):
                time.sleep(seconds)
            return super().run(feeds)

    def opened(name: str) -> Engine:
        if name not in engines:
            kind = Slow if name == slow else Counted
            engines[name] = kind(open_engine(bundle, name, "onnxruntime"), name, runs)
        return engines[name]

    return Refiner(bundle.manifest, "onnxruntime", "int8", opened)


def test_the_target_counts_against_the_deadline(refining_bundle: Path) -> None:
    refiner = slow_refiner(refining_bundle, "embedder", 0.06)
    assert refiner.run(*some_faces(1), RefinementOptions(2, deadline_ms=50)).evaluations == 0


def test_a_run_known_to_be_too_slow_is_not_begun(refining_bundle: Path) -> None:
    refiner, options = slow_refiner(refining_bundle, "refine", 0.06), RefinementOptions(2, deadline_ms=50)
    refiner.prepare(1, options)
    assert refiner.run(*some_faces(1), options).evaluations == 0


def test_the_first_run_of_an_engine_tells_nothing_of_the_others(refining_bundle: Path) -> None:
    refiner = slow_refiner(refining_bundle, "refine", 0.3, first_only=True)
    assert refiner.run(*some_faces(1), RefinementOptions(2)).evaluation_ms >= 300
    options = RefinementOptions(2, deadline_ms=500)  # three such runs would not fit
    refiner.prepare(1, options)
    assert refiner.run(*some_faces(1), options).flags == (REFINED,)


def test_engines_are_opened_beforehand(refining_bundle: Path) -> None:
    bundle, opened = open_bundle(refining_bundle), set()

    def open_and_tell(name: str) -> Engine:
        opened.add(name)
        return open_engine(bundle, name, "onnxruntime")

    refiner = Refiner(bundle.manifest, "onnxruntime", "int8", open_and_tell)
    refiner.prepare(1, RefinementOptions(0))
    assert opened == set()
    refiner.prepare(1, RefinementOptions(2))
    assert opened == {"refine", "embedder", "generator"}


def test_the_timing_of_a_run_is_part_of_loading(
    session: Session, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Refiner.prepare

    def slow(self: Refiner, faces: int, options: RefinementOptions) -> None:
        time.sleep(0.05)
        usual(self, faces, options)

    monkeypatch.setattr(Refiner, "prepare", slow)
    assert session.age(portrait, deadline_ms=60_000).timings["load"] >= 50


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({"steps": 0}, 1),
        ({"steps": 0, "source_group": "60+"}, 1),
        ({}, 2),
        ({"source_group": "60+"}, 1),
        ({"deadline_ms": 0}, 1),
    ],
)
def test_faces_are_generated_again_only_if_they_moved(
    session: Session, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch, options: dict, times: int
) -> None:
    usual, calls = Session.generate, []

    def generate(self: Session, z: np.ndarray) -> np.ndarray:
        calls.append(z)
        return usual(self, z)

    monkeypatch.setattr(Session, "generate", generate)
    session.age(portrait, **options)
    assert len(calls) == times


def test_without_a_batch_engine_faces_take_turns(refining_bundle: Path) -> None:
    bundle = open_bundle(refining_bundle)
    del bundle.manifest.engines["refine_batch"]
    session = load(bundle, engine="onnxruntime")
    z, _, images = some_faces(2)
    crops = np.rint((images + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    found = session.refine(z, [2, 2], crops, RefinementOptions(1))
    assert found.evaluations == 2
