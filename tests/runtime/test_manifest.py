"""Manifests: what is written is read back, and what is not a manifest is refused in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeage.errors import EdgeageError
from edgeage.profile import Profile
from edgeage.runtime.fields import safe_path
from edgeage.runtime.manifest import (
    REFINE_BATCH,
    EngineEntry,
    EngineFile,
    FilePort,
    Manifest,
    engine_ports,
    stored_shape,
)

texts = st.text(min_size=1, max_size=12)
paths = st.from_regex(r"[a-z][a-z0-9_.]{0,8}(/[a-z][a-z0-9]{0,8}){0,2}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
scales = st.floats(1e-9, 1e3)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def engine_files(draw: st.DrawFn, inputs: tuple, outputs: tuple, path: str) -> EngineFile:
    tflite, quantized = draw(st.booleans()), draw(st.booleans())
    layout, io = ("NHWC", "NCHW")[not tflite], ("float32", "int8")[quantized]

    def stored(ports: tuple) -> tuple[FilePort, ...]:
        return tuple(
            FilePort(
                port.name,
                stored_shape(port.shape, layout),
                io,
                draw(scales) if quantized else None,
                draw(st.integers(-128, 127)) if quantized else None,
            )
            for port in ports
        )

    signature = draw(texts) if tflite else None
    kind = "tflite" if tflite else "onnx"
    return EngineFile(path, kind, "int8", io, layout, signature, stored(inputs), stored(outputs))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    sizes = [draw(st.integers(1, 300)) for _ in range(3)]
    groups = tuple(draw(st.lists(texts, min_size=1, max_size=6, unique=True)))
    profile = Profile(draw(texts), *sizes, groups, draw(texts))
    files = draw(st.dictionaries(paths.filter(lambda p: p != "manifest.json"), digests, max_size=4))
    engines = {}
    for name in draw(st.lists(st.sampled_from(sorted(engine_ports(profile))), unique=True)):
        inputs, outputs = engine_ports(profile)[name]
        made = tuple(draw(engine_files(inputs, outputs, path)) for path in files)
        engines[name] = EngineEntry(inputs, outputs, made)
    refinement = {"steps": 0, "note": draw(texts)}
    lineage = draw(st.dictionaries(texts, plain, max_size=3))
    if "refine" in engines:
        refinement |= {"steps": draw(st.integers(0, 9)), "embedder": draw(digests)}
        lineage["onnx"] = {"embedder": refinement["embedder"]}
    points = tuple((draw(st.floats(0, 1)), draw(st.floats(0, 1))) for _ in range(4))
    return Manifest(
        name=draw(texts),
        edgeage_version=draw(texts),
        profile=profile,
        frame_keypoints=points,
        engines=engines,
        refinement=refinement,
        files=files,
        lineage=lineage,
        tools=draw(st.dictionaries(texts, texts, max_size=3)),
        quality=draw(st.dictionaries(texts, st.dictionaries(texts, scales, max_size=2), max_size=2)),
        licence=draw(st.dictionaries(texts, texts, max_size=2)),
        data=draw(st.dictionaries(texts, plain, max_size=3)),
    )


@given(manifests())
def test_roundtrip_through_json(manifest: Manifest) -> None:
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest


@given(plain)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(EdgeageError):
        Manifest.from_dict(value)


@pytest.fixture
def fields(built_bundle: Path) -> dict[str, Any]:
    return copy.deepcopy(json.loads((built_bundle / "manifest.json").read_text()))


def change(fields: dict[str, Any], where: str, value: Any) -> None:
    *path, last = where.split(".")
    inner: Any = fields
    for key in path:
        inner = inner[int(key) if key.isdigit() else key]
    inner[int(last) if last.isdigit() else last] = value


FILE = "engines.encoder.files.0"


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("schema", 2, "schema 2"),
        ("schema", "1", "not an edgeage bundle"),
        ("schema", True, "not an edgeage bundle"),
        ("name", "", "name"),
        ("profile.image_size", 0, "image_size"),
        ("profile.image_size", 32, "profile asks for"),
        ("profile.groups", ["a", "a"], "groups"),
        ("frame_keypoints", [[0.1, 0.2]], "4"),
        ("frame_keypoints.0", [0.1, float("nan")], "finite"),
        ("files.x", "abc", "sha256"),
        ("files", {}, "not in files"),
        ("files.manifest.json", "0" * 64, "sha256"),
        ("engines.poem", {}, "lacks"),
        ("engines.encoder.inputs.0.shape", [1, 3, 64], "stores"),
        (f"{FILE}.file", "../encoder.onnx", "inside"),
        (f"{FILE}.format", "exe", "format"),
        (f"{FILE}.precision", "int4", "precision"),
        (f"{FILE}.signature", "encode", "signature"),
        (f"{FILE}.inputs.0.dtype", "int8", "scale"),
        (f"{FILE}.inputs.0.shape", [1, 64, 64, 3], "stores"),
        (f"{FILE}.inputs", [], "ports"),
        (f"{FILE}.extra", 1, "unknown fields extra"),
        ("refinement", {}, "refinement.steps"),
        ("refinement.steps", -1, "0 or more"),
        ("refinement.steps", 1.5, "whole number"),
        ("refinement.steps", 3, "has no engine refine"),
        ("quality.encoder.psnr", "good", "quality.encoder.psnr"),
        ("tools.onnx", 1, "tools.onnx"),
    ],
)
def test_each_fault_is_named(fields: dict[str, Any], where: str, value: Any, said: str) -> None:
    if where == "files.manifest.json":
        fields["files"]["manifest.json"] = value
        said = "own hash"
    else:
        change(fields, where, value)
    with pytest.raises(EdgeageError, match=said) as caught:
        Manifest.from_dict(fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", ["float16", "int8-float16"])
def test_half_precision_is_onnx_with_float32_ports(fields: dict[str, Any], precision: str) -> None:
    file = fields["engines"]["encoder"]["files"][0]
    assert (file["format"], file["io"]) == ("onnx", "float32")
    file["precision"] = precision
    kept = Manifest.from_dict(fields).engines["encoder"].files[0]
    assert (kept.precision, kept.inputs[0].dtype) == (precision, "float32")
    file |= {"format": "tflite", "signature": "encode"}
    with pytest.raises(EdgeageError, match="ONNX files with float32 I/O"):
        Manifest.from_dict(fields)


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("refinement.embedder", "d" * 64, "of another network"),
        ("refinement.embedder", None, "sha256"),
        ("lineage.onnx", {}, "of another network"),
        ("engines.refine.inputs.2.shape", [1, 100], "profile asks for"),
        ("engines.refine_batch.outputs.0.name", "slope", "profile asks for"),
    ],
)
def test_refine_engines_fit_their_bundle(refining_bundle: Path, where: str, value: Any, said: str) -> None:
    fields = json.loads((refining_bundle / "manifest.json").read_text())
    assert Manifest.from_dict(fields).engines["refine_batch"].inputs[0].shape == (REFINE_BATCH, 100)
    change(fields, where, value)
    for engine in fields["engines"].values():  # files as their engine says, so that this is not the fault
        for side in ("inputs", "outputs"):
            for port, stored in zip(engine[side], engine["files"][0][side], strict=True):
                stored["shape"] = port["shape"]
    with pytest.raises(EdgeageError, match=said):
        Manifest.from_dict(fields)


@pytest.mark.parametrize(("name", "batch"), [("refine", 1), ("refine_batch", 4)])
def test_the_contract_of_refine_engines(name: str, batch: int) -> None:
    inputs, outputs = engine_ports(Profile("any", 64, 100, 128))[name]
    assert [(port.name, port.shape) for port in (*inputs, *outputs)] == [
        ("z", (batch, 100)),
        ("y", (batch, 6)),
        ("target", (batch, 128)),
        ("image", (batch, 3, 64, 64)),
        ("gradient", (batch, 100)),
        ("embedding", (batch, 128)),
    ]


@pytest.mark.parametrize("name", ["name", "profile", "engines", "files", "licence", "schema"])
def test_a_missing_field_is_named(fields: dict[str, Any], name: str) -> None:
    del fields[name]
    with pytest.raises(EdgeageError, match=name):
        Manifest.from_dict(fields)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "a/../b", "..", ".", "a//b", "a\\b", "C:x", "a/", "", 3, "a\0"]
)
def test_paths_out_of_the_bundle_are_refused(path: Any) -> None:
    with pytest.raises(EdgeageError):
        safe_path(path)
