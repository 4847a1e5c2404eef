"""E(x) -> z: the initial latent approximation (Antipov et al. 2017, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeage.train.networks.blocks import same_conv
from edgeage.train.profiles.schema import EncoderShape


class Encoder(nn.Module):
    """Image float32 [n, 3, S, S] in [-1, 1] -> latent [n, latent_size]."""

    def __init__(self, shape: EncoderShape, image_size: int, latent_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for index, channels in enumerate(shape.channels):
            layers.append(same_conv(width, channels, shape.kernel, stride=2))
            if index > 0:  # the article normalises all but the first
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.LeakyReLU(0.2))
            width = channels
        self.features = nn.Sequential(*layers)
        width *= (image_size >> len(shape.channels)) ** 2
        dense: list[nn.Module] = []
        for units in shape.dense:
            dense += [nn.Linear(width, units), nn.BatchNorm1d(units), nn.LeakyReLU(0.2)]
            width = units
        dense.append(nn.Linear(width, latent_size))
        if shape.normalised_latent:  # unit scale per dimension: what the refinement's sign steps count on
            dense.append(nn.BatchNorm1d(latent_size, affine=False, momentum=0.02))
        self.dense = nn.Sequential(*dense)

    def forward(self, image: Tensor) -> Tensor:
        latent: Tensor = self.dense(torch.flatten(self.features(image), 1))
        return latent
