"""Opening engines in TensorRT; and `auto`, which measures INT8 and FP16 here and keeps the better one.

INT8 is not always the faster one: small layers wait for memory, and each change of type costs a copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.bench.statistics import compare
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines import AUTO
from edgeage.runtime.engines.tensorrt.build import Progress
from edgeage.runtime.engines.tensorrt.prepare import Prepared, Workshop
from edgeage.runtime.engines.tensorrt.recipe import BuildOptions, Recipe
from edgeage.runtime.engines.tensorrt.runner import PlanRunner, TensorrtEngine
from edgeage.runtime.on_device.golden import check_golden, golden_feeds, read_golden
from edgeage.runtime.on_device.latency import measure, summary

_RIVALS = ("int8", "float16")


@dataclass(frozen=True)
class Choice:
    """What `auto` found.

    Attributes:
        precision: that is kept.
        reason: one line.
        rivals: {precision: {"latency": summary, "golden": checks, "passes": bool}, or {"not built": why}}.
    """

    precision: str
    reason: str
    rivals: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def open_tensorrt(
    bundle: Bundle,
    name: str,
    precision: str,
    options: BuildOptions | None = None,
    workshop: Workshop | None = None,
) -> TensorrtEngine:
    """One engine of a bundle, its plan built first if the cache has none that holds."""
    workshop = workshop or Workshop()
    note = ""
    if precision == AUTO:
        choice = choose_precision(workshop, bundle, name, options)
        precision, note = choice.precision, f"chosen by auto: {choice.reason}"
    return _open(workshop, bundle, workshop.prepare(bundle, name, precision, options), note)


def open_onnx(onnx: bytes, name: str, file_name: str, workshop: Workshop | None = None) -> PlanRunner:
    """A float32 network that is not a bundle's, such as the detector."""
    workshop = workshop or Workshop()
    loose = hasattr(workshop.libraries.trt.BuilderFlag, "FP16")
    recipe = Recipe(name, "float32", "float32", not loose, (), BuildOptions())
    return PlanRunner(workshop.libraries, workshop.prepare_onnx(onnx, recipe, file_name))


def choose_precision(
    workshop: Workshop,
    bundle: Bundle,
    name: str,
    options: BuildOptions | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
    rounds: int = 200,
    timed: Callable[..., dict[str, NDArray[np.float64]]] = measure,
) -> Choice:
    """Build INT8 and FP16, hold both to the golden vectors, measure them in turn, keep the faster good one.

    A choice is kept in the cache for these very plans. Raises EdgeageError if neither passes.
    """
    _ = workshop.device  # without a device, or TensorRT, that is what is to be told
    prepared: dict[str, Prepared] = {}
    rivals: dict[str, Any] = {}
    for precision in _RIVALS:
        try:
            prepared[precision] = workshop.prepare(
                bundle, name, precision, options, force=force, progress=progress
            )
        except EdgeageError as error:
            rivals[precision] = {"not built": str(error)}
    if not prepared:
        raise _none_is_good(name, rivals)
    kept_as = _choice_file(name, prepared)
    if not force and (kept := _read(workshop.cache.read_json(kept_as))) is not None:
        return kept
    golden = read_golden(bundle)
    engines = {precision: _open(workshop, bundle, plan) for precision, plan in prepared.items()}
    try:
        for precision, engine in engines.items():
            checks = check_golden(bundle, name, engine, precision, golden)
            passes = all(check.ok for check in checks)
            rivals[precision] = {"passes": passes, "golden": [check.to_dict() for check in checks]}
        feeds = golden_feeds(name, bundle.manifest.engines[name], golden)
        times = timed(
            {precision: lambda engine=engine: engine.run(feeds) for precision, engine in engines.items()},
            rounds=rounds,
        )
    finally:
        for engine in engines.values():
            engine.close()
    for precision, milliseconds in times.items():
        rivals[precision]["latency"] = summary(milliseconds)
    choice = _decide(name, rivals, times)
    workshop.cache.write_json(kept_as, choice.to_dict())
    for precision, plan in prepared.items():
        workshop.cache.note(plan.identity, {"auto": {"kept": choice.precision, **rivals[precision]}})
    return choice


def _decide(name: str, rivals: dict[str, Any], times: Mapping[str, NDArray[np.float64]]) -> Choice:
    good = [precision for precision in _RIVALS if rivals[precision].get("passes")]
    if not good:
        raise _none_is_good(name, rivals)
    if len(good) == 1:
        other = next(precision for precision in _RIVALS if precision not in good)
        return Choice(good[0], f"{other} is out: {_failure(rivals[other])}", rivals)
    ratio = compare(times["float16"], times["int8"], paired=True)
    winner = "int8" if ratio.ratio <= 1 else "float16"
    sure = "" if ratio.outcome != "inconclusive" else ", a difference within the noise"
    interval = f"95 % {ratio.low:.2f}..{ratio.high:.2f}"
    return Choice(winner, f"int8 takes {ratio.ratio:.2f} of float16's time ({interval}){sure}", rivals)


def _none_is_good(name: str, rivals: dict[str, Any]) -> EdgeageError:
    why = "; ".join(f"{precision}: {_failure(rivals[precision])}" for precision in _RIVALS)
    return EdgeageError(f"neither precision of the {name} can be used here: {why}; try --precision float32")


def _failure(rival: dict[str, Any]) -> str:
    if "not built" in rival:
        return str(rival["not built"])
    bad = [check for check in rival["golden"] if not check["ok"]]
    return ", ".join(
        f"{one['port']}: {one['measure']} {one['value']:g}, limit {one['limit']:g}" for one in bad
    )


def _choice_file(name: str, prepared: dict[str, Prepared]) -> str:
    plans = "".join(sorted(plan.sidecar["sha256"] for plan in prepared.values()))
    return f"{name}.auto.{hashlib.sha256(plans.encode()).hexdigest()[:16]}.choice"


def _read(value: Any) -> Choice | None:
    fields = ("precision", "reason", "rivals")
    good = isinstance(value, dict) and set(value) == set(fields) and value["precision"] in _RIVALS
    return Choice(*(value[field] for field in fields)) if good else None


def _open(workshop: Workshop, bundle: Bundle, plan: Prepared, note: str = "") -> TensorrtEngine:
    entry = bundle.manifest.engines[plan.recipe.engine]
    file = next(file for file in entry.files if (file.format, file.precision) == ("onnx", plan.recipe.source))
    return TensorrtEngine(workshop.libraries, plan, entry, file, note)
