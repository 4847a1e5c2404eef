"""Load shapes on a simulated clock: what is timed, what is counted, and what survives an interruption."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edgeage.errors import EdgeageError
from edgeage.runtime.bench.load import Goal, Plan, Series, at_once, in_turn, on_schedule

MS = 1_000_000


class Machine:
    """A clock that moves when something runs or sleeps, and 100 ns at each reading."""

    def __init__(self) -> None:
        self.now = 5 * MS
        self.slept = 0

    def clock(self) -> int:
        self.now += 100
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)
        self.slept += 1

    def work(self, *milliseconds: float):
        """A work that takes these times, over and over."""
        self.runs = 0

        def run() -> None:
            self.now += round(milliseconds[self.runs % len(milliseconds)] * MS)
            self.runs += 1

        return run


class Rounds(Goal):
    """Enough after so many runs."""

    def __init__(self, count: int) -> None:
        self.count = count

    def met(self, series, elapsed_ns: int) -> bool:
        return len(series[0]) >= self.count


def test_in_turn_times_each_run_alone() -> None:
    machine, series = Machine(), [Series(), Series()]
    in_turn([machine.work(1.0), machine.work(3.0)], series, Rounds(50), clock=machine.clock)
    assert [len(one) for one in series] == [50, 50]
    for one, milliseconds in zip(series, (1, 3), strict=True):
        assert set(one.samples) == {milliseconds * MS + 100}
        assert list(one.starts) == sorted(one.starts)


def test_the_order_of_a_round_is_drawn_anew() -> None:
    machine, series = Machine(), [Series(), Series()]
    in_turn([machine.work(1.0), machine.work(1.0)], series, Rounds(200), clock=machine.clock)
    first = sum(a < b for a, b in zip(series[0].starts, series[1].starts, strict=True))
    assert 60 < first < 140


def test_an_interruption_keeps_whole_rounds() -> None:
    machine, series = Machine(), [Series(), Series()]
    runs = 0

    def interrupted() -> dict[str, int]:
        nonlocal runs
        runs += 1
        if runs > 20:
            raise KeyboardInterrupt
        return {"part": 7}

    with pytest.raises(KeyboardInterrupt):
        in_turn([machine.work(1.0), interrupted], series, Rounds(100), clock=machine.clock)
    assert [len(one) for one in series] == [20, 20]
    assert list(series[1].parts["part"]) == [7] * 20


def test_a_schedule_charges_late_runs_for_their_wait() -> None:
    """10 a second, one run of 250 ms: the two behind it start late and are charged. A closed loop hides."""
    machine, open_loop = Machine(), Series()
    times = [10.0] * 20
    times[5] = 250.0
    on_schedule(machine.work(*times), open_loop, Rounds(20), 10.0, clock=machine.clock, sleep=machine.sleep)
    samples = open_loop.values() / MS
    assert samples[5] == pytest.approx(250, abs=0.5)
    assert samples[6] == pytest.approx(160, abs=0.5)
    assert samples[7] == pytest.approx(70, abs=0.5)
    assert np.delete(samples, [5, 6, 7]) == pytest.approx(10, abs=0.5)
    assert list(open_loop.starts) == [round(k * 1e8) for k in range(20)]
    assert (samples > 100).sum() == 2  # deadlines missed

    machine, closed = Machine(), Series()
    in_turn([machine.work(*times)], [closed], Rounds(20), clock=machine.clock)
    assert (closed.values() / MS > 100).sum() == 1


def test_a_schedule_sleeps_and_does_not_start_early() -> None:
    machine, series = Machine(), Series()
    on_schedule(machine.work(1.0), series, Rounds(10), 100.0, clock=machine.clock, sleep=machine.sleep)
    assert machine.slept >= 9
    assert series.values().min() >= 1.0 * MS
    assert series.values().max() < 1.01 * MS


def test_a_run_may_be_the_sum_of_its_parts() -> None:
    series = Series(by_parts=True)
    series.add(0, 100, {"import": 10, "load": 20})
    assert list(series.samples) == [30]


def filled(count: int, spread: float = 0.01, seed: int = 0) -> Series:
    series = Series()
    for index, sample in enumerate(np.random.default_rng(seed).normal(1, spread, count)):
        series.add(index * MS, round(sample * MS), None)
    return series


def test_measuring_goes_on_until_the_percentile_is_bounded() -> None:
    def enough(count: int) -> bool:
        return Goal(Plan(percentile=99.0, min_seconds=0.1)).met([filled(count)], 10**9)

    assert [enough(count) for count in (32, 300, 360)] == [False] * 3
    assert enough(500)


def test_short_times_are_not_enough_and_long_ones_end_it() -> None:
    plan = Plan(percentile=90.0, min_seconds=2.0, max_seconds=5.0)
    assert not Goal(plan).met([filled(1000)], round(1.9e9))
    assert Goal(plan).met([filled(1000)], round(2.1e9))
    assert not Goal(plan, subjects=2).met([filled(1000), filled(1000)], round(2.1e9))
    assert not Goal(plan).met([filled(35)], round(4.9e9))
    assert Goal(plan).met([filled(35)], round(5.1e9))


def test_a_number_of_runs_is_of_those_after_the_warm_up() -> None:
    warming = filled(200, spread=0.05)
    for index in range(30):
        warming.samples[index] *= 3
    assert not Goal(Plan(runs=180)).met([warming], 10**9)
    assert Goal(Plan(runs=150)).met([warming], 10**9)


def test_sustained_load_lasts_its_time_whatever_the_samples_say() -> None:
    goal = Goal(Plan(sustain_seconds=600.0, max_seconds=1.0))
    assert not goal.met([filled(2000)], round(599e9))
    assert goal.met([filled(2)], round(600e9))


def test_progress_is_told_a_few_times_a_second() -> None:
    told: list[tuple[int, float]] = []
    goal = Goal(Plan(min_seconds=2.0), tick=lambda runs, share: told.append((runs, share)))
    for tenth in range(10):
        goal.met([filled(10)], tenth * 100 * MS)
    assert len(told) == 4
    assert [share for _, share in told] == sorted(share for _, share in told)


def test_cold_runs_need_no_warm_up() -> None:
    goal = Goal(Plan(percentile=50.0), warms_up=False)
    assert not goal.met([filled(5)], MS)
    assert goal.met([filled(6)], MS)


def test_workers_run_at_the_same_time() -> None:
    together, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.004)
        with lock:
            together -= 1

    series = Series()
    at_once([work] * 3, series, Rounds(5))
    assert most == 3
    assert len(series) >= 15
    assert list(series.starts) == sorted(series.starts)
    assert series.values().min() >= 4 * MS


def test_workers_share_a_schedule() -> None:
    """Runs of 8 ms at 200 a second: one worker would fall behind by 3 ms each, four keep up."""
    series = Series()
    at_once([lambda: time.sleep(0.008)] * 4, series, Rounds(10), 200.0)
    assert list(series.starts)[:30] == [k * 5 * MS for k in range(30)]
    assert series.values()[20:].min() < (8 + 20 * 3) * MS


def test_a_worker_that_fails_ends_it() -> None:
    def fails() -> None:
        raise EdgeageError("the engine is gone")

    with pytest.raises(EdgeageError, match="gone"):
        at_once([fails, lambda: time.sleep(0.001)], Series(), Rounds(10**9))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"percentile": 99.0, "runs": 100}, r"100 runs bound no p99, it takes 368 at least; use --runs 368"),
        ({"percentile": 100.0}, "between 0 and 100"),
        ({"max_seconds": 0.0}, "max seconds is 0"),
        ({"rate_hz": -1.0}, "rate hz is -1"),
        ({"sustain_seconds": float("nan")}, "sustain seconds is nan"),
        ({"concurrency": 0}, "concurrency is 0"),
    ],
)
def test_plans_that_cannot_be_are_refused(settings: dict, told: str) -> None:
    with pytest.raises(EdgeageError, match=told):
        Plan(**settings)
