"""E and G from the start together, against a distilled net and a discriminator (FINDINGS, section 6)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeage.errors import EdgeageError
from edgeage.train.batches import Batch, vary
from edgeage.train.networks.discriminator import adversarial_losses, generator_loss, r1_penalty
from edgeage.train.recipes.schema import Joint
from edgeage.train.stages.base import Context, Phases, Stage, detached

RAMP = 0.1  # share of the steps over which the aging terms rise to their weight


class JointStage(Stage):
    def __init__(self, context: Context, options: Joint) -> None:
        if "perceptual" not in context.networks:
            raise EdgeageError("the joint stage needs the perceptual stage before it in the recipe")
        super().__init__(context, ("encoder", "generator", "discriminator"))
        self.options = options
        self.perceptual = context.networks["perceptual"].eval().requires_grad_(False)
        painters = [self.trained["encoder"], self.trained["generator"]]
        self.add_optimizer("painters", painters, options.learning_rate, options.betas)
        self.add_optimizer(
            "discriminator", [self.trained["discriminator"]], options.discriminator_learning_rate, (0.0, 0.99)
        )
        self.keep_average("encoder", options.ema)
        self.keep_average("generator", options.ema)

    def step(self, step: int, rng: np.random.Generator) -> Phases:
        options, context = self.options, self.context
        batch = context.sampler.draw(options.batch, options.balanced, rng)
        latent = self.trained["encoder"](batch.images)
        latent = latent + options.latent_noise * torch.randn_like(latent)
        progress = step / options.steps
        ramp = RAMP if options.aging_from else 0.0  # a stage that ages from its first step goes on from one
        strength = min(1.0, (progress - options.aging_from) / ramp) if ramp else 1.0
        if progress < options.aging_from:
            rebuilt = self.trained["generator"](latent, batch.conditions)
            total, losses = self.reconstruction(batch, rebuilt)
            yield "painters", total
        else:
            losses = yield from self.aging_step(step, strength, batch, latent)
        return detached(losses)

    def reconstruction(self, batch: Batch, rebuilt: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pixels, features and identity of G(E(x), y) against x."""
        options = self.options
        with torch.no_grad():
            identity, _, features = self.perceptual(batch.images)
        own_identity, _, own_features = self.perceptual(rebuilt)
        pairs = list(zip(own_features[:3], features[:3], strict=True))
        losses = {
            "pixel": F.l1_loss(rebuilt, batch.images),
            "features": torch.stack([F.l1_loss(own, x) / x.abs().mean() for own, x in pairs]).mean(),
            "identity": 1 - (own_identity * identity).sum(1).mean(),
        }
        total = (
            options.pixel * losses["pixel"]
            + options.features * losses["features"]
            + options.identity * losses["identity"]
        )
        return total, losses

    def aging_step(self, step: int, strength: float, batch: Batch, latent: Tensor) -> Phases:
        """Reconstruction of the batch, and another age group for half of it."""
        options, context = self.options, self.context
        half = options.batch // 2
        images = batch.images[-half:]
        groups = len(context.spec.groups)
        moved = torch.randint(1, groups, (half,), device=context.device)
        wanted_groups = (batch.groups[-half:] + moved) % groups
        wanted = context.one_hot(wanted_groups)
        both = self.trained["generator"](
            torch.cat([latent, latent[-half:]]), torch.cat([batch.conditions, wanted])
        )
        rebuilt, aged = both[: options.batch], both[options.batch :]
        difference = aged - rebuilt[-half:]
        # both output modes of the runtime are trained: every other face is x + the age difference
        raw = (torch.arange(half, device=context.device) % 2 == 0)[:, None, None, None]
        output = torch.where(raw, aged, images + difference).contiguous(memory_format=torch.channels_last)

        total, losses = self.reconstruction(batch, rebuilt)
        with torch.no_grad():
            identity, _, _ = self.perceptual(images)
        aged_identity, aged_age, _ = self.perceptual(vary(output))
        losses["age"] = F.cross_entropy(aged_age, wanted_groups, label_smoothing=0.1)
        losses["aged_identity"] = 1 - (aged_identity * identity).sum(1).mean()
        losses["adversarial"] = generator_loss(
            "logistic", self.trained["discriminator"](self.shown(output), wanted)
        )
        losses["smoothness"] = total_variation(difference)
        losses["colour"] = chroma(difference).abs().mean()
        total = (
            total
            + options.smoothness * losses["smoothness"]
            + options.colour * losses["colour"]
            + strength
            * (
                options.age * losses["age"]
                + options.aged_identity * losses["aged_identity"]
                + options.adversarial * losses["adversarial"]
            )
        )
        yield "painters", total
        total, more = self.discriminator_losses(step, batch, output.detach(), wanted)
        yield "discriminator", total
        return {**losses, **more}

    def shown(self, images: Tensor) -> Tensor:
        """What D sees of some images."""
        return vary(images) if self.options.diff_augment else images

    def discriminator_losses(
        self, step: int, batch: Batch, output: Tensor, wanted: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        options, discriminator = self.options, self.trained["discriminator"]
        penalise = step % options.r1_every == 0
        real = self.shown(batch.images[-len(output) :]).detach().requires_grad_(penalise)
        with self.twice_differentiable(penalise):
            logits = discriminator(real, batch.conditions[-len(output) :])
        loss = adversarial_losses("logistic", logits, discriminator(self.shown(output), wanted))
        losses = {"discriminator": loss}
        if penalise:
            losses["r1"] = r1_penalty(logits, real)
            loss = loss + options.r1_every * options.r1_gamma / 2 * losses["r1"]
        return loss, losses


def chroma(images: Tensor) -> Tensor:
    """Images without their luma (Rec. 601 weights), same shape."""
    luma = torch.tensor([0.299, 0.587, 0.114], device=images.device, dtype=images.dtype)
    return images - torch.einsum("nchw,c->nhw", images, luma)[:, None]


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, down plus right."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    return down + (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean()
