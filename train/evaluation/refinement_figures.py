"""What follows from the judges' figures of refinement: gains beside the references, differences, speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.train.evaluation import intervals
from edgeage.train.evaluation.forms import DEVICE, FLOAT

USUAL = 3  # the K that is compared with K = 0
COMBINED = "L-BFGS combined"

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Per face [n]: the judge's distance and similarity to the real face, and the time it took."""

    distance: Numbers
    similarity: Numbers
    milliseconds: Numbers

    @classmethod
    def of(cls, figures: Mapping[str, NDArray[Any]], milliseconds: Numbers) -> Judged:
        return cls(figures["judge_distance"], figures["judge_similarity"], milliseconds)

    def at(self, faces: NDArray[np.int64]) -> Judged:
        return Judged(self.distance[faces], self.similarity[faces], self.milliseconds[faces])


def derive(
    judged: Mapping[str, Mapping[int, Judged]], few: NDArray[np.int64], references: Mapping[str, Judged]
) -> dict[str, Any]:
    """The report's "derived", as JSON.

    Args:
        judged: form -> K -> all n faces; the float form with K = 0 is one of them.
        few: indices of the faces that the references have.
        references: name -> those faces; `COMBINED` is one of them.

    Shares of the gain are those of the way from the float K = 0 to the best reference, for every form: an
    INT8 form whose K = 0 is worse than that begins below 0.
    """
    start = judged[FLOAT][0].at(few).distance
    best = min(references, key=lambda name: references[name].distance.mean())
    forms = {
        form: {
            f"K={k}": {
                **_means(one.at(few)),
                "share_of_gain": share_of_gain(start, one.at(few).distance, references[best].distance),
            }
            for k, one in by.items()
        }
        for form, by in judged.items()
    }
    return {
        "faces": len(few),
        "forms": forms,
        "references": {name: _means(one) for name, one in references.items()},
        "best_reference": best,
        "k3_against_k0": {form: improved(by[0], by[USUAL]) for form, by in judged.items()},
        "similarity_difference": _similarity_differences(judged),
        "times_faster_than_combined": {
            form: float(
                np.median(references[COMBINED].milliseconds) / np.median(by[USUAL].at(few).milliseconds)
            )
            for form, by in judged.items()
        },
    }


def share_of_gain(start: Numbers, here: Numbers, best: Numbers) -> dict[str, float | None]:
    """How much of the way from `start` to `best`, mean distances, is done; None if there is no way."""

    def share(faces: NDArray[np.int64]) -> float:
        gain = start[faces].mean() - best[faces].mean()
        return float((start[faces].mean() - here[faces].mean()) / gain) if gain > 0 else np.nan

    return _figure(share, len(start))


def improved(before: Judged, after: Judged) -> dict[str, Any]:
    """Shares of the faces that came nearer to the real face, and that went away from it, with intervals."""
    return {
        "faces": len(before.distance),
        **{
            name: {"value": float(yes.mean()), **_ends(intervals.of_share(yes))}
            for name, yes in (
                ("improved", after.distance < before.distance),
                ("worse", after.distance > before.distance),
            )
        },
    }


def _similarity_differences(judged: Mapping[str, Mapping[int, Judged]]) -> dict[str, Any]:
    """The device's form against the others, face by face."""
    found: dict[str, Any] = {}
    for other in judged:
        if DEVICE not in judged or other == DEVICE:
            continue
        found[f"{DEVICE} - {other}"] = {}
        for k, one in judged[DEVICE].items():
            apart = one.similarity - judged[other][k].similarity
            figure = {"value": float(apart.mean()), **_ends(intervals.of_mean(apart))}
            found[f"{DEVICE} - {other}"][f"K={k}"] = figure
    return found


def _means(one: Judged) -> dict[str, float]:
    return {
        "judge_distance": float(one.distance.mean()),
        "judge_similarity": float(one.similarity.mean()),
        "milliseconds": float(np.median(one.milliseconds)),
    }


def _figure(statistic: Callable[[NDArray[np.int64]], float], count: int) -> dict[str, float | None]:
    value = statistic(np.arange(count))
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    return {"value": value, **_ends(intervals.of_statistic(statistic, count))}


def _ends(interval: tuple[float, float]) -> dict[str, float | None]:
    """No ends where some resample has nothing to measure."""
    low, high = interval
    if not (np.isfinite(low) and np.isfinite(high)):
        return {"low": None, "high": None}
    return {"low": low, "high": high}
