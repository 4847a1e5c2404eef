"""The recogniser of the engines, distilled from the teacher or trained on known persons.

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
TEMPERATURE = 16.0  # of the cosine softmax over persons


def build_person_directions(context: Context) -> nn.Linear:
    """One direction in embedding space per person of the data."""
    identities = context.sampler.identities
    if identities is None or int(identities.min()) < 0:
        raise EdgeageError("a recogniser with target identities needs data whose persons are all known")
    persons = int(identities.max()) + 1
    return nn.Linear(context.spec.embedding_size, persons, bias=False).to(context.device)


class RecogniserStage(Stage):
    def __init__(self, context: Context, options: Recogniser) -> None:
        trained = ["embedder"]
        if options.target == "identities":
            context.networks.setdefault("person_directions", build_person_directions(context))
            trained.append("person_directions")
        elif context.teacher is None or context.sampler.teacher is None:
            raise EdgeageError("the recogniser is distilled from the teacher; give --teacher")
        super().__init__(context, trained)
        self.options = options
        self.add_optimizer(
            "embedder", self.trained.values(), options.learning_rate, options.betas, options.weight_decay
        )
        self.pool: tuple[Tensor, Tensor] | None = None
        if context.sampler.teacher is not None and options.target == "teacher":
            basis = principal_directions(context.sampler.teacher, context.spec.embedding_size)
            self.basis = basis.to(context.device)
            if options.generated:
                self.pool = generated_pool(context, options.generated)

    def step(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        losses = self.distil(rng) if self.options.target == "teacher" else self.tell_persons_apart(rng)
        self.update("embedder", losses["total"])
        return detached(losses)

    def distil(self, rng: np.random.Generator) -> dict[str, Tensor]:
        options, context = self.options, self.context
        generated = round(options.batch * options.generated_share) if self.pool else 0
        batch = context.sampler.draw(options.batch - generated, options.balanced, rng)
        assert batch.teacher is not None  # checked when the stage was built
        images, targets = vary_camera(batch.images, rng), batch.teacher
        if self.pool:
            pixels, labels = self.pool
            index = torch.from_numpy(rng.integers(0, len(pixels), generated))
            more = to_images(pixels[index].to(context.device))
            more = vary_light(vary_geometry(more, 0.03, 0.06, mirror=False), 0.05, 0.1)
            images = torch.cat([images, more])
            targets = torch.cat([targets, labels[index].to(context.device)])
        wanted = F.normalize(targets @ self.basis, dim=1)
        embedding = self.trained["embedder"](images.contiguous(memory_format=torch.channels_last))
        distance = 1 - (F.normalize(embedding, dim=1) * wanted).sum(1)
        losses = {"real": distance[: len(batch.images)].mean(), "length": excess_length(embedding)}
        if generated:
            losses["generated"] = distance[len(batch.images) :].mean()
        return {**losses, "total": 3 * distance.mean() + 0.1 * losses["length"]}

    def tell_persons_apart(self, rng: np.random.Generator) -> dict[str, Tensor]:
        options = self.options
        batch = self.context.sampler.draw(options.batch, options.balanced, rng)
        assert batch.identities is not None  # checked when the stage was built
        images = vary_camera(batch.images, rng).contiguous(memory_format=torch.channels_last)
        embedding = self.trained["embedder"](images)
        directions = F.normalize(self.trained["person_directions"].get_parameter("weight"), dim=1)
        logits = TEMPERATURE * F.normalize(embedding, dim=1) @ directions.T
        losses = {"person": F.cross_entropy(logits, batch.identities), "length": excess_length(embedding)}
        return {**losses, "total": losses["person"] + 0.1 * losses["length"]}


def vary_camera(images: Tensor, rng: np.random.Generator) -> Tensor:
    """What cameras and detectors do to a face that stays the same person."""
    images = degrade(vary_geometry(images, 0.08, 0.16, mirror=False, rotate=0.2), rng)
    return vary_light(images, 0.2, 0.4, tint=0.1).clamp(-1, 1)


def excess_length(embedding: Tensor) -> Tensor:
    """The raw length is free under the cosine; held near 1 so that INT8 codes are well used."""
    return (embedding.norm(dim=1) - 1).pow(2).mean()


def principal_directions(embeddings: Tensor, size: int) -> Tensor:
    """[d, size]: projection that keeps the teacher's embeddings (their rank is below `size`)."""
    _, _, directions = torch.linalg.svd(embeddings[:6000].float(), full_matrices=False)
    basis: Tensor = directions[:size].T.contiguous()
    return F.pad(basis, (0, size - basis.shape[1]))


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
    shown = "Teacher on generated faces" if context.progress else None
    labels = context.teacher.embed(to_images(pool), progress=shown)
    return pool, torch.from_numpy(labels)
