"""A run that begins with the networks of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edgeage.errors import EdgeageError
from edgeage.files import sha256
from edgeage.train.checkpoint import Checkpoint, load_checkpoint
from edgeage.train.data import open_source
from edgeage.train.evaluation.outputs import Model, tensors
from edgeage.train.latent_optimization import Face, RefinementSettings, losses
from edgeage.train.recipes.schema import load_recipe
from edgeage.train.run import RunOptions, train

SOURCE = "procedural:96"


def changed(path: str, tmp_path: Path, **fields: Any) -> Any:
    recipe = {**json.loads(Path(path).read_text()), **fields}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(recipe))
    return load_recipe(str(other))


def run(recipe: Any, out: Path, **more: Any) -> Path:
    options = RunOptions(out=out, source=SOURCE, threads=1, progress=False, **more)
    return train(recipe, options, say=lambda text: None)


def test_the_recogniser_alone_is_trained_again(tmp_path: Path, tiny_recipe: str):
    first = run(load_recipe(tiny_recipe), tmp_path / "first")
    stages = json.loads(Path(tiny_recipe).read_text())["stages"]
    again = changed(tiny_recipe, tmp_path, name="again", stages=stages[:1])
    second = run(again, tmp_path / "second", origin=tmp_path / "first")
    before, after = (load_file(folder / "weights.safetensors") for folder in (first, second))
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert same == {key for key in before if not key.startswith("embedder")}
    meta = json.loads((second / "checkpoint.json").read_text())
    assert [origin["checkpoint"] for origin in meta["origins"]] == [sha256(first / "weights.safetensors")]
    assert meta["origins"][0]["recipe"]["name"] == "tiny"


def test_the_encoder_alone_learns_what_refinement_minimises(tmp_path: Path, tiny_recipe: str):
    first = run(load_recipe(tiny_recipe), tmp_path / "first")
    stage = {"stage": "amortised", "steps": 40, "batch": 16, "learning_rate": 3e-3, "warmup": 1}
    again = changed(tiny_recipe, tmp_path, name="again", stages=[stage])
    (first / "state.safetensors").unlink()  # as a checkpoint is published
    second = run(again, tmp_path / "second", origin=first)
    before, after = (load_file(folder / "weights.safetensors") for folder in (first, second))
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if not key.startswith("encoder")} <= same
    statistics = {key for key in before if "running" in key or "num_batches" in key}
    assert same >= statistics
    old, new = (mean_loss(load_checkpoint(folder)) for folder in (first, second))
    assert new < 0.98 * old  # after a dozen steps of training, no latent of this G is much better


def mean_loss(checkpoint: Checkpoint) -> float:
    """Of the faces that it was trained on."""
    faces, model = open_source(SOURCE, image_size=checkpoint.profile.image_size), Model(checkpoint)
    face = Face.of(tensors(faces.images), model.condition(faces.groups), model.embedder)
    settings = RefinementSettings("euclidean", 20.0)
    latent = model.encode(faces.images)
    return float(losses(model.generator, model.embedder, latent, face, settings)[0].mean())


def test_a_stage_that_goes_on_is_refused_before_there_is_something(tmp_path: Path, tiny_recipe: str):
    stage = {"stage": "amortised", "steps": 2, "batch": 16, "learning_rate": 1e-3}
    alone = changed(tiny_recipe, tmp_path, stages=[stage])
    with pytest.raises(EdgeageError, match="not so: embedder, encoder, generator"):
        run(alone, tmp_path / "run")


def test_resuming_keeps_the_origin(tmp_path: Path, tiny_recipe: str):
    run(load_recipe(tiny_recipe), tmp_path / "first", until=3)
    run(load_recipe(tiny_recipe), tmp_path / "second", origin=tmp_path / "first", until=2)
    folder = run(load_recipe(tiny_recipe), tmp_path / "second", until=1)
    assert len(json.loads((folder / "checkpoint.json").read_text())["origins"]) == 1


def test_faces_that_the_origin_was_trained_on_are_not_held_out(tmp_path: Path, tiny_recipe: str):
    run(load_recipe(tiny_recipe), tmp_path / "first", until=1)
    with pytest.raises(EdgeageError, match="held out other faces"):
        run(changed(tiny_recipe, tmp_path, seed=5), tmp_path / "second", origin=tmp_path / "first")


def test_another_profile_is_refused(tmp_path: Path, tiny_recipe: str):
    run(load_recipe(tiny_recipe), tmp_path / "first", until=1)
    profile = json.loads(Path(json.loads(Path(tiny_recipe).read_text())["profile"]).read_text())
    other = tmp_path / "profile.json"
    other.write_text(json.dumps({**profile, "latent_size": 13}))
    with pytest.raises(EdgeageError, match="latent_size differ"):
        run(
            changed(tiny_recipe, tmp_path, profile=str(other)), tmp_path / "second", origin=tmp_path / "first"
        )
