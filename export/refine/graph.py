"""One refinement step as one float ONNX graph: forward G and FR, and their reverse pass to z.

refine(z, y, target, image) -> (gradient, embedding) with

    L(z) = ||FR(G(z, y)) - target||^2 + pixel_weight * mean((G(z, y) - image)^2)

The gradient is that of N / (2 pixel_weight) * L, N = values of an image: then the pixel term's part is
G(z, y) - image as it is, and the identity term's factor goes into the weights that it meets first. Whoever
steps along it needs its direction alone. A preconditioner, one matrix for all faces, is multiplied into the
last dense layer and costs nothing; what comes out is then the direction of a Newton-like step. The loss is
that of raw embeddings: as good as the cosine, and its seed is one subtraction, where the cosine needs norms
that no INT8 kernel has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeage.calibration.graph import GraphView
from edgeage.errors import EdgeageError
from edgeage.export.onnx_graph import OPSET, clean
from edgeage.export.refine.even import even_out
from edgeage.export.refine.rules import Reverse

GENERATOR, EMBEDDER = "generator/", "embedder/"  # before the names of the forward networks' own tensors
MADE = f"{GENERATOR}image"  # what G makes, and FR looks at
INPUTS = ("z", "y", "target", "image")
OUTPUTS = ("gradient", "embedding")


@dataclass(frozen=True)
class Objective:
    """What a refine engine goes down.

    Attributes:
        pixel_weight: of the mean squared pixel error, above 0.
        preconditioner: [L, L], symmetric, that the gradient is multiplied by; None is the gradient itself.
    """

    pixel_weight: float
    preconditioner: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.pixel_weight) and self.pixel_weight > 0):
            raise EdgeageError(
                f"the pixel weight of a refine engine is {self.pixel_weight}; it must be above 0"
            )


def refine_graph(
    generator: onnx.ModelProto, embedder: onnx.ModelProto, objective: Objective
) -> onnx.ModelProto:
    """The refinement step of two canonical graphs (see `edgeage.export.onnx_graph`).

    Args:
        generator: (z, y) -> image.
        embedder: image -> embedding (raw).

    Raises EdgeageError if the two do not fit, and NoReverseRule, by its name, for an operator without a rule.
    """
    view = GraphView(_joined(generator, embedder))
    reverse = Reverse(view, "z")
    pixels = float(np.prod(view.shapes[MADE][1:]))
    distance = reverse.op("Sub", ["embedding", "target"], "embedding.difference")
    reverse.seed("embedding", distance, pixels / objective.pixel_weight)
    reverse.seed(MADE, reverse.op("Sub", [MADE, "image"], f"{MADE}.difference"))
    gradient = reverse.run()
    if objective.preconditioner is not None:
        gradient = _preconditioned(reverse, gradient, objective.preconditioner)
    for node in reverse.nodes:
        if gradient in node.output:
            node.output[0] = "gradient"
    nodes = _alive([*view.nodes, *reverse.nodes], set(OUTPUTS))
    constants = {**view.constants, **reverse.constants}
    like = {"target": "embedding", "image": MADE, "gradient": "z"}
    inputs, outputs = (
        {name: view.shapes[like.get(name, name)] for name in names} for names in (INPUTS, OUTPUTS)
    )
    model = _model(nodes, constants, inputs, outputs)
    return even_out(model, {node.output[0] for node in reverse.nodes})


def _preconditioned(reverse: Reverse, gradient: str, matrix: NDArray[np.float32]) -> str:
    """The gradient [1, L] times `matrix`, which goes into the dense layer that ends the reverse pass."""
    width = reverse.shape("z")[1]
    if matrix.shape != (width, width):
        raise EdgeageError(
            f"the preconditioner is {' x '.join(map(str, matrix.shape))}, the latent has {width} dimensions"
        )
    last = reverse.nodes[-1]
    if last.op_type == "Gemm" and last.output[0] == gradient and len(last.input) == 2:
        weight = reverse.constants[last.input[1]].astype(np.float64)  # [L, hidden]
        reverse.constant(last.input[1], matrix.astype(np.float64).T @ weight)
        return gradient
    return reverse.op("Gemm", [gradient, reverse.constant("preconditioner", matrix)], "z")


def _alive(nodes: list[onnx.NodeProto], read: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the tensors `read` depend on."""
    kept = []
    for node in reversed(nodes):
        if node.output[0] in read:
            kept.append(node)
            read = read | set(node.input)
    return kept[::-1]


def forward_name(tensor: str) -> tuple[str, str] | None:
    """("generator" or "embedder", name in that network's own graph) of a forward tensor, else None."""
    for prefix in (GENERATOR, EMBEDDER):
        if tensor.startswith(prefix):
            return prefix[:-1], tensor[len(prefix) :]
    return {"z": ("generator", "z"), "y": ("generator", "y"), "embedding": ("embedder", "embedding")}.get(
        tensor
    )


def _joined(generator: onnx.ModelProto, embedder: onnx.ModelProto) -> onnx.ModelProto:
    """(z, y) -> embedding: the embedder behind the generator, the names of each with a prefix."""
    g, f = GraphView(generator), GraphView(embedder)
    if sorted(g.inputs) != ["y", "z"] or g.outputs != ["image"] or f.inputs != ["image"]:
        raise EdgeageError(
            f"refinement needs a generator (z, y) -> image and an embedder of image, not "
            f"({', '.join(g.inputs)}) -> {', '.join(g.outputs)} and one of {', '.join(f.inputs)}"
        )
    if g.shapes["image"] != f.shapes["image"]:
        raise EdgeageError(
            f"the generator makes images {g.shapes['image']}, the embedder takes {f.shapes['image']}"
        )
    nodes: list[onnx.NodeProto] = []
    constants = {}
    for view, prefix, outside in (
        (g, GENERATOR, {"z": "z", "y": "y"}),
        (f, EMBEDDER, {"image": MADE, f.outputs[0]: "embedding"}),
    ):
        constants.update({f"{prefix}{name}": value for name, value in view.constants.items()})
        for node in view.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:]
            del copy.output[:]
            # an optional input that is left out has the empty name
            copy.input.extend(outside.get(name, name and f"{prefix}{name}") for name in node.input)
            copy.output.extend(outside.get(name, f"{prefix}{name}") for name in node.output)
            nodes.append(copy)
    inputs = {name: g.shapes[name] for name in ("z", "y")}
    return _model(nodes, constants, inputs, {"embedding": f.shapes[f.outputs[0]]})


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: dict[str, tuple[int, ...]],
    outputs: dict[str, tuple[int, ...]],
) -> onnx.ModelProto:
    def ports(shapes: dict[str, tuple[int, ...]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v) for k, v in shapes.items()]

    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "refine", ports(inputs), ports(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return clean(model)
