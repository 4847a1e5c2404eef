"""Runs from end to end on procedural faces: stages, resuming, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tests_support import edgeage

from edgeage.errors import EdgeageError
from edgeage.train import run as running
from edgeage.train.recipes.schema import load_recipe
from edgeage.train.run import RunOptions, train
from edgeage.train.teacher import Teacher

SOURCE = "procedural:96"


def options(out: Path, **changes: object) -> RunOptions:
    return RunOptions(out=out, source=SOURCE, threads=1, progress=False, **changes)  # type: ignore[arg-type]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint" / "state.safetensors")


def test_interrupted_anywhere_equals_uninterrupted(tmp_path: Path, tiny_recipe: str):
    recipe = load_recipe(tiny_recipe)
    train(recipe, options(tmp_path / "whole"))
    for pause in (4, 2, 3, 30):  # in the middle of a stage, at its end, in the next, to the end
        train(recipe, options(tmp_path / "parts", until=pause))
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)  # same CPU, same threads: bit-equal
    meta = json.loads((tmp_path / "whole/checkpoint/checkpoint.json").read_text())
    assert (meta["stage"], meta["step"]) == (4, 0)
    assert set(meta["learned"]) >= {"embedder", "encoder", "generator"}


def test_a_killed_process_resumes(tmp_path: Path, tiny_recipe: str):
    recipe = json.loads(Path(tiny_recipe).read_text())
    recipe["stages"][0]["steps"] = 100_000
    Path(tiny_recipe).write_text(json.dumps(recipe))
    run = tmp_path / "run"
    arguments = ["train", "--recipe", tiny_recipe, "--data", SOURCE, "--out", str(run)]
    arguments += ["--threads", "1", "--save-seconds", "0.2", "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "edgeage", *arguments], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (run / "checkpoint/checkpoint.json").exists():
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline, "no checkpoint within a minute"
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = json.loads((running.ckpt.find_checkpoint(run) / "checkpoint.json").read_text())["step"]
    said: list[str] = []
    train(load_recipe(tiny_recipe), options(run, until=2), say=said.append)
    assert f"Resuming at stage 1 of 4, step {reached}" in said
    assert json.loads((run / "checkpoint/checkpoint.json").read_text())["step"] == reached + 2


def test_sigterm_saves_and_stops(tmp_path: Path, tiny_recipe: str, monkeypatch: pytest.MonkeyPatch):
    recipe = load_recipe(tiny_recipe)
    original = running.Sampler.draw
    drawn = 0

    def draw(self: running.Sampler, *args: object, **kwargs: object) -> object:
        nonlocal drawn
        drawn += 1
        if drawn == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(running.Sampler, "draw", draw)
    train(recipe, options(tmp_path / "run"))
    meta = json.loads((tmp_path / "run/checkpoint/checkpoint.json").read_text())
    assert (meta["stage"], meta["step"]) == (0, 3)


def test_training_learns(tmp_path: Path, tiny_recipe: str):
    """E and G of a few dozen identity steps rebuild procedural faces better than a grey picture."""
    text = json.loads(Path(tiny_recipe).read_text())
    text["stages"] = [
        text["stages"][0],
        {"stage": "identity", "steps": 120, "batch": 16, "learning_rate": 3e-3, "pixel_weight": 5.0},
    ]
    Path(tiny_recipe).write_text(json.dumps(text))
    train(load_recipe(tiny_recipe), options(tmp_path / "run"))
    checkpoint = running.ckpt.load_checkpoint(tmp_path / "run")
    faces = running.open_source("procedural:96:7", 32)  # other persons
    images = running.to_images(torch.from_numpy(faces.images))
    rebuilt = checkpoint.networks["generator"](
        checkpoint.networks["encoder"](images), torch.eye(6)[torch.from_numpy(faces.groups)]
    )
    mean_face = images.mean(0, keepdim=True)
    assert (rebuilt - images).abs().mean() < (images - images.mean()).abs().mean()
    assert (rebuilt - images).pow(2).mean() < 1.3 * (mean_face - images).pow(2).mean()


def test_a_changed_recipe_is_refused_with_the_difference(tmp_path: Path, tiny_recipe: str):
    train(load_recipe(tiny_recipe), options(tmp_path / "run", until=1))
    text = Path(tiny_recipe).read_text().replace('"steps": 6', '"steps": 7', 1)
    Path(tiny_recipe).write_text(text)
    with pytest.raises(EdgeageError, match=r"stages\[0\]\.steps: 6 -> 7"):
        train(load_recipe(tiny_recipe), options(tmp_path / "run", until=1))


def test_changed_data_are_refused(tmp_path: Path, tiny_recipe: str):
    train(load_recipe(tiny_recipe), options(tmp_path / "run", until=1))
    other = RunOptions(out=tmp_path / "run", source="procedural:102", threads=1, progress=False)
    with pytest.raises(EdgeageError, match="other data"):
        train(load_recipe(tiny_recipe), other)


def test_losses_that_are_not_finite_stop_the_run_and_keep_the_checkpoint(tmp_path: Path, tiny_recipe: str):
    recipe = load_recipe(tiny_recipe)
    train(recipe, options(tmp_path / "run", until=2))
    before = (tmp_path / "run/checkpoint/weights.safetensors").read_bytes()

    def poisoned(self: object, step: int, rng: object) -> dict[str, torch.Tensor]:
        return {"total": torch.tensor(float("nan"))}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeage.train.stages.recogniser.RecogniserStage.step", poisoned)
        with pytest.raises(EdgeageError, match=r"stage recogniser, step 2: losses are not finite"):
            train(recipe, options(tmp_path / "run"))
    assert (tmp_path / "run/checkpoint/weights.safetensors").read_bytes() == before


def test_identity_stage_refuses_an_untrained_recogniser(tmp_path: Path, tiny_recipe: str):
    text = json.loads(Path(tiny_recipe).read_text())
    text["stages"] = text["stages"][1:]
    Path(tiny_recipe).write_text(json.dumps(text))
    with pytest.raises(EdgeageError, match="needs a trained embedder"):
        train(load_recipe(tiny_recipe), options(tmp_path / "run"))


def test_a_recipe_that_distils_asks_for_its_teacher(tmp_path: Path):
    result = edgeage("train", "--recipe", "edge", "--data", SOURCE, "--out", str(tmp_path / "run"))
    assert result.returncode == 2
    assert "npm pack" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_foreign_teacher_is_refused(tmp_path: Path):
    path = tmp_path / "MobileFaceNet.tflite"
    with pytest.raises(EdgeageError, match="no teacher at"):
        Teacher(path)
    path.write_bytes(b"something else")
    with pytest.raises(EdgeageError, match="not the published teacher"):
        Teacher(path)


@pytest.mark.gpu
def test_all_stages_run_on_cuda_and_resume(tmp_path: Path, tiny_recipe: str):
    if not torch.cuda.is_available():
        pytest.skip("SKIPPED FOR LACK OF A CUDA DEVICE")
    recipe = load_recipe(tiny_recipe)
    train(recipe, options(tmp_path / "run", device="cuda", until=9))
    train(recipe, options(tmp_path / "run", device="cuda"))
    assert json.loads((tmp_path / "run/checkpoint/checkpoint.json").read_text())["stage"] == 4
    assert all(value.isfinite().all() for value in tensors(tmp_path / "run").values())


def test_no_cuda_is_said(tmp_path: Path, tiny_recipe: str):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(EdgeageError, match="--device cpu"):
        train(load_recipe(tiny_recipe), options(tmp_path / "run", device="cuda"))


def test_json_output(tmp_path: Path, tiny_recipe: str):
    from edgeage.cli import cli

    arguments = ["train", "--recipe", tiny_recipe, "--data", SOURCE, "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli, [*arguments, "--until", "1", "--threads", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["step"] == 1
