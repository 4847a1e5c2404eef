"""D(x, y) -> logit: real or generated, given the age group."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeage.train.networks.blocks import same_conv
from edgeage.train.profiles.schema import DiscriminatorShape


class ConcatDiscriminator(nn.Module):
    """The article's: y tiled over the first feature map, batch norm, one dense logit [n].

    The article's sigmoid lives in the loss (`binary_cross_entropy_with_logits`).
    """

    def __init__(self, shape: DiscriminatorShape, image_size: int, groups: int) -> None:
        super().__init__()
        first, *rest = shape.channels
        self.entry = nn.Sequential(same_conv(3, first, shape.kernel, stride=2), nn.LeakyReLU(0.2))
        layers: list[nn.Module] = []
        width = first + groups
        for channels in rest:
            layers += [
                same_conv(width, channels, shape.kernel, stride=2),
                nn.BatchNorm2d(channels),
                nn.LeakyReLU(0.2),
            ]
            width = channels
        self.features = nn.Sequential(*layers)
        self.logit = nn.Linear(width * (image_size >> len(shape.channels)) ** 2, 1)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        hidden = self.entry(image)
        tiled = condition[:, :, None, None].expand(-1, -1, *hidden.shape[2:])
        hidden = self.features(torch.cat([hidden, tiled], 1))
        logit: Tensor = self.logit(torch.flatten(hidden, 1))[:, 0]
        return logit


class ProjectionDiscriminator(nn.Module):
    """Plain convolutions and a projection of y (Miyato and Koyama 2018), made for R1 (Mescheder 2018)."""

    def __init__(self, shape: DiscriminatorShape, groups: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for channels in shape.channels:
            layers += [same_conv(width, channels, shape.kernel, stride=2), nn.LeakyReLU(0.2)]
            width = channels
        self.features = nn.Sequential(*layers)
        self.logit = nn.Conv2d(width, 1, 3, padding=1)
        self.projection = nn.Linear(groups, width, bias=False)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        hidden = self.features(image)
        by_patch = self.logit(hidden).mean((1, 2, 3))
        by_age = (self.projection(condition) * hidden.mean((2, 3))).sum(1)
        logit: Tensor = 2 * by_patch + 2 * by_age
        return logit


def build_discriminator(shape: DiscriminatorShape, image_size: int, groups: int) -> nn.Module:
    if shape.condition == "projection":
        return ProjectionDiscriminator(shape, groups)
    return ConcatDiscriminator(shape, image_size, groups)


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared gradient norm of the logits at real images (Mescheder et al. 2018, R1)."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.pow(2).sum((1, 2, 3)).mean()


def adversarial_losses(name: str, real: Tensor, fake: Tensor) -> Tensor:
    """Loss of D from its logits on real and generated images: "logistic" (the article) or "hinge"."""
    if name == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(name: str, fake: Tensor) -> Tensor:
    """Loss of G from D's logits on its images (non-saturating for "logistic")."""
    return -fake.mean() if name == "hinge" else F.softplus(-fake).mean()
