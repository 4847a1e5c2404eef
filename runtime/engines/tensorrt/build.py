"""From ONNX to a plan, on the device that will run it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeage.errors import EdgeageError
from edgeage.runtime.engines.tensorrt.libraries import collecting_logger, complaint, started
from edgeage.runtime.engines.tensorrt.recipe import Recipe

if TYPE_CHECKING:
    import tensorrt as trt_types

# (phase of the build, steps done, steps in all)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Built:
    """A plan that was just made.

    Attributes:
        plan: what TensorRT deserialises.
        timing_cache: what the builder learnt about kernels here; makes the next build faster.
        seconds: of the build.
        warnings: of TensorRT, one line each.
    """

    plan: bytes
    timing_cache: bytes
    seconds: float
    warnings: tuple[str, ...]


def build_plan(
    trt: Any, onnx: bytes, recipe: Recipe, timing_cache: bytes = b"", progress: Progress | None = None
) -> Built:
    """Build a plan; EdgeageError, with TensorRT's words, if the file or the options do not hold here.

    An exception that `progress` raises (Ctrl-C arrives there) stops the build and is passed on.
    """
    start = time.perf_counter()
    logger = collecting_logger(trt)
    builder: trt_types.Builder = started(trt.Builder, logger)
    if recipe.options.dla is not None:
        _check_cores(builder, recipe.options.dla)
    typing = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if recipe.strongly_typed else 0
    network: trt_types.INetworkDefinition = builder.create_network(typing)
    _parse(trt, network, onnx, logger, recipe)
    config = _configure(trt, builder, recipe)
    if recipe.options.dla is not None:
        _check_layers(network, config)
    _set_timing_cache(config, timing_cache)
    monitor = _monitor(trt, progress) if progress else None
    if monitor is not None:
        config.progress_monitor = monitor
    plan: trt_types.IHostMemory | None = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.stopped_by is not None:
        raise monitor.stopped_by
    if plan is None:
        raise EdgeageError(f"TensorRT could not build the {recipe.engine}: {complaint(logger)}")
    learnt: trt_types.ITimingCache | None = config.get_timing_cache()
    return Built(
        plan=bytes(plan),
        timing_cache=bytes(learnt.serialize()) if learnt is not None else b"",
        seconds=time.perf_counter() - start,
        warnings=tuple(dict.fromkeys(logger.lines)),
    )


def _parse(trt: Any, network: trt_types.INetworkDefinition, onnx: bytes, logger: Any, recipe: Recipe) -> None:
    parser: trt_types.OnnxParser = trt.OnnxParser(network, logger)
    if parser.parse(onnx):
        return
    said = []
    for index in range(min(parser.num_errors, 2)):
        fault: trt_types.ParserError = parser.get_error(index)
        said.append(f"{fault.desc()} (node {fault.node()})")
    raise EdgeageError(
        f"TensorRT {trt.__version__} does not read the {recipe.source} ONNX of the {recipe.engine}: "
        f"{' '.join(('; '.join(said) or complaint(logger)).split())}"
    )


def _configure(trt: Any, builder: trt_types.Builder, recipe: Recipe) -> trt_types.IBuilderConfig:
    config: trt_types.IBuilderConfig = builder.create_builder_config()
    options = recipe.options
    config.builder_optimization_level = options.level
    # the inspector then tells the precision of each layer
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    for flag in recipe.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if recipe.precision == "float32":  # TF32 has a mantissa of 10 bits
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.dla is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla
    return config


def _check_cores(builder: trt_types.Builder, core: int) -> None:
    cores = builder.num_DLA_cores
    if not cores:
        raise EdgeageError(
            "this device, or TensorRT on it, has no DLA (Orin NX and AGX Orin have one); leave out --dla"
        )
    if not 0 <= core < cores:
        raise EdgeageError(f"DLA core {core} does not exist; this device has 0..{cores - 1}")


def _check_layers(network: trt_types.INetworkDefinition, config: trt_types.IBuilderConfig) -> None:
    """Refuse a network that would run partly on the GPU: each change of device costs a copy."""
    layers: list[trt_types.ILayer] = [network.get_layer(index) for index in range(network.num_layers)]
    left = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if left:
        named = ", ".join(left[:3])
        raise EdgeageError(
            f"the DLA cannot run {len(left)} of {len(layers)} layers ({named}, ...); leave out --dla"
        )


def _set_timing_cache(config: trt_types.IBuilderConfig, content: bytes) -> None:
    """Use what is known; a cache of another device or version is none, which TensorRT says itself."""
    timings: trt_types.ITimingCache | None = config.create_timing_cache(content)
    if timings is None or not config.set_timing_cache(timings, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _monitor(trt: Any, progress: Progress) -> Any:
    """TensorRT's progress as calls of `progress`, of the outermost phase."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped_by: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps and self.stopped_by is None:
                try:
                    progress(phase_name, step + 1, self._steps[phase_name])
                except BaseException as error:  # must not go through TensorRT's C++; raised after the build
                    self.stopped_by = error
            return self.stopped_by is None

    return Monitor()
