"""Where NHWC changes the order of elements: flattened images and the dense layers around them.

ONNX flattens [n, C, H, W] channel by channel, TFLite [n, H, W, C] pixel by pixel. Nothing is transposed
at run time: the rows and columns of the dense layers are permuted once, when the file is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeage.calibration.graph import GraphView
from edgeage.errors import EdgeageError

_ELEMENTWISE = ("LeakyRelu", "Relu", "Clip", "Tanh", "Add", "Sub", "Mul")
_TO_NHWC_AXIS = (0, 3, 1, 2)  # where an NCHW axis is found in NHWC

Image = tuple[int, int, int]  # C, H, W


def nhwc(shape: Sequence[int]) -> tuple[int, ...]:
    """A tensor's shape in the file: images move their channels to the end, the rest stays."""
    if len(shape) == 4:
        n, c, h, w = shape
        return n, h, w, c
    return tuple(shape)


def nhwc_axis(axis: int, rank: int) -> int:
    axis %= rank
    return _TO_NHWC_AXIS[axis] if rank == 4 else axis


def hwc_permutation(image: Image) -> NDArray[np.int64]:
    """Index of each HWC-ordered element in the CHW order."""
    order: NDArray[np.int64] = np.arange(np.prod(image)).reshape(image).transpose(1, 2, 0).ravel()
    return order


def flat_images(view: GraphView) -> dict[str, Image]:
    """The flat tensors [n, C*H*W] that hold an image, whose elements the file therefore orders HWC.

    Raises EdgeageError if such a tensor meets an operator that cannot follow the other order.
    """
    found: dict[str, Image] = {}
    for node in view.nodes:
        if node.op_type != "Reshape":
            continue
        given, made = view.shapes[node.input[0]], view.shapes[node.output[0]]
        if given[0] != made[0] or not {len(given), len(made)} <= {2, 4} or len(given) == len(made) == 4:
            raise EdgeageError(
                f"reshape {node.output[0]} from {given} to {made} cannot be laid out NHWC; "
                "only flattening and unflattening of whole images can"
            )
        if len(given) == len(made):
            continue
        image = made[1:] if len(made) == 4 else given[1:]
        if image[0] > 1 and image[1] * image[2] > 1:
            _note(found, node.output[0] if len(given) == 4 else node.input[0], (image[0], image[1], image[2]))
    changed = True
    while changed:
        before = len(found)
        for node in view.nodes:
            if node.op_type in _ELEMENTWISE and len(view.shapes[node.output[0]]) == 2:
                linked = [name for name in (*node.input, node.output[0]) if name not in view.constants]
                images = [found[name] for name in linked if name in found]
                for name in linked if images else ():
                    _note(found, name, images[0])
        changed = len(found) != before
    for name in found:
        _check_neighbours(view, name)
    return found


def _note(found: dict[str, Image], name: str, image: Image) -> None:
    if found.setdefault(name, image) != image:
        raise EdgeageError(f"tensor {name} is a flat image of {found[name]} and of {image} at once")


def _check_neighbours(view: GraphView, name: str) -> None:
    if name in view.inputs or name in view.outputs:
        raise EdgeageError(f"tensor {name} is a flat image at the engine's boundary; keep it [n, C, H, W]")
    shape = view.shapes[name]
    for node in [view.producer[name], *view.consumers[name]]:
        follows = node.op_type in ("Reshape", "Gemm")
        if node.op_type in _ELEMENTWISE:
            shapes = {view.shapes[operand] for operand in node.input}
            follows = all(other == shape or np.prod(other) == 1 for other in shapes)
        if not follows:
            where = f"{node.op_type} {node.output[0]}"
            raise EdgeageError(f"{where} cannot work on a flattened image in NHWC order")
