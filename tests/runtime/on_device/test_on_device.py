"""Golden checks, latency, power, the document and its page; on engines that are here and on fakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fake_tensorrt import World
from hypothesis import given
from hypothesis import strategies as st

from edgeage.cli import cli
from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.engines import open_engine
from edgeage.runtime.on_device.golden import check_golden, golden_feeds, read_golden
from edgeage.runtime.on_device.latency import measure, summary
from edgeage.runtime.on_device.power import Rails, sampled
from edgeage.runtime.on_device.report import report_html
from edgeage.runtime.on_device.verify import anonymous, verify_on_device

MODEL = Path(__file__).parents[3] / "models" / "edge64.agebundle"


@pytest.fixture(scope="module")
def shipped(loose_bundle: Path) -> Bundle:
    return open_bundle(loose_bundle)


@pytest.fixture(scope="module")
def golden(shipped: Bundle) -> dict[str, Any]:
    return read_golden(shipped)


class Off:
    """An engine whose outputs are wrong by `add`, or turned around."""

    def __init__(self, engine: Any, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.inputs, self.outputs, self.description = engine.inputs, engine.outputs, "off"
        self._engine, self._change = engine, change

    def run(self, feeds: Any) -> Any:
        return {name: self._change(value) for name, value in self._engine.run(feeds).items()}


@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
@pytest.mark.parametrize("name", ["encoder", "embedder", "generator", "generator_all", "refine"])
def test_right_engines_pass(shipped: Bundle, golden: dict[str, Any], engine: str, name: str) -> None:
    checks = check_golden(shipped, name, open_engine(shipped, name, engine), "int8", golden)
    assert len(checks) == 2
    assert all(check.ok for check in checks), checks


def test_a_float_engine_is_held_by_sqnr(shipped: Bundle, golden: dict[str, Any]) -> None:
    engine = open_engine(shipped, "encoder", "onnxruntime", "float32")
    (check,) = check_golden(shipped, "encoder", engine, "float32", golden)
    assert (check.measure, check.ok, check.at_most) == ("SQNR dB", True, False)
    # INT8 is no float16: the gate tells them apart
    int8 = open_engine(shipped, "encoder", "onnxruntime", "int8")
    (check,) = check_golden(shipped, "encoder", int8, "float16", golden)
    assert not check.ok


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("encoder", lambda values: values + np.float32(0.2)),
        ("generator", lambda values: -values),
        ("embedder", np.zeros_like),
        ("refine", np.negative),
        ("refine", np.zeros_like),
    ],
)
def test_wrong_engines_fail(shipped: Bundle, golden: dict[str, Any], name: str, change: Any) -> None:
    engine = Off(open_engine(shipped, name, "onnxruntime"), change)
    assert not all(check.ok for check in check_golden(shipped, name, engine, "int8", golden))


def test_golden_vectors_that_are_not_there(shipped: Bundle) -> None:
    with pytest.raises(EdgeageError, match="no 'encoder/in/image' for the encoder"):
        golden_feeds("encoder", shipped.manifest.engines["encoder"], {})


def test_rounds_are_interleaved_and_rotate_and_warm_up_is_apart() -> None:
    order: list[str] = []
    ticks = iter(range(0, 10**9, 10**6))
    times = measure(
        {name: lambda name=name: order.append(name) for name in "ab"},
        rounds=4,
        warm_up=3,
        clock=lambda: next(ticks),
    )
    assert "".join(order) == "aaabbb" + "abbaabba"
    assert {name: values.tolist() for name, values in times.items()} == {"a": [1.0] * 4, "b": [1.0] * 4}


def test_a_percentile_that_the_runs_do_not_bound_is_not_given() -> None:
    few = summary(np.random.default_rng(0).uniform(1, 2, 100))["percentiles"]
    assert few["p99"]["value"] is None
    assert few["p50"]["low"] <= few["p50"]["value"] <= few["p50"]["high"]
    assert few["p99"]["needed"] == 368


def sensor(root: Path) -> Path:
    chip = root / "hwmon3"
    chip.mkdir(parents=True)
    files = {
        "name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1200",
        "in2_label": "VDD_CPU_GPU_CV", "in2_input": "5000", "curr2_input": "400",
        "in7_label": "sum of shunt voltages", "in7_input": "1",
    }  # fmt: skip
    for name, text in files.items():
        (chip / name).write_text(text + "\n")
    other = root / "hwmon0"
    other.mkdir()
    (other / "name").write_text("cpu_thermal\n")
    return root


def test_power_is_volts_times_amperes_of_each_rail(tmp_path: Path) -> None:
    rails = Rails(sensor(tmp_path))
    assert rails
    assert rails.read() == {"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 2.0}
    (tmp_path / "hwmon3" / "curr2_input").write_text("")  # a rail that is off
    assert rails.read() == {"VDD_IN": 6.0}
    with sampled(rails, interval=0.001) as found:
        while not found and len(list(tmp_path.iterdir())) == 2:
            if rails.read()["VDD_IN"] == 6.0:
                (tmp_path / "hwmon3" / "curr1_input").write_text("2400")
            else:
                break
        import time

        time.sleep(0.05)
    assert found["VDD_IN"]["max_w"] == 12.0
    assert 6 <= found["VDD_IN"]["mean_w"] <= 12
    assert found["VDD_IN"]["samples"] >= 2


def test_without_a_sensor_there_are_no_rails(tmp_path: Path) -> None:
    assert not Rails(tmp_path)
    assert not Rails(tmp_path / "absent")


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3)))
def test_what_has_no_home_in_it_stays_as_it_is(value: Any) -> None:
    if str(Path.home()) not in json.dumps(value, ensure_ascii=False):
        assert anonymous(value) == value


def test_no_path_of_the_user_is_in_a_report() -> None:
    home = str(Path.home())
    value = {"a": [f"{home}/x", {"b": f"cannot write to {home}/.cache"}], "c": 1}
    assert anonymous(value) == {"a": ["~/x", {"b": "cannot write to ~/.cache"}], "c": 1}


class Page(HTMLParser):
    """Collects tags; complains about what is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href"):
                assert value is not None
                assert value.startswith("data:"), value

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    return page


def test_the_document_of_an_engine_that_is_here(shipped: Bundle, tmp_path: Path) -> None:
    rails = Rails(sensor(tmp_path))
    steps: list[str] = []
    document, pictures = verify_on_device(
        shipped, "onnxruntime", "int8", rounds=40, rails=rails, progress=lambda what, *_: steps.append(what)
    )
    assert document["faults"] == []
    assert set(document["engines"]) == {"encoder", "embedder", "generator", "generator_all", "refine"}
    assert document["machine"]["package"].startswith("onnxruntime ")
    assert document["power"]["load"]["VDD_IN"]["mean_w"] == 6.0
    assert document["cache"] == {"not run": "onnxruntime has no plans"}
    encoder = document["engines"]["encoder"]
    assert sum(encoder["latency"]["histogram"]["counts"]) == 40
    assert steps.count("latency") == 40
    assert json.loads(json.dumps(document)) == document
    page = parsed(report_html(document, pictures))
    text = " ".join(page.text)
    assert "Everything holds." in text
    assert "not estimable" in text  # p99 of 40 runs
    assert "not run: onnxruntime has no plans" in text
    assert page.tags.count("img") == 3
    assert page.tags.count("svg") == 5
    assert "VDD_IN" in text


def test_texts_of_a_report_are_escaped(shipped: Bundle) -> None:
    document, pictures = verify_on_device(shipped, "onnxruntime", "float32", rounds=2)
    document["faults"] = ["<script>alert(1)</script>"]
    assert "<script" not in report_html(document, pictures)


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU there is little to warm up."""
    monkeypatch.setattr(measure, "__defaults__", (400, 2, *measure.__defaults__[2:]))


def run(*arguments: str, bundle: Path = MODEL) -> Any:
    return CliRunner().invoke(cli, ["verify-on-device", str(bundle), *arguments])


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    out = tmp_path / "report"
    arguments = ["--engine", "onnxruntime", "--precision", "float32", "--rounds", "3", "--out", str(out)]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "everything holds" in result.output
    document = json.loads((out / "verify-on-device.json").read_text())
    assert document["precision"] == "float32"
    assert str(tmp_path) not in (out / "verify-on-device.html").read_text()
    again = run(*arguments)
    assert isinstance(again.exception, EdgeageError)
    assert run(*arguments, "--force").exit_code == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    other = run("--engine", "onnxruntime", "--out", str(mine), "--force")
    assert "will not be replaced" in str(other.exception)


def test_a_golden_vector_that_is_missed_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeage.runtime.on_device.golden.MIN_SQNR_DB", {"float32": 500.0})
    result = run("--engine", "onnxruntime", "--precision", "float32", "--rounds", "2")
    assert result.exit_code == 1
    assert "FAILED encoder.z: SQNR dB is" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "tensor"], "unknown engine"),
        (["--engine", "litert", "--precision", "auto"], "unknown precision"),
        (["--engine", "litert", "--precision", "float16"], "no litert float16 file"),
    ],
)
def test_what_cannot_be_verified(arguments: list[str], said: str) -> None:
    assert said in str(run(*arguments).exception)


# With TensorRT that is not there ------------------------------------------------------------------


@pytest.mark.parametrize("versions", [("10.3.0", "12.6.0"), ("11.4.0.106", "13.2.0")])
def test_tensorrt_from_build_to_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loose_bundle: Path, versions: tuple[str, str]
) -> None:
    world = World(*versions).install(monkeypatch)
    out, cache = tmp_path / "report", tmp_path / "plans"
    arguments = ["--rounds", "4", "--cache", str(cache), "--precision", "int8"]
    result = run(*arguments, "--out", str(out), bundle=loose_bundle)
    assert result.exit_code == 0, (result.output, result.exception)
    document = json.loads((out / "verify-on-device.json").read_text())
    encoder = document["engines"]["encoder"]
    assert encoder["coverage"]["int8_matrix_layers"] == 2
    assert encoder["plan"]["reused"] is False
    assert document["machine"]["tensorrt"] == versions[0]
    assert document["machine"]["name"] == "Orin"
    cases = document["cache"]
    assert cases["encoder is taken again"]["ok"]
    assert cases["a changed plan is refused"]["found"].startswith("the plan ")
    assert "tensorrt was " in cases["another TensorRT is refused"]["found"]
    assert "is damaged" in cases["a truncated sidecar is refused"]["found"]
    assert document["whole_face"]["precision"] == "int8"
    text = (out / "verify-on-device.html").read_text()
    assert "trtexec --onnx=engines/encoder.qdq.onnx" in text
    assert "2 of 3 convolutions" in text
    assert not re.search(rf"{re.escape(str(tmp_path))}", text)
    builds = world.builds
    again = json.loads(run(*arguments, "--json", bundle=loose_bundle).output)
    assert again["engines"]["encoder"]["plan"]["reused"] is True
    assert world.builds == builds


def test_auto_says_which_precision_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    World().install(monkeypatch)
    result = run("--rounds", "2", "--cache", str(tmp_path / "plans"), "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    document = json.loads(result.output)
    for facts in document["engines"].values():
        assert facts["precision"] in ("int8", "float16")
        assert facts["plan"]["reason"].startswith("no plan of the ")
        if "auto" in facts:
            assert facts["auto"]["precision"] == facts["precision"]
    assert document["faults"] == []
