"""Several processes, or several shards in one, compute the same run."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import train_together
from safetensors.torch import load_file
from torch import Tensor, nn
from train_together import run

from edgeage.errors import EdgeageError
from edgeage.train.batches import rng_for
from edgeage.train.checkpoint import load_checkpoint
from edgeage.train.distributed import Processes, join_processes, shards_of
from edgeage.train.loop import Position, Steps, shard_settings, take_step
from edgeage.train.recipes.schema import Recipe, load_recipe
from edgeage.train.stages.base import Context, Phases, Stage

STEP = {"steps": 4, "batch": 8, "learning_rate": 1e-3}
EVERY_KIND: list[dict[str, Any]] = [
    {"stage": "perceptual", **STEP},
    {"stage": "joint", **STEP, "aging_from": 0.3, "r1_every": 3},
    {"stage": "recogniser", **STEP, "generated_share": 0.5},
    {"stage": "cgan", **STEP, "r1_gamma": 1.0, "r1_every": 2, "ema": 0.9},
    {"stage": "encoder", **STEP, "real_weight": 1.0},
    {"stage": "identity", **STEP},
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def tensors(run: Path) -> dict[str, Tensor]:
    return load_file(run / "checkpoint" / "state.safetensors")


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def position(run: Path) -> tuple[int, int]:
    meta = json.loads((run / "checkpoint/checkpoint.json").read_text())
    return meta["stage"], meta["step"]


def in_two_processes(folder: Path, jobs: list[dict[str, Any]]) -> list[list[str]]:
    """Errors by job and process."""
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = subprocess.run([*TORCHRUN, train_together.__file__, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    by_rank = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    return [list(errors) for errors in zip(*by_rank, strict=True)]


@pytest.fixture
def every_kind(tmp_path: Path, tiny_profile: str) -> str:
    path = tmp_path / "every-kind.json"
    recipe = {"name": "every", "profile": tiny_profile, "validation": 0.2, "test": 0.2, "stages": EVERY_KIND}
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return str(path)


def test_two_processes(tmp_path: Path, every_kind: str, tiny_recipe: str):
    """One start of torchrun for all that needs two processes: each takes seconds to import torch."""
    one, two, four = tmp_path / "one", tmp_path / "two", tmp_path / "four"
    ended, poisoned, full = (tmp_path / name for name in ("ended", "poisoned", "full"))
    paused = {"until": 15}  # in the middle of the conditional GAN, all optimizers with moments

    errors = in_two_processes(
        tmp_path,
        [
            {"out": str(two), "recipe": every_kind, "options": paused},
            {"out": str(four), "recipe": tiny_recipe, "options": {"shards": 4}},
            {"out": str(ended), "recipe": tiny_recipe, "signal": 3},
            {"out": str(poisoned), "recipe": tiny_recipe, "options": {"until": 2}},
            {"out": str(poisoned), "recipe": tiny_recipe, "poison": 1},
            {"out": str(full), "recipe": tiny_recipe, "options": {"until": 2}},
            {"out": str(full), "recipe": tiny_recipe, "options": {"until": 2}, "full": True},
            {"out": str(tmp_path / "three"), "recipe": tiny_recipe, "options": {"shards": 3}},
        ],
    )
    # two processes = one process with two shards, to the bit; so is going on with one process
    job = {"out": str(one), "recipe": every_kind}
    assert run({**job, "options": {**paused, "shards": 2}}) == ""
    assert position(one) == position(two) == (3, 3)
    assert equal(tensors(one), tensors(two))
    assert run(job) == ""
    assert run({**job, "out": str(two)}) == ""
    assert equal(tensors(one), tensors(two))

    # with four shards the order of three float32 sums differs, and Adam blows up the rounding of gradients
    # that are nought (biases before a batch norm): what the networks compute stays
    four_here = tmp_path / "four-here"
    assert run({"out": str(four_here), "recipe": tiny_recipe, "options": {"shards": 4}}) == ""
    here, there = (load_checkpoint(run).networks for run in (four_here, four))
    faces, ages = torch.linspace(-1, 1, 6 * 3 * 32 * 32).reshape(6, 3, 32, 32), torch.eye(6)
    latent = here["encoder"](faces)
    torch.testing.assert_close(there["encoder"](faces), latent, rtol=0, atol=5e-3)
    torch.testing.assert_close(
        there["generator"](latent, ages), here["generator"](latent, ages), rtol=0, atol=1e-4
    )

    # SIGTERM to one stops both after the same step
    assert errors[2] == ["", ""]
    assert position(ended) == (0, 3)
    # not finite in one: both stop, process 0 says why, what was saved stays
    assert "EdgeageError: stage recogniser, step 2: losses are not finite" in errors[4][0]
    assert errors[4][1].startswith("StoppedElsewhere")
    assert position(poisoned) == (0, 2)
    # the disk of process 0 is full
    assert "No space left on device" in errors[6][0]
    assert errors[6][1].startswith("StoppedElsewhere")
    assert position(full) == (0, 2)
    # refused before anything is written
    assert "3 shards of a batch cannot be shared out evenly to 2 processes" in errors[7][0]
    assert errors[7][1].startswith("StoppedElsewhere")
    assert [text for pair in (errors[i] for i in (0, 1, 3, 5)) for text in pair if text] == []


def test_a_lost_process_ends_the_others_in_one_line(tmp_path: Path, tiny_recipe: str):
    recipe = json.loads(Path(tiny_recipe).read_text())
    recipe["stages"][0]["steps"] = 100_000
    Path(tiny_recipe).write_text(json.dumps(recipe))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    arguments = ["train", "--recipe", tiny_recipe, "--data", "procedural:96", "--out", str(tmp_path / "run")]
    arguments += ["--threads", "1", "--save-seconds", "0.2", "--quiet", "--device", "cpu"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "edgeage", *arguments],
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run/checkpoint/checkpoint.json").exists():
            assert all(process.poll() is None for process in processes)
            assert time.monotonic() < deadline
            time.sleep(0.1)
        processes[1].send_signal(signal.SIGKILL)
        output, errors = processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[0].returncode == 2
    assert output.count("people") + output.count("procedural:96") == 1  # only one of the two speaks
    (line,) = [line for line in errors.splitlines() if "edgeage: error" in line]
    assert "lost the other processes of the run" in line
    assert "Traceback" not in errors
    assert (tmp_path / "run/checkpoint/checkpoint.json").exists()


class Regression(Stage):
    """A batch norm and a linear layer in two phases, which draw from both sources of random numbers."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, ("net",))
        self.optimizers["net"] = torch.optim.SGD(self.trained["net"].parameters(), 0.1)
        self.keep_average("net", 0.5)

    def step(self, step: int, rng: Any) -> Phases:
        net = self.trained["net"]
        first = net(torch.from_numpy(rng.normal(size=(4, 3))).float()).square().mean()
        yield "net", first
        second = net(torch.randn(4, 3)).abs().mean()
        yield "net", second
        return {"first": first.detach(), "second": second.detach()}


def regression() -> tuple[Regression, nn.Module]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    context = Context(None, {"net": net}, None, None, torch.device("cpu"))  # type: ignore[arg-type]
    return Regression(context), net


def recipe_of(*stages: dict[str, Any]) -> Recipe:
    return msgspec.convert({"name": "r", "profile": "edge", "seed": 5, "stages": list(stages)}, Recipe)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_step_is_the_mean_over_shards_of_gradients_and_of_statistics(shards: int):
    stage, net = regression()
    start = copy.deepcopy(net)
    steps = Steps(recipe_of({"stage": "encoder", **STEP}), Processes(), shards)
    losses = take_step(steps, stage, Position(0, 7))

    # by hand, one shard after the other for each phase
    twins = [copy.deepcopy(start) for _ in range(shards)]
    expected = []
    inputs: list[list[Tensor]] = []
    for number in range(shards):
        rng = rng_for(5, 0, 7, number)
        inputs.append([torch.from_numpy(rng.normal(size=(4, 3))).float(), torch.randn(4, 3)])
    for phase, measure in enumerate((torch.square, torch.abs)):
        values = [measure(twin(batch[phase])).mean() for twin, batch in zip(twins, inputs, strict=True)]
        expected.append(sum(value.item() for value in values) / shards)
        gradients = [
            torch.autograd.grad(value, tuple(twin.parameters()))
            for twin, value in zip(twins, values, strict=True)
        ]
        for twin in twins:
            for parameter, *parts in zip(twin.parameters(), *gradients, strict=True):
                parameter.data -= 0.1 * sum(parts) / shards

    assert [float(losses[name]) for name in ("first", "second")] == pytest.approx(expected)
    for mine, theirs in zip(net.parameters(), twins[0].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    for index, mine in enumerate(net.buffers()):
        theirs = torch.stack([list(twin.buffers())[index].float() for twin in twins]).mean(0)
        torch.testing.assert_close(mine.float(), theirs)
    average = stage.context.averages["net"]
    keep = min(0.5, 8 / 17)
    torch.testing.assert_close(
        average.get_parameter("1.weight"),
        start.get_parameter("1.weight").lerp(net.get_parameter("1.weight"), 1 - keep),
    )


def test_shards_are_what_the_run_was_begun_with():
    assert shards_of(None, None, 1) == 1
    assert shards_of(None, None, 4) == 4
    assert shards_of(8, None, 4) == 8
    assert shards_of(None, 4, 2) == 4
    with pytest.raises(EdgeageError, match="shards: 4 -> 8"):
        shards_of(8, 4, 2)
    with pytest.raises(EdgeageError, match=r"4 shards .* 3 processes"):
        shards_of(None, 4, 3)


def test_every_batch_of_a_stage_is_divided():
    recipe = recipe_of({"stage": "recogniser", **STEP, "batch": 24})
    assert shard_settings(recipe.stages[0], 4).batch == 6
    assert shard_settings(recipe.stages[0], 1) == recipe.stages[0]
    with pytest.raises(EdgeageError, match="stage recogniser: a batch of 24 does not divide into 5 shards"):
        shard_settings(recipe.stages[0], 5)
    with pytest.raises(EdgeageError, match="does not divide into 24 shards of 2"):
        shard_settings(recipe.stages[0], 24)


def test_the_first_shard_draws_what_steps_without_shards_drew():
    """So runs that were begun before there were shards go on to the bit."""
    old = np.random.default_rng((3, 1, 9)).integers(0, 2**62)
    assert np.random.default_rng((3, 1, 9, 0)).integers(0, 2**62) == old
    assert int(rng_for(3, 1, 9).integers(9)) == int(rng_for(3, 1, 9, 0).integers(9))
    assert not np.array_equal(rng_for(3, 1, 9, 0).random(4), rng_for(3, 1, 9, 1).random(4))


def test_shipped_recipes_run_on_eight_devices():
    for name in ("edge", "paper", "smoke"):
        for stage in load_recipe(name).stages:
            shard_settings(stage, 8)


def test_an_environment_without_a_number_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(EdgeageError, match="WORLD_SIZE=two"), join_processes("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(EdgeageError, match=r"process 1 of 2 cannot join .* torchrun"), join_processes("cpu"):
        pass
