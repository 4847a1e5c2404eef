"""How near an engine comes to what this machine can do (Williams, Waterman, Patterson, Roofline, CACM 2009).

The roof is measured, not looked up: the best rate that LiteRT's own kernels reach on one large convolution,
INT8 and float32, and the bandwidth of copying as many bytes as the engine touches, so that an engine that
fits a cache is held against that cache. An engine's bound is the sum over its operators of the longer of two
times: of its multiplications at that rate, and of its bytes at that bandwidth. Kernels that fuse operators
move fewer bytes: a distance below 1 is possible and means that.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeage.errors import EdgeageError
from edgeage.runtime.bench.results import Result
from edgeage.runtime.bench.sysfs import NotAvailable
from edgeage.runtime.bench.work import Work, work_of
from edgeage.runtime.engines import choose_file
from edgeage.runtime.engines.litert import open_interpreter

if TYPE_CHECKING:
    from edgeage.runtime.bundle import Bundle

# [height = width, channels in = out, kernel]: large enough to pay, small enough for a cache
_SHAPES = ((16, 256, 1), (32, 128, 3), (16, 512, 1))
_COPIES = tuple(1 << power for power in range(17, 29, 2))  # bytes touched, 128 kB to 128 MB
_SECONDS = 0.15  # of each shape and size
_ROUNDS = 5

METHOD = (
    "peak: the fastest of three large convolutions in LiteRT (XNNPACK), median of the best of 5 rounds; "
    "bandwidth: numpy copying, bytes read and written, at the size that the engine touches"
)


@dataclass(frozen=True)
class Machine:
    """What this machine reaches.

    Attributes:
        threads: that were used.
        peaks: 10^9 multiply-accumulates a second, by precision.
        bandwidth: (bytes touched, 10^9 bytes a second), by size.
    """

    threads: int
    peaks: dict[str, float]
    bandwidth: tuple[tuple[int, float], ...]

    def bytes_a_second(self, touched: int) -> float:
        """At a size between those that were measured: between their bandwidths, on logarithmic axes."""
        sizes, rates = zip(*self.bandwidth, strict=True)
        return float(np.exp(np.interp(np.log(touched), np.log(sizes), np.log(rates)))) * 1e9

    def bound_ms(self, work: Work, precision: str) -> tuple[float, float]:
        """The bound, and the part of it in which bytes take longer than multiplications."""
        rate, speed = self.peaks[precision] * 1e9, self.bytes_a_second(work.bytes)
        by_macs = np.array([one.macs / rate for one in work.operators]) * 1e3
        by_bytes = np.array([(one.weights + one.activations) / speed for one in work.operators]) * 1e3
        longer = np.maximum(by_macs, by_bytes)
        return float(longer.sum()), float(longer[by_bytes > by_macs].sum() / max(longer.sum(), 1e-30))

    def to_dict(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "peak_gmacs": dict(self.peaks),
            "bandwidth_gbs": [list(pair) for pair in self.bandwidth],
            "method": METHOD,
        }


def measure_machine(threads: int = 1) -> Machine:
    """Measure peaks and bandwidth, in about 3 s. NotAvailable without ai-edge-litert."""
    peaks = {precision: _peak(precision, threads) for precision in ("int8", "float32")}
    return Machine(threads, peaks, tuple((size, _bandwidth(size, threads)) for size in _COPIES))


def roofline(
    bundle: Bundle,
    results: Sequence[Result],
    measure: Callable[[int], Machine] = measure_machine,
) -> dict[str, Any]:
    """Each engine among the results against the machine, as JSON values.

    {"machines": [see `Machine.to_dict`, one for each number of threads], "engines": [{"subject", "threads",
    "precision", "macs", "weight_bytes", "activation_bytes", "intensity" (MACs a byte), "gmacs" (reached, 10^9
    a second), "median_ms", "bound_ms", "distance" (median / bound), "memory_bound" (share of the bound that
    bytes decide)}]}; or {"not available": why}.
    """
    machines: dict[int, Machine] = {}
    engines = []
    try:
        for result in results:
            subject, entry = result.subject, bundle.manifest.engines.get(result.subject.name)
            if entry is None or result.median_ns is None:
                continue
            # the TFLite file tells the work of all files of an engine: it is the same network
            file = choose_file(subject.name, entry, "litert", "int8")
            if file is None:
                continue
            work = work_of(bundle.read(file.file), file.signature)
            if subject.precision == "float32":
                work = _as_float(work)
            if subject.threads not in machines:
                machines[subject.threads] = measure(subject.threads)
            engines.append(_row(result, work, machines[subject.threads]))
    except NotAvailable as why:
        return {"not available": str(why)}
    if not engines:
        return {"not available": "no single engine was measured whose TFLite file the bundle has"}
    return {"machines": [machine.to_dict() for machine in machines.values()], "engines": engines}


def _row(result: Result, work: Work, machine: Machine) -> dict[str, Any]:
    subject, took = result.subject, float(np.median(result.steady_ns)) / 1e6
    bound, memory = machine.bound_ms(work, subject.precision)
    return {
        "subject": subject.label,
        "threads": subject.threads,
        "precision": subject.precision,
        "macs": work.macs,
        "weight_bytes": work.weights,
        "activation_bytes": work.activations,
        "intensity": work.intensity,
        "gmacs": work.macs / took / 1e6,
        "median_ms": took,
        "bound_ms": bound,
        "distance": took / bound,
        "memory_bound": memory,
    }


def _as_float(work: Work) -> Work:
    """The same operators with four bytes a value."""
    return Work(
        tuple(type(one)(one.kind, one.macs, one.weights * 4, one.activations * 4) for one in work.operators)
    )


def _peak(precision: str, threads: int) -> float:
    rates = []
    for side, channels, kernel in _SHAPES:
        content = convolution(side, channels, kernel, precision)
        try:
            interpreter = open_interpreter("litert", content, threads, "the measuring convolution")
        except EdgeageError as error:
            raise NotAvailable(str(error)) from None
        macs = side * side * channels * channels * kernel * kernel
        rates.append(macs / _fastest(interpreter.invoke) / 1e9)
    return max(rates)


def _bandwidth(size: int, threads: int) -> float:
    """Copying `size` / 2 bytes, split among threads."""
    half = size // 2 // threads
    pairs = [(np.ones(half, np.uint8), np.zeros(half, np.uint8)) for _ in range(threads)]
    if threads == 1:
        (source, target), *_ = pairs
        return size / _fastest(lambda: np.copyto(target, source)) / 1e9
    with ThreadPoolExecutor(
        threads
    ) as pool:  # each thread copies many times, so that starting it does not count
        often = max((1 << 24) // size, 1)

        def work(pair: tuple[Any, Any]) -> None:
            for _ in range(often):
                np.copyto(pair[1], pair[0])

        return often * size / _fastest(lambda: list(pool.map(work, pairs))) / 1e9


def _fastest(run: Callable[[], object]) -> float:
    """Seconds of a call: the best of the medians of some rounds, as the roof is what can be reached."""
    run()
    medians = []
    for _ in range(_ROUNDS):
        times, until = list[float](), time.perf_counter() + _SECONDS / _ROUNDS
        while not times or time.perf_counter() < until:
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
        medians.append(median(times))
    return min(medians)


def convolution(side: int, channels: int, kernel: int, precision: str) -> bytes:
    """A TFLite file with one CONV_2D, 'same' padding, [1, side, side, channels] to the same."""
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    flatbuffers = importlib.import_module("flatbuffers")
    int8 = precision == "int8"
    rng = np.random.default_rng(0)
    shape = [channels, kernel, kernel, channels]
    if int8:
        weights: Any = rng.integers(-127, 128, shape).astype(np.int8)
        bias: Any = np.zeros(channels, np.int32)
    else:
        weights, bias = rng.standard_normal(shape).astype(np.float32), np.zeros(channels, np.float32)
    image = [1, side, side, channels]

    def tensor(name: str, sizes: list[int], dtype: int, buffer: int, scales: Sequence[float]) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, sizes, dtype, buffer
        if int8:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = list(scales), [0] * len(scales)
        return made

    def buffer(data: Any) -> Any:
        made = schema.BufferT()
        made.data = data
        return made

    real = schema.TensorType.INT8 if int8 else schema.TensorType.FLOAT32
    of_bias = schema.TensorType.INT32 if int8 else schema.TensorType.FLOAT32
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", image, real, 0, [0.01]),
        tensor("weights", shape, real, 1, [0.01] * channels),
        tensor("bias", [channels], of_bias, 2, [0.0001] * channels),
        tensor("y", image, real, 0, [1.0]),
    ]
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
    node = schema.OperatorT()
    node.inputs, node.outputs = [0, 1, 2], [3]
    node.builtinOptionsType, node.builtinOptions = schema.BuiltinOptions.Conv2DOptions, options
    graph.inputs, graph.outputs, graph.operators = [0], [3], [node]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 3 if int8 else 1
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [
        buffer(None),
        buffer(weights.view(np.uint8).ravel()),
        buffer(bias.view(np.uint8).ravel()),
    ]
    builder = flatbuffers.Builder(weights.nbytes + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
