"""`auto`, the INT8 coverage of plans, and the command that builds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fake_tensorrt import INSPECTIONS, World

from edgeage.cli import cli
from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines.tensorrt import choose
from edgeage.runtime.engines.tensorrt.choose import choose_precision, open_tensorrt
from edgeage.runtime.engines.tensorrt.coverage import plan_coverage, read_coverage
from edgeage.runtime.engines.tensorrt.prepare import Workshop

Opener = Callable[[], Workshop]


def timed(int8: float, float16: float) -> Callable[..., dict[str, np.ndarray]]:
    """Latencies as if measured, with a little noise; every rival really runs once."""

    def measure(subjects: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
        noise = np.random.default_rng(0).uniform(0.98, 1.02, (2, rounds))
        times = {"int8": int8 * noise[0], "float16": float16 * noise[1]}
        for run in subjects.values():
            run()
        return {name: times[name] for name in subjects}

    return measure


@pytest.mark.parametrize(("int8", "float16", "kept"), [(1.0, 2.0, "int8"), (2.0, 1.0, "float16")])
def test_the_faster_of_two_good_ones_is_kept_with_both_figures(
    world: World, shipped: Bundle, workshop: Opener, int8: float, float16: float, kept: str
) -> None:
    choice = choose_precision(workshop(), shipped, "encoder", timed=timed(int8, float16))
    assert choice.precision == kept
    assert f"int8 takes {int8 / float16:.2f} of float16's time" in choice.reason
    for precision, milliseconds in (("int8", int8), ("float16", float16)):
        rival = choice.rivals[precision]
        assert rival["passes"]
        assert rival["latency"]["percentiles"]["p50"]["value"] == pytest.approx(milliseconds, rel=0.02)
        sidecar = workshop().prepare(shipped, "encoder", precision).sidecar
        assert sidecar["auto"]["kept"] == kept
        assert sidecar["auto"]["latency"] == rival["latency"]


def test_a_choice_is_kept_for_these_plans(world: World, shipped: Bundle, workshop: Opener) -> None:
    first = choose_precision(workshop(), shipped, "encoder", timed=timed(1, 2))

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured again")

    again = choose_precision(workshop(), shipped, "encoder", timed=never)
    assert again.to_dict() == json.loads(json.dumps(first.to_dict()))
    assert world.builds == 2
    forced = choose_precision(workshop(), shipped, "encoder", force=True, timed=timed(2, 1))
    assert forced.precision == "float16"
    assert world.builds == 4


def test_a_fast_one_that_is_wrong_is_not_kept(
    world: World, shipped: Bundle, workshop: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = choose.check_golden

    def strict(bundle: Bundle, name: str, engine: Any, precision: str, golden: Any) -> Any:
        run = engine.run
        if precision == "int8":
            monkeypatch.setattr(engine, "run", lambda feeds: {"z": run(feeds)["z"] + 1})
        return honest(bundle, name, engine, precision, golden)

    monkeypatch.setattr(choose, "check_golden", strict)
    choice = choose_precision(workshop(), shipped, "encoder", timed=timed(0.1, 5))
    assert choice.precision == "float16"
    assert "int8 is out: z: max LSB" in choice.reason
    assert not choice.rivals["int8"]["passes"]


def test_a_precision_that_cannot_be_built_is_out(new_world: World, shipped: Bundle, workshop: Opener) -> None:
    """TensorRT 11 without typed files: no flag for float16."""
    choice = choose_precision(workshop(), shipped, "encoder", timed=timed(1, 1))
    assert choice.precision == "int8"
    assert "no flag for float16" in choice.reason


def test_if_neither_can_be_used_it_is_an_error(world: World, shipped: Bundle, workshop: Opener) -> None:
    world.refuse.add("build")
    with pytest.raises(EdgeageError, match=r"neither precision of the encoder.*int8:.*float16:"):
        choose_precision(workshop(), shipped, "encoder")


def test_auto_opens_what_was_chosen_and_measures_for_real(
    world: World, shipped: Bundle, workshop: Opener
) -> None:
    engine = open_tensorrt(shipped, "encoder", "auto", workshop=workshop())
    assert "chosen by auto: int8 takes " in engine.description


@pytest.mark.parametrize("version", ["10", "11"])
def test_the_inspectors_of_both_versions_say_the_same(version: str) -> None:
    found = read_coverage((INSPECTIONS / f"inspector-{version}.json").read_text())
    assert (found.layers, found.matrix_layers, found.int8_matrix_layers) == (6, 3, 2)
    assert found.not_int8 == ("dense",)
    assert found.share == pytest.approx(2 / 3)
    assert found.types == {"float32": 1, "int8": 2, "float16": 2, "none": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not known"),
        ("{}", "not known"),
        ("[1]", "not known"),
        ('{"Layers": ["conv1", "conv2"]}', "names only"),
    ],
)
def test_another_inspector_is_refused(text: str, said: str) -> None:
    with pytest.raises(EdgeageError, match=said):
        read_coverage(text)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}, "int8"),
        ({"Format/Datatype": "Half"}, "float16"),
        ({"Format": "kCHW32", "DataType": "Int8"}, "int8"),
        ({"Format": "Row major linear FP32 format (kLINEAR)", "DataType": "BFloat16"}, "bfloat16"),
        ({"Format": "Row major INT8", "DataType": "Float"}, "float32"),
        ({"Name": "x"}, "?"),
    ],
)
def test_types_are_read_from_either_key(tensor: dict, kind: str) -> None:
    text = json.dumps({"Layers": [{"Name": "x", "LayerType": "gemm", "Inputs": [tensor]}]})
    assert read_coverage(text).types == {kind: 1}


def test_coverage_of_a_plan(new_world: World, shipped: Bundle, workshop: Opener) -> None:
    shop = workshop()
    plan = shop.prepare(shipped, "encoder", "int8")
    assert plan_coverage(shop.libraries.trt, plan).int8_matrix_layers == 2


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


def test_build_engine_builds_then_reuses(world: World, shipped: Bundle, folder: Path) -> None:
    command = ["build-engine", str(shipped.path), "--engines", "encoder,generator", "--precision", "int8"]
    first = run(*command, "--json")
    assert first.exit_code == 0, first.output
    document = json.loads(first.output)
    assert document["device"]["name"] == "Orin"
    assert {name: facts["reused"] for name, facts in document["engines"].items()} == {
        "encoder": False,
        "generator": False,
    }
    second = run(*command)
    assert second.exit_code == 0
    assert "cache" in second.output
    assert "trtexec --onnx=engines/encoder.qdq.onnx" in second.output
    assert world.builds == 2
    run(*command, "--force")
    assert world.builds == 4


def test_build_engine_keeps_plans_where_it_is_told(world: World, shipped: Bundle, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    made = run(
        "build-engine", str(shipped.path), "--engines", "encoder", "--cache", str(elsewhere), "--quiet"
    )
    assert made.exit_code == 0, made.output
    assert list(elsewhere.glob("encoder.*.choice"))
    assert "auto: int8 takes" in made.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engines", "decoder"], "no engine decoder; it has: encoder"),
        (["--precision", "int4"], "unknown precision"),
        (["--optimization-level", "9"], "0..5"),
        (["--dla", "0", "--precision", "int8"], "has no DLA"),
        (["--dla", "0", "--precision", "float32"], "int8 and float16 only"),
    ],
)
def test_build_engine_refuses(
    world: World, shipped: Bundle, folder: Path, arguments: list[str], said: str
) -> None:
    result = run("build-engine", str(shipped.path), *arguments)
    assert isinstance(result.exception, EdgeageError)
    assert said in str(result.exception)


def test_an_engine_without_onnx_is_left_out_and_named(world: World, shipped: Bundle, folder: Path) -> None:
    """refine_batch is in the packed TFLite files alone."""
    result = run("build-engine", str(shipped.path), "--precision", "int8")
    assert result.exit_code == 0, result.output
    assert "not built: refine_batch: the bundle has no ONNX file of it at int8" in result.output
    assert world.builds == 5
    asked = run("build-engine", str(shipped.path), "--engines", "refine_batch", "--precision", "int8")
    assert "no ONNX file for the refine_batch" in str(asked.exception)


def test_age_builds_before_it_ages(world: World, folder: Path, sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "aged"
    result = run("age", str(sample), "--out", str(out), "--engine", "tensorrt", "--from", "30-39")
    assert result.exit_code == 0, (result.output, result.exception)
    assert len(list(out.glob("age-*.png"))) == 6
    assert "in TensorRT" in " ".join(result.output.split())
