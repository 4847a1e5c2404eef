"""Stage 3: identity-preserving optimisation of E and G (Antipov et al. 2017, section 2.3)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from edgeage.errors import EdgeageError
from edgeage.train.recipes.schema import Identity
from edgeage.train.stages.base import Context, Phases, Stage, detached


class IdentityStage(Stage):
    """Minimises ||FR(x) - FR(G(E(x), y))||^2 over unit embeddings, with the embedder frozen.

    Batch norm of G keeps its running statistics: the latents of real faces are not the prior's, and the
    engines run with these statistics.
    """

    def __init__(self, context: Context, options: Identity) -> None:
        if "embedder" not in context.learned:
            raise EdgeageError(
                "the identity stage needs a trained embedder: an untrained one measures nothing; "
                "put a recogniser stage before it in the recipe"
            )
        super().__init__(context, ("encoder", "generator"))
        self.options = options
        self.embedder = context.networks["embedder"].eval().requires_grad_(False)
        # the averaged generator, where stage 1 kept one, is the generator from here on
        if average := context.averages.pop("generator", None):
            context.networks["generator"].load_state_dict(average.state_dict())
        self.trained["generator"].eval()
        self.add_optimizer("both", self.trained.values(), options.learning_rate, options.betas)

    def step(self, step: int, rng: np.random.Generator) -> Phases:
        options = self.options
        batch = self.context.sampler.draw(options.batch, options.balanced, rng)
        rebuilt = self.trained["generator"](self.trained["encoder"](batch.images), batch.conditions)
        with torch.no_grad():
            target = F.normalize(self.embedder(batch.images), dim=1)
        found = F.normalize(self.embedder(rebuilt), dim=1)
        losses = {
            "identity": (found - target).pow(2).sum(1).mean(),
            "pixel": F.l1_loss(rebuilt, batch.images),
        }
        yield "both", losses["identity"] + options.pixel_weight * losses["pixel"]
        return detached(losses)
