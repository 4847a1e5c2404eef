"""Stage 1: the conditional GAN (Antipov et al. 2017, section 2.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgeage.train.networks.discriminator import adversarial_losses, generator_loss, r1_penalty
from edgeage.train.recipes.schema import Cgan
from edgeage.train.stages.base import Context, Stage, detached


class CganStage(Stage):
    def __init__(self, context: Context, options: Cgan) -> None:
        super().__init__(context, ("generator", "discriminator"))
        self.options = options
        for name, module in self.trained.items():
            self.add_optimizer(name, [module], options.learning_rate, options.betas)
        if options.ema:
            context.average("generator")

    def step(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
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
        real_logits = discriminator(real, batch.conditions)
        loss_d = adversarial_losses(options.loss, real_logits, discriminator(fake.detach(), wanted))
        losses = {"discriminator": loss_d}
        if penalise:
            losses["r1"] = r1_penalty(real_logits, real)
            loss_d = loss_d + options.r1_every * options.r1_gamma / 2 * losses["r1"]
        self.update("discriminator", loss_d)

        losses["generator"] = generator_loss(options.loss, discriminator(fake, wanted))
        self.update("generator", losses["generator"])
        if options.ema:
            self.average_step("generator", options.ema, step)
        return detached(losses)
