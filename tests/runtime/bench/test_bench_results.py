"""The file of results: what is written is read back, and what does not hold together is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeage.errors import EdgeageError
from edgeage.runtime.bench.results import Load, Result, Run, Subject, Verdict, read_results, write_results
from edgeage.runtime.bench.statistics import percentiles


def a_run() -> Run:
    samples = np.random.default_rng(0).lognormal(13, 0.1, 400).astype(int)
    result = Result(
        subject=Subject("refine", "litert", "int8", 2, 3, "refine.int8.tflite in LiteRT", ("a note",)),
        load=Load("rate", 20.0, None, 1, 2),
        samples_ns=tuple(samples.tolist()),
        starts_ns=tuple(range(0, 400_000_000, 1_000_000)),
        warmup=5,
        percentiles=percentiles(samples[5:], (50.0, 99.0, 99.9)),
        verdict=Verdict("NOISY", ("the p99 is far away",)),
        group="1",
        placement={"nodes": 7},
    )
    return Run("edge64", "0" * 64, "0.1.0", "2026-01-01T00:00:00Z", True, (result,), not_run={"x": "y"})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    run = a_run()
    write_results(tmp_path / "a.json", run)
    read = read_results(tmp_path / "a.json")
    assert read == run
    result = read.results[0]
    assert result.percentile(50.0).estimable
    assert result.percentile(99.9).value is None
    assert result.median_ns == np.median(result.samples_ns[5:])


def change(*path: str | int, to: Any) -> Any:
    """The JSON of a run with one value changed."""
    value = json.loads(json.dumps(a_run().to_dict()))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "no file of results"),
        ({"schema": 1}, "no file of results"),
        (change("schema", to=2), "schema 2, this edgeage reads 1"),
        (change("results", 0, "samples_ns", 3, to=-1), "results[0].samples_ns[3] is -1"),
        (change("results", 0, "samples_ns", 3, to=0.5), "samples_ns[3] is 0.5"),
        (change("results", 0, "starts_ns", to=[1]), "400 samples and 1 starts"),
        (change("results", 0, "warmup", to=401), "a warm-up of 401"),
        (change("results", 0, "verdict", "word", to="FINE"), "'FINE'"),
        (change("results", 0, "load", "shape", to="loop"), "'loop'"),
        (change("bundle", "sha256", to="0"), "sha256"),
        (change("complete", to=1), "complete is 1"),
        (change("colour", to=1), "unknown fields colour"),
        (change("not_run", "x", to=None), "not_run"),
    ],
)
def test_what_does_not_hold_together_is_refused(tmp_path: Path, value: Any, told: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(EdgeageError) as caught:
        read_results(tmp_path / "a.json")
    assert told in str(caught.value)
    assert "bundle manifest" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_result_needs_a_start_for_every_sample() -> None:
    with pytest.raises(EdgeageError, match="starts"):
        replace(a_run().results[0], starts_ns=())
