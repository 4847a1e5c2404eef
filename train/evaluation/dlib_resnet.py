"""dlib's face recogniser in torch, read from its own file without dlib.

The file is dlib's `net_type::serialize` of a fixed architecture: a header with one version number per
layer, then every layer's settings and weights from the input to the output. The reader knows this grammar,
accounts for every byte, and builds the network that the file describes or nothing.
Architecture: He et al. 2016 with 29 layers, https://github.com/davisking/dlib-models (CC0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgeage.errors import EdgeageError

CHIP = 150
EMBEDDING_SIZE = 128
STEM = 32
# width of each residual block, and whether it halves the picture
BLOCKS = (
    *[(32, False)] * 3,
    *[(64, True), *[(64, False)] * 3],
    *[(128, True), *[(128, False)] * 2],
    *[(256, True), *[(256, False)] * 2],
    (256, True),
)
_MOST_LAYERS = 512


class DlibResNet(nn.Module):
    """Face chip [n, 3, 150, 150], RGB 0..255 -> [n, 128], not normalised (dlib: one person below 0.6)."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM, 7, 2)
        widths = (STEM, *(width for width, _ in BLOCKS))
        self.blocks = nn.Sequential(
            *(_Block(inputs, *block) for inputs, block in zip(widths, BLOCKS, strict=False))
        )
        self.embedding = nn.Linear(BLOCKS[-1][0], EMBEDDING_SIZE, bias=False)
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))

    def forward(self, chips: Tensor) -> Tensor:
        hidden = F.relu(self.stem((chips - self.mean) / 256))
        hidden = self.blocks(F.max_pool2d(hidden, 3, 2))
        embedding: Tensor = self.embedding(hidden.mean((2, 3)))
        return embedding


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.first = nn.Conv2d(inputs, outputs, 3, 2 if halves else 1, 0 if halves else 1)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        changed = self.second(F.relu(self.first(hidden)))
        if self.halves:
            hidden = F.avg_pool2d(hidden, 2, 2)
        # dlib adds tensors of different shapes as if the smaller had zeros behind and below
        height, width = hidden.shape[2] - changed.shape[2], hidden.shape[3] - changed.shape[3]
        hidden = F.pad(hidden, (0, 0, 0, 0, 0, changed.shape[1] - hidden.shape[1]))
        return F.relu(hidden + F.pad(changed, (0, width, 0, height)))


@dataclass(frozen=True)
class _Layer:
    kind: str
    weights: NDArray[np.float32]
    settings: tuple[int, ...] = ()


def load(path: Path) -> DlibResNet:
    """The network with the file's weights, in eval mode; EdgeageError if the file is not such a net."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise EdgeageError(f"cannot read {path}: {error.strerror}") from None
    except _Broken as error:
        raise EdgeageError(
            f"{path} is not dlib's face recogniser ({error}); delete it and fetch it again"
        ) from None


def parse(data: bytes) -> DlibResNet:
    """The network that the file's bytes describe; EdgeageError unless they have exactly this form."""
    mean, layers = _read(data)
    net = DlibResNet()
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    wanted = ["con", "affine", "relu", "max_pool"]
    for _, halves in BLOCKS:
        pool = ["avg_pool"] if halves else []
        wanted += ["con", "affine", "relu", "con", "affine", *pool, "add_prev", "relu"]
    if [layer.kind for layer in layers] != [*wanted, "avg_pool", "fc"]:
        raise _Broken("its layers are others")
    cons = [layer for layer in layers if layer.kind == "con"]
    affines = [layer for layer in layers if layer.kind == "affine"]
    with torch.no_grad():
        for conv, con, affine in zip(convolutions, cons, affines, strict=True):
            _fill(conv, con, affine)
        net.embedding.weight.copy_(_shaped(layers[-1].weights, (BLOCKS[-1][0], EMBEDDING_SIZE)).T)
        net.mean.copy_(torch.tensor(mean).view(1, 3, 1, 1))
    return net.eval().requires_grad_(False)


def _fill(conv: nn.Conv2d, con: _Layer, affine: _Layer) -> None:
    """Convolution and the channel-wise affine behind it as one convolution."""
    outputs, (height, width) = conv.out_channels, conv.kernel_size
    shape = (outputs, height, width, *conv.stride, *map(int, conv.padding))
    if con.settings != shape:
        raise _Broken(f"a convolution is {con.settings}, not {shape}")
    weight_count = conv.weight.numel()
    weights = _shaped(con.weights, (weight_count + outputs,))
    gain, offset = _shaped(affine.weights, (2, outputs))
    assert conv.bias is not None
    conv.weight.copy_(weights[:weight_count].view_as(conv.weight) * gain[:, None, None, None])
    conv.bias.copy_(weights[weight_count:] * gain + offset)


def _shaped(values: NDArray[np.float32], shape: tuple[int, ...]) -> Tensor:
    if values.size != math.prod(shape):
        raise _Broken(f"a layer has {values.size} weights, not {math.prod(shape)}")
    return torch.from_numpy(values.reshape(shape))


class _Broken(EdgeageError):
    """What is wrong with the file, for the message around it."""


class _Stream:
    """dlib's portable serialisation; every read is bounded by what is there."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise _Broken(f"it ends at byte {len(self.data)}, more was announced")
        self.at += count
        return self.data[self.at - count : self.at]

    def integer(self) -> int:
        """A byte with sign and length, then the magnitude, little-endian."""
        (head,) = self.take(1)
        if head & 0x70 or not 1 <= head & 0x0F <= 8:
            raise _Broken(f"no number at byte {self.at - 1}")
        value = int.from_bytes(self.take(head & 0x0F), "little")
        return -value if head & 0x80 else value

    def natural(self, most: int = 1 << 20) -> int:
        value = self.integer()
        if not 0 <= value <= most:
            raise _Broken(f"{value} at byte {self.at} is out of range")
        return value

    def number(self) -> float:
        """A floating-point number as mantissa and exponent of two."""
        mantissa, exponent = self.integer(), self.integer()
        if abs(exponent) > 1000 or abs(mantissa) > 1 << 53:
            raise _Broken(f"no finite number at byte {self.at}")
        return math.ldexp(mantissa, exponent)

    def text(self) -> str:
        return self.take(self.natural(64)).decode("ascii", "replace")

    def flags(self, count: int) -> None:
        if set(self.take(count)) - set(b"01"):
            raise _Broken(f"no yes or no at byte {self.at}")

    def expect(self, *values: int) -> None:
        found = tuple(self.integer() for _ in values)
        if found != values:
            raise _Broken(f"{found} instead of {values} at byte {self.at}")

    def tensor(self) -> NDArray[np.float32]:
        self.expect(2)
        count = math.prod(self.natural() for _ in range(4))
        values = np.frombuffer(self.take(4 * count), "<f4").copy()
        if not np.isfinite(values).all():
            raise _Broken("weights that are not finite")
        return values


def _read(data: bytes) -> tuple[list[float], list[_Layer]]:
    """Mean of the input's channels, and all layers from the input to the output."""
    stream = _Stream(data)
    stream.expect(1)
    if stream.text() != "loss_metric_2":
        raise _Broken("its loss is another")
    stream.number(), stream.number()
    for _ in range(_MOST_LAYERS):  # versions of the layers around each other, then of the innermost
        version = stream.natural(3)
        if version == 3:
            break
    if stream.text() != "input_rgb_image_sized":
        raise _Broken("its input is another")
    mean = [stream.number() for _ in range(3)]
    stream.expect(CHIP, CHIP)
    layers: list[_Layer] = []
    while stream.at < len(data):
        if len(layers) == _MOST_LAYERS:
            raise _Broken("too many layers")
        layers.append(_read_layer(stream))
        if len(layers) == 1:
            stream.expect(1)  # images per sample
    return mean, layers


def _read_layer(stream: _Stream) -> _Layer:
    kind = stream.text()
    nothing = np.empty(0, np.float32)
    match kind:
        case "con_4":
            weights = stream.tensor()
            settings = tuple(stream.natural() for _ in range(7))
            _read_aliases(stream)
            [stream.number() for _ in range(4)]  # learning-rate and weight-decay factors
            layer = _Layer("con", weights, settings)
        case "affine_":
            layer = _Layer("affine", stream.tensor())
            _read_aliases(stream)
            stream.natural()
        case "fc_2":
            stream.natural(), stream.natural()
            layer = _Layer("fc", stream.tensor())
            _read_aliases(stream)
            stream.natural()
            [stream.number() for _ in range(4)]
        case "max_pool_2" | "avg_pool_2":
            layer = _Layer(kind[:-2], nothing, tuple(stream.natural() for _ in range(6)))
        case "relu_" | "add_prev_":
            layer = _Layer(kind[:-1], nothing)
        case _:
            raise _Broken(f"an unknown layer {kind[:20]!r}")
    stream.flags(3)
    for _ in range(3):  # gradients and cached outputs, empty in a published file
        if stream.tensor().size:
            raise _Broken("left-overs of training")
    return layer


def _read_aliases(stream: _Stream) -> None:
    """How weights and biases lie in one tensor: twice a version and four sizes."""
    for _ in range(2):
        stream.expect(1)
        [stream.natural() for _ in range(4)]
