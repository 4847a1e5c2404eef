"""Writing NAME.agebundle: engines, ranges, golden vectors, model card and the manifest that binds them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage import __version__
from edgeage.calibration.quantization import Quantization
from edgeage.calibration.ranges import RangeTable, write_tables
from edgeage.errors import EdgeageError
from edgeage.export.engines import EngineSpec
from edgeage.export.model_card import render
from edgeage.export.verify import Quality
from edgeage.files import new_folder, sha256, write_bytes, write_json
from edgeage.frames import FRAMES
from edgeage.profile import Profile
from edgeage.runtime.bundle import PRECONDITIONER
from edgeage.runtime.manifest import EngineEntry, EngineFile, FilePort, Manifest, stored_shape

SUFFIX = ".agebundle"
TOOLS = ("torch", "onnx", "onnxsim", "onnxscript", "onnxruntime", "ai-edge-litert", "numpy")
# The form of each engine file: format, precision, io, layout.
FLAVOURS = {
    "int8.tflite": ("tflite", "int8", "int8", "NHWC"),
    "int8-float-io.tflite": ("tflite", "int8", "float32", "NHWC"),
    "onnx": ("onnx", "float32", "float32", "NCHW"),
    "qdq.onnx": ("onnx", "int8", "float32", "NCHW"),
    "float16.onnx": ("onnx", "float16", "float32", "NCHW"),
    "qdq-float16.onnx": ("onnx", "int8-float16", "float32", "NCHW"),
}


@dataclass(frozen=True)
class Build:
    """One finished engine.

    Attributes:
        spec: its contract.
        quantization: decisions that its INT8 files follow.
        onnx_sha256: of the float ONNX file that it was made from.
        files: bytes by flavour, a key of `FLAVOURS`.
        quality: as measured on the validation images.
        operators: names and counts in the INT8 TFLite file.
        compilers: their reports, see `edgeage.export.compilers.gates`.
        packed: whether the bundle holds it in the packed files alone.
        beyond_float16: why it has no float16 files though they were asked for.
    """

    spec: EngineSpec
    quantization: Quantization
    onnx_sha256: str
    files: dict[str, bytes]
    quality: Quality
    operators: dict[str, int] = field(default_factory=dict)
    compilers: dict[str, Any] = field(default_factory=dict)
    packed: bool = False
    beyond_float16: str | None = None

    def absent(self) -> dict[str, str]:
        """Reasons for the ONNX flavours that are not among `files`."""
        reason = "several faces at once are for CPUs" if self.packed else "left out of this export"
        half = dict.fromkeys(("qdq-float16.onnx", "float16.onnx"), self.beyond_float16 or reason)
        return {name: why for name, why in {"qdq.onnx": reason, **half}.items() if name not in self.files}

    def path(self, flavour: str) -> str:
        return f"engines/{'packed' if self.packed else self.spec.name}.{flavour}"


@dataclass(frozen=True)
class Contents:
    """Everything that a bundle says, but for hashes of what is in it.

    Attributes:
        name: of the model.
        checkpoint: hex SHA-256 of the checkpoint's weights.
        calibration: {"fingerprint", "count", "source"}.
        golden: arrays by key, e.g. "encoder/in/image" (see SPEC 2 and `golden_vectors`).
        whole: figures of encoder and generator together (see `edgeage.export.end_to_end`).
        evaluation: the judges' report on this checkpoint, with its text under "text"; None: not run.
        packed: by flavour, a file with every engine under its own signature.
        parity: the chain from torch to each engine file, see `edgeage.export.bundle_check.record`.
        refinement: the manifest's, see `edgeage.runtime.manifest`.
        preconditioner: in the refine engines (`edgeage.export.refine.graph`), for whoever measures them.
    """

    name: str
    profile: Profile
    checkpoint: str
    builds: list[Build]
    tables: dict[str, RangeTable]
    calibration: dict[str, Any]
    golden: dict[str, NDArray[Any]]
    licence: dict[str, str]
    data: dict[str, Any]
    whole: dict[str, float]
    evaluation: dict[str, Any] | None = None
    parity: dict[str, Any] = field(default_factory=dict)
    packed: dict[str, bytes] = field(default_factory=dict)
    refinement: dict[str, Any] = field(default_factory=dict)
    preconditioner: NDArray[np.float32] | None = None

    def engine_files(self) -> dict[str, bytes]:
        """Every engine file by its path in the bundle, the packed ones last."""
        files = {
            build.path(flavour): data
            for build in self.builds
            if not build.packed
            for flavour, data in build.files.items()
        }
        return {**files, **{f"engines/packed.{flavour}": data for flavour, data in self.packed.items()}}

    def operators(self) -> dict[str, dict[str, int]]:
        return {build.spec.name: build.operators for build in self.builds}


def check_target(out: Path, *, force: bool) -> None:
    """EdgeageError if no bundle can be written to `out`; asked before the long work starts."""
    if out.suffix != SUFFIX:
        better = out.with_suffix(SUFFIX)
        raise EdgeageError(f"a bundle is a folder NAME{SUFFIX}, got {out}; try --out {better}")
    if out.exists() and not force:
        raise EdgeageError(f"{out} exists already; choose another name or pass --force")
    if out.exists() and not (out / "manifest.json").is_file():
        raise EdgeageError(f"{out} is not a bundle; it will not be replaced, choose another name")


def write_bundle(out: Path, contents: Contents, *, force: bool = False) -> Manifest:
    """Write the folder under a temporary name and rename it: it is there whole, or not at all."""
    check_target(out, force=force)
    with new_folder(out, replace=force) as folder:
        for path, data in contents.engine_files().items():
            write_bytes(folder / path, data)
        write_tables(folder / "ranges.json", contents.tables)
        write_bytes(folder / "golden.npz", _npz(contents.golden))
        if contents.preconditioner is not None:
            write_bytes(folder / PRECONDITIONER, _npz({"preconditioner": contents.preconditioner}))
        if contents.evaluation:
            write_bytes(folder / "EVALUATION.md", contents.evaluation["text"].encode())
        manifest = _manifest(folder, contents)
        card = render(manifest, contents.operators(), contents.evaluation)
        write_bytes(folder / "MODEL_CARD.md", card.encode())
        manifest = _manifest(folder, contents)
        write_json(folder / "manifest.json", manifest.to_dict())
    return manifest


def _manifest(folder: Path, contents: Contents) -> Manifest:
    """The manifest over the files that are in `folder` now."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return Manifest(
        name=contents.name,
        edgeage_version=__version__,
        profile=contents.profile,
        frame_keypoints=FRAMES[contents.profile.frame],
        engines={build.spec.name: engine_entry(build) for build in contents.builds},
        refinement=contents.refinement,
        files={path.relative_to(folder).as_posix(): sha256(path) for path in paths},
        lineage={
            "checkpoint": contents.checkpoint,
            "onnx": {build.spec.name: build.onnx_sha256 for build in contents.builds},
            "ranges": sha256(folder / "ranges.json"),
            "calibration": contents.calibration,
        },
        tools={name: metadata.version(name) for name in TOOLS},
        quality={
            **{build.spec.name: build.quality.to_dict() for build in contents.builds},
            "end_to_end": contents.whole,
        },
        licence=contents.licence,
        data=contents.data,
        parity=contents.parity,
        compilers={build.spec.name: build.compilers for build in contents.builds},
    )


def engine_entry(build: Build) -> EngineEntry:
    """The manifest's entry of a finished engine."""
    spec = build.spec
    files = []
    for flavour in build.files:
        form, precision, flavour_io, layout = FLAVOURS[flavour]
        ports = []
        for group in (spec.inputs, spec.outputs):
            ports.append(
                tuple(
                    FilePort(
                        name=port.name,
                        shape=stored_shape(port.shape, layout),
                        dtype=flavour_io,
                        scale=float(build.quantization.scale(port.name)) if flavour_io == "int8" else None,
                        zero_point=0 if flavour_io == "int8" else None,
                    )
                    for port in group
                )
            )
        signature = spec.signature if form == "tflite" else None
        files.append(EngineFile(build.path(flavour), form, precision, flavour_io, layout, signature, *ports))
    return EngineEntry(spec.inputs, spec.outputs, tuple(files))


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()
