"""E learns where refinement goes: the refinement's own loss at z = E(x), with G and the recogniser frozen."""

from __future__ import annotations

import numpy as np

from edgeage.errors import EdgeageError
from edgeage.train.latent_optimization import Face, RefinementSettings, losses
from edgeage.train.recipes.schema import Amortised
from edgeage.train.stages.base import Context, Phases, Stage, detached


class AmortisedStage(Stage):
    """What one face's refinement finds, learned over many faces (Gershman and Goodman 2014).

    G cannot learn to please the recogniser here: like refinement, E only chooses among the faces G makes.
    Batch norms of E keep their running statistics, which the scale of the latent hangs on.
    """

    def __init__(self, context: Context, options: Amortised) -> None:
        if missing := ", ".join(sorted({"encoder", "generator", "embedder"} - context.learned)):
            raise EdgeageError(
                f"the amortised stage needs networks that were trained; not so: {missing}; "
                "begin from a run that has them (--from), or put their stages before it in the recipe"
            )
        super().__init__(context, ["encoder"])
        self.options = options
        self.settings = RefinementSettings("euclidean", options.pixel_weight)
        self.trained["encoder"].eval()
        self.generator, self.embedder = (
            context.best(name).eval().requires_grad_(False) for name in ("generator", "embedder")
        )
        self.add_optimizer("encoder", self.trained.values(), options.learning_rate, options.betas)

    def step(self, step: int, rng: np.random.Generator) -> Phases:
        options = self.options
        batch = self.context.sampler.draw(options.batch, options.balanced, rng)
        face = Face.of(batch.images, batch.conditions, self.embedder)
        latent = self.trained["encoder"](batch.images)
        loss, cosine = losses(self.generator, self.embedder, latent, face, self.settings)
        yield "encoder", loss.mean()
        return detached({"loss": loss.mean(), "cosine": cosine.mean()})
