"""Each verdict from a series that has exactly that fault."""

from __future__ import annotations

import numpy as np
import pytest

from edgeage.runtime.bench.placement import Placement
from edgeage.runtime.bench.results import VALID, VERDICTS, Verdict
from edgeage.runtime.bench.statistics import find_warmup, percentiles
from edgeage.runtime.bench.verdict import EXIT_CODES, judge, worst

MS = 1_000_000


def quiet(count: int = 1000, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).lognormal(0, 0.02, count) * MS).astype(np.int64)


def verdict(samples: np.ndarray, asked: float = 99.0, **found: object) -> Verdict:
    return judge(samples, find_warmup(samples), asked, **found)


def test_a_quiet_series_is_valid() -> None:
    words = [verdict(quiet(seed=seed)).word for seed in range(30)]
    assert words.count(VALID) >= 29
    assert verdict(quiet()).reasons == ()


def test_a_planted_stall_shows_in_p99_and_max_and_in_the_verdict() -> None:
    samples = quiet()
    samples[400:415] = 80 * MS
    found = verdict(samples)
    p99 = percentiles(samples)[-1]
    assert p99.value == samples.max() == 80 * MS
    assert found.word == "NOISY"
    assert "p99 is 80" in found.reasons[0]
    assert "15 of 1000 runs" in found.reasons[1]
    assert "longest 80.0 ms" in found.reasons[1]


def test_a_single_long_stall_shows_by_its_share_of_the_time() -> None:
    samples = quiet()
    samples[700] = 200 * MS
    found = verdict(samples)
    assert found.word == "NOISY"
    assert "1 of 1000 runs" in found.reasons[0]
    assert percentiles(samples)[-1].value < 2 * MS


def test_a_median_that_is_not_known_well_is_noisy() -> None:
    rng = np.random.default_rng(1)
    samples = (rng.lognormal(0, 0.6, 150) * MS).astype(np.int64)
    found = verdict(samples, asked=50.0)
    assert found.word == "NOISY"
    assert "the median is known to" in found.reasons[0]


@pytest.mark.parametrize("slope", [1.3, 1 / 1.3])
def test_a_slope_is_drifting(slope: float) -> None:
    found = verdict((quiet() * np.linspace(1, slope, 1000)).astype(np.int64))
    assert found.word == "DRIFTING"
    assert "the last third is" in found.reasons[0]


def test_a_small_slope_is_not() -> None:
    assert verdict((quiet() * np.linspace(1, 1.03, 1000)).astype(np.int64)).word == VALID


def test_what_the_machine_says_is_throttled() -> None:
    found = verdict(quiet(), throttled=["thermal throttling of a core: 3 events"])
    assert found == Verdict("THROTTLED", ("thermal throttling of a core: 3 events",))


def test_too_few_runs_are_too_short() -> None:
    found = verdict(quiet(100), asked=99.0)
    assert found.word == "TOO SHORT"
    assert "p99 needs 368 independent runs; 100 runs are worth" in found.reasons[0]


def test_what_never_settled_is_too_short() -> None:
    still = "still warming up in the middle of the run"
    falling = np.concatenate([np.linspace(2, 1.2, 300), np.ones(200)])
    assert still in verdict((quiet(500) * falling).astype(np.int64), asked=50.0).reasons
    assert verdict(quiet(10), asked=50.0).reasons[0] == still
    assert verdict(quiet(0)).reasons == ("no runs",)


def test_an_interruption_is_said() -> None:
    found = verdict(quiet(), interrupted=True)
    assert (found.word, found.reasons) == ("TOO SHORT", ("interrupted",))


def test_a_node_elsewhere_is_fell_back_whatever_else_there_is() -> None:
    samples = quiet(100)
    placement = Placement("XNNPACK", 10, 9, 2, {"L2_NORMALIZATION": 1})
    found = verdict(samples, placement=placement)
    assert found.word == "FELL BACK"
    assert found.reasons[0] == "XNNPACK runs 9 of 10 nodes in 2 partitions; elsewhere: 1 L2_NORMALIZATION"
    assert len(found.reasons) == 2  # and too short


def test_a_placement_that_is_not_known_is_no_fall_back() -> None:
    unknown = Placement("TensorRT", None, None, profile_note="not available: no inspector")
    assert verdict(quiet(), placement=unknown).word == VALID
    assert unknown.summary == "TensorRT: not available: no inspector"


def test_the_worst_of_several_decides_and_codes_rise_with_it() -> None:
    assert worst([]) == VALID
    assert worst([Verdict(VALID), Verdict("NOISY"), Verdict("FELL BACK"), Verdict("DRIFTING")]) == "FELL BACK"
    assert sorted(VERDICTS, key=lambda word: -EXIT_CODES[word]) == list(VERDICTS)
