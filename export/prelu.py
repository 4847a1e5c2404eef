"""A PReLU with one slope per channel, as kernels that every INT8 engine fuses: x + relu((a - 1) x).

For x < 0 and a <= 1 the second term is (a - 1) x, so the sum is a x. A channel with a > 1 is negated first,
x' = -x, which gives -prelu(x) = x' + relu((a - 1) x'); both signs vanish into the convolutions around it.
An int8 PRELU instead would cut the graph into 28 XNNPACK partitions. Slopes that are all zero make a ReLU.

The second term is a Mul of x, or a convolution of its own with the weights (a - 1) W: its rounding then adds
to that of x instead of following it, which is worth 1.7 dB of the embedding's SQNR. It costs no more than
the Mul as long as it has few taps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeage.calibration.graph import GraphView, attribute
from edgeage.errors import EdgeageError

# Multiplications for each output of a full convolution, up to which a second one is as cheap as a Mul.
# Depthwise ones are not: kernels have no dot products for them.
FEW_TAPS = 64


def split_prelus(model: onnx.ModelProto) -> None:
    """Rewrite every PRelu of `model`, in place; equal in exact arithmetic.

    Raises EdgeageError for a PRelu that does not lie between convolutions.
    """
    view = GraphView(model)
    constants = {name: value.astype(np.float64) for name, value in view.constants.items()}
    nodes: list[onnx.NodeProto] = []
    changed: set[str] = set()

    def keep(name: str, value: NDArray[np.float64]) -> str:
        constants[name] = value
        changed.add(name)
        return name

    for node in view.nodes:
        if node.op_type != "PRelu":
            nodes.append(node)
            continue
        source, output = node.input[0], node.output[0]
        if node.input[1] in constants and not constants[node.input[1]].any():
            nodes.append(onnx.helper.make_node("Relu", [source], [output]))
            continue
        maker, readers = _neighbours(view, node)
        weight, bias = maker.input[1:3]
        slope = constants[node.input[1]].ravel()
        sign = np.where(slope > 1, -1.0, 1.0)
        keep(weight, constants[weight] * sign.reshape(-1, 1, 1, 1))
        keep(bias, constants[bias] * sign)
        for reader in readers:
            axes = (-1, 1, 1, 1) if attribute(reader, "group", 1) > 1 else (1, -1, 1, 1)
            keep(reader.input[1], constants[reader.input[1]] * sign.reshape(axes))
        gain, scaled, positive = slope - 1, f"{output}.scaled", f"{output}.positive"
        taps = int(np.prod(constants[weight].shape[1:]))
        if attribute(maker, "group", 1) == 1 and taps <= FEW_TAPS:
            second = onnx.NodeProto()
            second.CopyFrom(maker)
            second.input[1] = keep(f"{scaled}.weight", constants[weight] * gain.reshape(-1, 1, 1, 1))
            second.input[2] = keep(f"{scaled}.bias", constants[bias] * gain)
            second.output[0] = scaled
        else:
            factors = keep(f"{scaled}.gain", gain.reshape(-1, 1, 1))
            second = onnx.helper.make_node("Mul", [source, factors], [scaled])
        nodes += [second, onnx.helper.make_node("Relu", [scaled], [positive])]
        nodes.append(onnx.helper.make_node("Add", [source, positive], [output]))
    _replace(model.graph, nodes, {name: constants[name] for name in sorted(changed)})


def _neighbours(view: GraphView, node: onnx.NodeProto) -> tuple[onnx.NodeProto, list[onnx.NodeProto]]:
    """The convolution before a PRelu and those behind it (a Pad may lie between)."""
    maker = view.producer.get(node.input[0])
    readers, todo = [], [node.output[0]]
    while todo:
        name = todo.pop()
        found = view.consumers.get(name, [])
        todo += [reader.output[0] for reader in found if reader.op_type == "Pad"]
        readers += [reader for reader in found if reader.op_type != "Pad"]
        if name in view.outputs or not found:
            readers.append(node)
    between = maker is not None and maker.op_type == "Conv" and len(maker.input) == 3
    between = between and len(view.consumers[node.input[0]]) == 1 and node.input[0] not in view.outputs
    if maker is None or not between or any(reader.op_type != "Conv" for reader in readers):
        raise EdgeageError(
            f"PRelu {node.output[0]} does not lie between a convolution (with bias) and others; "
            "put it there or use ReLU or LeakyReLU"
        )
    if node.input[1] not in view.constants or view.constants[node.input[1]].size != len(
        view.constants[maker.input[1]]
    ):
        raise EdgeageError(f"PRelu {node.output[0]} has not one constant slope a channel; give it one")
    for name in (*maker.input[1:], *(reader.input[1] for reader in readers)):
        if len(view.consumers[name]) > 1:
            raise EdgeageError(f"constant {name} next to PRelu {node.output[0]} is shared; give each its own")
    return maker, readers


def _replace(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], changed: Mapping[str, NDArray[np.float64]]
) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
    rest = [tensor for tensor in graph.initializer if tensor.name not in changed]
    del graph.initializer[:]
    graph.initializer.extend(rest)
    graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in changed.items()
    )
