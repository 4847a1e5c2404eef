"""A PReLU with one slope per channel, as a product that every INT8 engine computes: x * slope(x).

slope(x) = min(2 [x > 0] + a, 1) is 1 where x > 0, else a: the step is a mask
(`edgeage.calibration.graph.STEEP`), the sum saturates. It holds for -1 <= a <= 1; a channel beyond is turned
around first, prelu(x, a) = -a prelu(-x, 1 / a), and both factors vanish into the convolutions around it.
Where x > 0 the INT8 product is x, code for code. The gradient is multiplied by the same slope, so a
refinement step computes it once for both ways. An int8 PRELU instead would cut the graph into 28 XNNPACK
partitions. Slopes that are all zero make a ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeage.calibration.graph import STEEP, GraphView, attribute
from edgeage.errors import EdgeageError


def write_prelus(model: onnx.ModelProto) -> None:
    """Rewrite every PRelu of `model`, in place; equal in exact arithmetic.

    Raises EdgeageError for a PRelu that does not lie between convolutions.
    """
    view = GraphView(model)
    constants = {name: value.astype(np.float64) for name, value in view.constants.items()}
    nodes: list[onnx.NodeProto] = []
    changed: set[str] = set()

    def keep(name: str, value: NDArray[np.float64] | float) -> str:
        constants[name] = np.asarray(value)
        changed.add(name)
        return name

    def write(kind: str, inputs: list[str], output: str) -> str:
        nodes.append(onnx.helper.make_node(kind, inputs, [output]))
        return output

    for node in view.nodes:
        if node.op_type != "PRelu":
            nodes.append(node)
            continue
        source, output = node.input[0], node.output[0]
        if node.input[1] in constants and not constants[node.input[1]].any():
            write("Relu", [source], output)
            continue
        maker, readers = _neighbours(view, node)
        weight, bias = maker.input[1:3]
        slope = constants[node.input[1]].ravel()
        wild = np.abs(slope) > 1
        sign, gain = np.where(wild, -1.0, 1.0), np.where(wild, -slope, 1.0)
        keep(weight, constants[weight] * sign.reshape(-1, 1, 1, 1))
        keep(bias, constants[bias] * sign)
        for reader in readers:
            axes = (-1, 1, 1, 1) if attribute(reader, "group", 1) > 1 else (1, -1, 1, 1)
            keep(reader.input[1], constants[reader.input[1]] * gain.reshape(axes))
        least = np.where(wild, 1 / np.where(wild, slope, 1.0), slope)
        steep = write("Mul", [source, keep("every_prelu.steep", STEEP)], f"{output}.steep")
        ends = [keep("every_prelu.zero", 0.0), keep("every_prelu.two", 2.0)]
        mask = write("Clip", [steep, *ends], f"{output}.mask")
        least_slopes = keep(f"{output}.least", least.reshape(-1, 1, 1))
        raised = write("Add", [mask, least_slopes], f"{output}.raised")
        ends = [keep("every_prelu.minus", -1.0), keep("every_prelu.one", 1.0)]
        write("Mul", [source, write("Clip", [raised, *ends], f"{output}.slope")], output)
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
