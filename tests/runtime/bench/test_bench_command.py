"""`edgeage bench` as a user runs it: the table, the files, exit codes, requirements, Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests_support import edgeage

from edgeage import cli
from edgeage.commands.bench import choose_specs, seconds
from edgeage.commands.bench_tables import milliseconds, show_percentile
from edgeage.errors import EdgeageError
from edgeage.runtime.bench import run as bench_run
from edgeage.runtime.bench.load import Plan
from edgeage.runtime.bench.requirements import Requirements, parse_quality
from edgeage.runtime.bench.results import Result, Run, Subject, read_results
from edgeage.runtime.bench.run import measure_interleaved, run_bench
from edgeage.runtime.bench.statistics import percentile
from edgeage.runtime.bench.subjects import Prepared, Spec, prepare
from edgeage.runtime.bench.verdict import EXIT_CODES
from edgeage.runtime.bundle import Bundle, open_bundle

SHIPPED = Path(__file__).parents[3] / "models" / "edge64.agebundle"


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(SHIPPED)


@pytest.fixture
def bench(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    """Run `edgeage bench` in this process: exit code, stdout, stderr."""

    def run_bench_command(*arguments: object, bundle: Path = SHIPPED) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(["bench", str(bundle), "--out", str(tmp_path / "out"), *map(str, arguments)])
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return run_bench_command


def results_in(folder: Path) -> Run:
    (path,) = (folder / "out").glob("*.json")
    return read_results(path)


def spinning(milliseconds: float) -> Callable[[], None]:
    def work() -> None:
        end = time.perf_counter_ns() + milliseconds * 1e6
        while time.perf_counter_ns() < end:
            pass

    return work


def a_subject(work: Callable[[], dict[str, int] | None], name: str = "spin") -> Prepared:
    ready = Prepared(Subject(name, "litert", "int8", 1), work, None, False, lambda: ready)
    return ready


def test_a_table_and_files_of_results(bench, tmp_path: Path) -> None:
    code, out, _ = bench("encoder", "refinement,steps=1", "--runs", 60, "--csv")
    run = results_in(tmp_path)
    assert code == max(EXIT_CODES[result.verdict.word] for result in run.results)
    assert run.complete
    assert (run.bundle, run.bundle_sha256) == ("edge64", open_bundle(SHIPPED).sha256)
    encoder, refinement = run.results
    assert len(encoder.steady_ns) >= 60
    assert encoder.placement["summary"] in out.replace("\n", " ")
    assert (refinement.subject.steps, refinement.placement) == (1, None)
    assert [one.q for one in encoder.percentiles] == [50.0, 90.0, 99.0]
    assert encoder.memory["peak_rss_mb"] > 1
    assert "not available" in encoder.energy or encoder.energy["millijoules"]
    assert set(run.environment) == {"before", "during", "after"}
    for word in ("encoder", "refinement", "K=1", "p50", "p90", "p99", "max", "verdict:"):
        assert word in out
    (path,) = (tmp_path / "out").glob("*.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["subject"] for row in rows] == ["encoder", "refinement"]
    median = encoder.percentile(50.0).value
    assert rows[0]["p50_ms"] == ("" if median is None else f"{median / 1e6:.6f}")
    assert float(rows[0]["max_ms"]) == pytest.approx(encoder.steady_ns.max() / 1e6)


def test_json_is_the_file_of_results(bench, tmp_path: Path) -> None:
    _, out, _ = bench("generator", "--runs", 40, "--json")
    assert Run.from_dict(json.loads(out)) == results_in(tmp_path)


def test_stages_of_the_pipeline_are_parts(bench, tmp_path: Path) -> None:
    bench("pipeline", "--steps", 0, "--percentile", 50, "--runs", 8)
    run = results_in(tmp_path)
    whole, *stages = run.results
    assert [stage.subject.name for stage in stages] == [
        f"pipeline.{stage}" for stage in ("read", "detect", "align", "encode", "refine", "generate", "blend")
    ]
    assert {stage.part_of for stage in stages} == {"pipeline"}
    together = np.sum([stage.samples_ns for stage in stages], axis=0)
    assert (together <= np.array(whole.samples_ns)).all()
    assert (together > 0.8 * np.array(whole.samples_ns)).mean() > 0.5


def test_interleaved_subjects_share_rounds(bench, tmp_path: Path) -> None:
    bench("encoder", "encoder,threads=2", "--interleave", "--runs", 40)
    first, second = results_in(tmp_path).results
    assert first.group == second.group
    assert first.warmup == second.warmup
    assert len(first.samples_ns) == len(second.samples_ns)
    assert [one.subject.threads for one in (first, second)] == [1, 2]
    assert "not available" in first.energy  # not to be told apart


def test_a_schedule_and_workers_are_told(bench, tmp_path: Path) -> None:
    _, out, _ = bench("encoder", "--rate", 200, "--runs", 36)
    load = results_in(tmp_path).results[0].load
    assert (load.shape, load.rate_hz) == ("rate", 200.0)
    assert f"{load.missed} of" in out
    _, out, _ = bench("encoder", "--concurrency", 2, "--runs", 36)
    assert "runs a second, 2 workers" in out.replace("\n", " ")


def test_sustained_load_has_a_median_per_minute(shipped: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "_MINUTE_NS", 10**8)
    measured = measure_interleaved([a_subject(spinning(1))], Plan(sustain_seconds=0.35))
    (result,) = measured.results
    assert result.load.shape == "sustain"
    assert len(result.minutes_ns) in (3, 4)
    assert all(0.9e6 < median < 50e6 for median in result.minutes_ns)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("encoder", "--runs", 10), "10 runs bound no p90, it takes 36 at least; use --runs 36"),
        (("decoder",), "no subject 'decoder'"),
        (("encoder", "--engine", "tvm"), "unknown engine 'tvm'"),
        (("encoder", "--sustain", "soon"), "'soon' is no duration"),
        (("encoder", "--min-quality", "good"), "is not METRIC=NUMBER"),
        (("encoder", "generator", "--interleave", "--rate", 9), "cannot be interleaved with --rate"),
        (("pipeline", "--steps", 99), "99 refinement steps are too many"),
        (("encoder", "--precision", "float32"), "has no tflite float32 file"),
    ],
)
def test_bad_input_is_one_line_and_code_2(bench, tmp_path: Path, arguments: tuple, told: str) -> None:
    code, out, err = bench(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("edgeage: error: ")
    assert told in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def test_a_folder_that_cannot_be_written_is_told_first(bench, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    code, _, err = bench("encoder")
    assert code == 2
    assert "choose another --out" in err


def test_requirements_are_checked(bench, tmp_path: Path) -> None:
    code, _, err = bench(
        "encoder", "--runs", 60, "--max-p90", 1e-6, "--require-delegated", "--min-quality", "cosine=2"
    )
    assert code == 3
    assert "requirement not met: encoder litert int8 1 thread: p90 is" in err  # too much, or not estimable
    assert "encoder.cosine is 0.9997" in err
    assert "not delegated" not in err
    (tmp_path / "out").rename(tmp_path / "other")
    code, _, err = bench(
        "encoder", "--runs", 60, "--require-delegated", "--min-quality", "encoder.cosine=0.99"
    )
    assert (code != 3, err) == (True, "")


def judged(run: Run, **changes: object) -> Run:
    return replace(run, results=tuple(replace(result, **changes) for result in run.results))


def test_what_is_not_shown_is_missed() -> None:
    measured = measure_interleaved([a_subject(spinning(0.2))], Plan(runs=36))
    run = Run("b", "0" * 64, "0", "now", True, tuple(measured.results))
    fell = {"fell_back": True, "nodes": 2, "summary": "XNNPACK runs 1 of 2 nodes"}
    unknown = {"fell_back": False, "nodes": None, "summary": "TensorRT: not available"}
    for placement in (fell, unknown):
        (line,) = Requirements(delegated=True).missed(judged(run, placement=placement), {})
        assert placement["summary"] in line
    assert Requirements(delegated=True).missed(judged(run, placement={**fell, "fell_back": False}), {}) == []
    (line,) = Requirements(delegated=True).missed(run, {})
    assert "no engine was measured by itself" in line
    few = percentile(run.results[0].samples_ns[:10], 90.0)
    (line,) = Requirements(max_p90_ms=9.0).missed(judged(run, percentiles=(few,)), {})
    assert "not estimable" in line
    wide = replace(run.results[0].percentile(90.0), value=8e6, high=9.5e6)
    (line,) = Requirements(max_p90_ms=9.0).missed(judged(run, percentiles=(wide,)), {})
    assert "may be 9.500 ms" in line


def test_quality_is_that_of_the_manifest() -> None:
    quality = {"generator": {"psnr_db": 43.7}, "encoder": {"cosine": 0.9}}
    result = measure_interleaved([a_subject(spinning(0.1), "generator")], Plan(runs=36)).results
    run = Run("b", "0" * 64, "0", "now", True, tuple(result))

    def missed(text: str) -> list[str]:
        return Requirements(min_quality=(parse_quality(text),)).missed(run, quality)

    assert missed("psnr_db=40") == missed("generator.psnr_db=43.7") == []
    assert missed("psnr_db=44") == ["generator.psnr_db is 43.7 in the manifest, less than 44"]
    assert missed("encoder.cosine=0.95") == ["encoder.cosine is 0.9 in the manifest, less than 0.95"]
    assert missed("cosine=0.5") == ["the manifest records no cosine of what was measured"]


def test_ctrl_c_keeps_what_was_measured_and_marks_it(shipped: Bundle) -> None:
    runs = 0

    def interrupted() -> None:
        nonlocal runs
        runs += 1
        if runs > 50:
            raise KeyboardInterrupt
        spinning(0.1)()

    subjects = [a_subject(spinning(0.1), "first"), a_subject(interrupted, "second"), a_subject(interrupted)]
    run = run_bench(shipped, subjects, Plan(runs=400, percentile=50.0))
    first, second = run.results
    assert not run.complete
    assert "interrupted" not in first.verdict.reasons
    assert len(second.samples_ns) == 50
    assert "interrupted" in second.verdict.reasons
    assert run.environment["after"]


def test_an_interrupted_command_saves_and_leaves_with_130(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = prepare

    def with_a_stop(bundle: Bundle, spec: Spec, photo: object = None) -> Prepared:
        ready, runs = real(bundle, spec, photo), iter(range(31))

        def work() -> None:
            if next(runs) == 30:
                raise KeyboardInterrupt
            ready.work()

        return replace(ready, work=work)

    monkeypatch.setattr(bench_run, "prepare", with_a_stop)
    code, out, err = bench("encoder")
    run = results_in(tmp_path)
    assert code == 130
    assert "interrupted: the results are partial" in err
    assert "INTERRUPTED" in out
    assert not run.complete
    assert len(run.results[0].samples_ns) == 30
    assert "interrupted" in run.results[0].verdict.reasons


def test_engines_precisions_threads_and_steps_are_multiplied(shipped: Bundle) -> None:
    specs = choose_specs(
        shipped, ("encoder", "refinement"), ("litert", "onnxruntime"), ("int8",), (1, 2), (0, 3)
    )
    assert len(specs) == 4 + 8
    assert {spec.steps for spec in specs if spec.name == "encoder"} == {None}
    usual = choose_specs(shipped, (), (), ("int8",), (1,), ())
    assert [spec.name for spec in usual] == [
        *("encoder", "embedder", "generator", "generator_all", "refine"),
        *("refinement", "pipeline", "cold"),
    ]
    engines = {spec.engine for spec in choose_specs(shipped, ("encoder",), ("all",), ("int8",), (1,), ())}
    assert engines == {"litert", "onnxruntime"}


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected
    with pytest.raises(EdgeageError):
        seconds(f"{text} or so")


def test_three_digits_that_matter() -> None:
    assert [milliseconds(ns) for ns in (105_800, 16_371_000, 170_740_000, 2_345_600_000, 0)] == [
        *("0.106", "16.4", "171", "2346", "0.000000"),
    ]
    assert show_percentile(percentile(np.arange(10), 90.0)) == "not estimable"


def test_the_group_measures_unless_told_otherwise() -> None:
    for arguments, told in (
        (("bench", "--help"), "edgeage bench compare A B"),
        (("bench", "run", "--help"), "--require-delegated"),
        (("bench", "-h"), "FELL BACK"),
    ):
        done = edgeage(*arguments, env={**os.environ, "COLUMNS": "110"})
        assert done.returncode == 0
        assert told in done.stdout
    assert edgeage("bench").returncode == 2


def test_results_of_all_are_results(shipped: Bundle) -> None:
    run = run_bench(shipped, [a_subject(spinning(0.1))], Plan(runs=36))
    assert isinstance(run.results[0], Result)
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run
