"""What verifying adds for TensorRT: the plans, their INT8 coverage, the cache's refusals, the whole face."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines import AUTO
from edgeage.runtime.engines.tensorrt.build import Progress
from edgeage.runtime.engines.tensorrt.cache import Identity, PlanCache
from edgeage.runtime.engines.tensorrt.choose import choose_precision
from edgeage.runtime.engines.tensorrt.coverage import plan_coverage
from edgeage.runtime.engines.tensorrt.pipeline import DevicePipeline
from edgeage.runtime.engines.tensorrt.prepare import Prepared, Workshop
from edgeage.runtime.engines.tensorrt.recipe import BuildOptions
from edgeage.runtime.engines.tensorrt.runner import TensorrtEngine
from edgeage.runtime.on_device.latency import ROUNDS, measure, summary

_MODEL = Path("/proc/device-tree/model")
_POWER_MODE = Path("/var/lib/nvpmodel/status")
_PLAN_FACTS = ("file", "trtexec", "seconds", "bytes", "warnings")


class OnDevice:
    """Opens a bundle's plans and keeps what is to be told of them."""

    def __init__(
        self,
        workshop: Workshop,
        options: BuildOptions | None = None,
        *,
        force: bool = False,
        rounds: int = ROUNDS,
        progress: Progress | None = None,
    ) -> None:
        self._workshop, self._options = workshop, options
        self._force, self._rounds, self._progress = force, rounds, progress
        self._precision = AUTO
        self._prepared: dict[str, Prepared] = {}

    def open(self, bundle: Bundle, name: str, precision: str) -> tuple[TensorrtEngine, dict[str, Any], str]:
        """(engine, facts, precision of its arithmetic)."""
        workshop, facts = self._workshop, dict[str, Any]()
        self._precision, made = precision, precision
        force = self._force
        if precision == AUTO:
            choice = choose_precision(
                workshop,
                bundle,
                name,
                self._options,
                force=force,
                progress=self._progress,
                rounds=self._rounds,
            )
            made, facts["auto"], force = choice.precision, choice.to_dict(), False
        plan = workshop.prepare(bundle, name, made, self._options, force=force, progress=self._progress)
        self._prepared[name] = plan
        entry = bundle.manifest.engines[name]
        file = next(one for one in entry.files if one.file == plan.sidecar["file"])
        facts["plan"] = {
            "reused": plan.reused,
            "reason": plan.reason,
            "recipe": str(plan.recipe),
            **{key: plan.sidecar[key] for key in _PLAN_FACTS},
        }
        try:
            facts["coverage"] = plan_coverage(workshop.libraries.trt, plan).to_dict()
        except EdgeageError as error:
            facts["coverage"] = {"not run": str(error)}
        return TensorrtEngine(workshop.libraries, plan, entry, file), facts, plan.recipe.precision

    def machine(self) -> dict[str, Any]:
        facts: dict[str, Any] = dict(self._workshop.device.to_dict())
        for name, file in (("model", _MODEL), ("power_mode", _POWER_MODE)):
            if file.is_file():
                facts[name] = file.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
        return facts

    def check_cache(self) -> dict[str, Any]:
        """Whether kept plans are taken again, and others are not: {case: {"ok", "found"}}.

        Damaged plans are made in a folder that is thrown away, and are never handed to TensorRT.
        """
        cases: dict[str, Any] = {}
        for name, plan in self._prepared.items():
            again = self._workshop.cache.find(plan.identity, any_options=self._options is None)
            reused = not isinstance(again, str)
            cases[f"{name} is taken again"] = {"ok": reused, "found": "taken" if reused else again}
        name, plan = next(iter(self._prepared.items()))
        with tempfile.TemporaryDirectory() as folder:
            cases |= _refusals(PlanCache(Path(folder) / "plans"), plan.identity)
        return cases

    def whole_face(self, bundle: Bundle, golden: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Latency from the crop to six faces, images on the device all the way."""
        precision = self._precision if self._precision != AUTO else "int8"
        try:
            pipeline = DevicePipeline(bundle, precision, self._workshop)
        except (EdgeageError, KeyError) as error:
            return {"not run": str(error)}
        try:
            image = np.asarray(golden["encoder/in/image"], np.float32)
            group = int(np.asarray(golden["generator/in/y"]).argmax())
            times = measure({"whole_face": lambda: pipeline.age(image, group)}, self._rounds)
        finally:
            pipeline.close()
        return {"precision": precision, **summary(times["whole_face"])}


def _refusals(cache: PlanCache, identity: Identity) -> dict[str, Any]:
    """Store a few bytes as a plan, and change one thing at a time."""

    def refused(identity: Identity = identity) -> dict[str, Any]:
        found = cache.find(identity)
        return {"ok": isinstance(found, str), "found": found if isinstance(found, str) else "taken"}

    path = cache.folder / f"{identity.name}.plan"
    content = b"not a plan, never loaded"
    cases = {}
    cache.store(identity, content, {})
    other = dataclasses.replace(identity.device, tensorrt="0.0.0")
    cases["another TensorRT is refused"] = refused(dataclasses.replace(identity, device=other))
    other = dataclasses.replace(identity.device, name="another device")
    cases["another device is refused"] = refused(dataclasses.replace(identity, device=other))
    path.write_bytes(content[:-1] + b"?")
    cases["a changed plan is refused"] = refused()
    path.write_bytes(content)
    sidecar = path.with_suffix(".json")
    sidecar.write_bytes(sidecar.read_bytes()[:-20])
    cases["a truncated sidecar is refused"] = refused()
    return cases
