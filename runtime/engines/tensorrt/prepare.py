"""A plan for one network: from the cache where it still holds, else built and kept. The main path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines import Candidate, candidates
from edgeage.runtime.engines.tensorrt.build import Built, Progress, build_plan
from edgeage.runtime.engines.tensorrt.cache import Identity, Kept, PlanCache
from edgeage.runtime.engines.tensorrt.device import Device, read_device
from edgeage.runtime.engines.tensorrt.libraries import (
    Libraries,
    collecting_logger,
    complaint,
    load_libraries,
    started,
)
from edgeage.runtime.engines.tensorrt.recipe import BuildOptions, Recipe, choose_recipe, trtexec_line
from edgeage.runtime.manifest import Port

if TYPE_CHECKING:
    import tensorrt as trt_types


@dataclass(frozen=True)
class Prepared:
    """A plan that TensorRT has loaded.

    Attributes:
        engine: the deserialised engine (`ICudaEngine`); runtime, logger: what it lives on.
        inputs, outputs: its ports, all float32 and static.
        identity, sidecar: what it was built for, and what is known of it.
        reused: it was in the cache before this workshop opened; else `reason` says why it was built.
    """

    engine: Any
    runtime: Any
    logger: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    identity: Identity
    sidecar: dict[str, Any]
    reused: bool
    reason: str

    @property
    def recipe(self) -> Recipe:
        return self.identity.recipe


class Workshop:
    """Libraries, device and cache: what preparing plans needs, opened once."""

    def __init__(self, cache: PlanCache | None = None) -> None:
        self._cache = cache
        self._built: dict[str, str] = {}  # sha256 of what was built here -> why

    @cached_property
    def libraries(self) -> Libraries:
        return load_libraries()

    @cached_property
    def device(self) -> Device:
        return read_device(self.libraries)

    @cached_property
    def cache(self) -> PlanCache:
        return self._cache or PlanCache()

    def prepare(
        self,
        bundle: Bundle,
        name: str,
        precision: str,
        options: BuildOptions | None = None,
        *,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Prepared:
        """The plan of a bundle's engine at "int8", "float16" or "float32".

        Without `options` the newest plan is taken however it was built. `force` builds in any case.
        Raises EdgeageError if the bundle has no file that can be built here, or the build fails.
        """
        entry = bundle.manifest.engines.get(name)
        files: list[Candidate] = candidates(entry, "tensorrt", precision) if entry else []
        recipe = choose_recipe(self.libraries.trt, name, files, options or BuildOptions())
        file = next(one.file for one in files if one.file.precision == recipe.source)
        onnx = bundle.read(file.file)
        return self.prepare_onnx(onnx, recipe, file.file, options is None, force=force, progress=progress)

    def prepare_onnx(
        self,
        onnx: bytes,
        recipe: Recipe,
        file_name: str,
        any_options: bool = True,
        *,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Prepared:
        """The plan of one ONNX file, see `prepare`."""
        identity = Identity(hashlib.sha256(onnx).hexdigest(), self.device, recipe)
        found: Kept | str = (
            "asked to build anew" if force else self.cache.find(identity, any_options=any_options)
        )
        if isinstance(found, str):
            with self.cache.locked():
                if not force:  # another process may have built it meanwhile
                    found = self.cache.find(identity, any_options=any_options)
                if isinstance(found, str):
                    return self._build(onnx, identity, file_name, found, progress)
        loaded = self._load(found.plan)
        if isinstance(loaded, str):
            with self.cache.locked():
                why = f"TensorRT refused the kept plan: {loaded}"
                return self._build(onnx, identity, file_name, why, progress)
        reason = self._built.get(found.sidecar["sha256"], "")
        return Prepared(*loaded, identity, found.sidecar, not reason, reason)

    def _build(
        self, onnx: bytes, identity: Identity, file_name: str, reason: str, progress: Progress | None
    ) -> Prepared:
        trt, recipe = self.libraries.trt, identity.recipe
        built: Built = build_plan(trt, onnx, recipe, self.cache.timings(self.device), progress)
        loaded = self._load(built.plan)
        if isinstance(loaded, str):
            raise EdgeageError(f"TensorRT refused the plan that it has just built: {loaded}")
        facts = {
            "file": file_name,
            "trtexec": trtexec_line(trt, recipe, file_name),
            "seconds": round(built.seconds, 3),
            "warnings": list(built.warnings),
        }
        kept = self.cache.store(identity, built.plan, facts)
        self._built[kept.sidecar["sha256"]] = reason
        if built.timing_cache:
            self.cache.keep_timings(self.device, built.timing_cache)
        return Prepared(*loaded, identity, kept.sidecar, False, reason)

    def _load(self, plan: bytes) -> tuple[Any, Any, Any, tuple[Port, ...], tuple[Port, ...]] | str:
        """(engine, runtime, logger, inputs, outputs), or what TensorRT said."""
        trt = self.libraries.trt
        logger = collecting_logger(trt)
        runtime: trt_types.Runtime = started(trt.Runtime, logger)
        engine: trt_types.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            return complaint(logger)
        return engine, runtime, logger, *_ports(trt, engine)


def _ports(trt: Any, engine: trt_types.ICudaEngine) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    inputs: list[Port] = []
    outputs: list[Port] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(int(size) for size in engine.get_tensor_shape(name))
        if engine.get_tensor_dtype(name) != trt.DataType.FLOAT or min(shape, default=-1) < 1:
            raise EdgeageError(
                f"the plan's port {name} is {engine.get_tensor_dtype(name)} {list(shape)}; ports must be "
                "float32 of fixed sizes: export the bundle again"
            )
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(Port(name, shape))
    return tuple(inputs), tuple(outputs)
