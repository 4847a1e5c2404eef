"""The recogniser of the engines, distilled from the teacher or trained on known persons.

It never sees the training loss's net, and the training loss never sees it (FINDINGS, section 6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from edgeage.errors import EdgeageError
from edgeage.train.batches import degrade, rng_for, to_images, vary_geometry, vary_light
from edgeage.train.networks.mobilefacenet import MobileFaceNet, start_from
from edgeage.train.recipes.schema import Recogniser
from edgeage.train.stages.base import Context, Stage, detached
from edgeage.train.teacher import Teacher, placement

POOL_CHUNK = 32
TEMPERATURE = 16.0  # of the cosine softmax over persons


@dataclass(frozen=True)
class Pool:
    """Faces made by E and G near real ones, with what the teacher says of them.

    Attributes:
        faces: uint8 [n, S, S, 3], the real faces; generated: what G makes of their latents.
        labels: unit teacher embeddings [n, d] of the generated faces.
        latents [n, latent_size], conditions [n, groups]: what G was given.
        gradients: [n, latent_size], of 1 - cos(teacher(G(z, y)), teacher(face)) by z.
    """

    faces: Tensor
    generated: Tensor
    labels: Tensor
    latents: Tensor
    conditions: Tensor
    gradients: Tensor


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
        self.pool: Pool | None = None
        if options.target == "teacher":
            assert context.teacher is not None  # checked above
            assert context.sampler.teacher is not None
            self.basis = principal_directions(context.sampler.teacher, context.spec.embedding_size).to(
                context.device
            )
            embedder = self.trained["embedder"]
            if isinstance(embedder, MobileFaceNet) and "embedder" not in context.learned:
                start_from_teacher(embedder, context.teacher, self.basis, context)
            if options.generated:
                self.pool = draw_pool(context, options.generated)

    def step(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        losses = self.distil(rng) if self.options.target == "teacher" else self.tell_persons_apart(rng)
        self.update("embedder", losses["total"])
        return detached(losses)

    def distil(self, rng: np.random.Generator) -> dict[str, Tensor]:
        options, context, pool = self.options, self.context, self.pool
        generated = round(options.batch * options.generated_share) if pool else 0
        batch = context.sampler.draw(options.batch - generated, options.balanced, rng)
        assert batch.teacher is not None  # checked when the stage was built
        images, targets = vary_camera(batch.images, rng), batch.teacher
        if pool:
            index = torch.from_numpy(rng.integers(0, len(pool.generated), generated))
            more = to_images(pool.generated[index].to(context.device))
            more = vary_light(vary_geometry(more, 0.03, 0.06, mirror=False), 0.05, 0.1)
            images = torch.cat([images, more])
            targets = torch.cat([targets, pool.labels[index].to(context.device)])
        embedding = self.trained["embedder"](images.contiguous(memory_format=torch.channels_last))
        distance = 1 - (F.normalize(embedding, dim=1) * self.projected(targets)).sum(1)
        losses = {"real": distance[: len(batch.images)].mean(), "length": excess_length(embedding)}
        total = 3 * distance.mean() + 0.1 * losses["length"]
        if pool:
            losses["generated"] = distance[len(batch.images) :].mean()
            if options.gradient:
                losses["gradient"], plain = self.gradient_distance(pool, rng)
                total = total + options.gradient * losses["gradient"] + plain
        return {**losses, "total": total}

    def projected(self, teacher: Tensor) -> Tensor:
        return F.normalize(teacher @ self.basis, dim=1)

    def gradient_distance(self, pool: Pool, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """1 - cosine of the embedder's and the teacher's gradient by the latent, and of the embeddings.

        Refinement follows this gradient and nothing else of the embedder; training on derivatives is
        Czarnecki et al. 2017. Batch norms are held: the statistics are those of the engines.
        """
        device, embedder = self.context.device, self.trained["embedder"].eval()
        generator = self.context.best("generator")
        index = torch.from_numpy(rng.integers(0, len(pool.latents), self.options.gradient_batch))
        latent = pool.latents[index].to(device).requires_grad_()
        made = generator(latent, pool.conditions[index].to(device))
        own = F.normalize(embedder(made.contiguous(memory_format=torch.channels_last)), dim=1)
        with torch.no_grad():  # the target of the refinement is a constant
            real = F.normalize(embedder(to_images(pool.faces[index].to(device))), dim=1)
        apart = (1 - (own * real).sum(1)).sum()
        (gradient,) = torch.autograd.grad(apart, latent, create_graph=True)
        agreement = F.cosine_similarity(gradient, pool.gradients[index].to(device), dim=1)
        distance = 1 - (own * self.projected(pool.labels[index].to(device))).sum(1)
        embedder.train()
        return 1 - agreement.mean(), distance.mean()

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


def start_from_teacher(embedder: MobileFaceNet, teacher: Teacher, basis: Tensor, context: Context) -> None:
    """The teacher's weights, at raw embeddings of about unit length (see `excess_length`)."""
    start_from(embedder, teacher.network, basis, placement())
    few = to_images(context.sampler.images[:256].to(context.device))
    with torch.no_grad():
        length = embedder(few).norm(dim=1).mean()
        embedder.embedding.weight /= length
        embedder.embedding.bias /= length


def draw_pool(context: Context, count: int) -> Pool:
    """`count` generated faces; most of their latents wander as refinement makes them wander.

    The age group is sometimes another one: the teacher's labels are of the generated image itself.
    """
    assert context.teacher is not None
    assert context.sampler.teacher is not None
    teacher, device = context.teacher, context.device
    encoder, generator = context.best("encoder").eval(), context.best("generator").eval()
    parts: list[tuple[Tensor, ...]] = []
    chunks = range(-(-count // POOL_CHUNK))
    for chunk in tqdm(chunks, desc="Teacher on generated faces", disable=not context.progress):
        rng = rng_for(chunk, 0, 0)
        size = min(POOL_CHUNK, count - chunk * POOL_CHUNK)
        batch = context.sampler.draw(size, 0.5, rng, flip=False)
        assert batch.teacher is not None
        with torch.no_grad():
            latent = encoder(batch.images)
            reach = torch.rand(size, 1, device=device) * 0.6 * (torch.rand(size, 1, device=device) < 0.6)
            latent = latent + reach * torch.randn_like(latent)
            other = torch.randint_like(batch.groups, 0, len(context.spec.groups))
            keep = torch.rand(size, device=device) < 0.8
        condition = context.one_hot(torch.where(keep, batch.groups, other))
        latent.requires_grad_()
        made = generator(latent, condition)
        labels = teacher(made)
        (gradient,) = torch.autograd.grad((1 - (labels * batch.teacher).sum(1)).sum(), latent)
        parts.append(
            (
                to_pixels(batch.images),
                to_pixels(made),
                labels,
                latent,
                condition,
                gradient,
            )
        )
    return Pool(*(torch.cat([item.detach().cpu() for item in column]) for column in zip(*parts, strict=True)))


def to_pixels(images: Tensor) -> Tensor:
    """[n, 3, S, S] in [-1, 1] -> uint8 [n, S, S, 3]."""
    return ((images.detach() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
