"""What `edgeage bench` claims of itself, on this machine: false and found differences, a stall, its overhead.

The same engine against itself must be inconclusive, and a slowdown of 5 % must be found, in at least 95 of
100 comparisons each, as `edgeage bench compare` makes them. Stalls must show in p99, max and the verdict. The
bench itself must take less than 1 % of a subject of 1 ms.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgeage.runtime.bench.compare import compare_loads, take_turns
from edgeage.runtime.bench.load import Goal, Plan, Series, in_turn
from edgeage.runtime.bench.observe import Observer, Power
from edgeage.runtime.bench.results import Subject
from edgeage.runtime.bench.run import measure_interleaved
from edgeage.runtime.bench.subjects import Prepared, Spec, prepare
from edgeage.runtime.bundle import open_bundle

Work = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="models/edge64.agebundle")
    parser.add_argument("--subject", default="encoder")
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--slowdown", type=float, default=5.0, help="Per cent.")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)

    def outcomes(slower: float) -> dict[str, int]:
        def make() -> tuple[Prepared, Prepared]:
            first, second = prepare(bundle, Spec(options.subject)), prepare(bundle, Spec(options.subject))
            return first, replace(second, work=slowed(second.work, slower)) if slower else second

        pairs = [take_turns(make, seed=seed) for seed in range(options.repetitions)]
        return dict(Counter(pair.comparison.outcome for pair in pairs))

    report = {
        "subject": f"{options.subject}, LiteRT, INT8, one thread",
        "repetitions": options.repetitions,
        "the same twice": outcomes(0),
        f"{options.slowdown:g} % slower": outcomes(options.slowdown / 100),
        "1 ms, but 50 ms more in every 50th run": stall(),
        "overhead on a subject of 1 ms": overhead(),
    }
    print(json.dumps(report, indent=2))


def slowed(work: Work, share: float) -> Work:
    """`work`, and then as much longer as its own time says."""

    def run() -> None:
        begin = time.perf_counter_ns()
        work()
        end = begin + (time.perf_counter_ns() - begin) * (1 + share)
        while time.perf_counter_ns() < end:
            pass

    return run


def computing(milliseconds: float) -> Work:
    """Arithmetic in small arrays that takes about so long: another thread's share of the time shows in it."""
    values = np.ones(2000)

    def run(count: int) -> None:
        for _ in range(count):
            values.sum()

    def seconds_of_100() -> float:
        begin = time.perf_counter()
        run(100)
        return time.perf_counter() - begin

    count = round(100 * milliseconds / 1e3 / np.median([seconds_of_100() for _ in range(200)]))
    return lambda: run(count)


def stall() -> dict[str, object]:
    runs, work = 0, computing(1.0)

    def run() -> None:
        nonlocal runs
        runs += 1
        work()
        if runs % 50 == 0:
            time.sleep(0.05)

    ready = Prepared(Subject("stalling", "none", "none", 1), run, None, False, lambda: ready)
    (result,) = measure_interleaved([ready], Plan(percentile=99.0)).results
    p99, steady = result.percentile(99.0), result.steady_ns
    return {
        "runs": int(steady.size),
        "p50 ms": float(np.median(steady)) / 1e6,
        "p99 ms": p99.value / 1e6 if p99 and p99.value else "not estimable",
        "max ms": float(steady.max()) / 1e6,
        "verdict": result.verdict.to_dict(),
    }


def overhead() -> dict[str, object]:
    """Shares of 1 ms: inside of a sample beside the run, between runs, and of the threads that observe."""
    empty = Series()
    begin = time.perf_counter_ns()
    in_turn([lambda: None], [empty], Goal(Plan(runs=3000)))
    elapsed = time.perf_counter_ns() - begin

    power, work, ratios = Power(0.1), computing(1.0), []
    for _ in range(25):
        bare, observed = Series(), Series()
        observer = Observer(power)
        in_turn([work], [bare], Goal(Plan(runs=200)))
        with observer:
            in_turn([work], [observed], Goal(Plan(runs=200)))
        ratios.append(float(observed.values().mean() / bare.values().mean()))
    seen = compare_loads(ratios, threshold=0.01)
    return {
        "inside a sample": float(np.median(empty.values())) / 1e6,
        "between runs": elapsed / len(empty) / 1e6,
        "readings of the machine": observer.machine()["cost"],
        "mean of 200 runs, observed / not": {"ratio": seen.ratio, "low": seen.low, "high": seen.high},
    }


if __name__ == "__main__":
    main()
