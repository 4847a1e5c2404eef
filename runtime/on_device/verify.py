"""Verify a bundle on this device: golden vectors, INT8 coverage, latency, plan cache, power. One document."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage import __version__
from edgeage.errors import EdgeageError
from edgeage.machine import cpu_name, int8_instructions
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines import Engine, candidates, open_engine
from edgeage.runtime.engines.packages import PACKAGES, require
from edgeage.runtime.on_device.golden import check_golden, golden_feeds, read_golden
from edgeage.runtime.on_device.latency import ROUNDS, measure, summary
from edgeage.runtime.on_device.power import Rails, sampled

SCHEMA = 1
_IDLE_SECONDS = 1.0

# (what is being done, steps done, steps in all)
Progress = Callable[[str, int, int], None]


def verify_on_device(
    bundle: Bundle,
    engine: str,
    precision: str,
    *,
    threads: int = 1,
    rounds: int = ROUNDS,
    device: Any = None,
    rails: Rails | None = None,
    progress: Progress = lambda what, done, total: None,
) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """(document, pictures). The document is JSON and names no path; document["faults"] is [] if all holds.

    `device`: for TensorRT what is special of it, see `edgeage.runtime.on_device.plans.OnDevice`. `pictures`:
    images [n, 3, S, S] in [-1, 1] of the batch generator, "golden" and "here", if the bundle has one.
    Raises EdgeageError if an engine cannot be opened at all.
    """
    names = [name for name, entry in bundle.manifest.engines.items() if candidates(entry, engine, precision)]
    if not names:
        raise EdgeageError(
            f"{bundle.manifest.name} has no {engine} {precision} file; choose another --precision"
        )
    golden = read_golden(bundle)
    opened: dict[str, Engine] = {}
    found: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(names):
        progress(f"build and open {name}", index, len(names))
        if device is None:
            opened[name], facts, made = open_engine(bundle, name, engine, precision, threads), {}, precision
        else:
            opened[name], facts, made = device.open(bundle, name, precision)
        checks = check_golden(bundle, name, opened[name], _arithmetic(made), golden)
        found[name] = {
            "description": opened[name].description,
            "precision": made,
            "golden": [check.to_dict() for check in checks],
            **facts,
        }
    progress("golden vectors", len(names), len(names))
    latency, power = _measure(
        bundle, opened, golden, rounds, rails if rails is not None else Rails(), progress
    )
    for name, figures in latency.items():
        found[name]["latency"] = figures
    document = {
        "schema": SCHEMA,
        "edgeage": __version__,
        "bundle": bundle.manifest.name,
        "lineage": bundle.manifest.lineage.get("onnx", {}),
        "engine": engine,
        "precision": precision,
        "machine": _machine(engine) if device is None else {**_machine(None), **device.machine()},
        "engines": found,
        "cache": {"not run": f"{engine} has no plans"} if device is None else device.check_cache(),
        "whole_face": {"not run": "only for tensorrt"}
        if device is None
        else device.whole_face(bundle, golden),
        "power": power,
    }
    document["faults"] = _faults(document)
    return anonymous(document), _pictures(bundle, opened, golden)


def _measure(
    bundle: Bundle,
    opened: dict[str, Engine],
    golden: dict[str, NDArray[Any]],
    rounds: int,
    rails: Rails,
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Any]]:
    def subject(name: str, engine: Engine) -> Callable[[], object]:
        feeds = golden_feeds(name, bundle.manifest.engines[name], golden)
        return lambda: engine.run(feeds)

    done = 0

    def after_round() -> None:
        nonlocal done
        done += 1
        progress("latency", done, rounds)

    subjects = {name: subject(name, engine) for name, engine in opened.items()}
    if not rails:
        times = measure(subjects, rounds, after_round=after_round)
        power: dict[str, Any] = {"not run": "no INA3221 sensor in /sys/class/hwmon"}
    else:
        with sampled(rails) as idle:
            time.sleep(_IDLE_SECONDS)
        with sampled(rails) as load:
            times = measure(subjects, rounds, after_round=after_round)
        power = {"idle": idle, "load": load, "load_is": "all engines in turn, without a pause"}
    return {name: _with_histogram(milliseconds) for name, milliseconds in times.items()}, power


def _with_histogram(milliseconds: NDArray[np.float64]) -> dict[str, Any]:
    """The summary, and counts for a picture: 40 bins from the least to the largest, nothing clipped."""
    counts, edges = np.histogram(milliseconds, bins=40)
    histogram = {"from": float(edges[0]), "to": float(edges[-1]), "counts": counts.tolist()}
    return {**summary(milliseconds), "histogram": histogram}


def _arithmetic(precision: str) -> str:
    """Of a flavour: what its numbers are held to."""
    return "int8" if precision.startswith("int8") else precision


def _faults(document: dict[str, Any]) -> list[str]:
    faults = []
    for name, facts in document["engines"].items():
        faults += [
            f"{name}.{one['port']}: {one['measure']} is {one['value']:g}, the limit is {one['limit']:g}"
            for one in facts["golden"]
            if not one["ok"]
        ]
    faults += [
        f"plan cache: {what}: {one['found']}" for what, one in _cases(document["cache"]) if not one["ok"]
    ]
    return faults


def _cases(cache: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(what, one) for what, one in cache.items() if isinstance(one, dict)]


def _machine(engine: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "int8_instructions": int8_instructions(),
        "numpy": np.__version__,
    }
    if engine in PACKAGES:
        facts["package"] = require(engine)
    return facts


def _pictures(
    bundle: Bundle, opened: dict[str, Engine], golden: dict[str, NDArray[Any]]
) -> dict[str, NDArray[np.float32]]:
    name = "generator_all"
    if name not in opened:
        return {}
    made = opened[name].run(golden_feeds(name, bundle.manifest.engines[name], golden))["image"]
    return {"golden": golden[f"{name}/out/image"], "here": made}


def anonymous(value: Any) -> Any:
    """The same without the home folder in any text: a report goes to strangers."""
    if isinstance(value, dict):
        return {key: anonymous(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [anonymous(inner) for inner in value]
    if isinstance(value, str):
        for home in {str(Path.home()), os.path.realpath(Path.home())} - {"/"}:
            value = value.replace(home, "~")
    return value
