"""K refinement steps as one graph: refine(z, y, target, image) K times, with the steps between them.

For NPUs alone, which are started once and keep the latent on chip; on a CPU the weights would be packed K
times over. Steps follow the sign of the gradient, which INT8 has an exact form for (a product that saturates
on both sides), where normalised steps need a square root. Nothing chooses the best latent on the way.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeage.calibration.graph import STEEP, GraphView
from edgeage.calibration.ranges import RangeTable, TensorRange
from edgeage.errors import EdgeageError
from edgeage.export.onnx_graph import OPSET, clean

REACH = 6.0  # of a latent on its way, in standard deviations of the prior
REFINED = "refined"  # the output
_SHARED = ("y", "target", "image")


def unroll(model: onnx.ModelProto, sizes: list[float]) -> onnx.ModelProto:
    """(z, y, target, image) -> z after one sign step of each of `sizes`; constants are shared by all steps.

    Raises EdgeageError without steps.
    """
    if not sizes:
        raise EdgeageError("an unrolled refinement needs at least one step")
    view = GraphView(model)
    constants = dict(view.constants)
    constants |= {"steep": np.float32(STEEP), "sign.low": np.float32(-1), "sign.high": np.float32(1)}
    nodes: list[onnx.NodeProto] = []
    latent = "z"
    for k, size in enumerate(sizes):
        for node in view.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:], copy.output[:]
            copy.input.extend(_renamed(name, k, latent, view.constants) for name in node.input)
            copy.output.extend(_renamed(name, k, latent, view.constants) for name in node.output)
            nodes.append(copy)
        step = f"step{k}/"
        constants[f"{step}size"] = np.float32(size)
        following = REFINED if k + 1 == len(sizes) else f"{step}z"
        nodes += [
            helper.make_node("Mul", [f"{step}gradient", "steep"], [f"{step}steep"]),
            helper.make_node("Clip", [f"{step}steep", "sign.low", "sign.high"], [f"{step}sign"]),
            helper.make_node("Mul", [f"{step}sign", f"{step}size"], [f"{step}change"]),
            helper.make_node("Sub", [latent, f"{step}change"], [following]),
        ]
        latent = following
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        f"refine{len(sizes)}",
        [_port(name, view.shapes[name]) for name in ("z", *_SHARED)],
        [_port(REFINED, view.shapes["z"])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items() if name in read],
    )
    return clean(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10))


def unrolled_ranges(table: RangeTable, sizes: list[float]) -> dict[str, TensorRange]:
    """Ranges of `unroll`'s tensors: each step's are those of the single step.

    A latent on its way may go further than encoders send it.
    """
    far = TensorRange(-REACH, REACH, "reach")
    found = {name: table.tensors[name] for name in _SHARED} | {"z": far, REFINED: far}
    for k, size in enumerate(sizes):
        step = f"step{k}/"
        found |= {f"{step}{name}": seen for name, seen in table.tensors.items()}
        found[f"{step}z"] = far
        found[f"{step}sign"] = TensorRange(-1.0, 1.0, "exact")
        found[f"{step}change"] = TensorRange(-size, size, "exact")
    return found


def _renamed(name: str, k: int, latent: str, constants: dict[str, np.ndarray]) -> str:
    if not name or name in constants or name in _SHARED:
        return name
    return latent if name == "z" else f"step{k}/{name}"


def _port(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
