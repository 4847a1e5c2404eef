"""MobileFaceNet (Chen et al. 2018) with batch norms folded, at any image size and with fewer blocks.

At 112 px with every block it is the teacher itself, differentiable; at the profile's size, pruned, it is
the recogniser of the engines, which starts from the teacher's own weights (FINDINGS, section 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

STEM = 64
# per scale: width, expanded width, expanded width of the block that enters it, number of residual blocks
SCALES = ((64, 128, 128, 4), (128, 256, 256, 6), (128, 256, 512, 2))
TOP = 512
FULL = tuple(tuple(range(scale[3])) for scale in SCALES)
Kept = tuple[tuple[int, ...], ...]


class Slopes(nn.Module):
    """PReLU with one slope for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, hidden: Tensor) -> Tensor:
        return F.prelu(hidden, self.weight)


def _pointwise(inputs: int, outputs: int, *, active: bool) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 1), *([Slopes(outputs)] if active else [])]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    # TensorFlow's 'same': with stride 2 on an even side the one row of padding is below and right
    pad = [nn.ZeroPad2d((0, 1, 0, 1))] if stride == 2 else []
    conv = nn.Conv2d(channels, channels, 3, stride, padding=stride % 2, groups=channels)
    return [*pad, conv, Slopes(channels)]


class Residual(nn.Sequential):
    def __init__(self, width: int, expanded: int) -> None:
        super().__init__(
            *_pointwise(width, expanded, active=True),
            *_depthwise(expanded, 1),
            *_pointwise(expanded, width, active=False),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + super().forward(hidden)


class MobileFaceNet(nn.Module):
    """Image [n, 3, S, S] in [-1, 1] -> raw embedding [n, embedding_size].

    `kept` names the residual blocks of each scale that are there. Two pairs of linear 1x1 convolutions
    of the published net are one layer each here, which is exact.
    """

    def __init__(self, image_size: int, embedding_size: int, kept: Kept = FULL) -> None:
        super().__init__()
        self.kept = kept
        layers: list[nn.Module] = [
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(3, STEM, 3, 2),
            Slopes(STEM),
            *_depthwise(STEM, 1),
        ]
        width = STEM
        for (outputs, expanded, entering, _), blocks in zip(SCALES, kept, strict=True):
            layers += _pointwise(width, entering, active=True)
            layers += _depthwise(entering, 2)
            layers += _pointwise(entering, outputs, active=False)
            layers += [Residual(outputs, expanded) for _ in blocks]
            width = outputs
        layers += _pointwise(width, TOP, active=True)
        self.features = nn.Sequential(*layers)
        cells = image_size // 16
        self.summary = nn.Conv2d(TOP, TOP, cells, groups=TOP)
        self.embedding = nn.Linear(TOP, embedding_size)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.summary(self.features(image))
        embedding: Tensor = self.embedding(torch.flatten(hidden, 1))
        return embedding

    def bottlenecks(self, image: Tensor) -> list[Tensor]:
        """What each linear 1x1 convolution or residual block gives, then the embedding."""
        layers = list(self.features)
        found, hidden = [], image
        for layer, behind in zip(layers, [*layers[1:], None], strict=True):
            hidden = layer(hidden)
            pointwise = isinstance(layer, nn.Conv2d) and layer.groups == 1
            if isinstance(layer, Residual) or (pointwise and not isinstance(behind, Slopes)):
                found.append(hidden)
        return [*found, self.embedding(torch.flatten(self.summary(hidden), 1))]

    @torch.no_grad()
    def tame_slopes(self) -> None:
        """Bring every slope into [-1, 1]; the embedding stays the same.

        prelu(x, a) = -a prelu(-x, 1 / a): where the negative side is the steeper one, the two sides change
        places and the factor moves into the convolution behind, with its sign for a > 1. The published slopes
        reach from -9 to 9, which spoils INT8 codes and stands in the way of a ReLU.
        """
        for before, active, behind in self._around_slopes():
            slope = active.weight
            wild = slope.abs() > 1
            sign = torch.where(wild, -torch.ones_like(slope), torch.ones_like(slope))
            gain = torch.where(wild, -slope, torch.ones_like(slope))
            active.weight.copy_(torch.where(wild, 1 / slope, slope))
            _scale_channels(before, behind, sign, gain)

    @torch.no_grad()
    def equalise(self, images: Tensor) -> None:
        """Let all channels around each PReLU reach equally far on `images`; the embedding stays the same.

        A PReLU commutes with positive factors, so a channel's scale can move from the convolution before
        it to the one behind it (Nagel et al. 2019). Engines store a whole activation in one int8 scale:
        with the published slopes, a few loud channels leave the others a handful of codes.
        """
        reaches: dict[nn.Module, Tensor] = {}

        def watch(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            reaches[module] = torch.maximum(given[0].abs(), made.abs()).amax((0, 2, 3))

        hooks = [m.register_forward_hook(watch) for m in self.features.modules() if isinstance(m, Slopes)]
        self(images)
        for hook in hooks:
            hook.remove()
        for before, active, behind in self._around_slopes():
            reach = reaches[active]
            factor = reach.clamp_min(1e-3 * float(reach.max())) / reach.max()
            _scale_channels(before, behind, 1 / factor, factor)

    def _around_slopes(self) -> Iterator[tuple[nn.Conv2d, Slopes, nn.Conv2d]]:
        """Each PReLU with the convolution before it and the one behind it."""
        chain = [m for m in self.features.modules() if isinstance(m, nn.Conv2d | Slopes)]
        for before, active, behind in zip(chain, chain[1:], [*chain[2:], self.summary], strict=False):
            if isinstance(active, Slopes):
                assert isinstance(before, nn.Conv2d)
                assert isinstance(behind, nn.Conv2d)
                yield before, active, behind


def _scale_channels(before: nn.Conv2d, behind: nn.Conv2d, made: Tensor, read: Tensor) -> None:
    """Scale what `before` makes by `made` and what `behind` reads by `read`, channel by channel."""
    assert before.bias is not None
    before.weight *= made.view(-1, 1, 1, 1)
    before.bias *= made
    behind.weight *= read.view((-1, 1, 1, 1) if behind.groups > 1 else (1, -1, 1, 1))


def read_published(path: Path) -> MobileFaceNet:
    """The teacher as a torch module: [n, 3, 112, 112] in [-1, 1] (pixel / 127.5 - 1) -> raw 192-d.

    `path` is the published TFLite file, which the caller has checked (`edgeage.train.teacher`).
    """
    convolutions, slopes = _constants(path)
    net = MobileFaceNet(112, 192)
    with torch.no_grad():
        # the published net wants (pixel - 127.5) / 128
        convolutions[0] = (convolutions[0][0] * (127.5 / 128), convolutions[0][1])
        # [stem, depthwise, (linear, expand), ...]: the linear 1x1 goes into the next one
        convolutions[2:4] = [_joined(convolutions[2], convolutions[3])]
        convolutions[-2:] = [_joined(convolutions[-2], convolutions[-1])]
        targets: list[nn.Conv2d | nn.Linear] = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        for target, (weight, bias) in zip([*targets, net.embedding], convolutions, strict=True):
            target.weight.copy_(weight.reshape(target.weight.shape))
            assert target.bias is not None
            target.bias.copy_(bias)
        actives = [m for m in net.modules() if isinstance(m, Slopes)]
        for active, slope in zip(actives, slopes, strict=True):
            active.weight.copy_(slope)
    return net.eval().requires_grad_(False)


def start_from(
    student: MobileFaceNet, published: MobileFaceNet, basis: Tensor, placement: NDArray[np.float64]
) -> None:
    """Give a smaller net the published weights.

    Args:
        basis: [192, embedding_size] projection of the published embedding.
        placement: [2, 3] affine from the student's frame, as fractions of its side, to fractions of the
            published frame; the one layer that depends on the place of the face is resampled by it.
    """
    with torch.no_grad():
        for own, theirs in _shared_layers(student, published):
            own.load_state_dict(theirs.state_dict())
        cells = student.summary.weight.shape[-1]
        # affine_grid works on [-1, 1]: fractions f = (u + 1) / 2
        rows = torch.tensor(placement, dtype=torch.float32)
        shift = rows[:, :2].sum(1) + 2 * rows[:, 2] - 1
        theta = torch.cat([rows[:, :2], shift[:, None]], 1)[None]
        grid = F.affine_grid(theta, [1, 1, cells, cells], align_corners=False)
        kernel = F.grid_sample(
            published.summary.weight.transpose(0, 1), grid, padding_mode="border", align_corners=False
        )
        # each cell of the student covers several of the published net: the sum must stay
        area = float(np.linalg.det(placement[:, :2])) * published.summary.weight.shape[-1] ** 2 / cells**2
        student.summary.weight.copy_(kernel.transpose(0, 1) * area)
        assert student.summary.bias is not None
        assert published.summary.bias is not None
        student.summary.bias.copy_(published.summary.bias)
        student.embedding.weight.copy_(basis.T @ published.embedding.weight)
        student.embedding.bias.copy_(basis.T @ published.embedding.bias)


def _shared_layers(student: MobileFaceNet, published: MobileFaceNet) -> list[tuple[nn.Module, nn.Module]]:
    """Pairs of the layers that the student kept, in order."""
    wanted = [index for blocks in student.kept for index in blocks]
    scale = [number for number, blocks in enumerate(student.kept) for _ in blocks]
    kept = set(zip(scale, wanted, strict=True))
    theirs: list[nn.Module] = []
    counts = iter((number, index) for number, blocks in enumerate(FULL) for index in blocks)
    for layer in published.features:
        if not isinstance(layer, Residual) or next(counts) in kept:
            theirs.append(layer)
    return list(zip(student.features, theirs, strict=True))


def _joined(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two linear 1x1 convolutions as one: W2 (W1 x + b1) + b2."""
    (w1, b1), (w2, b2) = first, second
    w1, w2 = w1.flatten(1).double(), w2.flatten(1).double()
    return (w2 @ w1).float(), (w2 @ b1.double() + b2.double()).float()


def _constants(path: Path) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """Weights and biases of the convolutions (OIHW), and the slopes of the PReLUs, in graph order.

    The file writes a PReLU as relu(x) + c * (x - |x|), so a = 2c.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]

    def constant(index: int) -> NDArray[np.float32]:
        tensor = graph.tensors[index]
        data: Any = model.buffers[tensor.buffer].data
        array: NDArray[np.float32] = np.frombuffer(bytes(data), "<f4").reshape(tensor.shape)
        return array

    convolutions, slopes = [], []
    for operator in graph.operators:
        entry = model.operatorCodes[operator.opcodeIndex]
        code = max(entry.builtinCode, entry.deprecatedBuiltinCode)  # old files fill only the second
        if code in (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D):
            weight = torch.from_numpy(constant(operator.inputs[1]).copy())
            order = (0, 3, 1, 2) if code == schema.BuiltinOperator.CONV_2D else (3, 0, 1, 2)
            bias = torch.from_numpy(constant(operator.inputs[2]).copy())
            convolutions.append((weight.permute(*order).contiguous(), bias))
        elif code == schema.BuiltinOperator.MUL:
            slopes.append(2 * torch.from_numpy(constant(operator.inputs[0]).copy()))
    return convolutions, slopes
