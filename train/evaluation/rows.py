"""A row of the report: figures over faces, overall with 95 % intervals, and for each label by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.train.evaluation import intervals

# of the faces at some indices, all of them or those with one label
Pooled = Callable[[NDArray[np.int64]], float]
# Resampling puts copies of a face into a set, which an unbiased kernel estimate takes for a difference.
_NO_INTERVAL = {"kernel_distance"}


@dataclass(frozen=True)
class Row:
    """One thing that was measured on n faces.

    Attributes:
        section, name: where it stands; equal names in one section would be one row.
        per_face: figure -> [n], bool for shares, float for means.
        pooled: figure -> function of chosen faces, for what is no mean.
        labels: name -> [n] text beside the faces' own labels ("" where unknown).
        facts: whatever else is told of it, as JSON.
    """

    section: str
    name: str
    per_face: dict[str, NDArray[Any]]
    pooled: dict[str, Pooled] = field(default_factory=dict)
    labels: dict[str, NDArray[np.str_]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def summarise(row: Row, labels: dict[str, NDArray[np.str_]]) -> dict[str, Any]:
    """The row as JSON: {"figures": {name: {"value", "low", "high"}}, "by": {label: {value: {...}}}}."""
    count = len(next(iter(row.per_face.values())))
    everyone = np.arange(count)
    figures: dict[str, Any] = {}
    for name, values in row.per_face.items():
        figures[name] = _with_interval(float(values.mean()), lambda v=values: _interval(v))
    for name, statistic in row.pooled.items():
        if name in _NO_INTERVAL:
            figures[name] = {"value": _finite(statistic(everyone)), "low": None, "high": None}
            continue
        figures[name] = _with_interval(
            statistic(everyone), lambda s=statistic: intervals.of_statistic(s, count)
        )
    by: dict[str, Any] = {}
    for label, texts in {**labels, **row.labels}.items():
        for text in dict.fromkeys(sorted(set(texts.tolist()) - {""})):
            chosen = np.flatnonzero(texts == text)
            part = {name: _finite(values[chosen].mean()) for name, values in row.per_face.items()}
            part |= {name: _finite(statistic(chosen)) for name, statistic in row.pooled.items()}
            by.setdefault(label, {})[text] = {"faces": len(chosen), **part}
    return {
        "section": row.section,
        "name": row.name,
        "faces": count,
        "figures": figures,
        "by": by,
        **({"facts": row.facts} if row.facts else {}),
    }


def _interval(values: NDArray[Any]) -> tuple[float, float]:
    return intervals.of_share(values) if values.dtype == bool else intervals.of_mean(values)


def _with_interval(value: float, interval: Callable[[], tuple[float, float]]) -> dict[str, float | None]:
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    low, high = interval()
    return {"value": value, "low": _finite(low), "high": _finite(high)}


def _finite(value: float) -> float | None:
    """JSON knows no infinity (PSNR of equal pictures) and no NaN (nothing to measure)."""
    return float(value) if np.isfinite(value) else None
