"""A bundle of tiny ONNX engines with known answers, for tests of the runtime.

The encoder projects the image, averaged to 8x8, on smooth waves; the generator puts them together again
and adds a brightness per group. So G(E(x), y) is a blurred x, brighter or darker. The embedder reads the
8x8 cells through a fixed random matrix; the refine engines know the gradient of the squared distance.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from edgeage.frames import FRAMES
from edgeage.profile import Profile
from edgeage.runtime.manifest import EngineEntry, EngineFile, FilePort, Manifest, engine_ports

PROFILE = Profile("tiny")
CELLS = 8
# What each group adds to the image in [-1, 1]; the third is nearest to a photo as it is.
BRIGHTNESS = np.array([-0.3, -0.15, 0.0, 0.15, 0.3, 0.45], np.float32)
INPUT_SCALE = 1 / 128


def _waves() -> np.ndarray:
    """Orthonormal columns [3 * 8 * 8, 100]: the smoothest cosine patterns of each colour."""
    steps = (np.arange(CELLS) + 0.5) * np.pi / CELLS
    wave = np.cos(np.arange(CELLS)[:, None] * steps) * np.sqrt(2 / CELLS)
    wave[0] /= np.sqrt(2)
    planes = np.einsum("ay,bx->abyx", wave, wave).reshape(-1, CELLS * CELLS)
    smooth = np.argsort(np.add.outer(np.arange(CELLS), np.arange(CELLS)).ravel(), kind="stable")
    columns = np.stack([np.kron(np.eye(3)[c], planes[k]) for k in smooth for c in range(3)], axis=1)
    return columns[:, : PROFILE.latent_size].astype(np.float32)


def _model(nodes: list, weights: dict[str, np.ndarray], ports: tuple) -> bytes:
    inputs, outputs = (
        [helper.make_tensor_value_info(port.name, TensorProto.FLOAT, port.shape) for port in side]
        for side in ports
    )
    initializers = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def encoder(quantized: bool) -> bytes:
    nodes, weights, source = [], {"waves": _waves()}, "image"
    if quantized:  # the image's own 8 bits, as in a Q/DQ file
        weights |= {"scale": np.float32(INPUT_SCALE), "zero": np.int8(0)}
        weights = {name: np.asarray(value) for name, value in weights.items()}
        nodes.append(helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["codes"]))
        nodes.append(helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["real"]))
        source = "real"
    side = PROFILE.image_size // CELLS
    nodes += [
        helper.make_node("AveragePool", [source], ["cells"], kernel_shape=[side] * 2, strides=[side] * 2),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        helper.make_node("MatMul", ["flat", "waves"], ["z"]),
    ]
    return _model(nodes, weights, engine_ports(PROFILE)["encoder"])


def generator(name: str) -> bytes:
    ports = engine_ports(PROFILE)[name]
    batch, side = ports[0][0].shape[0], PROFILE.image_size // CELLS
    weights = {
        "waves": np.ascontiguousarray(_waves().T),
        "brightness": np.repeat(BRIGHTNESS[:, None], 3 * CELLS * CELLS, axis=1),
        "shape": np.array([batch, 3, CELLS, CELLS], np.int64),
        "scales": np.array([1, 1, side, side], np.float32),
        "low": np.asarray(np.float32(-1)),
        "high": np.asarray(np.float32(1)),
    }
    nodes = [
        helper.make_node("MatMul", ["z", "waves"], ["face"]),
        helper.make_node("MatMul", ["y", "brightness"], ["light"]),
        helper.make_node("Add", ["face", "light"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["cells"]),
        helper.make_node("Resize", ["cells", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Clip", ["large", "low", "high"], ["image"]),
    ]
    return _model(nodes, weights, ports)


def _embedding() -> np.ndarray:
    """Columns [3 * 8 * 8, embedding size]: what the embedder makes of the cells."""
    size = 3 * CELLS * CELLS, PROFILE.embedding_size
    return np.random.default_rng(5).normal(0, 0.1, size).astype(np.float32)


def embedder() -> bytes:
    side = PROFILE.image_size // CELLS
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[side] * 2, strides=[side] * 2),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        helper.make_node("MatMul", ["flat", "look"], ["embedding"]),
    ]
    return _model(nodes, {"look": _embedding()}, engine_ports(PROFILE)["embedder"])


def refine(name: str) -> bytes:
    """The embedding of G(z, y), and the gradient of half its squared distance to the target."""
    ports = engine_ports(PROFILE)[name]
    waves = np.ascontiguousarray(_waves().T)
    weights = {
        "waves": waves,
        "brightness": np.repeat(BRIGHTNESS[:, None], 3 * CELLS * CELLS, axis=1),
        "look": _embedding(),
        "back": np.ascontiguousarray((waves @ _embedding()).T),
    }
    nodes = [
        helper.make_node("MatMul", ["z", "waves"], ["face"]),
        helper.make_node("MatMul", ["y", "brightness"], ["light"]),
        helper.make_node("Add", ["face", "light"], ["flat"]),
        helper.make_node("MatMul", ["flat", "look"], ["embedding"]),
        helper.make_node("Sub", ["embedding", "target"], ["apart"]),
        helper.make_node("MatMul", ["apart", "back"], ["gradient"]),
    ]
    return _model(nodes, weights, ports)


def _entry(name: str, files: dict[str, str]) -> EngineEntry:
    inputs, outputs = engine_ports(PROFILE)[name]
    stored = [tuple(FilePort(p.name, p.shape, "float32") for p in side) for side in (inputs, outputs)]
    flavours = tuple(
        EngineFile(path, "onnx", precision, "float32", "NCHW", None, *stored)
        for path, precision in files.items()
    )
    return EngineEntry(inputs, outputs, flavours)


def make(folder: Path, refining: bool = False) -> Manifest:
    """Write the bundle into `folder` and give its manifest; `refining` adds all that refinement needs."""
    contents = {
        "engines/encoder.onnx": encoder(False),
        "engines/encoder.qdq.onnx": encoder(True),
        "engines/generator.onnx": generator("generator"),
        "engines/generator_all.qdq.onnx": generator("generator_all"),
        "MODEL_CARD.md": b"# tiny\n",
    }
    engines = {
        "encoder": {"engines/encoder.onnx": "float32", "engines/encoder.qdq.onnx": "int8"},
        "generator": {"engines/generator.onnx": "float32"},
        "generator_all": {"engines/generator_all.qdq.onnx": "int8"},
    }
    refinement, lineage = {"steps": 0, "note": "none"}, {"checkpoint": "0" * 64}
    if refining:  # the int8 flavours alone
        contents |= {
            "engines/generator.qdq.onnx": generator("generator"),
            "engines/embedder.qdq.onnx": embedder(),
            "engines/refine.qdq.onnx": refine("refine"),
            "engines/refine_batch.qdq.onnx": refine("refine_batch"),
        }
        engines["generator"]["engines/generator.qdq.onnx"] = "int8"
        for name in ("embedder", "refine", "refine_batch"):
            engines[name] = {f"engines/{name}.qdq.onnx": "int8"}
        refinement = {"steps": 3, "step": 0.05, "decay": 0.85, "method": "sign", "note": "towards the face"}
        refinement["embedder"] = "e" * 64
        lineage["onnx"] = {"embedder": "e" * 64}
    manifest = Manifest(
        name="tiny",
        edgeage_version="0.1.0",
        profile=PROFILE,
        frame_keypoints=FRAMES[PROFILE.frame],
        engines={name: _entry(name, files) for name, files in engines.items()},
        refinement=refinement,
        files={path: hashlib.sha256(data).hexdigest() for path, data in contents.items()},
        lineage=lineage,
        tools={"onnx": "1"},
        quality={"encoder": {"psnr": 30.5}},
        licence={"weights": "made for tests"},
        data={"source": "none"},
    )
    write(folder, manifest, contents)
    return manifest


def write(folder: Path, manifest: Manifest, contents: dict[str, bytes]) -> None:
    """The files of a bundle and its manifest."""
    for path, data in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest.to_dict(), indent=2))
