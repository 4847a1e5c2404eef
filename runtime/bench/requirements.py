"""What a run must show to pass in continuous integration, checked against its results and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeage.errors import EdgeageError
from edgeage.runtime.bench.results import Result, Run

Quality = Mapping[str, Mapping[str, float]]  # {engine: {metric: number}}, as the manifest records it


@dataclass(frozen=True)
class Requirements:
    """
    Attributes:
        delegated: every node of every engine that was measured by itself runs on its target, the runtime says
            so, and there is such an engine.
        max_p90_ms: the upper end of p90's interval is at most this, for every subject.
        min_quality: (name, least number): the name is a metric of the manifest's quality ("psnr_db"), which
            every measured engine that has it must reach, or one engine's ("generator.psnr_db").
    """

    delegated: bool = False
    max_p90_ms: float | None = None
    min_quality: tuple[tuple[str, float], ...] = ()

    def missed(self, run: Run, quality: Quality) -> list[str]:
        """One line for each requirement that is not met, or not shown to be."""
        whole = [result for result in run.results if result.part_of is None]
        missed = [line for result in whole for line in self._missed_by(result)]
        if self.delegated and not any(result.placement for result in whole):
            missed.append("no engine was measured by itself, so none is shown to be delegated; name engines")
        for name, least in self.min_quality:
            missed += _quality_missed(name, least, quality, [result.subject.name for result in whole])
        return missed

    def _missed_by(self, result: Result) -> list[str]:
        label, missed = result.subject.label, []
        placement = result.placement
        if (
            self.delegated
            and placement is not None
            and (placement["fell_back"] or placement["nodes"] is None)
        ):
            missed.append(f"{label} is not delegated as a whole: {placement['summary']}")
        if self.max_p90_ms is not None:
            p90 = result.percentile(90.0)
            if p90 is None or p90.value is None or p90.high is None:
                missed.append(
                    f"{label}: p90 is not estimable, so not shown to be {self.max_p90_ms:g} ms at most"
                )
            elif p90.high > self.max_p90_ms * 1e6:
                missed.append(
                    f"{label}: p90 is {p90.value / 1e6:.3f} ms and may be {p90.high / 1e6:.3f} ms, "
                    f"more than {self.max_p90_ms:g} ms"
                )
        return missed


def parse_quality(text: str) -> tuple[str, float]:
    """Read "psnr_db=40" or "generator.psnr_db=40"."""
    name, _, number = text.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError:
        raise EdgeageError(
            f"least quality {text!r} is not METRIC=NUMBER or ENGINE.METRIC=NUMBER, as in generator.psnr_db=40"
        ) from None


def _quality_missed(name: str, least: float, quality: Quality, measured: list[str]) -> list[str]:
    engine, _, metric = name.rpartition(".")
    engines = [engine] if engine else [one for one in measured if metric in quality.get(one, {})]
    if not any(metric in quality.get(one, {}) for one in engines):
        return [f"the manifest records no {name} of what was measured"]
    return [
        f"{one}.{metric} is {quality[one][metric]:g} in the manifest, less than {least:g}"
        for one in dict.fromkeys(engines)
        if quality[one][metric] < least
    ]
