"""Runs from end to end on procedural faces: stages, resuming, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from tests_support import edgeage

from edgeage.errors import EdgeageError
from edgeage.train import checkpoint as ckpt
from edgeage.train import run as running
from edgeage.train.batches import to_images
from edgeage.train.data import open_source
from edgeage.train.recipes.schema import load_recipe
from edgeage.train.run import RunOptions, train
from edgeage.train.stages.base import Phases, Stage
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
    reached = json.loads((ckpt.find_checkpoint(run) / "checkpoint.json").read_text())["step"]
    said: list[str] = []
    train(load_recipe(tiny_recipe), options(run, until=2), say=said.append)
    assert f"Resuming at stage 1 of 4, step {reached}" in said
    assert json.loads((run / "checkpoint/checkpoint.json").read_text())["step"] == reached + 2
    train(load_recipe(tiny_recipe), options(tmp_path / "whole", until=reached + 2))
    resumed, whole = tensors(run), tensors(tmp_path / "whole")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


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
    checkpoint = ckpt.load_checkpoint(tmp_path / "run")
    faces = open_source("procedural:96:7", 32)  # other persons
    images = to_images(torch.from_numpy(faces.images))
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

    def poisoned(self: Stage, step: int, rng: object) -> Phases:
        loss = self.trained["embedder"].get_parameter("embedding.bias").sum() * float("nan")
        yield "embedder", loss
        return {"total": loss.detach()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeage.train.stages.recogniser.RecogniserStage.step", poisoned)
        with pytest.raises(EdgeageError, match=r"stage recogniser, step 2: losses are not finite"):
            train(recipe, options(tmp_path / "run"))
    assert (tmp_path / "run/checkpoint/weights.safetensors").read_bytes() == before


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, tiny_recipe: str):
    """A finite loss can have an infinite gradient: the loss shows it one step later, after a checkpoint."""
    recipe = load_recipe(tiny_recipe)
    train(recipe, options(tmp_path / "run", until=2))
    before = (tmp_path / "run/checkpoint/weights.safetensors").read_bytes()

    def steep(self: Stage, step: int, rng: object) -> Phases:
        bias = self.trained["embedder"].get_parameter("embedding.bias")
        loss = (bias - bias.detach()).abs().sqrt().sum()  # 0, with an infinite slope
        yield "embedder", loss
        return {"total": loss.detach()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeage.train.stages.recogniser.RecogniserStage.step", steep)
        with pytest.raises(EdgeageError, match=r"stage 1, step 3: \d+ weights are not finite"):
            train(recipe, options(tmp_path / "run", until=1))
    assert (tmp_path / "run/checkpoint/weights.safetensors").read_bytes() == before


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, tiny_recipe: str):
    """A limit of the file size stands for the disk: the system refuses the write halfway."""
    recipe, run = load_recipe(tiny_recipe), tmp_path / "run"
    train(recipe, options(run, until=2))
    before = (run / "checkpoint/state.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(EdgeageError, match="cannot save the checkpoint") as caught:
            train(recipe, options(run, until=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(str(caught.value).splitlines()) == 1
    assert (run / "checkpoint/state.safetensors").read_bytes() == before
    assert not [path.name for path in run.iterdir() if "tmp" in path.name]
    train(recipe, options(run, until=2))  # room again: the same command goes on
    assert json.loads((run / "checkpoint/checkpoint.json").read_text())["step"] == 4


def test_a_disk_that_is_full_for_the_logs_is_one_line(tmp_path: Path, tiny_recipe: str):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "events.out")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeage.train.loop.LOG_EVERY", 1)
        patch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
        with pytest.raises(EdgeageError, match=r"cannot write to events.out: No space left on device"):
            train(load_recipe(tiny_recipe), options(tmp_path / "run"))


def test_what_kills_left_is_removed(tmp_path: Path, tiny_recipe: str):
    left = tmp_path / "run" / ".checkpoint.tmp-999999"
    left.mkdir(parents=True)
    (left / "weights.safetensors").write_bytes(b"half")
    train(load_recipe(tiny_recipe), options(tmp_path / "run", until=1))
    assert not left.exists()


def test_shards_of_a_run_stay(tmp_path: Path, tiny_recipe: str):
    recipe = load_recipe(tiny_recipe)
    train(recipe, options(tmp_path / "run", until=3, shards=2))
    with pytest.raises(EdgeageError, match="shards: 2 -> 4"):
        train(recipe, options(tmp_path / "run", until=1, shards=4))
    train(recipe, options(tmp_path / "run", until=3))
    train(recipe, options(tmp_path / "whole", until=6, shards=2))
    parts, whole = tensors(tmp_path / "run"), tensors(tmp_path / "whole")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    with pytest.raises(EdgeageError, match="a batch of 8 does not divide into 3 shards"):
        train(recipe, options(tmp_path / "other", shards=3))


def test_mixed_precision_runs_all_stages(tmp_path: Path, tiny_recipe: str):
    train(load_recipe(tiny_recipe), options(tmp_path / "run", precision="bf16"))
    saved = tensors(tmp_path / "run")
    assert all(value.dtype != torch.bfloat16 and value.isfinite().all() for value in saved.values())
    meta = json.loads((tmp_path / "run/checkpoint/checkpoint.json").read_text())
    assert (meta["precision"], meta["shards"]) == ("bf16", 1)
    with pytest.raises(EdgeageError, match="unknown precision 'half'"):
        train(load_recipe(tiny_recipe), options(tmp_path / "other", precision="half"))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's tracer
def test_compiled_networks_keep_their_names_and_take_second_derivatives(
    tmp_path: Path, tiny_recipe: str, monkeypatch: pytest.MonkeyPatch
):
    recipe = json.loads(Path(tiny_recipe).read_text())
    recipe["stages"] = [recipe["stages"][1]]
    recipe["stages"][0] |= {"steps": 3, "r1_every": 2}
    Path(tiny_recipe).write_text(json.dumps(recipe))
    # traced, with the backward pass traced too, but without the minutes that a C++ compiler takes
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend="aot_eager"))
    train(load_recipe(tiny_recipe), options(tmp_path / "plain"))
    train(load_recipe(tiny_recipe), options(tmp_path / "compiled", compile=True))
    plain, compiled = tensors(tmp_path / "plain"), tensors(tmp_path / "compiled")
    assert plain.keys() == compiled.keys()
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, rtol=1e-2, atol=1e-3, msg=key)


def test_the_run_folder_tells_its_story(tmp_path: Path, tiny_recipe: str):
    recipe, run = load_recipe(tiny_recipe), tmp_path / "run"
    train(recipe, options(run, until=2))
    train(recipe, options(run))
    environment = json.loads((run / "environment.json").read_text())
    assert environment["precision"] == "float32"
    assert (environment["shards"], environment["processes"], environment["compile"]) == (1, 1, False)
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["git"]
    assert environment["command"]
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    told = [(line["event"], line["stage"], line["step"]) for line in lines]
    assert told == [("started", 0, 0), ("stopped", 0, 2), ("resumed", 0, 2), ("finished", 4, 0)]
    data = json.loads((run / "data.json").read_text())
    assert json.loads((run / "checkpoint/checkpoint.json").read_text())["data"] == {
        key: data[key] for key in ("fingerprint", "faces", "source")
    }


def test_pictures_are_of_the_same_faces_and_latents(tmp_path: Path, tiny_recipe: str):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeage.train.loop.IMAGES_EVERY", 3)
        patch.setattr("edgeage.train.loop.LOG_EVERY", 3)
        train(load_recipe(tiny_recipe), options(tmp_path / "run"))
    events = EventAccumulator(str(tmp_path / "run/tensorboard"), {"images": 0, "scalars": 0}).Reload()
    # stages: recogniser to 6, cgan to 12, encoder to 18, identity to 24
    assert [event.step for event in events.Images("latents")] == [9, 12, 21, 24]
    assert [event.step for event in events.Images("faces")] == [15, 18, 21, 24]
    assert {(event.width, event.height) for event in events.Images("latents")} == {(6 * 32, 8 * 32)}
    assert {(event.width, event.height) for event in events.Images("faces")} == {(8 * 32, 8 * 32)}
    before, after = events.Images("faces")[:2]  # the encoder's stage leaves G as it is
    first, second = (Image.open(io.BytesIO(event.encoded_image_string)) for event in (before, after))
    assert first.crop((0, 0, 32, 256)).tobytes() == second.crop((0, 0, 32, 256)).tobytes()
    assert first.tobytes() != second.tobytes()
    assert [event.step for event in events.Scalars("cgan/generator")] == [9, 12]


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
