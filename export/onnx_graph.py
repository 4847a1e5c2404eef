"""A torch network as a canonical float ONNX graph, compared with torch at every step.

Canonical means: opset 18, static shapes, float32, only the operators of `OPERATORS`, batch norm folded
away, dense layers as Gemm with transB=1, Unsqueeze/Flatten/Squeeze written as Reshape, PReLU as sums of what
INT8 kernels fuse, no metadata (the exporter stores source paths there), so that the same weights always
give the same bytes.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxsim
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeage.calibration.graph import GraphView, attribute, rectifier, zero_padding
from edgeage.calibration.observers import session
from edgeage.errors import EdgeageError
from edgeage.export.prelu import write_prelus

if TYPE_CHECKING:
    import torch

OPSET = 18
# The closed set: what every writer knows. "Clip" only to 0..6 or as a mask, "ReduceMean" only over height and
# width, "Pad" only with zeros around images.
OPERATORS = frozenset(
    {"Conv", "Gemm", "LeakyRelu", "Relu", "Clip", "Tanh", "Add", "Sub", "Mul", "Concat"}
    | {"Reshape", "Resize", "DepthToSpace", "MaxPool", "AveragePool", "ReduceMean", "Pad"}
)
# Float32 sums in another order: relative to the largest output, measured 1e-6 on the deepest network.
TOLERANCE = 1e-4

Arrays = Mapping[str, NDArray[np.float32]]


def export_onnx(
    network: torch.nn.Module,
    inputs: Mapping[str, tuple[int, ...]],
    output: str,
    keep: Callable[[onnx.ModelProto], None] | None = None,
) -> onnx.ModelProto:
    """Canonical float graph of `network` (in eval mode).

    Args:
        inputs: shape by input name, in the order of the network's arguments.
        output: name of the one output.
        keep: is given the graph as torch's exporter wrote it, before anything is simplified.

    Raises EdgeageError if the graph has an operator outside the closed set or a step changes the numbers.
    """
    feeds = probe(inputs)
    wanted = _run_torch(network, feeds)
    model = trace(network, inputs, output)
    if keep is not None:
        exported = onnx.ModelProto()
        exported.CopyFrom(model)
        keep(exported)
    compare(model, feeds, wanted, "the ONNX export")
    with _silence(), redirect_stdout(io.StringIO()):
        # check_n=0 would report success without having run anything
        model, same = onnxsim.simplify(model, check_n=1)
    if not same:
        raise EdgeageError("onnxsim changed the network's output; report this graph")
    model = canonicalise(model)
    compare(model, feeds, wanted, "canonicalisation")
    check_operators(model)
    return model


def canonicalise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold, rename operators to their canonical form, drop metadata and what is unused."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _fold_batch_norm(result)
    _use_canonical_operators(result)
    write_prelus(result)
    return clean(result)


def clean(model: onnx.ModelProto, opset: int = OPSET) -> onnx.ModelProto:
    """The graph with fresh shapes, without unused constants and without metadata, named by its outputs.

    Raises EdgeageError for a dynamic shape: engines are built for one.
    """
    graph = model.graph
    for port in [*graph.input, *graph.output]:
        for axis, size in enumerate(port.type.tensor_type.shape.dim):
            if size.dim_value < 1:
                what = f"'{size.dim_param}'" if size.dim_param else "unknown"
                raise EdgeageError(
                    f"{port.name} has a dynamic shape (axis {axis} is {what}); engines need static ones, "
                    "export the graph with a fixed size"
                )
    used = {name for node in graph.node for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    nodes = []
    for node in graph.node:
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        bare.ClearField("metadata_props")
        bare.ClearField("doc_string")
        bare.name = f"{node.op_type}:{node.output[0]}"
        nodes.append(bare)
    for tensor in constants:
        tensor.ClearField("doc_string")
    ports = [
        onnx.helper.make_tensor_value_info(
            port.name, port.type.tensor_type.elem_type, [d.dim_value for d in port.type.tensor_type.shape.dim]
        )
        for port in [*graph.input, *graph.output]
    ]
    count = len(graph.input)
    bare_graph = onnx.helper.make_graph(nodes, "network", ports[:count], ports[count:], constants)
    result = onnx.helper.make_model(
        bare_graph,
        producer_name="edgeage",
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=10,  # the newest that onnxruntime 1.31 and TensorRT 10.3 both read
    )
    result = onnx.shape_inference.infer_shapes(result, strict_mode=True, data_prop=True)
    onnx.checker.check_model(result, full_check=True)
    return result


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The same network, tensor names and weights for another static batch size."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for port in [*graph.input, *graph.output]:
        port.type.tensor_type.shape.dim[0].dim_value = batch
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in shapes:
            value = numpy_helper.to_array(tensor).copy()
            value[0] = batch
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return clean(result)


def check_operators(model: onnx.ModelProto) -> None:
    """Raises EdgeageError naming every operator that the INT8 writers do not know."""
    view = GraphView(model)
    unknown = []
    for node in view.nodes:
        known = node.op_type in OPERATORS
        if node.op_type == "Clip":
            known = rectifier(node, view.constants) is not None
        if node.op_type == "ReduceMean":
            known = tuple(view.constants[node.input[1]].tolist()) in ((2, 3), (-2, -1), (-1, -2))
        if node.op_type == "Resize":
            known = _is_nearest_enlargement(view, node)
        if node.op_type == "Pad":
            known = zero_padding(view, node) is not None
        if node.op_type == "DepthToSpace":
            known = attribute(node, "mode", "DCR") == "CRD"
        if not known:
            unknown.append(f"{node.op_type} ({node.output[0]})")
    if unknown:
        raise EdgeageError(
            f"the network has operators that INT8 engines do not know: {', '.join(unknown)}; "
            f"build it from {', '.join(sorted(OPERATORS))}"
        )


def compare(model: onnx.ModelProto, feeds: Arrays, wanted: NDArray[np.float32], step: str) -> float:
    """Largest difference of the first output to `wanted`, as a share of its largest value.

    Raises EdgeageError beyond `TOLERANCE`.
    """
    got = session(model).run(None, dict(feeds))[0]
    difference = float(np.abs(got - wanted).max() / max(float(np.abs(wanted).max()), 1e-6))
    if not difference <= TOLERANCE:
        raise EdgeageError(
            f"{step} changed the network's output by {difference:.1e} of its range (allowed {TOLERANCE:.0e})"
        )
    return difference


def probe(inputs: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """Fixed random inputs in [-1, 1] to compare the steps with."""
    random = np.random.default_rng(0)
    return {name: random.uniform(-1, 1, shape).astype(np.float32) for name, shape in inputs.items()}


def _run_torch(network: torch.nn.Module, feeds: Arrays) -> NDArray[np.float32]:
    import torch

    if network.training:
        raise EdgeageError("the network is in training mode; call eval() before exporting it")
    with torch.no_grad():
        output = network(*(torch.from_numpy(value) for value in feeds.values()))
    result: NDArray[np.float32] = output.numpy()
    if not np.isfinite(result).all():
        raise EdgeageError(
            "the network's output is not finite: this checkpoint diverged; export one from an earlier step"
        )
    return result


def trace(network: torch.nn.Module, inputs: Mapping[str, tuple[int, ...]], output: str) -> onnx.ModelProto:
    """The graph as torch's exporter writes it. Args: as `export_onnx`."""
    import torch

    feeds = probe(inputs)
    with _silence():
        program = torch.onnx.export(
            network,
            tuple(torch.from_numpy(value) for value in feeds.values()),
            input_names=list(feeds),
            output_names=[output],
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise EdgeageError("torch's ONNX exporter returned nothing; use torch 2.13")
    model: onnx.ModelProto = program.model_proto
    opsets = {item.domain: item.version for item in model.opset_import}
    if opsets.get("", 0) != OPSET:
        # the exporter has been seen to return another opset than asked for
        raise EdgeageError(f"the ONNX exporter returned opset {opsets}, expected {OPSET}; use torch 2.13")
    return model


@contextmanager
def _silence() -> Iterator[None]:
    """Hold back what the exporter says about itself and its friends, not about the network."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    with warnings.catch_warnings():
        # torch 2.13 calls its own deprecated check while it copies the traced program
        own_check = r".*isinstance\(treespec, LeafSpec\)"
        warnings.filterwarnings("ignore", message=own_check, category=FutureWarning)
        registration.setLevel(logging.ERROR)  # "torchvision is not installed": it is not needed
        try:
            yield
        finally:
            registration.setLevel(level)


def _fold_batch_norm(model: onnx.ModelProto) -> None:
    """Fold the batch norms that the exporter leaves: behind a Gemm, perhaps with a Reshape between."""
    graph = model.graph
    while True:
        view = GraphView(model)
        norm = next((node for node in view.nodes if node.op_type == "BatchNormalization"), None)
        if norm is None:
            return
        dense = view.producer.get(norm.input[0])
        repeat = 1
        if dense is not None and dense.op_type == "Reshape":
            repeat = int(np.prod(view.shapes[dense.output[0]][2:]))
            dense = view.producer.get(dense.input[0])
        foldable = dense is not None and dense.op_type == "Gemm" and attribute(dense, "transB", 0)
        if dense is None or not foldable or not _alone(view, dense, norm):
            raise EdgeageError(
                f"batch norm {norm.output[0]} cannot be folded: it does not follow a dense or "
                "convolution layer that nothing else reads"
            )
        gamma, beta, mean, variance = (view.constants[name].astype(np.float64) for name in norm.input[1:5])
        factor = np.repeat(gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5)), repeat)
        offset = np.repeat(beta, repeat) - np.repeat(mean, repeat) * factor
        weight = view.constants[dense.input[1]] * factor[:, None]
        old = view.constants[dense.input[2]] if len(dense.input) > 2 else np.zeros(len(weight))
        _set_constants(graph, _node(graph, dense), weight, old * factor + offset)
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == norm.output[0]:
                    node.input[index] = norm.input[0]
        graph.node.remove(_node(graph, norm))


def _node(graph: onnx.GraphProto, node: onnx.NodeProto) -> onnx.NodeProto:
    """The graph's own node (a view holds copies)."""
    own: onnx.NodeProto = next(own for own in graph.node if own.output[0] == node.output[0])
    return own


def _alone(view: GraphView, dense: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
    """Whether the way from `dense` to `norm` has no other reader."""
    way = {dense.output[0], norm.input[0]}
    return all(len(view.consumers[name]) == 1 and name not in view.outputs for name in way)


def _set_constants(
    graph: onnx.GraphProto, node: onnx.NodeProto, weight: NDArray[np.float64], bias: NDArray[np.float64]
) -> None:
    """Give a weighted node its own float32 constants, named after its output."""
    names = [f"{node.output[0]}.weight", f"{node.output[0]}.bias"]
    for name, value in zip(names, (weight, bias), strict=True):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    del node.input[1:]
    node.input.extend(names)


def _use_canonical_operators(model: onnx.ModelProto) -> None:
    view = GraphView(model)
    graph = model.graph
    for node in graph.node:
        output = node.output[0]
        if node.op_type in ("Unsqueeze", "Squeeze", "Flatten", "Reshape"):
            shape = np.array(view.shapes[output], dtype=np.int64)
            name = f"{output}.shape"
            graph.initializer.append(numpy_helper.from_array(shape, name))
            node.CopyFrom(onnx.helper.make_node("Reshape", [node.input[0], name], [output]))
        elif node.op_type == "GlobalAveragePool":
            name = f"{output}.axes"
            graph.initializer.append(numpy_helper.from_array(np.array([2, 3], dtype=np.int64), name))
            node.CopyFrom(onnx.helper.make_node("ReduceMean", [node.input[0], name], [output], keepdims=1))
        elif node.op_type == "Gemm":
            plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
            if not plain or attribute(node, "transA", 0) or node.input[1] not in view.constants:
                raise EdgeageError(f"dense layer {output} is not x @ W + b, W constant; use nn.Linear")
            if not attribute(node, "transB", 0):
                weight = view.constants[node.input[1]].T.astype(np.float64)
                bias = view.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight))
                _set_constants(graph, node, weight, bias)
            node.CopyFrom(onnx.helper.make_node("Gemm", list(node.input), [output], transB=1))


def _is_nearest_enlargement(view: GraphView, node: onnx.NodeProto) -> bool:
    given, made = view.shapes[node.input[0]], view.shapes[node.output[0]]
    whole = all(m % g == 0 for g, m in zip(given, made, strict=True)) and given[:2] == made[:2]
    return (
        whole
        and attribute(node, "mode", "nearest") == "nearest"
        and attribute(node, "nearest_mode") == "floor"
        and attribute(node, "coordinate_transformation_mode") == "asymmetric"
    )
