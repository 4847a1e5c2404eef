"""What a bundle says about itself: `manifest.json` as frozen dataclasses, checked by hand on reading.

Only the standard library is needed, so that a device can read a bundle without a schema package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.profile import Profile
from edgeage.runtime.fields import (
    invalid,
    read_choice,
    read_digest,
    read_fields,
    read_integer,
    read_list,
    read_mapping,
    read_number,
    read_point,
    read_shape,
    read_text,
    safe_path,
)

SCHEMA = 1
ENGINES = ("encoder", "embedder", "generator", "generator_all", "refine", "refine_batch")
REFINE_BATCH = 4  # faces of one call of refine_batch
FORMATS = ("tflite", "onnx")
# "int8-float16" is int8 with float16 where "int8" has float32: a strongly typed graph for TensorRT.
PRECISIONS = ("int8", "float32", "float16", "int8-float16")
IO_TYPES = ("int8", "float32")
LAYOUTS = ("NHWC", "NCHW")


@dataclass(frozen=True)
class Port:
    """One input or output of an engine as the host sees it: float32, NCHW (SPEC 2)."""

    name: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", read_shape(self.shape, f"the shape of port {self.name!r}"))

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, value: Any, where: str = "a port") -> Port:
        fields = read_fields(value, ("name", "shape"), where)
        return cls(read_text(fields["name"], f"{where}.name"), read_shape(fields["shape"], f"{where}.shape"))


@dataclass(frozen=True)
class FilePort:
    """One input or output as an engine file stores it.

    Attributes:
        name: the tensor's name (ONNX) or its name inside the signature (TFLite).
        shape: in the file's layout.
        dtype: "int8" or "float32".
        scale, zero_point: real = scale * (code - zero_point) for int8, both None for float32.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    def __post_init__(self) -> None:
        where = f"port {self.name!r}"
        object.__setattr__(self, "shape", read_shape(self.shape, f"the shape of {where}"))
        read_choice(self.dtype, IO_TYPES, f"the dtype of {where}")
        if self.dtype == "float32":
            if self.scale is not None or self.zero_point is not None:
                raise invalid(where, "is float32 and must have no scale or zero point")
            return
        if read_number(self.scale, f"the scale of {where}") <= 0:
            raise invalid(f"the scale of {where}", f"is {self.scale}, expected a positive number")
        if not -128 <= read_integer(self.zero_point, f"the zero point of {where}") <= 127:
            raise invalid(f"the zero point of {where}", f"is {self.zero_point}, expected -128..127")

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "scale": self.scale,
            "zero_point": self.zero_point,
        }

    @classmethod
    def from_dict(cls, value: Any, where: str = "a file port") -> FilePort:
        fields = read_fields(value, ("name", "shape", "dtype", "scale", "zero_point"), where)
        scale = fields["scale"]
        return cls(
            name=read_text(fields["name"], f"{where}.name"),
            shape=read_shape(fields["shape"], f"{where}.shape"),
            dtype=read_choice(fields["dtype"], IO_TYPES, f"{where}.dtype"),
            scale=None if scale is None else read_number(scale, f"{where}.scale"),
            zero_point=fields["zero_point"],
        )


@dataclass(frozen=True)
class EngineFile:
    """One flavour of an engine on disk.

    Attributes:
        file: path inside the bundle.
        format: "tflite" or "onnx".
        precision: arithmetic inside, one of `PRECISIONS`. The float16 ones are ONNX, and cast at the
            graph's edge, so that every engine has the same float32 inputs and outputs.
        io: type of inputs and outputs, "int8" or "float32".
        layout: "NHWC" (TFLite) or "NCHW" (ONNX) of the image ports.
        signature: TFLite signature, None for ONNX.
        inputs, outputs: in the order of the engine's ports.
    """

    file: str
    format: str
    precision: str
    io: str
    layout: str
    signature: str | None
    inputs: tuple[FilePort, ...]
    outputs: tuple[FilePort, ...]

    def __post_init__(self) -> None:
        where = f"engine file {self.file!r}"
        safe_path(self.file, where)
        read_choice(self.format, FORMATS, f"the format of {where}")
        read_choice(self.precision, PRECISIONS, f"the precision of {where}")
        read_choice(self.io, IO_TYPES, f"the I/O type of {where}")
        read_choice(self.layout, LAYOUTS, f"the layout of {where}")
        if self.format == "tflite":
            read_text(self.signature, f"the signature of {where}")
        elif self.signature is not None:
            raise invalid(where, "is ONNX and must have no signature")
        if "float16" in self.precision and (self.format, self.io) != ("onnx", "float32"):
            raise invalid(where, f"is {self.precision}, which are ONNX files with float32 I/O")
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        if wrong := [port.name for port in self.inputs + self.outputs if port.dtype != self.io]:
            raise invalid(where, f"has {self.io} I/O but its ports {', '.join(wrong)} have another type")

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "format": self.format,
            "precision": self.precision,
            "io": self.io,
            "layout": self.layout,
            "signature": self.signature,
            "inputs": [port.to_dict() for port in self.inputs],
            "outputs": [port.to_dict() for port in self.outputs],
        }

    @classmethod
    def from_dict(cls, value: Any, where: str = "an engine file") -> EngineFile:
        names = ("file", "format", "precision", "io", "layout", "signature", "inputs", "outputs")
        fields = read_fields(value, names, where)
        return cls(
            file=safe_path(fields["file"], f"{where}.file"),
            format=fields["format"],
            precision=fields["precision"],
            io=fields["io"],
            layout=fields["layout"],
            signature=fields["signature"],
            inputs=read_list(fields["inputs"], FilePort.from_dict, f"{where}.inputs"),
            outputs=read_list(fields["outputs"], FilePort.from_dict, f"{where}.outputs"),
        )


@dataclass(frozen=True)
class EngineEntry:
    """One engine: its contract (ports in order) and the files that implement it."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    files: tuple[EngineFile, ...]

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "files"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for ports in (self.inputs, self.outputs):
            if not ports or len({port.name for port in ports}) != len(ports):
                raise invalid("an engine", "needs inputs and outputs with names of their own")
        for file in self.files:
            where = f"engine file {file.file!r}"
            for mine, theirs in ((self.inputs, file.inputs), (self.outputs, file.outputs)):
                if len(mine) != len(theirs):
                    raise invalid(where, f"has {len(theirs)} ports where its engine has {len(mine)}")
                for port, stored in zip(mine, theirs, strict=True):
                    if stored.shape != stored_shape(port.shape, file.layout):
                        problem = f"stores {port.name!r} as {stored.shape}, the engine says {port.shape}"
                        raise invalid(where, problem)

    def to_dict(self) -> dict[str, Any]:
        return {
            "inputs": [port.to_dict() for port in self.inputs],
            "outputs": [port.to_dict() for port in self.outputs],
            "files": [file.to_dict() for file in self.files],
        }

    @classmethod
    def from_dict(cls, value: Any, where: str = "an engine") -> EngineEntry:
        fields = read_fields(value, ("inputs", "outputs", "files"), where)
        return cls(
            inputs=read_list(fields["inputs"], Port.from_dict, f"{where}.inputs"),
            outputs=read_list(fields["outputs"], Port.from_dict, f"{where}.outputs"),
            files=read_list(fields["files"], EngineFile.from_dict, f"{where}.files"),
        )


def engine_ports(profile: Profile) -> dict[str, tuple[tuple[Port, ...], tuple[Port, ...]]]:
    """The contract of each engine for a profile: (inputs, outputs), float32, NCHW, in order."""
    size, count = profile.image_size, len(profile.groups)

    def generator(batch: int) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        condition = (Port("z", (batch, profile.latent_size)), Port("y", (batch, count)))
        return condition, (Port("image", (batch, 3, size, size)),)

    def refine(batch: int) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        (z, y), (image,) = generator(batch)
        target = Port("target", (batch, profile.embedding_size))
        outputs = Port("gradient", z.shape), Port("embedding", target.shape)
        return (z, y, target, image), outputs

    image = (Port("image", (1, 3, size, size)),)
    return {
        "encoder": (image, (Port("z", (1, profile.latent_size)),)),
        "embedder": (image, (Port("embedding", (1, profile.embedding_size)),)),
        "generator": generator(1),
        "generator_all": generator(count),
        "refine": refine(1),
        "refine_batch": refine(REFINE_BATCH),
    }


def stored_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """An engine port's shape in a file's layout: 4-d ports are images and follow the layout."""
    if layout == "NHWC" and len(shape) == 4:
        n, c, h, w = shape
        return n, h, w, c
    return shape


@dataclass(frozen=True)
class Manifest:
    """`manifest.json` of a bundle.

    Attributes:
        name: of the model.
        edgeage_version: version that wrote the bundle.
        profile: sizes, groups and frame of the model.
        frame_keypoints: where alignment puts the keypoints, (x, y) in fractions of the image side:
            eye at the image's left, eye at the image's right, nose tip, mouth centre.
        engines: by name: encoder, embedder, generator, generator_all, refine, refine_batch; not all need be
            there.
        refinement: {"steps": K, "note": text, ...}; K = 0 means no refinement. With a refine engine also its
            "embedder": sha256 of the float ONNX whose embeddings it takes as targets, and the host's defaults
            "step", "decay" and "method".
        files: sha256 by path inside the bundle, every file but manifest.json.
        lineage: hashes that chain checkpoint -> ONNX -> range table -> engines.
        tools: versions by tool name.
        quality: {engine: {metric: number}} as measured on the engines.
        licence: texts about terms, by topic.
        data: what the model was trained and calibrated on.
        parity: how far each form of a network is from the one before it, as measured at the export
            (`edgeage verify` measures again): {"kernels": text, "golden": {engine: {port: {link: figures}}},
            "faces": figures of whole faces}; {} in bundles that are older than it.
        compilers: {engine: {compiler: its report, or {"not run": why}}}; {} in older bundles.
        schema: version of this format.
    """

    name: str
    edgeage_version: str
    profile: Profile
    frame_keypoints: tuple[tuple[float, float], ...]
    engines: dict[str, EngineEntry]
    refinement: dict[str, Any]
    files: dict[str, str]
    lineage: dict[str, Any]
    tools: dict[str, str]
    quality: dict[str, dict[str, float]]
    licence: dict[str, str]
    data: dict[str, Any]
    parity: dict[str, Any] = field(default_factory=dict)
    compilers: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        _check_schema(self.schema)
        read_text(self.name, "name")
        read_text(self.edgeage_version, "edgeage_version")
        points = read_list(self.frame_keypoints, read_point, "frame_keypoints")
        if len(points) != 4:
            raise invalid("frame_keypoints", f"has {len(points)} points, expected 4")
        object.__setattr__(self, "frame_keypoints", points)
        for name in ("engines", *_PLAIN, *_LATER):
            object.__setattr__(self, name, read_mapping(getattr(self, name), name))
        self._check_refinement()
        for path, digest in self.files.items():
            read_digest(digest, f"files[{safe_path(path, 'files')!r}]")
        if "manifest.json" in self.files:
            raise invalid("files", "lists manifest.json, which cannot hold its own hash")
        contract = engine_ports(self.profile)
        for name, entry in self.engines.items():
            read_choice(name, ENGINES, "the name of an engine")
            if name in contract and (entry.inputs, entry.outputs) != contract[name]:
                raise invalid(f"engine {name}", "has other ports than its profile asks for")
            for file in entry.files:
                if file.file not in self.files:
                    raise invalid(f"engine {name}", f"uses {file.file}, which is not in files")
        for name, metrics in read_mapping(self.quality, "quality").items():
            for metric, number in read_mapping(metrics, f"quality.{name}").items():
                read_number(number, f"quality.{name}.{metric}")
        for name in _LATER:
            _check_figures(getattr(self, name), name)
        for engine in read_mapping(self.parity.get("golden", {}), "parity.golden"):
            read_choice(engine, ENGINES, "an engine of parity.golden")
        for part in ("tools", "licence"):
            for key, text in getattr(self, part).items():
                read_text(text, f"{part}.{key}")

    def _check_refinement(self) -> None:
        steps = read_integer(self.refinement.get("steps"), "refinement.steps")
        if steps < 0:
            raise invalid("refinement.steps", f"is {steps}, expected 0 or more")
        if "refine" not in self.engines:
            if steps:
                raise invalid("refinement.steps", f"is {steps}, but the bundle has no engine refine")
            return
        wanted = read_digest(self.refinement.get("embedder"), "refinement.embedder")
        held = read_mapping(self.lineage.get("onnx", {}), "lineage.onnx").get("embedder")
        if wanted != held:
            # its cosines would look fine and mean nothing
            problem = f"takes embeddings of another network ({wanted[:12]}) than the bundle's embedder"
            raise invalid("engine refine", f"{problem} ({str(held)[:12]})")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives the same manifest back."""
        return {
            "schema": self.schema,
            "name": self.name,
            "edgeage_version": self.edgeage_version,
            "profile": self.profile.to_dict(),
            "frame_keypoints": [list(point) for point in self.frame_keypoints],
            "engines": {name: entry.to_dict() for name, entry in self.engines.items()},
            **{name: dict(getattr(self, name)) for name in _PLAIN},
            **{name: dict(getattr(self, name)) for name in _LATER if getattr(self, name)},
        }

    @classmethod
    def from_dict(cls, value: Any) -> Manifest:
        """Read a manifest; EdgeageError if it is foreign, newer, incomplete or contradicts itself."""
        if not isinstance(value, dict) or "schema" not in value:
            raise EdgeageError("this manifest.json is not one of an edgeage bundle (it has no schema)")
        _check_schema(value["schema"])
        names = ("schema", "name", "edgeage_version", "profile", "frame_keypoints", "engines", *_PLAIN)
        fields = read_fields({**{key: {} for key in _LATER}, **value}, (*names, *_LATER), "manifest.json")
        engines = read_mapping(fields["engines"], "engines")
        return cls(
            schema=fields["schema"],
            name=fields["name"],
            edgeage_version=fields["edgeage_version"],
            profile=_profile(fields["profile"]),
            frame_keypoints=read_list(fields["frame_keypoints"], read_point, "frame_keypoints"),
            engines={key: EngineEntry.from_dict(entry, f"engines.{key}") for key, entry in engines.items()},
            **{name: read_mapping(fields[name], name) for name in (*_PLAIN, *_LATER)},
        )


_PLAIN = ("refinement", "files", "lineage", "tools", "quality", "licence", "data")
_LATER = ("parity", "compilers")  # absent in the first bundles


def _check_figures(value: Any, where: str) -> None:
    """Objects of objects whose leaves are finite numbers or texts."""
    if isinstance(value, str):
        read_text(value, where)
    elif isinstance(value, dict):
        for key, inner in read_mapping(value, where).items():
            _check_figures(inner, f"{where}.{key}")
    else:
        read_number(value, where)


def _check_schema(schema: Any) -> None:
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise EdgeageError(f"this manifest has schema {schema!r}; this is not an edgeage bundle")
    if schema > SCHEMA:
        raise EdgeageError(
            f"this bundle has schema {schema}, this edgeage reads up to {SCHEMA}; "
            'update it: pip install --upgrade "edgeage"'
        )


def _profile(value: Any) -> Profile:
    """The profile with the types that `Profile.from_dict` leaves unchecked."""
    sizes = ("image_size", "latent_size", "embedding_size")
    fields = read_fields(value, ("name", *sizes, "groups", "frame"), "profile")
    for name in sizes:
        if read_integer(fields[name], f"profile.{name}") < 1:
            raise invalid(f"profile.{name}", f"is {fields[name]}, expected a positive size")
    read_text(fields["name"], "profile.name")
    read_text(fields["frame"], "profile.frame")
    groups = read_list(fields["groups"], read_text, "profile.groups")
    if len(set(groups)) != len(groups) or not groups:
        raise invalid("profile.groups", "is empty or names a group twice")
    return Profile.from_dict(fields)
