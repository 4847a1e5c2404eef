"""The net of the training loss: identity distilled from the teacher, and an age head."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from edgeage.errors import EdgeageError
from edgeage.train.batches import vary_geometry, vary_light
from edgeage.train.networks.recogniser import PerceptualNet
from edgeage.train.recipes.schema import Perceptual
from edgeage.train.stages.base import Context, Phases, Stage, detached

AGE_SPREAD = 2.2  # soft labels exp(-2.2 |i - j|): a neighbouring group is a small mistake


def build_perceptual(context: Context) -> PerceptualNet:
    teacher = context.sampler.teacher
    if teacher is None:
        raise EdgeageError("the perceptual net needs the teacher's embeddings; give --teacher")
    spec = context.spec
    return PerceptualNet(spec.image_size, len(spec.groups), teacher.shape[1]).to(context.device)


class PerceptualStage(Stage):
    def __init__(self, context: Context, options: Perceptual) -> None:
        context.networks.setdefault("perceptual", build_perceptual(context))
        super().__init__(context, ("perceptual",))
        self.options = options
        net = self.trained["perceptual"]
        self.add_optimizer("perceptual", [net], options.learning_rate, options.betas, weight_decay=0.02)
        counts = torch.bincount(context.sampler.groups, minlength=len(context.spec.groups)).float()
        # logit adjustment (Menon et al. 2021): the head learns balanced logits from unbalanced batches
        drawn = (1 - options.balanced) * counts / counts.sum() + options.balanced / len(counts)
        self.log_prior = drawn.clamp_min(1e-6).log().to(context.device)
        distance = (torch.arange(len(counts))[:, None] - torch.arange(len(counts))[None]).abs().float()
        self.soft_labels = torch.softmax(-AGE_SPREAD * distance, 1).to(context.device)

    def step(self, step: int, rng: np.random.Generator) -> Phases:
        options = self.options
        batch = self.context.sampler.draw(options.batch, options.balanced, rng)
        assert batch.teacher is not None  # build_perceptual has checked it
        images = vary_light(vary_geometry(batch.images, 0.08, 0.12, mirror=False), 0.2, 0.4)
        identity, age, _ = self.trained["perceptual"](images.contiguous(memory_format=torch.channels_last))
        losses = {
            "identity": 1 - (identity * batch.teacher).sum(1).mean(),
            "age": F.cross_entropy(age + self.log_prior, self.soft_labels[batch.groups]),
        }
        yield "perceptual", 3 * losses["identity"] + losses["age"]
        return detached(losses)
