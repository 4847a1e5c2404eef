"""Inception-ResNet-v2, the face recogniser of profile `paper`.

Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning" (2016, arXiv 1602.07261), in the form of the public TensorFlow model: unpadded
stem, batch norm with eps 1e-3 and ReLU behind each convolution, scaled residual blocks.

Modules carry the names of timm's `inception_resnet_v2`, so that its public weights load by name. timm
itself cannot be a dependency: it imports torchvision, which does not import beside the CPU torch wheel.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeage.errors import EdgeageError

FEATURES = 1536
SMALLEST_INPUT = 75  # px; below it the last stage has no cell left
_CLASSIFIER = ("classif.", "last_linear.", "global_pool.")

Kernel = int | tuple[int, int]
# one step of a branch: kernel, output channels, stride; padded to keep the size unless it has a stride
Step = tuple[Kernel, int, int]


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, *, pad: bool) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _chain(inputs: int, *steps: Step) -> nn.Module:
    """One unit, or several in a row; a step with a stride is unpadded ('valid')."""
    units = []
    for kernel, outputs, stride in steps:
        units.append(ConvUnit(inputs, outputs, kernel, stride, pad=stride == 1))
        inputs = outputs
    return units[0] if len(units) == 1 else nn.Sequential(*units)


class Mixed(nn.Module):
    """Branches side by side, concatenated over channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self._count = len(branches)
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(f"branch{index}")(x) for index in range(self._count)], dim=1)


class Residual(Mixed):
    """x + scale * (1x1 convolution of the branches), then ReLU unless it is the last block."""

    def __init__(
        self, channels: int, mixed: int, scale: float, *branches: nn.Module, relu: bool = True
    ) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(mixed, channels, 1)
        self._scale = scale
        self._relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._scale * self.conv2d(super().forward(x))
        return F.relu(x) if self._relu else x


def _block35() -> Residual:
    return Residual(
        320,
        128,
        0.17,
        _chain(320, (1, 32, 1)),
        _chain(320, (1, 32, 1), (3, 32, 1)),
        _chain(320, (1, 32, 1), (3, 48, 1), (3, 64, 1)),
    )


def _block17() -> Residual:
    return Residual(
        1088,
        384,
        0.10,
        _chain(1088, (1, 192, 1)),
        _chain(1088, (1, 128, 1), ((1, 7), 160, 1), ((7, 1), 192, 1)),
    )


def _block8(scale: float = 0.20, relu: bool = True) -> Residual:
    return Residual(
        2080,
        448,
        scale,
        _chain(2080, (1, 192, 1)),
        _chain(2080, (1, 192, 1), ((1, 3), 224, 1), ((3, 1), 256, 1)),
        relu=relu,
    )


class InceptionResNetV2(nn.Module):
    """Feature trunk: image [n, 3, H, W] in [-1, 1], H and W at least 75 -> features [n, 1536].

    Args:
        repeats: number of 35x35, 17x17 and 8x8 blocks (the sizes at 299 px); the public net has
            (10, 20, 9), and one more 8x8 block without ReLU behind them.
    """

    def __init__(self, repeats: tuple[int, int, int] = (10, 20, 9)) -> None:
        super().__init__()
        self.conv2d_1a = ConvUnit(3, 32, 3, 2, pad=False)
        self.conv2d_2a = ConvUnit(32, 32, 3, pad=False)
        self.conv2d_2b = ConvUnit(32, 64, 3, pad=True)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = ConvUnit(64, 80, 1, pad=False)
        self.conv2d_4a = ConvUnit(80, 192, 3, pad=False)
        self.maxpool_5a = nn.MaxPool2d(3, 2)
        self.mixed_5b = Mixed(
            _chain(192, (1, 96, 1)),
            _chain(192, (1, 48, 1), (5, 64, 1)),
            _chain(192, (1, 64, 1), (3, 96, 1), (3, 96, 1)),
            nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), _chain(192, (1, 64, 1))),
        )
        self.repeat = nn.Sequential(*(_block35() for _ in range(repeats[0])))
        self.mixed_6a = Mixed(
            _chain(320, (3, 384, 2)),
            _chain(320, (1, 256, 1), (3, 256, 1), (3, 384, 2)),
            nn.MaxPool2d(3, 2),
        )
        self.repeat_1 = nn.Sequential(*(_block17() for _ in range(repeats[1])))
        self.mixed_7a = Mixed(
            _chain(1088, (1, 256, 1), (3, 384, 2)),
            _chain(1088, (1, 256, 1), (3, 288, 2)),
            _chain(1088, (1, 256, 1), (3, 288, 1), (3, 320, 2)),
            nn.MaxPool2d(3, 2),
        )
        self.repeat_2 = nn.Sequential(*(_block8() for _ in range(repeats[2])))
        self.block8 = _block8(scale=1.0, relu=False)
        self.conv2d_7b = ConvUnit(2080, FEATURES, 1, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < SMALLEST_INPUT:
            raise ValueError(f"Inception-ResNet-v2 needs {SMALLEST_INPUT} px, got {tuple(x.shape[-2:])}")
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))  # 299 -> 149 -> 147 px
        x = self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x)))  # 73 -> 71 px
        x = self.repeat(self.mixed_5b(self.maxpool_5a(x)))  # 35 px, 320 channels
        x = self.repeat_1(self.mixed_6a(x))  # 17 px, 1088 channels
        x = self.block8(self.repeat_2(self.mixed_7a(x)))  # 8 px, 2080 channels
        x = self.conv2d_7b(x)
        return x.mean((2, 3))


class InceptionRecogniser(nn.Module):
    """Image [n, 3, S, S] in [-1, 1] -> raw embedding [n, embedding_size], to be L2-normalised.

    Args:
        input_scale: whole factor by which the image is enlarged (nearest) before the trunk, so that
            S * input_scale >= 75: 64 px images need 2.
        embedding_size: number of outputs of the dense head.
        repeats: see `InceptionResNetV2`.
    """

    def __init__(
        self,
        input_scale: int = 2,
        embedding_size: int = 128,
        repeats: tuple[int, int, int] = (10, 20, 9),
    ) -> None:
        super().__init__()
        self.input_scale = input_scale
        self.trunk = InceptionResNetV2(repeats)
        self.embedding = nn.Linear(FEATURES, embedding_size)

    def forward(self, image: Tensor) -> Tensor:
        if self.input_scale != 1:
            image = F.interpolate(image, scale_factor=self.input_scale, mode="nearest")
        embedding: Tensor = self.embedding(self.trunk(image))
        return embedding


def load_timm_weights(model: InceptionResNetV2 | InceptionRecogniser, path: Path) -> None:
    """Load the trunk from timm's public `inception_resnet_v2` weights (a .safetensors file).

    The ImageNet classifier is left out; a recogniser's dense head keeps its own weights. Every other
    tensor must find its place: nothing is loaded in part.

    Raises EdgeageError if the file is not safetensors, or names or shapes do not match.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        raise EdgeageError(
            f"{path} is not a .safetensors file; pickled weights can run code and are not opened: "
            "save timm's weights with safetensors first"
        )
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise EdgeageError(f"cannot read the weights {path}: {error}") from None
    trunk = model.trunk if isinstance(model, InceptionRecogniser) else model
    wanted = trunk.state_dict()
    stored = {name: value for name, value in stored.items() if not name.startswith(_CLASSIFIER)}
    # Counters for a momentum that is not used here; older files do not have them.
    for name, value in wanted.items():
        if name.endswith("num_batches_tracked"):
            stored.setdefault(name, value)
    missing = sorted(wanted.keys() - stored.keys())
    unknown = sorted(stored.keys() - wanted.keys())
    if missing or unknown:
        raise EdgeageError(
            f"{path} does not hold Inception-ResNet-v2 as timm names it: "
            f"{len(missing)} tensors missing ({_first(missing)}), {len(unknown)} unknown ({_first(unknown)})"
        )
    wrong = [
        f"{name} is {tuple(stored[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in sorted(wanted)
        if stored[name].shape != wanted[name].shape
    ]
    if wrong:
        raise EdgeageError(f"{path} holds tensors of other shapes: {_first(wrong)}")
    trunk.load_state_dict(stored)


def _first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") if names else "none"
