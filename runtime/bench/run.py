"""One run of the bench, top to bottom: prepare the subjects, measure each, judge each, keep everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeage import __version__
from edgeage.errors import EdgeageError
from edgeage.runtime.bench.environment import snapshot
from edgeage.runtime.bench.load import Goal, Plan, Series, Tick, at_once, in_turn, on_schedule
from edgeage.runtime.bench.observe import Observer, Power
from edgeage.runtime.bench.placement import Placement
from edgeage.runtime.bench.results import Load, Result, Run
from edgeage.runtime.bench.statistics import PERCENTILES, Warmup, find_warmup, percentiles
from edgeage.runtime.bench.subjects import Prepared, Spec, prepare
from edgeage.runtime.bench.verdict import judge
from edgeage.runtime.photo.read import Source

if TYPE_CHECKING:
    from edgeage.runtime.bundle import Bundle

_MINUTE_NS = 60_000_000_000
Progress = Callable[[str], Tick]  # given a label, what is told while that is measured


class Measured(NamedTuple):
    """Results, and whether the plan was fulfilled: not if it was interrupted."""

    results: list[Result]
    complete: bool


def prepare_all(
    bundle: Bundle, specs: Sequence[Spec], photo: Source | None = None, *, lacking_ok: bool = False
) -> tuple[list[Prepared], dict[str, str]]:
    """Subjects that are ready, and why the others are not, by label.

    The first that cannot be had raises its EdgeageError, unless `lacking_ok`; then only if none can.
    """
    ready, not_run = [], {}
    for spec in specs:
        try:
            ready.append(prepare(bundle, spec, photo))
        except EdgeageError as error:
            if not lacking_ok:
                raise
            not_run[spec.label] = str(error)
    if not ready:
        raise EdgeageError(next(iter(not_run.values()), "nothing to measure; name a subject"))
    return ready, not_run


def run_bench(
    bundle: Bundle,
    subjects: Sequence[Prepared],
    plan: Plan,
    *,
    interleave: bool = False,
    not_run: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure subjects one after the other, or in turn, round by round, if `interleave`.

    Ctrl-C ends it early: what was measured until then is in the run, which says that it is not complete.
    """
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    origin, results, complete = time.perf_counter_ns(), list[Result](), True
    groups = [list(subjects)] if interleave else [[subject] for subject in subjects]
    before, during, power = snapshot(), dict[str, Any](), Power()
    for number, group in enumerate(groups):
        observer = Observer(power)
        label = group[0].subject.label if len(group) == 1 else f"{len(group)} subjects in turn"
        try:
            measured = measure_interleaved(
                group,
                plan,
                group=str(number),
                origin=origin,
                tick=progress(label) if progress else None,
                observer=observer,
            )
        except KeyboardInterrupt:  # while it was made ready
            complete = False
            break
        results += measured.results
        during[label] = observer.machine()
        if not measured.complete:
            complete = False
            break
    power.close()
    return Run(
        bundle=bundle.manifest.name,
        bundle_sha256=bundle.sha256,
        edgeage_version=__version__,
        started=started,
        complete=complete,
        results=tuple(results),
        not_run=dict(not_run or {}),
        environment={"before": before, "during": during, "after": snapshot()},
        refinement=dict(bundle.manifest.refinement),
    )


def measure_interleaved(
    subjects: Sequence[Prepared],
    plan: Plan,
    *,
    group: str = "0",
    origin: int | None = None,
    tick: Tick | None = None,
    observer: Observer | None = None,
) -> Measured:
    """Measure subjects in turn, round by round; sample i of each result belongs to round i.

    `origin`: reading of `time.perf_counter_ns` from which starts are counted; now unless given. One subject
    alone may also be measured on a schedule or by several workers. `observer`: tells of throttling, energy
    and memory; none are told unless given.

    Raises EdgeageError if several subjects are to share a schedule or workers.
    """
    if len(subjects) > 1 and (plan.rate_hz or plan.concurrency > 1):
        raise EdgeageError(
            "subjects cannot be interleaved with --rate or --concurrency; leave out --interleave"
        )
    placements = [subject.place() if subject.place else None for subject in subjects]
    series = [Series(by_parts=subject.cold) for subject in subjects]
    warms_up = not all(subject.cold for subject in subjects)
    goal = Goal(plan, subjects=len(subjects), warms_up=warms_up, tick=tick)
    interrupted = False
    workers = [subjects[0], *(subjects[0].again() for _ in range(plan.concurrency - 1))]
    with observer or nullcontext():
        begin = time.perf_counter_ns()
        try:
            if plan.rate_hz and plan.concurrency == 1:
                on_schedule(subjects[0].work, series[0], goal, plan.rate_hz)
            elif plan.concurrency > 1:
                at_once([worker.work for worker in workers], series[0], goal, plan.rate_hz)
            else:
                in_turn([subject.work for subject in subjects], series, goal)
        except KeyboardInterrupt:
            interrupted = True
    throttled = observer.throttled() if observer else []
    for one in series:
        one.shift(begin - (begin if origin is None else origin))
    warmups = [_warmup(subject, one) for subject, one in zip(subjects, series, strict=True)]
    count = max(warmup.count for warmup in warmups)  # of all: rounds stay rounds
    results = chain.from_iterable(
        _results(subject, one, Warmup(count, warmup.settled), plan, placement, group, interrupted, throttled)
        for subject, one, warmup, placement in zip(subjects, series, warmups, placements, strict=True)
    )
    if observer is None:
        return Measured(list(results), not interrupted)
    energy, memory = observer.energy(len(series[0]), len(subjects)), observer.memory()
    told = [r if r.part_of else replace(r, energy=energy, memory=memory) for r in results]
    return Measured(told, not interrupted)


def _warmup(subject: Prepared, series: Series) -> Warmup:
    return Warmup(0, True) if subject.cold else find_warmup(series.values())


def _results(
    subject: Prepared,
    series: Series,
    warmup: Warmup,
    plan: Plan,
    placement: Placement | None,
    group: str,
    interrupted: bool,
    throttled: Sequence[str],
) -> list[Result]:
    """The result of a subject, and one for each of its parts."""
    whole = subject.subject
    qs = sorted({*PERCENTILES, plan.percentile})
    results = []
    for part in ("", *series.parts):
        samples = np.array(series.parts[part] if part else series.samples, np.int64)
        own = None if part else placement
        results.append(
            Result(
                subject=whole.part(part) if part else whole,
                load=Load(
                    plan.shape,
                    plan.rate_hz,
                    plan.sustain_seconds,
                    plan.concurrency,
                    None if part or not plan.rate_hz else int((samples > 1e9 / plan.rate_hz).sum()),
                ),
                samples_ns=tuple(samples.tolist()),
                starts_ns=tuple(series.starts),
                warmup=warmup.count,
                percentiles=percentiles(samples[warmup.count :], qs),
                verdict=judge(
                    samples,
                    warmup,
                    plan.percentile,
                    placement=own,
                    throttled=throttled,
                    interrupted=interrupted,
                ),
                group=group,
                part_of=whole.name if part else None,
                minutes_ns=_minutes(series, samples) if plan.sustain_seconds else (),
                placement=own.to_dict() if own else None,
            )
        )
    return results


def _minutes(series: Series, samples: NDArray[np.int64]) -> tuple[int, ...]:
    """The median of each minute since the first start; 0 for one in which nothing started."""
    starts = np.array(series.starts, np.int64)
    minute = (starts - starts[:1]) // _MINUTE_NS
    return tuple(
        int(np.median(samples[minute == index])) if (minute == index).any() else 0
        for index in range(int(minute[-1]) + 1 if minute.size else 0)
    )
