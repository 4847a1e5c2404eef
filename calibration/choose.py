"""One network's calibration: collect histograms, try the calibrators, keep what errs least.

`calibrate_network` reads top to bottom. What selects is the error of the INT8 network's own output on
images that made no range; judges take no part.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeage.calibration.bias_correction import correct
from edgeage.calibration.calibrators import CALIBRATORS, calibrate, percentile
from edgeage.calibration.equalisation import equalise
from edgeage.calibration.observers import Feeds, Histogram, Observer, session
from edgeage.calibration.quantization import Quantization, decide
from edgeage.calibration.ranges import TensorRange
from edgeage.errors import EdgeageError

AUTO = "auto"
# Writes the INT8 network as an ONNX model that computes in float what the integers would (Q/DQ).
Writer = Callable[[Quantization], onnx.ModelProto]
Track = Callable[[Iterable[Feeds], int, str], Iterable[Feeds]]

# Two halves of the samples agree when the mean tensor's reach differs by no more than this share.
STABLE = 0.03
FIRST_RUNG = 100
_REACH = percentile(99.99)  # of the stability test: the largest value alone is an accident


@dataclass(frozen=True)
class Rung:
    """Agreement of two disjoint halves of the first `samples` calibration inputs.

    Attributes:
        mean, worst: relative difference of the tensors' reaches, 0..1.
    """

    samples: int
    mean: float
    worst: float


@dataclass(frozen=True)
class Trial:
    """One way to calibrate, with the SQNR of the INT8 output over the selection inputs (dB)."""

    calibrator: str
    equalised: bool
    corrected: bool
    sqnr_db: float


@dataclass(frozen=True)
class Calibrated:
    """What one network's calibration found.

    Attributes:
        graph: float network; equalised where that helped.
        tensors: range of every activation.
        corrections: of the biases; empty where they did not help.
        histograms: of the float network's activations.
        curve: the stability test, one entry a size.
        stable: whether the halves agreed at the last size.
        trials: everything that was tried, the kept one among them.
        chosen: the kept one.
        regions: number of regions that were equalised.
    """

    graph: onnx.ModelProto
    tensors: dict[str, TensorRange]
    corrections: dict[str, list[float]]
    histograms: dict[str, Histogram]
    curve: list[Rung]
    trials: list[Trial]
    chosen: Trial
    regions: int

    @property
    def samples(self) -> int:
        return self.curve[-1].samples

    @property
    def stable(self) -> bool:
        return self.curve[-1].mean <= STABLE

    def decide(self, floats: Iterable[str] = ()) -> Quantization:
        """The decisions; `floats` as for `edgeage.calibration.quantization.decide`."""
        ranges = {name: tensor.ends for name, tensor in self.tensors.items()}
        return decide(self.graph, ranges, corrections=self.corrections, floats=floats)

    def summary(self) -> dict[str, Any]:
        """JSON for the manifest and the report."""
        return {
            "calibrator": self.chosen.calibrator,
            "equalised_regions": self.regions if self.chosen.equalised else 0,
            "bias_correction": self.chosen.corrected,
            "samples": self.samples,
            "stable": self.stable,
            "stability": [vars(rung) for rung in self.curve],
            "trials": [vars(trial) for trial in self.trials],
        }


def calibrate_network(
    graph: onnx.ModelProto,
    feeds: Sequence[Feeds],
    selection: Sequence[Feeds],
    write: Writer,
    *,
    calibrator: str = AUTO,
    stop_when_stable: bool = True,
    track: Track = lambda items, total, what: items,
) -> Calibrated:
    """Calibrate `graph` (canonical float32).

    Args:
        feeds: calibration inputs; any first part of them should be a fair sample.
        selection: inputs that make no range; the trials are measured on them.
        write: see `Writer`.
        calibrator: one of `CALIBRATORS`, or "auto" for the one with the least output error.
        stop_when_stable: use only as many feeds as the stability test asks for.

    Raises EdgeageError for an unknown calibrator, no input, or non-finite activations.
    """
    if calibrator not in (AUTO, *CALIBRATORS):
        known = ", ".join([AUTO, *CALIBRATORS])
        raise EdgeageError(f"there is no calibrator {calibrator!r}; choose one of {known}")
    if not feeds or not selection:
        raise EdgeageError("no calibration input was given; the ranges would be empty")
    histograms, curve = collect(graph, feeds, stop_when_stable=stop_when_stable, track=track)
    names = list(CALIBRATORS) if calibrator == AUTO else [calibrator]
    used = feeds[: curve[-1].samples]
    running = session(graph)
    wanted = [running.run(None, dict(feed))[0] for feed in selection]

    equal, regions = equalise(graph, {name: seen.reaches for name, seen in histograms.items()})
    forms = [(graph, histograms)]
    if regions:
        forms.append((equal, Observer(equal).observe(used)))

    def attempt(
        form: onnx.ModelProto, seen: dict[str, Histogram], name: str, *, corrected: bool
    ) -> Calibrated:
        tensors = calibrate(seen, name)
        ranges = {tensor: chosen.ends for tensor, chosen in tensors.items()}
        corrections = correct(decide(form, ranges), seen) if corrected else {}
        score = output_sqnr(write(decide(form, ranges, corrections=corrections)), selection, wanted)
        trial = Trial(name, form is equal, corrected, round(score, 3))
        found = regions if form is equal else 0
        return Calibrated(form, tensors, corrections, seen, curve, [], trial, found)

    # each trial runs on one thread of its own, so that their number changes nothing but the time
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        waiting = [
            pool.submit(attempt, form, seen, name, corrected=False) for form, seen in forms for name in names
        ]
        results = [one.result() for one in waiting]
    best = max(results, key=_score)
    results.append(attempt(best.graph, best.histograms, best.chosen.calibrator, corrected=True))
    # of equal scores the first, which is the simpler way
    return replace(max(results, key=_score), trials=[result.chosen for result in results])


def _score(result: Calibrated) -> float:
    return result.chosen.sqnr_db


def collect(
    graph: onnx.ModelProto,
    feeds: Sequence[Feeds],
    *,
    stop_when_stable: bool = True,
    track: Track = lambda items, total, what: items,
) -> tuple[dict[str, Histogram], list[Rung]]:
    """Histograms of every activation, and how well two halves of the feeds agree at each size.

    Sizes double from `FIRST_RUNG`; with `stop_when_stable` the first at which the halves agree is the last.
    """
    observer = Observer(graph)
    halves: list[dict[str, Histogram]] = [{}, {}]
    curve: list[Rung] = []
    done = 0
    for size in _rungs(len(feeds)):
        part = feeds[done:size]
        tracked = track(part, len(part), f"{done + 1} to {size}")
        new = _halved(observer, tracked, done)
        halves = [_merged(old, more) for old, more in zip(halves, new, strict=True)]
        done = size
        curve.append(_agreement(size, *halves))
        if stop_when_stable and curve[-1].mean <= STABLE:
            break
    return _merged(*halves), curve


def output_sqnr(
    model: onnx.ModelProto, feeds: Sequence[Feeds], wanted: Sequence[NDArray[np.float32]]
) -> float:
    """Energy of the float output over that of the difference, in dB, over all feeds."""
    running = session(model)
    signal = noise = 0.0
    for feed, exact in zip(feeds, wanted, strict=True):
        signal += float(np.square(exact, dtype=np.float64).sum())
        noise += float(np.square(running.run(None, dict(feed))[0] - exact, dtype=np.float64).sum())
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))


def _rungs(count: int) -> list[int]:
    sizes = []
    size = FIRST_RUNG
    while size < count:
        sizes.append(size)
        size *= 2
    return [*sizes, count]


def _halved(observer: Observer, feeds: Iterable[Feeds], seed: int) -> list[dict[str, Histogram]]:
    """Histograms of two random halves: strict turns would part the age groups, which come in turns too."""
    halves = [observer.histograms(), observer.histograms()]
    sides = np.random.default_rng(seed)
    for feed in feeds:
        observer.add(feed, halves[sides.integers(2)])
    return halves


def _merged(a: Mapping[str, Histogram], b: Mapping[str, Histogram]) -> dict[str, Histogram]:
    return {name: a[name].merge(seen) if name in a else seen for name, seen in b.items()}


def _agreement(size: int, a: Mapping[str, Histogram], b: Mapping[str, Histogram]) -> Rung:
    reaches = np.array([[_REACH(a[name]), _REACH(b[name])] for name in a if a[name].count and b[name].count])
    if not len(reaches):
        return Rung(size, 1.0, 1.0)
    differences = np.abs(reaches[:, 0] - reaches[:, 1]) / np.maximum(reaches.max(axis=1), 1e-12)
    return Rung(size, round(float(differences.mean()), 5), round(float(differences.max()), 5))
