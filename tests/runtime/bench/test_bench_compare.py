"""Comparisons: what they refuse, what they warn of, and how often they are wrong on simulated loads."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgeage.cli import cli
from edgeage.errors import EdgeageError
from edgeage.runtime.bench.compare import LOADS, compare_loads, compare_runs, median_rank, take_turns
from edgeage.runtime.bench.results import Load, Result, Run, Subject, Verdict, write_results
from edgeage.runtime.bench.statistics import percentiles
from edgeage.runtime.bench.subjects import Prepared


def result(name: str = "encoder", scale: float = 1.0, *, engine: str = "litert", seed: int = 0) -> Result:
    samples = (np.random.default_rng(seed).lognormal(13, 0.05, 600) * scale).astype(int)
    return Result(
        Subject(name, engine, "int8", 1),
        Load(),
        tuple(samples.tolist()),
        tuple(range(600)),
        0,
        percentiles(samples),
        Verdict("VALID"),
    )


def run_of(*results: Result, **other: Any) -> Run:
    base = Run("edge64", "0" * 64, "0.1.0", "2026-01-01T00:00:00Z", True, results)
    return replace(base, **other)


def test_two_files_of_the_same_speed_and_of_another() -> None:
    same = compare_runs(run_of(result()), run_of(result(seed=1))).pairs[0].comparison
    assert same.outcome == "inconclusive"
    assert same.same
    assert not same.paired
    slower = compare_runs(run_of(result()), run_of(result(scale=1.05, seed=1))).pairs[0].comparison
    assert slower.outcome == "slower"
    assert slower.ratio == pytest.approx(1.05, abs=0.01)


def test_files_of_two_bundles_are_refused() -> None:
    with pytest.raises(EdgeageError, match=r"two bundles.*000000000000.*111111111111"):
        compare_runs(run_of(result()), run_of(result(), bundle_sha256="1" * 64))


def test_what_has_no_partner_or_another_load_is_told() -> None:
    rated = replace(result("generator"), load=Load("rate", 30.0))
    found = compare_runs(
        run_of(result(), result("generator"), result("embedder")),
        run_of(result(), rated, result("refine")),
    )
    assert [pair.subject for pair in found.pairs] == [result().subject.label]
    told = "\n".join(found.unmatched)
    assert "different loads" in told
    assert "embedder litert int8 1 thread: only in the first" in told
    assert "refine litert int8 1 thread: only in the second" in told
    with pytest.raises(EdgeageError, match="nothing to compare: embedder"):
        compare_runs(run_of(result("embedder")), run_of(result("refine")))


def test_another_engine_is_compared_with_a_warning_and_so_is_a_bad_verdict() -> None:
    noisy = replace(result(engine="onnxruntime"), verdict=Verdict("NOISY", ("the median is unknown",)))
    (pair,) = compare_runs(run_of(result()), run_of(noisy)).pairs
    assert any("not the same engine" in line for line in pair.warnings)
    assert any("NOISY: the median is unknown" in line for line in pair.warnings)


def test_differences_around_two_runs_are_told() -> None:
    around = {"governor": {"policy0": "powersave"}, "container": {"cpus": 2, "throttled": 1}}
    other = {"governor": {"policy0": "performance"}, "container": {"cpus": 2, "throttled": 9}}
    found = compare_runs(
        run_of(result(), environment={"before": around}), run_of(result(), environment={"before": other})
    )
    assert found.differences == ("governor: policy0 powersave, then policy0 performance",)


@given(count=st.integers(6, 60))
def test_ranks_enclose_a_median(count: int) -> None:
    """Against the binomial distribution, summed in another way."""
    below = median_rank(count)
    flips = np.random.default_rng(count).binomial(count, 0.5, 20_000)
    outside = np.mean((flips <= below) | (flips >= count - below))
    assert outside < 0.055


def loads(rng: np.random.Generator, slower: float) -> list[float]:
    """Ratios as loads of an interpreter have them: each lies elsewhere in memory, worth some 2 %."""
    return (slower * np.exp(rng.normal(0, 0.02, LOADS) + rng.normal(0, 0.005, LOADS))).tolist()


def test_the_same_subject_twice_is_inconclusive_and_five_per_cent_are_found() -> None:
    rng = np.random.default_rng(0)
    same = [compare_loads(loads(rng, 1.0)).outcome for _ in range(400)]
    planted = [compare_loads(loads(rng, 1.05)).outcome for _ in range(400)]
    assert same.count("inconclusive") >= 380
    assert planted.count("slower") >= 380


def spinning(microseconds: float) -> Prepared:
    def work() -> None:
        until = time.perf_counter_ns() + microseconds * 1000
        while time.perf_counter_ns() < until:
            pass

    return Prepared(Subject("spin", "litert", "int8", 1), work, None, False, lambda: spinning(microseconds))


def test_subjects_take_turns_and_are_made_anew() -> None:
    made = 0

    def make() -> tuple[Prepared, Prepared]:
        nonlocal made
        made += 1
        return spinning(200), spinning(400)

    pair = take_turns(make, loads=6, rounds=20)
    assert made == 6
    assert pair.comparison.outcome == "slower"
    assert pair.comparison.ratio == pytest.approx(2, rel=0.15)
    assert len(pair.ratios) == 6
    with pytest.raises(EdgeageError, match="--loads 6"):
        take_turns(make, loads=5)


def test_the_command_compares_files_and_fails_when_asked_to(tmp_path: Path) -> None:
    for name, scale in (("a", 1.0), ("b", 1.2)):
        write_results(tmp_path / f"{name}.json", run_of(result(scale=scale)))
    names = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    shown = CliRunner().invoke(cli, ["bench", "compare", *names])
    assert shown.exit_code == 0
    assert "slower" in shown.output
    assert "measured apart" in shown.output
    failed = CliRunner().invoke(cli, ["bench", "compare", *names, "--fail-if-slower", "--json"])
    assert failed.exit_code == 3
    assert json.loads(failed.output)["pairs"][0]["comparison"]["ratio"] == pytest.approx(1.2, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["encoder", "x.json"], "one of the two is a file"),
        (["a.json", "b.json"], "no file of results at a.json"),
        (["encoder", "encoder", "--threshold", "0"], "threshold is 0"),
        (["encoder", "nothing"], "no subject 'nothing'"),
        (["encoder", "encoder", "--loads", "2"], "give --loads 6"),
    ],
)
def test_what_cannot_be_compared_is_one_line(arguments: list[str], told: str) -> None:
    outcome = CliRunner().invoke(cli, ["bench", "compare", *arguments])
    assert isinstance(outcome.exception, EdgeageError)
    assert told in str(outcome.exception)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    write_results(tmp_path / "a.json", run_of(result()))
    value = json.loads((tmp_path / "a.json").read_text()) | {"schema": 99}
    (tmp_path / "b.json").write_text(json.dumps(value))
    names = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    outcome = CliRunner().invoke(cli, ["bench", "compare", *names])
    assert "schema 99" in str(outcome.exception)
