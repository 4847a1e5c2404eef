"""Stage 2: initial latent approximation, E(G(z, y)) -> z (Antipov et al. 2017, section 2.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from edgeage.train.recipes.schema import InitialLatent
from edgeage.train.stages.base import Context, Phases, Stage, detached


class EncoderStage(Stage):
    def __init__(self, context: Context, options: InitialLatent) -> None:
        super().__init__(context, ("encoder",))
        self.options = options
        self.add_optimizer("encoder", [self.trained["encoder"]], options.learning_rate, options.betas)

    def step(self, step: int, rng: np.random.Generator) -> Phases:
        options, context = self.options, self.context
        encoder, generator = self.trained["encoder"], context.best("generator")
        latent = torch.randn(options.batch, context.spec.latent_size, device=context.device)
        groups = torch.randint(0, len(context.spec.groups), (options.batch,), device=context.device)
        with torch.no_grad():
            images = generator(latent, context.one_hot(groups))
        losses = {"latent": F.mse_loss(encoder(images.contiguous(memory_format=torch.channels_last)), latent)}
        total = losses["latent"]
        if options.real_weight:
            batch = context.sampler.draw(options.batch, options.balanced, rng)
            rebuilt = generator(encoder(batch.images), batch.conditions)
            losses["pixel"] = F.l1_loss(rebuilt, batch.images)
            total = total + options.real_weight * losses["pixel"]
        yield "encoder", total
        return detached(losses)
