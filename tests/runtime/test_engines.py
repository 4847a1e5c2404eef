"""Engines: layouts, codes, choice of file, refusals; LiteRT on a hand-made int8 file."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, checker, helper, numpy_helper

from edgeage.errors import EdgeageError
from edgeage.frames import FRAMES
from edgeage.profile import Profile
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.engines import onnxruntime as onnxruntime_engine
from edgeage.runtime.engines import open_engine, packages
from edgeage.runtime.engines.packages import require, version_numbers
from edgeage.runtime.engines.ports import dequantize, from_file, quantize, to_file
from edgeage.runtime.manifest import EngineEntry, EngineFile, FilePort, Manifest, Port, engine_ports

reals = hnp.arrays(np.float32, (7,), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False))


@given(reals, st.floats(2**-13, 8, width=32), st.integers(-128, 127))
def test_quantize_takes_the_nearest_code(values: np.ndarray, scale: float, zero: int) -> None:
    codes = quantize(values, scale, zero)
    back = dequantize(codes, scale, zero)
    inside = (codes > -128) & (codes < 127)
    assert np.all(
        np.abs(back - values)[inside] <= scale * (0.5 + 1e-5 * np.abs(values[inside]) / scale + 1e-5)
    )
    assert np.array_equal(quantize(back, scale, zero), codes)


def test_halves_go_to_even_and_ends_saturate() -> None:
    values = np.array([0.25, 0.75, -0.25, 1e9, -1e9], np.float32)
    assert quantize(values, 0.5, 0).tolist() == [0, 2, 0, 127, -128]


def test_image_ports_change_layout_and_others_do_not() -> None:
    ports = Port("image", (1, 3, 2, 4)), Port("z", (1, 5))
    stored_ports = FilePort("image", (1, 2, 4, 3), "float32"), FilePort("z", (1, 5), "float32")
    file = EngineFile("x", "tflite", "float32", "float32", "NHWC", "x", stored_ports, stored_ports)
    feeds = {
        "image": np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4),
        "z": np.ones((1, 5), np.float32),
    }
    stored = to_file(feeds, ports, file)
    assert [stored[port.name].shape for port in stored_ports] == [(1, 2, 4, 3), (1, 5)]
    assert stored["image"].flags.c_contiguous
    back = from_file(stored, ports, file)
    assert all(np.array_equal(back[name], feeds[name]) for name in feeds)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("1.31.0", (1, 31, 0)), ("1.9.2+cu12", (1, 9, 2)), ("2.0rc1", (2, 0)), ("x", ())],
)
def test_versions_are_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(text) == numbers
    assert version_numbers("1.9") < version_numbers("1.31")  # as texts they compare the other way


@pytest.mark.parametrize(
    ("version", "good"), [("1.24.1", False), ("1.4", False), ("1.31.0", True), ("2.0", True)]
)
def test_old_onnxruntime_is_refused(monkeypatch: pytest.MonkeyPatch, version: str, good: bool) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda name: version)
    assert (packages.problem("onnxruntime") is None) == good


@pytest.mark.parametrize("engine", ["litert", "tflite-runtime", "onnxruntime"])
def test_an_engine_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, built_bundle: Path, engine: str
) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda name: None)
    with pytest.raises(EdgeageError, match="not installed") as caught:
        require(engine)
    assert f'pip install "edgeage[{engine}]"' in str(caught.value)


def test_tflite_runtime_says_that_it_needs_numpy_1(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"tflite-runtime": "2.14.0", "numpy": "2.4.6"}
    monkeypatch.setattr(packages, "installed_version", versions.get)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(EdgeageError, match="numpy<2"):
        require("tflite-runtime")


def test_self_test_is_the_one_op_it_says() -> None:
    scale, zero = np.asarray(np.float16(0.5)), np.asarray(np.int8(0))
    weights = [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "o")]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT16, [8]),
        helper.make_tensor_value_info("y", TensorProto.INT8, [8]),
    ]
    node = helper.make_node("QuantizeLinear", ["x", "s", "o"], ["y"])
    graph = helper.make_graph([node], "q", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    checker.check_model(model)
    assert base64.b64decode(onnxruntime_engine._SELF_TEST) == model.SerializeToString()
    onnxruntime_engine.self_test()


def test_a_failed_self_test_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_engine, "_SELF_TEST_OUTPUT", [0] * 8)
    onnxruntime_engine.self_test.cache_clear()
    with pytest.raises(EdgeageError, match="self-test"):
        onnxruntime_engine.self_test()


def test_float32_makes_all_groups_with_the_batch_1_file(built_bundle: Path) -> None:
    bundle = open_bundle(built_bundle)
    batch = open_engine(bundle, "generator_all", "onnxruntime", "int8")
    repeated = open_engine(bundle, "generator_all", "onnxruntime", "float32")
    assert "run 6 times" in repeated.description
    assert (repeated.inputs, repeated.outputs) == (batch.inputs, batch.outputs)
    random = np.random.default_rng(0)
    feeds = {"z": random.normal(size=(6, 100)).astype(np.float32), "y": np.eye(6, dtype=np.float32)}
    np.testing.assert_allclose(repeated.run(feeds)["image"], batch.run(feeds)["image"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("encoder", {"engine": "litert"}, "no tflite int8 file for the encoder"),
        ("generator_all", {"engine": "litert"}, "no tflite int8 file for the generator"),
        ("embedder", {"engine": "onnxruntime"}, "it has: none"),
        ("encoder", {"engine": "litter"}, "unknown engine 'litter'"),
        ("encoder", {"engine": "onnxruntime", "precision": "int4"}, "unknown precision"),
        ("encoder", {"engine": "onnxruntime", "io": "int8"}, "choose another"),
        ("encoder", {"engine": "onnxruntime", "threads": 0}, "threads"),
    ],
)
def test_what_cannot_be_opened(built_bundle: Path, name: str, options: dict, said: str) -> None:
    with pytest.raises(EdgeageError, match=said):
        open_engine(open_bundle(built_bundle), name, **options)


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "takes image"),
        ({"image": np.zeros((1, 3, 64, 64))}, "float32"),
        ({"image": np.zeros((1, 64, 64, 3), np.float32)}, "float32"),
        ({"image": np.full((1, 3, 64, 64), np.nan, np.float32)}, "NaN"),
    ],
)
def test_wrong_feeds(built_bundle: Path, feeds: dict, said: str) -> None:
    engine = open_engine(open_bundle(built_bundle), "encoder", "onnxruntime")
    with pytest.raises(EdgeageError, match=said):
        engine.run(feeds)


# LiteRT, on a file written by hand: int8 NHWC image -> RESHAPE -> embedding ----------------------

FLAT = Profile("flat", image_size=4, embedding_size=48)
SCALE, ZERO = 1 / 64, 5


def reshape_file() -> bytes:
    """TFLite: embedding[1, 48] = the NHWC image's codes, signature "embed"."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, shape: list[int], buffer: int, kind: int, quantized: bool) -> schema.TensorT:
        made = schema.TensorT()
        made.name, made.shape, made.buffer, made.type = name, shape, buffer, kind
        if quantized:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [SCALE], [ZERO]
        return made

    def named(name: str, index: int) -> schema.TensorMapT:
        made = schema.TensorMapT()
        made.name, made.tensorIndex = name, index
        return made

    int8, int32 = schema.TensorType.INT8, schema.TensorType.INT32
    graph, op = schema.SubGraphT(), schema.OperatorT()
    graph.tensors = [
        tensor("in", [1, 4, 4, 3], 0, int8, True),
        tensor("shape", [2], 1, int32, False),
        tensor("out", [1, 48], 0, int8, True),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [op]
    op.opcodeIndex, op.inputs, op.outputs = 0, [0, 1], [2]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    code.version = 1
    empty, shape = schema.BufferT(), schema.BufferT()
    shape.data = np.frombuffer(np.array([1, 48], np.int32).tobytes(), np.uint8)
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "embed", 0
    signature.inputs, signature.outputs = [named("image", 0)], [named("embedding", 2)]
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers, model.signatureDefs = [empty, shape], [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def litert_bundle(
    folder: Path, scale: float = SCALE, signature: str = "embed", content: bytes = b""
) -> Bundle:
    content = content or reshape_file()
    name = "engines/embedder.int8.tflite"
    inputs, outputs = engine_ports(FLAT)["embedder"]
    stored = (
        FilePort("image", (1, 4, 4, 3), "int8", scale, ZERO),
        FilePort("embedding", (1, 48), "int8", SCALE, ZERO),
    )
    file = EngineFile(name, "tflite", "int8", "int8", "NHWC", signature, stored[:1], stored[1:])
    manifest = Manifest(
        name="flat",
        edgeage_version="0.1.0",
        profile=FLAT,
        frame_keypoints=FRAMES["utkface"],
        engines={"embedder": EngineEntry(inputs, outputs, (file,))},
        refinement={"steps": 0},
        files={name: hashlib.sha256(content).hexdigest()},
        lineage={},
        tools={},
        quality={},
        licence={},
        data={},
    )
    tiny_bundle.write(folder, manifest, {name: content})
    return open_bundle(folder)


def test_litert_runs_int8_nhwc_behind_the_contract(tmp_path: Path) -> None:
    engine = open_engine(litert_bundle(tmp_path), "embedder", "litert")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 4, 4)).astype(np.float32)
    embedding = engine.run({"image": image})["embedding"]
    expected = dequantize(quantize(image.transpose(0, 2, 3, 1).reshape(1, 48), SCALE, ZERO), SCALE, ZERO)
    assert np.array_equal(embedding, expected)
    assert embedding.dtype == np.float32
    assert "ai-edge-litert" in engine.description


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scale": 1 / 63}, "with scale"),
        ({"signature": "encode"}, "it has: embed"),
        ({"content": b"not a model"}, "cannot load"),
    ],
)
def test_litert_refuses_what_the_manifest_does_not_say(tmp_path: Path, change: dict, said: str) -> None:
    with pytest.raises(EdgeageError, match=said):
        open_engine(litert_bundle(tmp_path, **change), "embedder", "litert")


def test_onnxruntime_refuses_a_file_that_is_no_model() -> None:
    with pytest.raises(EdgeageError, match="cannot load poem"):
        onnxruntime_engine.open_session(b"roses", 1, "poem")
