"""A bundle's golden vectors against what an engine makes of them here.

INT8 engines are held by output codes against the codes that the export stored (made by LiteRT with XNNPACK),
float engines by SQNR against the float network's outputs, and the refine engine by the direction of its
gradient: one mask that flips changes many codes of it. Tolerances are of two right implementations: other
kernels round a value between two codes to either side, and steep last layers amplify that. On x86 ONNX
Runtime is 0 to 6 codes and 0.97 in cosine away; with strongly typed float16 between INT8, 1 to 6 codes (means
0.20, 0.45, 0.58 for encoder, embedder, generator) and 0.93.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines import Engine
from edgeage.runtime.manifest import EngineEntry

Arrays = dict[str, NDArray[Any]]

# Output codes apart from the golden ones (LSB): largest and mean. The golden codes are the TFLite file's. The
# typed Q/DQ graph leaves out the roundings between element-wise operators: it is nearer to the float network
# and further from these (emulated in float16, 0.4 codes of the encoder in the mean, 1.15 of the generator,
# and a gradient of cosine 0.91).
MAX_CODES = {
    "encoder": (2, 0.6),
    "embedder": (10, 0.8),
    "generator": (14, 1.5),
    "generator_all": (14, 1.5),
}
# The refine engines: least cosine of each output to the golden one.
MIN_COSINE = {"gradient": {"int8": 0.85, "float16": 0.95, "float32": 0.99}, "embedding": dict.fromkeys(
    ("int8", "float16", "float32"), 0.98
)}  # fmt: skip
# Float engines: energy of the golden output over that of the difference. float16 has a mantissa of 11 bits.
MIN_SQNR_DB = {"float16": 35.0, "float32": 80.0}


@dataclass(frozen=True)
class Check:
    """One output of an engine against its golden vector.

    Attributes:
        engine, port: which.
        measure: "max LSB", "mean LSB", "cosine" or "SQNR dB".
        value, limit: what was found, and the least or most that is allowed.
        at_most: `limit` is an upper one.
    """

    engine: str
    port: str
    measure: str
    value: float
    limit: float
    at_most: bool

    @property
    def ok(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "value": round(self.value, 6), "ok": self.ok}


def read_golden(bundle: Bundle) -> Arrays:
    """golden.npz, {"ENGINE/in/PORT": array, ...}; EdgeageError if the bundle has none."""
    with np.load(io.BytesIO(bundle.read("golden.npz")), allow_pickle=False) as arrays:
        return dict(arrays)


def golden_feeds(name: str, entry: EngineEntry, golden: Mapping[str, NDArray[Any]]) -> Arrays:
    try:
        return {port.name: golden[f"{name}/in/{port.name}"] for port in entry.inputs}
    except KeyError as error:
        raise EdgeageError(f"golden.npz has no {error} for the {name}; export the bundle again") from None


def check_golden(
    bundle: Bundle, name: str, engine: Engine, precision: str, golden: Mapping[str, NDArray[Any]]
) -> list[Check]:
    """Every output of one engine; `precision` is that of the arithmetic: "int8", "float16" or "float32"."""
    entry = bundle.manifest.engines[name]
    made = engine.run(golden_feeds(name, entry, golden))
    scales = {
        port.name: stored.scale
        for file in entry.files
        if file.io == "int8"
        for port, stored in zip(entry.outputs, file.outputs, strict=True)
    }
    checks: list[Check] = []
    for port in entry.outputs:
        exact, codes = golden[f"{name}/out/{port.name}"], golden.get(f"{name}.int8/out/{port.name}")
        scale = scales.get(port.name)
        if precision == "int8" and codes is not None and scale is not None:
            checks += _against_codes(name, port.name, made[port.name], codes, scale)
        else:
            checks += _against_floats(name, port.name, made[port.name], exact, precision)
    return checks


def _against_codes(
    name: str, port: str, made: NDArray[Any], codes: NDArray[Any], scale: float
) -> Iterator[Check]:
    if port in MIN_COSINE and name not in MAX_CODES:
        cosine = _cosine(made, codes.astype(np.float64) * scale)
        yield Check(name, port, "cosine", cosine, MIN_COSINE[port]["int8"], False)
        return
    apart = np.abs(np.rint(made / np.float32(scale)) - codes)
    largest, mean = MAX_CODES[name]
    yield Check(name, port, "max LSB", float(apart.max()), largest, True)
    yield Check(name, port, "mean LSB", float(apart.mean()), mean, True)


def _against_floats(
    name: str, port: str, made: NDArray[Any], exact: NDArray[Any], precision: str
) -> Iterator[Check]:
    if name not in MAX_CODES:
        yield Check(name, port, "cosine", _cosine(made, exact), MIN_COSINE[port][precision], False)
        return
    if precision == "int8":  # without codes there is only the float output to hold on to
        yield Check(name, port, "cosine", _cosine(made, exact), 0.98, False)
        return
    error = np.square(made.astype(np.float64) - exact).sum()
    energy = np.square(exact.astype(np.float64)).sum()
    sqnr = 10 * np.log10(energy / error) if error else 200.0
    yield Check(name, port, "SQNR dB", float(sqnr), MIN_SQNR_DB[precision], False)


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    length = np.sqrt(np.square(x).sum() * np.square(y).sum())
    return float((x * y).sum() / length) if length else 0.0
