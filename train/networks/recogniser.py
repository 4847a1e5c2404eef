"""Face recognition at 64 px: the net inside the engines, and the net of the training loss.

They are two nets on purpose: refining a latent against the recogniser that trained the generator
raises that recogniser's score and nobody else's (FINDINGS, section 6).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeage.train.networks.blocks import same_conv
from edgeage.train.profiles.schema import RecogniserShape


def _stage(inputs: int, outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        same_conv(inputs, outputs, 3, stride=2, bias=False),
        nn.BatchNorm2d(outputs),
        activation(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        activation(),
    )


class MobileRecogniser(nn.Module):
    """Image [n, 3, S, S] in [-1, 1] -> raw embedding [n, embedding_size]; ReLU6 only, no pooling."""

    def __init__(self, shape: RecogniserShape, image_size: int, embedding_size: int) -> None:
        super().__init__()
        widths = (3, *shape.channels)
        self.features = nn.Sequential(
            *(_stage(inputs, outputs, nn.ReLU6) for inputs, outputs in pairwise(widths))
        )
        cells = (image_size >> len(shape.channels)) ** 2
        self.embedding = nn.Linear(widths[-1] * cells, embedding_size)

    def forward(self, image: Tensor) -> Tensor:
        embedding: Tensor = self.embedding(torch.flatten(self.features(image), 1))
        return embedding


class PerceptualNet(nn.Module):
    """The net of the training loss: identity, age group, and features at four scales; never exported."""

    def __init__(
        self,
        image_size: int,
        groups: int,
        identity_size: int,
        channels: tuple[int, ...] = (32, 64, 128, 224),
    ) -> None:
        super().__init__()
        widths = (3, *channels)
        self.stages = nn.ModuleList(
            [_stage(inputs, outputs, nn.ReLU) for inputs, outputs in pairwise(widths)]
        )
        cells = (image_size >> len(channels)) ** 2
        self.identity = nn.Linear(channels[-1] * cells, identity_size)
        self.age = nn.Linear(channels[-1], groups)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Unit identity embedding [n, d], age-group logits [n, groups], features of each stage."""
        features: list[Tensor] = []
        hidden = image
        for stage in self.stages:
            hidden = stage(hidden)
            features.append(hidden)
        identity = self.identity(F.dropout(torch.flatten(hidden, 1), 0.2, self.training))
        age = self.age(F.dropout(hidden.mean((2, 3)), 0.3, self.training))
        return F.normalize(identity, dim=1), age, features
