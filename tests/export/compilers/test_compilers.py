"""Real compilers over the shipped engines, and over files that they must object to."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeage.calibration.observers import observe
from edgeage.calibration.quantization import decide
from edgeage.errors import EdgeageError
from edgeage.export.compilers import gates, tensorrt_rtx, vela
from edgeage.export.engines import TRAITS
from edgeage.export.float16 import to_float16
from edgeage.export.lint import lint
from edgeage.export.onnx_graph import clean
from edgeage.export.qdq import to_fusable_qdq, to_qdq
from edgeage.export.tflite import ops
from edgeage.export.tflite.lowering import to_tflite
from edgeage.export.tflite.writer import Writer
from edgeage.runtime.bench import xnnpack

ENGINES = Path(__file__).parents[3] / "models/edge64.agebundle/engines"
# "SKIPPED" has these reasons written out at the end of a run (tests/conftest.py)
needs_vela = pytest.mark.skipif(
    vela.executable() is None, reason=f"SKIPPED, ethos-u-vela is not installed; {vela.INSTALL}"
)
needs_rtx = pytest.mark.skipif(
    not tensorrt_rtx.available(),
    reason=f"SKIPPED, TensorRT for RTX is not installed; {tensorrt_rtx.INSTALL}",
)


WHOLE = [name for name, traits in TRAITS.items() if not traits.is_gradient]


def shipped(engine: str, flavour: str) -> bytes:
    return (ENGINES / f"{engine}.{flavour}").read_bytes()


def convolution(behind: list[onnx.NodeProto] | None = None, **constants: np.ndarray) -> onnx.ModelProto:
    """x [1, 3, 8, 8] -> conv 3x3 (4) -> `behind`, which reads "conv" and `constants`, makes "out"."""
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["conv"], kernel_shape=[3, 3], pads=[1] * 4)]
    nodes += behind or [helper.make_node("Relu", ["conv"], ["out"])]
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [1, 4, 8, 8])],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in {"w": weight, "b": np.ones(4), **constants}.items()
        ],
    )
    return clean(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


FEEDS = [{"x": np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)}]


def activations_between_convolutions(code: int, version: int, count: int) -> bytes:
    """int8: `count` times convolution 1x1 and activation, and a last convolution."""
    schema, writer, scale = ops.schema, Writer(), np.float32(0.02)

    def tensor(name: str) -> int:
        return writer.activation(name, (1, 8, 8, 4), np.int8, scale)

    def convolve(x: int, name: str) -> int:
        weight = np.random.default_rng(len(name)).integers(-127, 128, (4, 1, 1, 4)).astype(np.int8)
        weights = writer.constant(f"{name}:weight", weight, np.full(4, 0.01, np.float32))
        bias = writer.constant(f"{name}:bias", np.arange(4, dtype=np.int32), np.full(4, 2e-4, np.float32))
        out, options = tensor(name), schema.Conv2DOptionsT()
        options.strideW = options.strideH = options.dilationWFactor = options.dilationHFactor = 1
        writer.operator(schema.BuiltinOperator.CONV_2D, 3, [x, weights, bias], [out], options)
        return out

    x = last = tensor("x")
    for index in range(count):
        inputs, out = [convolve(last, f"conv{index}")], tensor(f"activation{index}")
        if code == schema.BuiltinOperator.PRELU:
            slopes = np.array([[[1, 2, 3, 4 + index]]], np.int8)
            inputs.append(writer.constant(f"slopes{index}", slopes, np.array([0.1], np.float32)))
        writer.operator(code, version, inputs, [out])
        last = out
    writer.finish("main", {"x": x}, {"out": convolve(last, "last")})
    return writer.file.pack()


def depth_to_space() -> bytes:
    """int8: the operator that XNNPACK takes and NPUs do not."""
    writer, scale, options = Writer(), np.float32(0.02), ops.schema.DepthToSpaceOptionsT()
    x = writer.activation("x", (1, 8, 8, 4), np.int8, scale)
    out = writer.activation("out", (1, 16, 16, 1), np.int8, scale)
    options.blockSize = 2
    writer.operator(ops.schema.BuiltinOperator.DEPTH_TO_SPACE, 2, [x], [out], options)
    writer.finish("main", {"x": x}, {"out": out})
    return writer.file.pack()


def with_l2_normalisation() -> bytes:
    """An int8 file with the operator that NPU compilers leave to the CPU."""
    writer, scale = Writer(), np.float32(1 / 128)
    x = writer.activation("x", (1, 8), np.int8, scale)
    out = writer.activation("out", (1, 8), np.int8, scale)
    code = ops.schema.BuiltinOperator.L2_NORMALIZATION
    writer.operator(code, 2, [x], [out], ops.schema.L2NormOptionsT())
    writer.finish("main", {"x": x}, {"out": out})
    return writer.file.pack()


@pytest.mark.parametrize("engine", WHOLE)
@pytest.mark.parametrize("flavour", ["int8.tflite", "int8-float-io.tflite"])
def test_xnnpack_takes_every_shipped_engine_in_one_piece(engine: str, flavour: str) -> None:
    found = xnnpack.delegation(shipped(engine, flavour))
    assert found.operators >= 10
    assert (found.partitions, found.left) == (1, {})


def test_an_operator_that_xnnpack_leaves_is_named_and_refused() -> None:
    found = xnnpack.delegation(with_l2_normalisation())
    assert found.left == {"L2_NORMALIZATION": 1}
    files = {flavour: with_l2_normalisation() for flavour in ("int8.tflite", "int8-float-io.tflite")}
    with pytest.raises(EdgeageError, match=r"splits embedder\.int8\.tflite .* leaves 1 L2_NORMALIZATION"):
        gates.gate("embedder", files, {}, all_int8=True)


@pytest.mark.parametrize(("name", "version", "count"), [("PRELU", 1, 3), ("PRELU", 1, 1), ("RELU", 2, 2)])
def test_the_parts_that_an_activation_splits_a_file_into_are_counted(
    name: str, version: int, count: int
) -> None:
    code = getattr(ops.schema.BuiltinOperator, name)
    found = xnnpack.delegation(activations_between_convolutions(code, version, count))
    assert found == xnnpack.XnnpackReport(2 * count + 1, count + 1, {name: count})


@needs_vela
@pytest.mark.parametrize("engine", WHOLE)
def test_the_npu_takes_every_operator_of_every_shipped_engine(engine: str) -> None:
    report = vela.compile_tflite(shipped(engine, "int8.tflite"))
    assert report.accelerator == "ethos-u85-256"
    assert (report.cpu_operators, report.refused) == (0, [])
    assert report.npu_operators > 0
    assert 0 < report.milliseconds < 20


@needs_vela
@pytest.mark.parametrize("engine", WHOLE)
@pytest.mark.parametrize("accelerator", ["ethos-u55-128", "ethos-u65-512"])
def test_smaller_npus_take_every_operator_too(accelerator: str, engine: str) -> None:
    report = vela.compile_tflite(shipped(engine, "int8.tflite"), accelerator)
    assert report.accelerator == accelerator
    assert report.system.startswith(accelerator[:9].replace("-", "_").title())
    assert report.cpu_operators == 0
    assert report.off_chip_kib > 500  # at least the weights


@needs_vela
def test_vela_names_what_it_leaves_on_the_cpu() -> None:
    report = vela.compile_tflite(with_l2_normalisation())
    assert report.cpu_operators == 1
    assert any("L2_NORM" in reason for reason in report.refused)


@needs_vela
@pytest.mark.parametrize("accelerator", vela.ACCELERATORS)
def test_depth_to_space_would_fall_to_the_cpu(accelerator: str) -> None:
    report = vela.compile_tflite(depth_to_space(), accelerator)
    assert report.cpu_operators == 1
    assert "DEPTH_TO_SPACE" in report.to_dict()["refused"]
    files = {flavour: depth_to_space() for flavour in ("int8.tflite", "int8-float-io.tflite")}
    with pytest.raises(EdgeageError, match=r"leaves 1 operators of the encoder on the CPU: .*DEPTH_TO_SPACE"):
        gates.gate("encoder", files, {}, all_int8=True)


@needs_vela
def test_vela_refuses_garbage_and_unknown_accelerators() -> None:
    with pytest.raises(EdgeageError, match="vela could not compile"):
        vela.compile_tflite(b"not a model")
    with pytest.raises(EdgeageError, match="no accelerator 'ethos-u1'; choose one of ethos-u55-128"):
        vela.compile_tflite(b"", "ethos-u1")


@needs_rtx
@pytest.mark.parametrize("engine", WHOLE)
def test_tensorrt_for_rtx_parses_and_builds_every_shipped_graph(engine: str) -> None:
    report = tensorrt_rtx.build(shipped(engine, "qdq.onnx"))
    assert report.layers > 10
    assert report.plan_bytes > 100_000
    assert report.seconds < 5
    assert report.target == "SM86"
    assert "not the Jetson engine" in report.to_dict()["label"]


@needs_rtx
@pytest.mark.parametrize("flavour", ["onnx", "qdq.onnx"])
def test_tensorrt_for_rtx_builds_strongly_typed_float16(flavour: str) -> None:
    """The float graph and the Q/DQ graph of the embedder, which has the most operators."""
    model = onnx.load_from_string(shipped("embedder", flavour))
    half, wide = (
        tensorrt_rtx.build(to_float16(model).SerializeToString()),
        tensorrt_rtx.build(model.SerializeToString()),
    )
    assert half.layers > 100
    assert half.seconds < 5
    assert half.plan_bytes < wide.plan_bytes


@needs_rtx
def test_one_float32_constant_in_a_float16_graph_is_refused() -> None:
    """What the lint's rule one-float-type is for: a strongly typed network casts nothing by itself."""
    model = to_float16(convolution([helper.make_node("Add", ["conv", "b4"], ["out"])], b4=np.ones(1)))
    assert tensorrt_rtx.build(model.SerializeToString()).layers > 2
    constant = next(one for one in model.graph.initializer if one.name == "b4.float16")
    constant.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), constant.name))
    assert "one-float-type" in {one.rule for one in lint(model)}
    with pytest.raises(EdgeageError, match="TensorRT for RTX refuses the model at Add"):
        tensorrt_rtx.build(model.SerializeToString())


@needs_rtx
def test_a_quantised_bias_is_refused_with_its_node() -> None:
    """What onnxruntime's own quantiser writes, and the reason why our biases stay float."""
    model = convolution()
    twin = to_qdq(decide(model, observe(model, FEEDS)))
    assert tensorrt_rtx.build(twin.SerializeToString()).layers > 5
    conv = next(node for node in twin.graph.node if node.op_type == "Conv")
    twin.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.int32), "codes"))
    twin.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "unit"))
    position = list(twin.graph.node).index(conv)
    bias = helper.make_node("DequantizeLinear", ["codes", "unit"], ["bias"], name="int32_bias")
    twin.graph.node.insert(position, bias)
    twin.graph.node[position + 1].input[2] = "bias"
    with pytest.raises(EdgeageError, match=r"refuses the model at int32_bias: .*has type Int32") as caught:
        tensorrt_rtx.build(twin.SerializeToString())
    assert "\n" not in str(caught.value)


@needs_rtx
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"garbage", "refuses the model at .*Failed to parse"),
        (b"", "could not build it: .*at least one output"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(
    model: bytes, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EdgeageError, match=reason) as caught:
        tensorrt_rtx.build(model)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@needs_rtx
def test_a_compiler_that_hangs_or_dies_is_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_rtx, "TIME_LIMIT", 0.01)
    with pytest.raises(EdgeageError, match="did not end within"):
        tensorrt_rtx.build(b"garbage")
    monkeypatch.undo()
    monkeypatch.setattr(tensorrt_rtx.sys, "executable", "/bin/false")
    with pytest.raises(EdgeageError, match="ended with code 1: it said nothing"):
        tensorrt_rtx.build(b"garbage")


@needs_rtx
def test_a_build_is_a_process_of_its_own() -> None:
    """Here, a builder freed by the garbage collector while another one logs would wait for ever."""
    tensorrt_rtx.build(shipped("encoder", "qdq.onnx"))
    assert "tensorrt_rtx" not in sys.modules


@needs_vela
@needs_rtx
def test_a_good_engine_passes_every_gate() -> None:
    model = convolution()
    decided = decide(model, observe(model, FEEDS))
    files = {
        "int8.tflite": to_tflite(decided, "main", "int8"),
        "int8-float-io.tflite": to_tflite(decided, "main", "float32"),
        "qdq.onnx": to_qdq(decided).SerializeToString(),
        "qdq-float16.onnx": to_float16(to_fusable_qdq(decided)).SerializeToString(),
    }
    reports = gates.gate("encoder", files, {"float16.onnx": "asked to"}, all_int8=True)
    assert reports["vela"]["cpu_operators"] == 0
    assert reports["xnnpack int8.tflite"]["partitions"] == 1
    assert reports["tensorrt-rtx qdq.onnx"]["plan_bytes"] > 0
    assert reports["tensorrt-rtx qdq-float16.onnx"]["plan_bytes"] > 0
    assert reports["tensorrt-rtx float16.onnx"] == {"not run": "asked to"}


def test_a_compiler_that_is_absent_is_not_run_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vela, "executable", lambda: None)
    monkeypatch.setattr(tensorrt_rtx, "available", lambda: False)
    flavours = ("int8.tflite", "int8-float-io.tflite", "qdq.onnx")
    reports = gates.gate(
        "encoder",
        {flavour: shipped("encoder", flavour) for flavour in flavours},
        dict.fromkeys(gates.ONNX[1:], "asked to"),
        all_int8=True,
    )
    assert "pip install" in reports["vela"]["not run"]
    assert "pip install" in reports["tensorrt-rtx qdq.onnx"]["not run"]
    with pytest.raises(EdgeageError, match="ethos-u-vela is not installed"):
        vela.compile_tflite(b"")
    with pytest.raises(EdgeageError, match="TensorRT for RTX is not installed"):
        tensorrt_rtx.build(b"")
