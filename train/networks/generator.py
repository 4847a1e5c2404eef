"""G(z, y) -> x: the conditional generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeage.train.networks.blocks import same_conv
from edgeage.train.profiles.schema import GeneratorShape

SLOPE = 0.2


class UpBlock(nn.Module):
    """Nearest 2x, convolution, batch norm, optional modulation by y (FiLM), LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, conditions: int) -> None:
        super().__init__()
        self.conv = same_conv(inputs, outputs, kernel)
        self.norm = nn.BatchNorm2d(outputs)
        self.scale = nn.Linear(conditions, outputs) if conditions else None
        self.shift = nn.Linear(conditions, outputs, bias=False) if conditions else None
        if self.scale is not None and self.shift is not None:
            nn.init.normal_(self.scale.weight, std=0.02)
            nn.init.ones_(self.scale.bias)
            nn.init.normal_(self.shift.weight, std=0.02)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        hidden = self.norm(self.conv(F.interpolate(hidden, scale_factor=2.0, mode="nearest")))
        if self.scale is not None and self.shift is not None:
            hidden = hidden * self.scale(condition)[:, :, None, None]
            hidden = hidden + self.shift(condition)[:, :, None, None]
        return F.leaky_relu(hidden, SLOPE)


class Generator(nn.Module):
    """Latent [n, latent_size] and one-hot age group [n, groups] -> image [n, 3, S, S] in [-1, 1]."""

    def __init__(self, shape: GeneratorShape, image_size: int, latent_size: int, groups: int) -> None:
        super().__init__()
        dense: list[nn.Module] = []
        width = latent_size + groups
        for units in shape.dense:
            dense += [nn.Linear(width, units), nn.LeakyReLU(SLOPE), nn.Dropout(shape.dropout)]
            width = units
        self.stem_shape = (shape.stem_channels, shape.stem_size, shape.stem_size)
        units = shape.stem_channels * shape.stem_size**2
        dense.append(nn.Linear(width, units))
        if shape.stem_norm == "unit":  # before the reshape, as the article's Keras layers do
            dense.append(nn.BatchNorm1d(units))
        self.dense = nn.Sequential(*dense)
        norm = nn.BatchNorm2d(shape.stem_channels) if shape.stem_norm == "channel" else nn.Identity()
        self.stem = nn.Sequential(norm, nn.LeakyReLU(SLOPE), nn.Dropout(shape.dropout))
        width = shape.stem_channels
        blocks: list[nn.Module] = []
        for channels in shape.channels:
            blocks.append(UpBlock(width, channels, shape.kernel, groups if shape.film else 0))
            width = channels
        self.blocks = nn.ModuleList(blocks)
        self.subpixel = shape.output == "subpixel"
        # subpixel: a convolution at half resolution makes the 2x2 pixels of each position at once
        self.image = same_conv(width, 12 if self.subpixel else 3, shape.kernel)
        self.image_size = image_size

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        hidden = self.dense(torch.cat([latent, condition], 1))
        hidden = self.stem(hidden.reshape(-1, *self.stem_shape))
        for block in self.blocks:
            hidden = block(hidden, condition)
        if self.subpixel:
            hidden = F.pixel_shuffle(self.image(hidden), 2)
        else:
            hidden = self.image(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        return torch.tanh(hidden)
