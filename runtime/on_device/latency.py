"""Latency of engines, in turn: what meets one meets all, and warm-up is set apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.bench.statistics import percentiles

WARM_UP = 20  # runs of each that are not counted
ROUNDS = 400  # bounds p99 on both sides if runs do not resemble each other (368)

Milliseconds = NDArray[np.float64]


def measure(
    subjects: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
    clock: Callable[[], int] = time.perf_counter_ns,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, Milliseconds]:
    """Milliseconds [rounds] of each subject; every round runs all of them, in an order that rotates."""
    for run in subjects.values():
        for _ in range(warm_up):
            run()
    names = list(subjects)
    times = {name: np.empty(rounds) for name in names}
    for index in range(rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            start = clock()
            subjects[name]()
            times[name][index] = (clock() - start) / 1e6
        after_round()
    return times


def summary(milliseconds: Milliseconds) -> dict[str, Any]:
    """p50, p90 and p99 with 95 % intervals from order statistics; None where too few runs bound one."""
    found = {f"p{one.q:g}": one.to_dict() for one in percentiles(milliseconds)}
    return {"runs": int(milliseconds.size), "unit": "ms", "percentiles": found}
