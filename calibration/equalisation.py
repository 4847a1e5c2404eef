"""Cross-layer equalisation: the same network with channels of like reach, so that one scale suits all.

Between two weighted nodes a channel may be divided by any positive factor and multiplied again behind, as
long as everything between is positively homogeneous (ReLU, LeakyReLU, sums, resizing, constant factors).
Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.1; here the factors come from measured reaches, and a region may hold sums and reshapes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeage.calibration.graph import GraphView, attribute, is_steep
from edgeage.calibration.quantization import WEIGHTED

_HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "Resize", "Add", "Sub", "MaxPool", "AveragePool", "ReduceMean"}
)
_MOVING = frozenset({"Reshape", "DepthToSpace"})
# No channel is stretched more than this: one that hardly ever fires would get weights that drown the rest.
_LARGEST_FACTOR = 16.0

_Indices = NDArray[np.int64]


def equalise(
    model: onnx.ModelProto, reaches: Mapping[str, NDArray[np.float64]]
) -> tuple[onnx.ModelProto, int]:
    """The equalised network, equal in exact arithmetic, and the number of regions that were equalised.

    Args:
        reaches: how far each channel of an activation goes; regions with a tensor that is not in it stay.
    """
    view = GraphView(model)
    constants = {
        name: value.astype(np.float64) for name, value in view.constants.items() if value.dtype == np.float32
    }
    changed: set[str] = set()
    found = 0
    for region in _regions(view):
        factors = _factors(region, reaches)
        if factors is None or not _apply(view, region, factors, constants, changed):
            continue
        found += 1
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name].astype(np.float32), tensor.name))
    return result, found


def _regions(view: GraphView) -> list[dict[str, _Indices]]:
    """Sets of tensors that share their channels' factors: tensor -> index of the factor of each channel."""
    regions: list[dict[str, _Indices]] = []
    placed: set[str] = set()
    for node in view.nodes:
        name = node.output[0]
        if node.op_type in WEIGHTED and name not in placed:
            region = _grow(view, name)
            placed |= region.keys() if region else {name}
            if region:
                regions.append(region)
    return regions


def _grow(view: GraphView, start: str) -> dict[str, _Indices] | None:
    """The region around the output of a weighted node; None if something in it fixes the factors."""
    # A flat tensor of an image has a factor for each element where its image has one for each channel: the
    # region is numbered from the tensor with the fewest channels that lies in it.
    members = _members(view, start)
    if members is None:
        return None
    root = min(members, key=lambda name: (view.shapes[name][1], name))
    region = {root: np.arange(view.shapes[root][1], dtype=np.int64)}
    todo = [root]
    while todo:
        name = todo.pop()
        for node, other in _neighbours(view, name):
            if other not in members:
                continue
            indices = _carried(view, node, name, other, region[name])
            if indices is None:
                return None
            if other not in region:
                region[other] = indices
                todo.append(other)
            elif not np.array_equal(region[other], indices):
                return None
    return region if region.keys() == members else None


def _members(view: GraphView, start: str) -> set[str] | None:
    members, todo = {start}, [start]
    while todo:
        name = todo.pop()
        if name in view.inputs or name in view.outputs:
            return None
        for reader in view.consumers.get(name, []):
            if is_steep(view, reader):
                continue  # the sign of a channel does not depend on its factor
            if reader.op_type not in (*WEIGHTED, *_HOMOGENEOUS, *_MOVING, "Mul"):
                return None
            if reader.op_type == "Mul" and _scaled_operand(view, reader) != name:
                return None  # it is the factor of another region: bilinear
        maker = view.producer[name]
        if maker.op_type not in (*WEIGHTED, *_HOMOGENEOUS, *_MOVING, "Mul"):
            return None
        for _, other in _neighbours(view, name):
            if other not in members:
                members.add(other)
                todo.append(other)
    return members


def _scaled_operand(view: GraphView, node: onnx.NodeProto) -> str:
    """The operand of a product that shares the result's factors: the larger one."""
    sizes = [0 if name in view.constants else int(np.prod(view.shapes[name])) for name in node.input]
    return str(node.input[int(np.argmax(sizes))])


def _neighbours(view: GraphView, name: str) -> list[tuple[onnx.NodeProto, str]]:
    """Tensors that must have the same factors, with the node in between."""
    found = []
    maker = view.producer.get(name)
    if maker is not None and maker.op_type not in WEIGHTED:
        operands = list(maker.input[: 2 if maker.op_type in ("Add", "Sub") else 1])
        if maker.op_type == "Mul":
            operands = [_scaled_operand(view, maker)]
        found += [(maker, other) for other in operands if other not in view.constants]
    for reader in view.consumers.get(name, []):
        if reader.op_type in WEIGHTED or is_steep(view, reader):
            continue
        if reader.op_type == "Mul" and _scaled_operand(view, reader) != name:
            continue
        others = [reader.output[0]]
        if reader.op_type in ("Add", "Sub"):
            others += [other for other in reader.input if other != name and other not in view.constants]
        found += [(reader, other) for other in others]
    return found


def _carried(
    view: GraphView, node: onnx.NodeProto, name: str, other: str, indices: _Indices
) -> _Indices | None:
    """Indices of `other`'s channels, from those of `name`, through `node`."""
    given, wanted = view.shapes[name], view.shapes[other]
    if node.op_type == "DepthToSpace":
        block = attribute(node, "blocksize") ** 2
        return (
            np.repeat(indices, block)
            if other == node.input[0]
            else _one_of_each(indices, len(indices) // block)
        )
    if node.op_type == "Reshape":
        if len(given) == 4 and len(wanted) == 2:
            return np.repeat(indices, given[2] * given[3])
        if len(given) == 2 and len(wanted) == 4:
            return _one_of_each(indices, wanted[1])
        return None
    return indices if given[1] == wanted[1] else None


def _one_of_each(indices: _Indices, count: int) -> _Indices | None:
    """Indices of `count` channels whose parts follow one another; None if the parts differ."""
    parts = indices.reshape(count, -1)
    return parts[:, 0] if (parts == parts[:, :1]).all() else None


def _factors(
    region: Mapping[str, _Indices], reaches: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64] | None:
    """What each channel is divided by: its reach over the largest of all channels, 1 / 16 at least."""
    if not reaches.keys() >= region.keys():
        return None
    count = 1 + max(int(indices.max()) for indices in region.values())
    largest = np.zeros(count)
    for name, indices in region.items():
        # tensors differ in reach; what counts is how a channel compares with its own tensor's largest
        np.maximum.at(largest, indices, reaches[name] / max(reaches[name].max(), 1e-12))
    alive = largest > 1e-6
    if alive.sum() < 2:
        return None
    factors = np.where(alive, largest / largest[alive].max(), 1.0)
    return np.maximum(factors, 1 / _LARGEST_FACTOR)


def _apply(
    view: GraphView,
    region: Mapping[str, _Indices],
    factors: NDArray[np.float64],
    constants: dict[str, NDArray[np.float64]],
    changed: set[str],
) -> bool:
    """Divide in the makers, multiply in the readers; False (and nothing done) if a constant is shared."""
    divided: list[tuple[str, NDArray[np.float64]]] = []
    for name, indices in region.items():
        own = factors[indices]
        maker = view.producer[name]
        if maker.op_type in WEIGHTED:
            divided += [(constant, 1 / own) for constant in maker.input[1:]]
        elif maker.op_type in ("Add", "Sub"):
            for operand in maker.input:
                if operand in view.constants:
                    if view.constants[operand].size != len(own):
                        return False
                    divided.append((operand, 1 / own))
        for reader in view.consumers.get(name, []):
            if reader.op_type in WEIGHTED:
                divided.append((f"{reader.input[1]}", np.array([])))
    names = [name for name, _ in divided]
    if any(len(view.consumers[name]) != 1 for name in names):
        return False
    for name, factor in divided:
        if factor.size:
            value = constants[name]
            shape = [-1 if size == len(factor) else 1 for size in value.shape[:1]] + [1] * (value.ndim - 1)
            constants[name] = value * (
                factor.reshape(shape) if value.shape[0] == len(factor) else factor.reshape(value.shape)
            )
            changed.add(name)
    for name, indices in region.items():
        own = factors[indices]
        for reader in view.consumers.get(name, []):
            if reader.op_type not in WEIGHTED:
                continue
            weight = constants[reader.input[1]]
            if attribute(reader, "group", 1) > 1:
                rows = np.repeat(own, len(weight) // len(own))
                constants[reader.input[1]] = weight * rows.reshape(-1, 1, 1, 1)
            else:
                constants[reader.input[1]] = weight * own.reshape(1, -1, *[1] * (weight.ndim - 2))
            changed.add(reader.input[1])
    return True
