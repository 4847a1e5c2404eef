"""Gates that an engine passes before it enters a bundle: its operators, and its numbers.

The INT8 TFLite file runs in LiteRT, its Q/DQ twin in ONNX Runtime without graph optimisation: node by
node as written, in float, which is what Q/DQ means. Optimised, ONNX Runtime would fuse Q/DQ into integer
kernels of its own, which depend on the CPU (without VNNI some saturate in 16 bits); two approximations
would be compared with each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgeage.calibration.observers import Feeds, session
from edgeage.calibration.quantization import Quantization
from edgeage.errors import EdgeageError
from edgeage.export.engines import TRAITS
from edgeage.runtime.engines.ports import quantize
from edgeage.runtime.manifest import Port

# Below this the INT8 engine is no longer the same network, whatever its twin says.
MIN_COSINE = 0.9
# Least mean cosine of a gradient over the inputs, to the float gradient and of the INT8 file to its twin.
MIN_GRADIENT_COSINE = 0.85

_OPERATOR_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
_FORBIDDEN = ("TRANSPOSE", "CUSTOM", "DEPTH_TO_SPACE")


@dataclass(frozen=True)
class Quality:
    """What was measured on one engine over the validation inputs.

    Attributes:
        count: number of inputs.
        lsb_max, lsb_p999, lsb_mean: difference of output codes to the Q/DQ twin (largest, 99.9th
            percentile, mean).
        float_io_lsb_max: the same, between the file with float I/O and the one with int8 I/O.
        sqnr_db: energy of the float output over that of the INT8 error, over all inputs.
        sqnr_varying_db: the same for the part of the output that differs between inputs; far below
            sqnr_db if the network says nearly the same of every input, below 0 if INT8 drowns the rest.
        cosine, cosine_min: between float and INT8 outputs, mean and least over the inputs.
        twin_cosine: mean cosine between the outputs of the INT8 file and of its Q/DQ twin.
        psnr_db: for images in [-1, 1] (peak 2), else None.
    """

    count: int
    lsb_max: float
    lsb_p999: float
    lsb_mean: float
    float_io_lsb_max: float
    sqnr_db: float
    sqnr_varying_db: float
    cosine: float
    cosine_min: float
    twin_cosine: float
    psnr_db: float | None

    def to_dict(self) -> dict[str, float]:
        return {name: float(value) for name, value in vars(self).items() if value is not None}


class TfliteFile:
    """A TFLite file in LiteRT, one thread, called through its signature with NCHW arrays."""

    def __init__(self, data: bytes, signature: str) -> None:
        self._interpreter = Interpreter(model_content=data, num_threads=1)
        self._run = self._interpreter.get_signature_runner(signature)

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Outputs, NCHW, in the file's own types (codes or floats)."""
        given = {name: nhwc_array(value) for name, value in feeds.items()}
        return {name: nchw_array(value) for name, value in self._run(**given).items()}


def nhwc_array(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array


def nchw_array(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def to_codes(values: NDArray[np.float32], scale: np.float32) -> NDArray[np.int8]:
    """int8 codes of real values, as the runtime makes them; zero point 0."""
    return quantize(values, float(scale), 0)


def operators(data: bytes) -> Counter[str]:
    """Names of the operators in a TFLite file with their counts."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    return Counter(
        _OPERATOR_NAMES[model.operatorCodes[operator.opcodeIndex].builtinCode]
        for graph in model.subgraphs
        for operator in graph.operators
    )


def check_operators(
    data: bytes, io: str, inputs: int, outputs: int, what: str, *, mixed: bool = False
) -> Counter[str]:
    """The operator counts; EdgeageError if the file transposes, or leaves INT8 and is not `mixed`."""
    found = operators(data)
    bad = [name for name in _FORBIDDEN if found[name]]
    at_boundary = {"QUANTIZE": inputs, "DEQUANTIZE": outputs} if io == "float32" else {}
    if not mixed:
        bad += [name for name in ("QUANTIZE", "DEQUANTIZE") if found[name] != at_boundary.get(name, 0)]
    if bad:
        listed = ", ".join(f"{found[name]} {name}" for name in bad)
        raise EdgeageError(f"{what} has {listed}, which do not belong there; no bundle was written")
    return found


def check_ports(
    data: bytes, signature: str, inputs: Iterable[Port], outputs: Iterable[Port], what: str
) -> None:
    """EdgeageError if LiteRT does not load the file or sees other ports than the contract says."""
    try:
        runner = Interpreter(model_content=data, num_threads=1).get_signature_runner(signature)
    except (ValueError, RuntimeError) as error:
        raise EdgeageError(f"{what} does not load in LiteRT: {error}") from None
    for wanted, got in ((inputs, runner.get_input_details()), (outputs, runner.get_output_details())):
        seen = {name: tuple(int(size) for size in entry["shape"]) for name, entry in got.items()}
        expected = {port.name: tuple(nhwc_array(np.empty(port.shape)).shape) for port in wanted}
        if seen != expected:
            raise EdgeageError(f"{what} has ports {seen}, the contract says {expected}")


def measure(
    float_model: onnx.ModelProto,
    qdq_model: onnx.ModelProto,
    quantization: Quantization,
    int8_file: TfliteFile,
    float_io_file: TfliteFile,
    feeds: Iterable[Feeds],
) -> Quality:
    """Compare the four forms of an engine's first output over `feeds` (contract form: float32 NCHW)."""
    output = quantization.view.outputs[0]
    scale = quantization.scale(output)
    reference, twin = session(float_model), session(qdq_model)
    signal = noise = 0.0
    total: NDArray[np.float64] = np.zeros(quantization.view.shapes[output])
    histogram = np.zeros(256, dtype=np.int64)  # of differences of codes
    count = elements = 0
    worst_io = 0.0
    cosines: list[float] = []
    twins: list[float] = []
    for feed in feeds:
        exact = reference.run(None, dict(feed))[0]
        expected = to_codes(twin.run(None, dict(feed))[0], scale).astype(np.int32)
        codes_in = {name: to_codes(value, quantization.scale(name)) for name, value in feed.items()}
        codes = int8_file.run(codes_in)[output].astype(np.int32)
        through_float = to_codes(float_io_file.run(feed)[output].astype(np.float32), scale).astype(np.int32)
        histogram += np.bincount(np.abs(codes - expected).ravel(), minlength=256)
        worst_io = max(worst_io, float(np.abs(codes - through_float).max()))
        values = codes * float(scale)
        signal += float(np.square(exact, dtype=np.float64).sum())
        total += exact
        noise += float(np.square(exact - values).sum())
        cosines.append(cosine(exact, values))
        twins.append(cosine(expected * float(scale), values))
        elements += exact.size
        count += 1
    if count == 0:
        raise EdgeageError("no validation input was given; engines cannot be checked")
    is_image = len(quantization.view.shapes[output]) == 4
    return Quality(
        count=count,
        lsb_max=float(np.flatnonzero(histogram)[-1]),
        lsb_p999=float(np.searchsorted(np.cumsum(histogram), 0.999 * elements)),
        lsb_mean=float(histogram @ np.arange(256)) / elements,
        float_io_lsb_max=worst_io,
        sqnr_db=decibel(signal, noise),
        sqnr_varying_db=decibel(signal - float(np.square(total).sum()) / count, noise),
        cosine=float(np.mean(cosines)),
        cosine_min=min(cosines),
        twin_cosine=float(np.mean(twins)),
        psnr_db=decibel(4.0 * elements, noise) if is_image else None,
    )


def gate(engine: str, quality: Quality) -> None:
    """EdgeageError if the engine's numbers are not those that its range table asks for."""
    codes = TRAITS[engine].codes
    if codes is None:
        if not min(quality.cosine, quality.twin_cosine) >= MIN_GRADIENT_COSINE:
            raise EdgeageError(
                f"the INT8 {engine} step has gradients of cosine {quality.cosine:.3f} to the float ones and "
                f"{quality.twin_cosine:.3f} to its Q/DQ twin's, at least {MIN_GRADIENT_COSINE} is needed; "
                "no bundle was written"
            )
        return
    usual, largest = codes
    worst = max(quality.lsb_max, quality.float_io_lsb_max)
    if quality.lsb_p999 > usual or worst > largest:
        raise EdgeageError(
            f"the INT8 {engine} differs by up to {worst:.0f} output codes from its Q/DQ twin (99.9 %: "
            f"{quality.lsb_p999:.0f}), allowed are {largest} ({usual}); no bundle was written"
        )
    if not quality.cosine >= MIN_COSINE:
        raise EdgeageError(
            f"the INT8 {engine} has cosine {quality.cosine:.3f} to the float network, at least {MIN_COSINE} "
            "is needed; calibrate on images like those it will see; no bundle was written"
        )


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Of two arrays as vectors; 0 if one of them is 0."""
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def decibel(signal: float, noise: float) -> float:
    """Ratio of two energies, -200..200 dB."""
    # an error of exactly 0 has no decibels; 200 dB is beyond anything float32 can show
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / max(noise, 1e-300)), -200.0, 200.0))
