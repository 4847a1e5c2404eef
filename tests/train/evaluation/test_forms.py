"""Forms of a model in refinement: the float networks as engines, and those of a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
import torch

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import open_bundle
from edgeage.runtime.descent import NO_STEPS
from edgeage.runtime.refinement import RefinementOptions
from edgeage.train.checkpoint import Checkpoint
from edgeage.train.data import Faces
from edgeage.train.evaluation.forms import (
    DEVICE,
    Form,
    check_bundle,
    float_form,
    int8_form,
    int8_forms,
    loss_of,
    refined,
)
from edgeage.train.evaluation.outputs import Model, tensors
from edgeage.train.latent_optimization import Face, RefinementSettings, refine

pytestmark = pytest.mark.usefixtures("one_thread")
LOSS = RefinementSettings("euclidean", 20.0)


@pytest.fixture
def model(lively: Checkpoint) -> Model:
    return Model(lively)


@pytest.fixture
def form(model: Model, lively: Checkpoint) -> Form:
    return float_form(model, lively.profile, LOSS)


def change(folder: Path, **parts: object) -> Path:
    """The bundle with other parts in its manifest."""
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tiny_bundle.make(tmp_path / "tiny.agebundle", refining=True)
    return change(tmp_path / "tiny.agebundle", refinement={**made.refinement, "pixel_weight": 4.0})


def test_the_float_engine_gives_the_gradient_of_both_terms(form: Form, model: Model, faces: Faces):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1, 12)).astype(np.float32)
    y = np.eye(6, dtype=np.float32)[2:3]
    target = rng.normal(size=(1, 16)).astype(np.float32)
    image = tensors(faces.images[:1]).numpy()
    found = form.engines["refine"].run({"z": z, "y": y, "target": target, "image": image})

    latent = torch.from_numpy(z).requires_grad_()
    made = model.generator(latent, torch.from_numpy(y))
    embedding = model.embedder(made)
    apart = (embedding - torch.from_numpy(target)).square().sum()
    loss = apart + 20 * (made - torch.from_numpy(image)).square().mean()
    loss.backward()
    assert found["gradient"] == pytest.approx(latent.grad.numpy(), rel=1e-4, abs=1e-6)
    assert found["embedding"] == pytest.approx(embedding.detach().numpy(), rel=1e-5, abs=1e-6)


def test_the_float_form_is_the_checkpoint(form: Form, model: Model, faces: Faces):
    few, groups = faces.images[:3], faces.groups[:3]
    z = form.encode(few)
    assert z == pytest.approx(model.encode(few).numpy(), abs=1e-5)
    assert form.embed(few) == pytest.approx(model.embed(few).numpy(), abs=1e-5)
    check = form.forward()
    images = check.generate(z, model.condition(groups).numpy())
    embeddings = check.embed(images)
    assert check.latents == len(z)
    assert embeddings == pytest.approx(model.embedder(torch.from_numpy(images)).numpy(), abs=1e-5)
    made = model.generate(torch.from_numpy(z), groups).numpy()
    assert images == pytest.approx(made, abs=1e-5)


def test_the_device_loop_on_floats_is_the_float_reference(form: Form, model: Model, faces: Faces):
    few, groups = faces.images[:6], faces.groups[:6]
    found = refined(form, few, groups, (0, 1, 3), RefinementOptions(steps=3))
    face = Face.of(tensors(few), model.condition(groups), model.embedder)
    expected = refine(model.generator, model.embedder, model.encode(few), face, (0, 1, 3), LOSS)
    for k, way in found.items():
        assert way.latents == pytest.approx(expected[k].numpy(), abs=1e-4), k
    assert not np.allclose(found[3].latents, found[0].latents)


def test_every_k_is_run_and_counted_by_itself(form: Form, faces: Faces):
    found = refined(form, faces.images[:2], faces.groups[:2], (0, 2, 4), RefinementOptions())
    assert {k: way.evaluations.tolist() for k, way in found.items()} == {0: [0, 0], 2: [2, 2], 4: [4, 4]}
    assert found[0].checks.tolist() == [0, 0]
    assert found[0].milliseconds.tolist() == [0, 0]
    assert found[0].flags == (NO_STEPS, NO_STEPS)
    assert found[4].checks.min() >= 1
    assert found[4].milliseconds.min() > 0


def test_a_form_whose_files_lack_is_told_and_the_others_run(folder: Path):
    forms, lacking = int8_forms(open_bundle(folder), threads=1)
    assert [form.name for form in forms] == ["INT8 ONNX"]
    told = "INT8 TFLite: tiny.agebundle has no such file for the encoder, embedder, generator, refine"
    assert lacking == [told]
    with pytest.raises(EdgeageError, match="no such file for the encoder"):
        int8_form(open_bundle(folder), DEVICE, threads=1)


def test_a_bundle_without_any_int8_form_is_refused(tmp_path: Path):
    tiny_bundle.make(tmp_path / "tiny.agebundle")
    with pytest.raises(EdgeageError, match=r"no INT8 form can be measured: INT8 ONNX: .* embedder"):
        int8_forms(open_bundle(tmp_path / "tiny.agebundle"), threads=1)


def test_the_engines_of_a_bundle_refine(folder: Path):
    """The tiny generator blurs; steps towards the face's own embedding must come nearer to it."""
    (form,), _ = int8_forms(open_bundle(folder), threads=1)
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    groups = np.array([2, 2])
    options = RefinementOptions.from_manifest(open_bundle(folder).manifest.refinement)
    found = refined(form, images, groups, (0, 3), options)
    target = form.embed(images)

    def distance(k: int) -> np.ndarray:
        made = form.embed(form.generate(found[k].latents, groups))
        return np.linalg.norm(made - target, axis=1)

    assert (distance(3) < distance(0)).all()


def test_the_loss_is_that_of_the_manifest(folder: Path):
    assert loss_of(open_bundle(folder).manifest) == RefinementSettings("euclidean", 4.0, 0.05, 0.85)


def test_a_bundle_of_another_checkpoint_is_refused(checkpoint: Checkpoint, folder: Path):
    check_bundle(checkpoint, open_bundle(folder))
    lineage = {"checkpoint": "a" * 64, "onnx": {"embedder": "e" * 64}}
    with pytest.raises(EdgeageError, match="was exported from checkpoint aaaaaaaaaaaa, this is 000000000000"):
        check_bundle(checkpoint, open_bundle(change(folder, lineage=lineage)))


def test_a_bundle_without_a_refine_engine_is_refused(checkpoint: Checkpoint, tmp_path: Path):
    tiny_bundle.make(tmp_path / "plain.agebundle")
    with pytest.raises(EdgeageError, match=r"plain.agebundle has no refine engine .* edgeage export"):
        check_bundle(checkpoint, open_bundle(tmp_path / "plain.agebundle"))


def test_a_bundle_that_keeps_its_pixel_weight_to_itself_is_refused(checkpoint: Checkpoint, tmp_path: Path):
    tiny_bundle.make(tmp_path / "old.agebundle", refining=True)
    with pytest.raises(EdgeageError, match="does not say its pixel weight"):
        check_bundle(checkpoint, open_bundle(tmp_path / "old.agebundle"))
