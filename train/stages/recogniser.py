"""The recogniser of the engines, distilled from the teacher or trained on known persons.

It never sees the training loss's net, and the training loss never sees it (FINDINGS, section 6).
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeage.errors import EdgeageError
from edgeage.train.batches import degrade, vary_geometry, vary_light
from edgeage.train.networks.mobilefacenet import MobileFaceNet, Slopes, start_from
from edgeage.train.recipes.schema import Recogniser
from edgeage.train.recipes.schema import Stage as Options
from edgeage.train.stages.base import Context, Phases, Stage, detached
from edgeage.train.teacher import Teacher, placement

TEMPERATURE = 16.0  # of the cosine softmax over persons
UNFADED = "unfaded"  # the recogniser as it was before its slopes faded, kept while they do


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
        embedder = self.trained["embedder"]
        if options.fade and not (isinstance(embedder, MobileFaceNet) and options.target == "teacher"):
            raise EdgeageError("only a mobilefacenet that is distilled has slopes to fade; set fade to 0")
        self.faded = [m for m in embedder.modules() if isinstance(m, Slopes)] if options.fade else []
        for slopes in self.faded:  # the schedule moves them, not the optimizer
            slopes.requires_grad_(False)
        self.add_optimizer(
            "embedder", self.trained.values(), options.learning_rate, options.betas, options.weight_decay
        )
        if options.target == "teacher":
            assert context.teacher is not None  # checked above
            assert context.sampler.teacher is not None
            self.teacher = context.teacher
            basis = principal_directions(context.sampler.teacher, context.spec.embedding_size)
            self.basis = basis.to(context.device)
            for painter in ("encoder", "generator"):
                context.best(painter).eval()

    def begin(self) -> None:
        embedder, teacher = self.trained["embedder"], self.context.teacher
        if isinstance(embedder, MobileFaceNet) and teacher and "embedder" not in self.context.learned:
            start_from_teacher(embedder, teacher, self.basis, self.context)
        if self.faded:
            assert isinstance(embedder, MobileFaceNet)  # checked above
            embedder.tame_slopes()
            embedder.equalise(few_images(self.context))
            self.context.networks[UNFADED] = copy.deepcopy(embedder).eval().requires_grad_(False)

    def schedule(self, step: int, options: Options) -> None:
        super().schedule(step, options)
        if self.faded:
            fade(self.faded, step, options.steps * self.options.fade)

    def finish(self) -> None:
        super().finish()
        self.context.networks.pop(UNFADED, None)
        if isinstance(embedder := self.trained["embedder"], MobileFaceNet):
            embedder.tame_slopes()
            embedder.equalise(few_images(self.context))

    def step(self, step: int, rng: np.random.Generator) -> Phases:
        losses = self.distil(rng) if self.options.target == "teacher" else self.tell_persons_apart(rng)
        yield "embedder", losses["total"]
        return detached(losses)

    def distil(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """The teacher sees the very images that the student sees, camera faults and all.

        Labels of the clean faces would teach invariance, which the teacher does not have: refinement
        follows the gradient, and that is where the two would differ (Beyer et al. 2022).
        """
        options, context = self.options, self.context
        made = round(options.batch * options.generated_share)
        batch = context.sampler.draw(options.batch - made, options.balanced, rng)
        images = vary_camera(batch.images, rng)
        if made:
            images = torch.cat([images, self.generated(made, rng)])
        targets = torch.from_numpy(self.teacher.embed(images)).to(context.device)
        images = images.contiguous(memory_format=torch.channels_last)
        hints: dict[str, Tensor] = {}
        if self.faded:
            embedding, hints["hints"] = self.follow_unfaded(images)
        else:
            embedding = self.trained["embedder"](images)
        wanted = F.normalize(targets @ self.basis, dim=1)
        distance = 1 - (F.normalize(embedding, dim=1) * wanted).sum(1)
        losses = {"real": distance[: len(batch.images)].mean(), "length": excess_length(embedding), **hints}
        if made:
            losses["generated"] = distance[len(batch.images) :].mean()
        total = 3 * distance.mean() + 0.1 * losses["length"] + sum(hints.values())
        return {**losses, "total": total}

    def follow_unfaded(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The embedding, and how far each linear layer is from the same net before its slopes faded.

        One number at the end of 27 layers says little to the first of them; with hints on the way (Romero
        et al. 2015) each block learns to do without slopes by itself.
        """
        embedder, unfaded = self.trained["embedder"], self.context.networks[UNFADED]
        assert isinstance(embedder, MobileFaceNet)
        assert isinstance(unfaded, MobileFaceNet)
        with torch.no_grad():
            wanted = unfaded.bottlenecks(images)
        found = embedder.bottlenecks(images)
        errors = [(a - b).pow(2).mean() / b.var() for a, b in zip(found, wanted, strict=True)]
        return found[-1], torch.stack(errors).mean()

    @torch.no_grad()
    def generated(self, count: int, rng: np.random.Generator) -> Tensor:
        """Faces of E and G; most latents wander as in refinement, some groups are not the person's own."""
        context = self.context
        batch = context.sampler.draw(count, 0.5, rng)
        latent = context.best("encoder")(batch.images)
        reach = 0.6 * torch.rand(count, 1, device=context.device)
        wanders = torch.rand(count, 1, device=context.device) < 0.7
        latent = latent + reach * wanders * torch.randn_like(latent)
        other = torch.randint_like(batch.groups, 0, len(context.spec.groups))
        own = torch.rand(count, device=context.device) < 0.8
        made: Tensor = context.best("generator")(
            latent, context.one_hot(torch.where(own, batch.groups, other))
        )
        return made

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


@torch.no_grad()
def fade(slopes: list[Slopes], step: int, steps: float) -> None:
    """Take from the slopes at `step` what brings them to zero, in a straight line, after `steps`."""
    left, before = (max(1 - s / steps, 0.0) for s in (step + 1, step))
    for each in slopes:
        each.weight *= left / before if before else 0.0


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
    with torch.no_grad():
        length = embedder(few_images(context)).norm(dim=1).mean()
        embedder.embedding.weight /= length
        embedder.embedding.bias /= length


def few_images(context: Context, count: int = 256) -> Tensor:
    """Some of the training faces, the same at every call."""
    return context.sampler.draw(count, 1.0, np.random.default_rng(0), flip=False).images
