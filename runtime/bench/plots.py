"""The plots of a page of results: what each shows, and nothing left out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeage.runtime.bench.results import Result
from edgeage.runtime.bench.svg import Axis, Plot

_COLUMNS = (
    240  # of a plot over time: all samples of a column become one stroke from the lowest to the highest
)
_BINS = 48


def distribution(result: Result) -> str:
    """Histogram, on a logarithmic axis so that the slowest run is on it."""
    times = result.steady_ns / 1e6
    low, high = float(times.min()), float(times.max())
    edges = np.geomspace(low * 0.98, high * 1.02, _BINS + 1)
    counts, _ = np.histogram(times, edges)
    shares = counts / counts.sum() * 100
    plot = Plot(
        f"Histogram of {result.subject.label}",
        Axis(float(edges[0]), float(edges[-1]), "milliseconds, logarithmic", log=True),
        Axis(0, float(shares.max()) * 1.05, "% of runs"),
    )
    plot.bars(edges.tolist(), shares.tolist())
    return plot.svg()


def tail(result: Result) -> str:
    """Share of runs that took longer than x: 1 minus the empirical distribution, down to the slowest run."""
    times = np.sort(result.steady_ns / 1e6)
    count = times.size
    spread = np.linspace(0, count - 1, 300), np.arange(max(count - 60, 0), count)
    ranks = np.unique(np.concatenate(spread).astype(int))
    plot = Plot(
        f"Share of runs of {result.subject.label} that took longer",
        Axis(float(times[0]) * 0.98, float(times[-1]) * 1.02, "milliseconds, logarithmic", log=True),
        Axis(0.7 / count, 1.0, "share of runs that took longer", log=True),
    )
    plot.line([(float(times[rank]), 1 - rank / count) for rank in ranks.tolist()])
    for one in result.percentiles:
        if one.value is not None and one.low is not None and one.high is not None:
            plot.across(1 - one.q / 100, one.low / 1e6, one.high / 1e6, f"p{one.q:g}")
    return plot.svg()


def over_time(result: Result) -> str:
    """Every sample against its start; of very many, strokes from lowest to highest and a line of medians."""
    times = np.asarray(result.samples_ns, np.float64) / 1e6
    starts = np.asarray(result.starts_ns, np.float64) / 1e9
    starts -= starts[0]
    log = float(times.max()) > 4 * float(np.median(times))
    low, high = float(times.min()), float(times.max())
    plot = Plot(
        f"Runs of {result.subject.label} over time",
        Axis(0, float(starts[-1]) or 1.0, "seconds since the first run"),
        Axis(low * 0.9 if log else 0.0, high * 1.05, f"milliseconds{', logarithmic' * log}", log=log),
    )
    if 0 < result.warmup < len(starts):
        plot.band(0, float(starts[result.warmup]), f"{result.warmup} runs of warm-up")
    if times.size <= 3 * _COLUMNS:
        plot.specks(list(zip(starts.tolist(), times.tolist(), strict=True)))
        return plot.svg()
    columns = np.minimum((starts / max(float(starts[-1]), 1e-9) * _COLUMNS).astype(int), _COLUMNS - 1)
    strokes, medians = [], []
    for column in np.unique(columns).tolist():
        inside = columns == column
        x, part = float(starts[inside].mean()), times[inside]
        strokes.append((x, float(part.min()), float(part.max())))
        medians.append((x, float(np.median(part))))
    plot.spans(strokes)
    plot.line(medians, "b")
    return plot.svg()


def minutes(result: Result) -> str:
    """The median of each minute."""
    medians = [one / 1e6 for one in result.minutes_ns]
    known = [one for one in medians if one]
    plot = Plot(
        f"Median of each minute of {result.subject.label}",
        Axis(0, len(medians), "minutes"),
        Axis(0, max(known, default=1.0) * 1.15, "median, milliseconds"),
    )
    points = [(index + 0.5, one) for index, one in enumerate(medians) if one]
    plot.line(points)
    for point in points:
        plot.dot(point)
    return plot.svg()


def steps_line(found: Mapping[str, Any]) -> str:
    """Milliseconds against K: medians, the fitted line with its interval, the budget."""
    points, line, budget = found["points"], found["p50"], found["budget_ms"]
    last = max(point["steps"] for point in points)
    tallest = max(*(point["median_ms"] for point in points), line["a"] + line["b"] * last)
    tallest = max(tallest, *(end for point in points for end in point["median_95_ms"] or [0.0]))
    if budget < 3 * tallest:
        tallest = max(tallest, budget)
    plot = Plot(
        f"Latency of {found['subject']} against K",
        Axis(0, last * 1.08, "K, refinement steps"),
        Axis(0, tallest * 1.1, "median, milliseconds"),
    )
    first = min(line["steps"])
    plot.line([(k, line["a"] + line["b"] * k) for k in (first, last)], "b")
    for point in points:
        if point["median_95_ms"]:
            plot.spans([(point["steps"], *point["median_95_ms"])])
        plot.dot(
            (point["steps"], point["median_ms"]), f"{point['median_ms']:.3g}", hollow=point["steps"] == 0
        )
    if budget <= tallest * 1.1:
        plot.level(budget, f"{budget:g} ms")
    return plot.svg()


def quality_front(found: Mapping[str, Any]) -> str | None:
    """The judge's likeness against milliseconds, K by K; None where the bundle records no judge."""
    points = [point for point in found["points"] if point["similarity"] is not None]
    if len(points) < 2:
        return None
    scores = [point["similarity"] for point in points]
    margin = (max(scores) - min(scores)) * 0.15 or 0.01
    slowest = max(point["median_ms"] for point in points)
    budget = found["budget_ms"]
    plot = Plot(
        f"Likeness against latency of {found['subject']}",
        Axis(0, max(slowest, budget if budget < 2 * slowest else 0) * 1.08, "median, milliseconds"),
        Axis(min(scores) - margin, max(scores) + margin, "likeness by the judge (cosine)"),
    )
    plot.line([(point["median_ms"], point["similarity"]) for point in points if point["optimal"]], "b")
    for point in points:
        at = point["median_ms"], point["similarity"]
        plot.dot(at, f"K={point['steps']}", hollow=not point["optimal"])
    if budget < 2 * slowest:
        plot.upright(budget, f"{budget:g} ms")
    return plot.svg()


def roof(found: Mapping[str, Any]) -> str:
    """Attained rates under the machine's roofs, one slope for the fastest cache and one for memory."""
    machine, engines = found["machines"][0], found["engines"]
    intensities = [engine["intensity"] for engine in engines]
    rates = [engine["gmacs"] for engine in engines]
    peaks = machine["peak_gmacs"]
    low, high = min(*intensities, 4) / 4, max(*intensities, 32) * 4
    plot = Plot(
        "Roofline",
        Axis(low, high, "multiply-accumulates a byte, logarithmic", log=True),
        Axis(
            min(*rates, *peaks.values()) / 4,
            max(*rates, *peaks.values()) * 2.5,
            "10⁹ multiply-accumulates/s",
            log=True,
        ),
    )
    bandwidths = [rate for _, rate in machine["bandwidth_gbs"]]
    steps = np.geomspace(low, high, 60).tolist()
    for name, kind in (("int8", "a"), ("float32", "c")):
        for speed, dashed in ((max(bandwidths), False), (min(bandwidths), True)):
            plot.line([(x, min(peaks[name], x * speed)) for x in steps], kind, dashed=dashed)
        plot.dot((high / 1.01, peaks[name]), f"{name} {peaks[name]:.0f}", kind)
    for engine in sorted(engines, key=lambda one: one["gmacs"]):
        plot.dot((engine["intensity"], engine["gmacs"]), engine["subject"].split(" ")[0], "b")
    return plot.svg()


def clocks(series: Mapping[str, Any], kind: str) -> str | None:
    """Clock or temperature over a measurement; None if it was not told."""
    label = {"mhz": "mean clock, MHz", "celsius": "hottest sensor, °C"}[kind]
    points = [
        (second, value)
        for second, value in zip(series["seconds"], series[kind], strict=True)
        if value is not None and math.isfinite(value)
    ]
    if len(points) < 2:
        return None
    values = [value for _, value in points]
    margin = max((max(values) - min(values)) * 0.1, max(values) * 0.02)
    plot = Plot(
        label,
        Axis(0, points[-1][0], "seconds"),
        Axis(min(values) - margin, max(values) + margin, label),
    )
    plot.line(points)
    return plot.svg()
