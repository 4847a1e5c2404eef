"""The recogniser of the engines: distilled from the teacher on real and on generated faces.

It never sees the training loss's net, and the training loss never sees it (FINDINGS, section 6).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeage.errors import EdgeageError
from edgeage.train.batches import degrade, rng_for, to_images, vary_geometry, vary_light
from edgeage.train.recipes.schema import Recogniser
from edgeage.train.stages.base import Context, Stage, detached

POOL_CHUNK = 64


class RecogniserStage(Stage):
    def __init__(self, context: Context, options: Recogniser) -> None:
        if context.teacher is None or context.sampler.teacher is None:
            raise EdgeageError("the recogniser is distilled from the teacher; give --teacher")
        super().__init__(context, ("embedder",))
        self.options = options
        net = self.trained["embedder"]
        self.add_optimizer("embedder", [net], options.learning_rate, options.betas, options.weight_decay)
        self.basis = principal_directions(context.sampler.teacher, context.spec.embedding_size)
        self.basis = self.basis.to(context.device)
        self.pool = generated_pool(context, options.generated) if options.generated else None

    def step(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        options, context = self.options, self.context
        generated = round(options.batch * options.generated_share) if self.pool else 0
        batch = context.sampler.draw(options.batch - generated, options.balanced, rng)
        assert batch.teacher is not None
        images = degrade(vary_geometry(batch.images, 0.08, 0.16, mirror=False, rotate=0.2), rng)
        images = vary_light(images, 0.2, 0.4, tint=0.1).clamp(-1, 1)
        targets = batch.teacher
        if self.pool:
            pixels, labels = self.pool
            index = torch.from_numpy(rng.integers(0, len(pixels), generated))
            more = to_images(pixels[index].to(context.device))
            more = vary_light(vary_geometry(more, 0.03, 0.06, mirror=False), 0.05, 0.1)
            images = torch.cat([images, more])
            targets = torch.cat([targets, labels[index].to(context.device)])
        wanted = F.normalize(targets @ self.basis, dim=1)
        embedding = self.trained["embedder"](images.contiguous(memory_format=torch.channels_last))
        cosine = (F.normalize(embedding, dim=1) * wanted).sum(1)
        # the raw length is free under the cosine; held near 1 so that INT8 codes are well used
        length = (embedding.norm(dim=1) - 1).pow(2).mean()
        losses = {"real": 1 - cosine[: len(batch.images)].mean(), "length": length}
        if generated:
            losses["generated"] = 1 - cosine[len(batch.images) :].mean()
        self.update("embedder", 3 * (1 - cosine).mean() + 0.1 * length)
        return detached(losses)


def principal_directions(embeddings: Tensor, size: int) -> Tensor:
    """[d, size]: projection that keeps the teacher's embeddings (their rank is below `size`)."""
    _, _, directions = torch.linalg.svd(embeddings[:6000].float(), full_matrices=False)
    basis: Tensor = directions[:size].T.contiguous()
    if basis.shape[1] < size:
        basis = nn.functional.pad(basis, (0, size - basis.shape[1]))
    return basis


def generated_pool(context: Context, count: int) -> tuple[Tensor, Tensor]:
    """`count` faces that E and G make near real faces, as uint8 pixels, with the teacher's embeddings.

    The latents wander as refinement makes them wander, and the age group is sometimes another one.
    """
    assert context.teacher is not None
    encoder, generator = context.best("encoder").eval(), context.best("generator").eval()
    pixels: list[Tensor] = []
    for chunk in range(-(-count // POOL_CHUNK)):
        rng = rng_for(chunk, 0, 0)
        batch = context.sampler.draw(min(POOL_CHUNK, count - chunk * POOL_CHUNK), 0.5, rng)
        with torch.no_grad():
            latent = encoder(batch.images)
            reach = torch.rand(len(latent), 1, device=context.device) * 0.6
            latent = latent + reach * torch.randn_like(latent)
            other = torch.randint_like(batch.groups, 0, len(context.spec.groups))
            keep = torch.rand(len(latent), device=context.device) < 0.75
            images = generator(latent, context.one_hot(torch.where(keep, batch.groups, other)))
        pixels.append(((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu())
    pool = torch.cat(pixels)
    labels = context.teacher.embed(to_images(pool), progress="Teacher on generated faces")
    return pool, torch.from_numpy(labels)
