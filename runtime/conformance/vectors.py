"""A bundle's golden vectors, and every INT8 file that has to reproduce them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.files import write_json
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.manifest import EngineEntry, EngineFile
from edgeage.runtime.photo.levels import to_pixels

# (format, io) -> what a file of this kind is called; packed files have "packed " before it.
VARIANTS = {
    ("tflite", "int8"): "int8",
    ("tflite", "float32"): "float-io",
    ("onnx", "float32"): "qdq",
}
PACKED = {"int8": "engines/packed.int8.tflite", "float32": "engines/packed.int8-float-io.tflite"}


@dataclass(frozen=True)
class Case:
    """One file with the golden input of one engine.

    Attributes:
        variant: what kind of file it is, see `VARIANTS`.
        engine: "encoder", ...
        entry, file: the manifest's, `file` being the packed file for a packed variant.
    """

    variant: str
    engine: str
    entry: EngineEntry
    file: EngineFile

    def output_scales(self) -> dict[str, float]:
        """Scale of every output's codes, by its name in the contract."""
        coded = next(file for file in self.entry.files if file.io == "int8")
        scales = {}
        for port, stored in zip(self.entry.outputs, coded.outputs, strict=True):
            assert stored.scale is not None  # the manifest's readers hold this for int8 ports
            scales[port.name] = stored.scale
        return scales

    def codes(self, port: str, values: NDArray[Any]) -> NDArray[np.int8]:
        """An output in the contract's real values as the int8 codes that it stands for."""
        rounded = np.rint(values / np.float32(self.output_scales()[port]))
        return np.asarray(np.clip(rounded, -128, 127), np.int8)


class Golden:
    """The arrays of golden.npz, NCHW; EdgeageError if the bundle has none or it is broken."""

    def __init__(self, bundle: Bundle) -> None:
        if "golden.npz" not in bundle.manifest.files:
            raise EdgeageError(f"{bundle.path} has no golden.npz to compare with; export the bundle again")
        try:
            with np.load(io.BytesIO(bundle.read("golden.npz")), allow_pickle=False) as arrays:
                self._arrays: dict[str, NDArray[Any]] = {key: arrays[key] for key in arrays.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise EdgeageError(f"{bundle.path}: golden.npz cannot be read ({error}); export again") from None

    def _get(self, key: str) -> NDArray[Any]:
        if key not in self._arrays:
            raise EdgeageError(f"golden.npz has no {key}; export the bundle again")
        return self._arrays[key]

    def feeds(self, case: Case) -> dict[str, NDArray[np.float32]]:
        """The input in the contract's float32."""
        return {port.name: self._get(f"{case.engine}/in/{port.name}") for port in case.entry.inputs}

    def stored_inputs(self, case: Case) -> dict[str, NDArray[Any]]:
        """The input by the file's own names, in its types and layout."""
        kind = ".int8" if case.file.io == "int8" else ""
        return {
            stored.name: np.ascontiguousarray(
                to_layout(self._get(f"{case.engine}{kind}/in/{port.name}"), case.file.layout)
            )
            for port, stored in zip(case.entry.inputs, case.file.inputs, strict=True)
        }

    def expected(self) -> dict[str, NDArray[np.int8]]:
        """The codes that LiteRT gave where the bundle was made, by "ENGINE/PORT"."""
        return {
            key.replace(".int8/out/", "/"): value
            for key, value in self._arrays.items()
            if ".int8/out/" in key
        }

    def face(self) -> NDArray[np.uint8]:
        """The golden face, uint8 RGB [S, S, 3]."""
        face: NDArray[np.uint8] = to_pixels(self._get("encoder/in/image"))[0]
        return face


def cases(bundle: Bundle, form: str, *, quick: bool = False) -> list[Case]:
    """Every INT8 file of a format ("tflite", "onnx") with every engine in it, packed files last.

    `quick`: one file of each engine, of its own and with int8 inputs and outputs where there is one.
    """
    found: list[Case] = []
    for engine, entry in bundle.manifest.engines.items():
        for file in entry.files:
            if file.format != form or file.precision != "int8":
                continue
            variant = VARIANTS[file.format, file.io]
            if file.file not in PACKED.values():
                found.append(Case(variant, engine, entry, file))
            packed = PACKED[file.io]
            if form == "tflite" and packed in bundle.manifest.files:
                found.append(Case(f"packed {variant}", engine, entry, replace(file, file=packed)))
    found.sort(key=lambda case: (case.variant.startswith("packed"), case.file.io != "int8"))
    return list({case.engine: case for case in reversed(found)}.values()) if quick else found


def float_cases(bundle: Bundle) -> dict[str, Case]:
    """By engine, its TFLite file with float32 inputs and outputs; the packed one if there is no other."""
    found: dict[str, Case] = {}
    for case in cases(bundle, "tflite"):
        if case.file.io == "float32":
            found.setdefault(case.engine, case)
    return found


def write_vectors(bundle: Bundle, path: Path) -> None:
    """The golden inputs as JSON, for programs that do not read .npz.

    {ENGINE: {"file": path, "signature": text, "inputs": {INPUT: [numbers]}, "outputs": [OUTPUT]}}
    of the TFLite files with float32 inputs and outputs; numbers flat, in the file's own order.
    """
    golden = Golden(bundle)
    document = {
        engine: {
            "file": case.file.file,
            "signature": case.file.signature,
            "inputs": {name: values.ravel().tolist() for name, values in golden.stored_inputs(case).items()},
            "outputs": [port.name for port in case.file.outputs],
        }
        for engine, case in float_cases(bundle).items()
    }
    write_json(path, document)


def to_layout(values: NDArray[Any], layout: str) -> NDArray[Any]:
    """NCHW values as a file of `layout` stores them."""
    return values.transpose(0, 2, 3, 1) if layout == "NHWC" and values.ndim == 4 else values


def from_stored(case: Case, outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.int8]]:
    """Raw outputs by the file's own names, of any shape but in the file's order, as NCHW codes by port.

    Raises EdgeageError if one is missing or has another number of values.
    """
    found = {}
    for port, stored in zip(case.entry.outputs, case.file.outputs, strict=True):
        values = outputs.get(stored.name)
        if values is None or values.size != np.prod(stored.shape):
            size = "no" if values is None else f"{values.size}"
            raise EdgeageError(
                f"{case.engine} gave {size} values for {stored.name}, expected {int(np.prod(stored.shape))}"
            )
        values = values.reshape(stored.shape)
        if case.file.layout == "NHWC" and values.ndim == 4:
            values = values.transpose(0, 3, 1, 2)
        found[port.name] = values if values.dtype == np.int8 else case.codes(port.name, values)
    return found
