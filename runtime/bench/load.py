"""How runs are started and timed: one after the other, in turn, on a schedule, or several at once.

Between two readings of the clock there is the run and nothing else; what decides whether it is enough, and
what draws progress, happens between runs.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.bench.statistics import find_warmup, independent_count, smallest_count

Work = Callable[[], "dict[str, int] | None"]  # one run; nanoseconds of its parts, if it has parts
Clock = Callable[[], int]
Tick = Callable[[int, float], None]  # runs so far of each subject, share of what is asked for

_FIRST_CHECK = 32  # less show no warm-up
_CHECK_AGAIN = 1.25  # the next check is after so many times the runs
_SPIN_NS = 500_000  # a sleep ends up to this late, so the last part of a wait is spun


@dataclass(frozen=True)
class Plan:
    """How much to measure, and under which load.

    Attributes:
        percentile: 0..100; measuring goes on until the samples after the warm-up bound it.
        runs: at least so many after the warm-up instead; None is as many as the percentile needs.
        min_seconds, max_seconds: of one subject.
        rate_hz: start runs on a schedule, so many a second, whether the one before has ended or not.
        sustain_seconds: measure for so long, whatever the statistics say.
        concurrency: workers that run at the same time.
    """

    percentile: float = 90.0
    runs: int | None = None
    min_seconds: float = 2.0
    max_seconds: float = 60.0
    rate_hz: float | None = None
    sustain_seconds: float | None = None
    concurrency: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.percentile < 100:
            raise EdgeageError(f"the percentile is {self.percentile:g}; give a number between 0 and 100")
        needed = smallest_count(self.percentile)
        if self.runs is not None and self.runs < needed:
            raise EdgeageError(
                f"{self.runs} runs bound no p{self.percentile:g}, it takes {needed} at least; "
                f"use --runs {needed} or a lower --percentile"
            )
        for name in ("min_seconds", "max_seconds", "rate_hz", "sustain_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e9:
                raise EdgeageError(f"{name.replace('_', ' ')} is {value:g}; give a number above 0")
        if self.concurrency < 1:
            raise EdgeageError(f"concurrency is {self.concurrency}; give 1 or more")

    @property
    def shape(self) -> str:
        return "rate" if self.rate_hz else "sustain" if self.sustain_seconds else "closed"


class Series:
    """Runs of one subject, in the order of their starts.

    Attributes:
        starts: nanoseconds since the measurement began; of a schedule, when the run should have started.
        samples: nanoseconds from there to its end.
        parts: nanoseconds of each part of every run, by name.

    `by_parts`: a run is the sum of its parts; what else the call takes is not of the subject.
    """

    def __init__(self, *, by_parts: bool = False) -> None:
        self._by_parts = by_parts
        self.starts, self.samples = array("q"), array("q")
        self.parts: dict[str, array[int]] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def add(self, start: int, sample: int, parts: dict[str, int] | None) -> None:
        self.starts.append(start)
        self.samples.append(sum(parts.values()) if self._by_parts and parts else sample)
        for name, nanoseconds in (parts or {}).items():
            self.parts.setdefault(name, array("q")).append(nanoseconds)

    def values(self) -> NDArray[np.int64]:
        return np.array(self.samples[:], np.int64)  # of a copy: a worker may append meanwhile

    def shift(self, nanoseconds: int) -> None:
        """Count the starts from earlier, by so much."""
        self.starts = array("q", (start + nanoseconds for start in self.starts))

    def cut(self, count: int) -> None:
        """Keep the first `count` runs."""
        for column in (self.starts, self.samples, *self.parts.values()):
            del column[count:]


class Goal:
    """Says when a plan is fulfilled.

    `subjects`: how many share the time. `warms_up`: whether the first runs may be slower than the others.
    """

    def __init__(
        self, plan: Plan, *, subjects: int = 1, warms_up: bool = True, tick: Tick | None = None
    ) -> None:
        self._plan, self._warms_up, self._tick = plan, warms_up, tick
        self._least, self._most = plan.min_seconds * subjects, plan.max_seconds * subjects
        self._next_check, self._next_tick = _FIRST_CHECK if warms_up else 1, 0.0

    def met(self, series: Sequence[Series], elapsed_ns: int) -> bool:
        """Whether every series has what the plan asks for, or the time is over."""
        plan, seconds, count = self._plan, elapsed_ns / 1e9, min(map(len, series))
        if self._tick and seconds >= self._next_tick:
            self._next_tick = seconds + 0.25
            done = count / plan.runs if plan.runs else seconds / (plan.sustain_seconds or self._least)
            self._tick(count, min(done, 1.0))
        if plan.sustain_seconds is not None:
            return seconds >= plan.sustain_seconds
        if seconds >= self._most:
            return True
        early = self._warms_up and plan.runs is None and seconds < self._least
        if early or count < self._next_check:
            return False
        self._next_check = int(count * _CHECK_AGAIN) + 1 if self._warms_up else count + 1
        return all(self._suffices(one.values()) for one in series)

    def _suffices(self, samples: NDArray[np.int64]) -> bool:
        if self._warms_up:
            warmup = find_warmup(samples)
            if not warmup.settled:
                return False
            samples = samples[warmup.count :]
        if self._plan.runs is not None:
            return samples.size >= self._plan.runs
        q = self._plan.percentile
        return independent_count(samples, q) >= smallest_count(q)


def in_turn(
    works: Sequence[Work],
    series: Sequence[Series],
    goal: Goal,
    *,
    clock: Clock = time.perf_counter_ns,
    seed: int = 0,
) -> None:
    """Closed loop: each work once per round, in an order that is drawn anew for every round.

    Appends to `series` while it runs: what was measured survives an interruption, to whole rounds.
    """
    order, draw, origin = list(range(len(works))), random.Random(seed), clock()
    try:
        while True:
            draw.shuffle(order)
            for index in order:
                start = clock()
                parts = works[index]()
                end = clock()
                series[index].add(start - origin, end - start, parts)
            if goal.met(series, end - origin):
                return
    finally:
        rounds = min(map(len, series))
        for one in series:
            one.cut(rounds)


def on_schedule(
    work: Work,
    series: Series,
    goal: Goal,
    rate_hz: float,
    *,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Open loop: run k should start at k / rate, and its time counts from there.

    A run that is late because the one before took too long is charged for the wait: users would wait too.
    Timing from the real start instead hides it (coordinated omission; Tene, How NOT to Measure Latency).
    """
    period, origin = 1e9 / rate_hz, clock()
    while True:
        due = origin + round(len(series) * period)
        _wait(due, clock, sleep)
        parts = work()
        end = clock()
        series.add(due - origin, end - due, parts)
        if goal.met([series], end - origin):
            return


def at_once(
    works: Sequence[Work],
    series: Series,
    goal: Goal,
    rate_hz: float | None = None,
    *,
    clock: Clock = time.perf_counter_ns,
) -> None:
    """Several workers at the same time, each with a work of its own: closed loops, or one schedule.

    Of a schedule, a worker that is free takes the next run. Engines release Python's lock while they run.
    `series` gets all runs, by their starts.
    """
    own = [Series() for _ in works]
    stop, failures = threading.Event(), list[BaseException]()
    gate = threading.Barrier(len(works) + 1)
    schedule = itertools.count()

    def worker(index: int) -> None:
        try:
            gate.wait()
            while not stop.is_set():
                start = clock()
                if rate_hz:
                    start = origin + round(next(schedule) * 1e9 / rate_hz)
                    _wait(start, clock, time.sleep)
                parts = works[index]()
                end = clock()
                own[index].add(start - origin, end - start, parts)
        except Exception as error:  # told in the main thread
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=worker, args=(index,), daemon=True) for index in range(len(works))]
    for thread in threads:
        thread.start()
    origin = clock()
    gate.wait()
    try:
        while not stop.is_set() and not goal.met(own, clock() - origin):
            time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        every = [
            (start, sample, {name: column[i] for name, column in one.parts.items()})
            for one in own
            for i, (start, sample) in enumerate(zip(one.starts, one.samples, strict=True))
        ]
        for start, sample, parts in sorted(every, key=lambda run: run[0]):
            series.add(start, sample, parts)
    if failures:
        raise failures[0]


def _wait(due: int, clock: Clock, sleep: Callable[[float], None]) -> None:
    while (left := due - clock()) > 0:
        if left > _SPIN_NS:
            sleep((left - _SPIN_NS) / 1e9)
