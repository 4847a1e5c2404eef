"""Stage 1: the conditional GAN (Antipov et al. 2017, section 2.1)."""

from __future__ import annotations

import numpy as np
import torch

from edgeage.train.networks.discriminator import adversarial_losses, generator_loss, r1_penalty
from edgeage.train.recipes.schema import Cgan
from edgeage.train.stages.base import Context, Phases, Stage, detached


class CganStage(Stage):
    def __init__(self, context: Context, options: Cgan) -> None:
        super().__init__(context, ("generator", "discriminator"))
        self.options = options
        for name, module in self.trained.items():
            self.add_optimizer(name, [module], options.learning_rate, options.betas)
        if options.ema:
            self.keep_average("generator", options.ema)

    def step(self, step: int, rng: np.random.Generator) -> Phases:
        options, context = self.options, self.context
        generator, discriminator = self.trained["generator"], self.trained["discriminator"]
        batch = context.sampler.draw(options.batch, options.balanced, rng)
        latent = torch.randn(options.batch, context.spec.latent_size, device=context.device)
        wanted = context.one_hot(
            torch.randint(0, len(context.spec.groups), (options.batch,), device=context.device)
        )
        fake = generator(latent, wanted)

        penalise = options.r1_gamma > 0 and step % options.r1_every == 0
        real = batch.images.detach().requires_grad_(penalise)
        with self.twice_differentiable(penalise):
            real_logits = discriminator(real, batch.conditions)
        loss_d = adversarial_losses(options.loss, real_logits, discriminator(fake.detach(), wanted))
        losses = {"discriminator": loss_d}
        if penalise:
            losses["r1"] = r1_penalty(real_logits, real)
            loss_d = loss_d + options.r1_every * options.r1_gamma / 2 * losses["r1"]
        yield "discriminator", loss_d

        losses["generator"] = generator_loss(options.loss, discriminator(fake, wanted))
        yield "generator", losses["generator"]
        return detached(losses)
