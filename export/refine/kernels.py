"""Kernels of the reverse pass: where each weight of a convolution goes. All exact rearrangements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pads = list[int]  # top, left, bottom, right


def conv_reverse(
    weight: Floats,
    stride: int,
    pads: Sequence[int],
    given: Sequence[int],
    made: Sequence[int],
    *,
    depthwise: bool,
) -> tuple[Floats, Pads]:
    """The kernel that takes the gradient of a convolution's output to that of its input.

    Args:
        weight: [O, I, H, W], or [C, 1, H, W] if `depthwise`.
        given, made: height and width of the convolution's input and output; `stride` divides the first.

    Returns:
        The kernel of a stride-1 convolution, [I * stride^2, O, h, w] ([C * stride^2, 1, h, w]), and its pads;
        output channel i * stride^2 + a * stride + b is phase (a, b) of input channel i (depth-to-space CRD).

    Output row q of the convolution reads input row stride * q + u - pad with tap u, so input row
    stride * r + a hears of row r + d through tap u = a + pad - stride * d.
    """
    rows, columns = (
        _taps(weight.shape[2 + axis], stride, pads[axis], centred=depthwise and stride > 1) for axis in (0, 1)
    )
    outputs, inputs = weight.shape[:2]
    # which[a, d, u]: on phase a, tap u is the one at offset d
    kernel = np.einsum("oiuv,adu,bev->iabode", weight, rows[0], columns[0])
    if depthwise:
        kernel = np.einsum("ouv,adu,bev->oabde", weight[:, 0], rows[0], columns[0])
        kernel = kernel.reshape(outputs * stride**2, 1, *kernel.shape[3:])
    else:
        kernel = kernel.reshape(inputs * stride**2, *kernel.shape[3:])
    before = [rows[1], columns[1]]
    after = [
        given[axis] // stride - made[axis] - before[axis] + kernel.shape[2 + axis] - 1 for axis in (0, 1)
    ]
    return kernel, [*before, *after]


def _taps(size: int, stride: int, pad: int, *, centred: bool) -> tuple[Floats, int]:
    """which[phase, offset, tap] of one axis, and the rows of padding before the first offset.

    `centred`: as many offsets before 0 as after it, for a depthwise window of 3x3 costs no more than one
    of 2x2 and then needs no padding operator.
    """
    offsets = sorted({(a + pad - u) // stride for a in range(stride) for u in range(size)})
    first, last = min(offsets[0], 0), max(offsets[-1], 0)
    which = np.zeros((stride, last - first + 1, size))
    for phase in range(stride):
        for tap in range(size):
            offset, rest = divmod(phase + pad - tap, stride)
            if rest == 0:
                which[phase, offset - first, tap] = 1
    used = np.flatnonzero(which.any(axis=(0, 2)))
    # offsets that no tap has are cut, but the one at 0 stays: the window starts on the image or before it
    low, high = min(int(used[0]), -first), max(int(used[-1]), -first)
    which, before = which[:, low : high + 1], -first - low
    if centred:
        after = which.shape[1] - 1 - before
        which = np.pad(which, ((0, 0), (max(after - before, 0), max(before - after, 0)), (0, 0)))
        before = max(before, after)
    return which, before


def enlarging_reverse(
    weight: Floats, block: int, pads: Sequence[int], given: Sequence[int], made: Sequence[int]
) -> tuple[Floats, Pads]:
    """The kernel that takes the gradient behind conv (stride 1) + depth-to-space (CRD) to the conv's input.

    Args:
        weight: [C * block^2, I, H, W] of the convolution.
        given, made: height and width of the convolution's input and of the enlarged output.

    Returns:
        The kernel [I, C, h, w] of a convolution with stride `block`, and its pads.

    Enlarged row block * q + a reads input row q + u - pad with tap u, so input row p hears of the enlarged
    row block * p + t through phase a and tap u with t = a - block * (u - pad).
    """
    inputs = weight.shape[1]
    phases = weight.reshape(-1, block, block, *weight.shape[1:])
    spots = []
    for axis in (0, 1):
        size, pad = weight.shape[2 + axis], pads[axis]
        where = np.array([[a - block * (u - pad) for u in range(size)] for a in range(block)])
        used = [
            t
            for (a, u), t in np.ndenumerate(where)
            if np.moveaxis(phases, (1 + axis, 4 + axis), (0, 1))[a, u].any()
        ]
        low, high = min([*used, 0]), max([*used, block - 1])
        which = np.zeros((block, high - low + 1, size))
        for (a, u), t in np.ndenumerate(where):
            if low <= t <= high:
                which[a, t - low, u] = 1
        spots.append((which, -low))
    kernel = np.einsum("cabiuv,asu,btv->icst", phases, spots[0][0], spots[1][0])
    assert kernel.shape[0] == inputs
    before = [spots[0][1], spots[1][1]]
    after = [
        block * (given[axis] - 1) + kernel.shape[2 + axis] - before[axis] - made[axis] for axis in (0, 1)
    ]
    return kernel, [*before, *after]
