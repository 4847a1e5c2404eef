"""What a recipe file may say: the data, and the stages in their order."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from edgeage.errors import EdgeageError
from edgeage.train.data import Faces
from edgeage.train.profiles.schema import read_data_file

Positive = Annotated[int, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="stage"):
    """What every stage says.

    The learning rate rises over `warmup` steps, stays, and falls linearly to 5 % from the share
    `decay_from` of the steps on. `balanced` is the share of each batch that is drawn evenly over the age
    groups; the rest is drawn as the data lie.
    """

    steps: Positive
    batch: Positive
    learning_rate: float
    betas: tuple[float, float] = (0.5, 0.999)
    warmup: int = 50
    decay_from: Share = 0.5
    balanced: Share = 0.5


class Cgan(Stage, kw_only=True, tag="cgan"):
    """Stage 1 of the article: min_G max_D log D(x, y) + log(1 - D(G(z, y~), y~))."""

    loss: Literal["logistic", "hinge"] = "logistic"
    r1_gamma: float = 0.0
    r1_every: Positive = 8
    ema: float = 0.0


class InitialLatent(Stage, kw_only=True, tag="encoder"):
    """Stage 2: E learns z from (G(z, y), z), Euclidean loss; `real_weight` adds L1 on real faces."""

    real_weight: float = 0.0


class Identity(Stage, kw_only=True, tag="identity"):
    """Stage 3: E and G together, ||FR(x) - FR(G(E(x), y))||^2 on real faces, plus a pixel anchor."""

    pixel_weight: float = 1.0


class Perceptual(Stage, kw_only=True, tag="perceptual"):
    """The net of the training loss: distilled from the teacher, with an age head."""


class Recogniser(Stage, kw_only=True, tag="recogniser"):
    """The net of the engines (FR).

    `target` "teacher" distils on real faces and on a share of generated ones; "identities" learns to
    tell the known persons of the data apart (cosine softmax). Over the share `fade` of the steps the
    slopes of its PReLUs go to zero, and what is left are ReLUs; 0 keeps them.
    """

    target: Literal["teacher", "identities"] = "teacher"
    generated_share: Share = 0.4
    weight_decay: float = 0.02
    fade: Share = 0.0


class Amortised(Stage, kw_only=True, tag="amortised"):
    """E alone, on the loss that refinement minimises: what the first steps would change, E gives at once.

    `pixel_weight` as in refinement: of the mean squared error against squared distances of embeddings.
    """

    pixel_weight: float = 20.0


class Joint(Stage, kw_only=True, tag="joint"):
    """E and G together; weights of the terms of one sum.

    `smoothness` is the total variation of the age difference, `colour` its mean absolute chroma (age
    moves light more than hue: without it casts appear that only the age head likes). `diff_augment`
    shows D varied faces, real and generated alike (Zhao et al. 2020).
    """

    pixel: float = 5.0
    features: float = 1.0
    identity: float = 1.0
    age: float = 0.6
    aged_identity: float = 0.7
    adversarial: float = 0.25
    smoothness: float = 1.0
    colour: float = 0.0
    diff_augment: bool = False
    latent_noise: float = 0.1
    aging_from: Share = 0.15
    discriminator_learning_rate: float = 1e-3
    r1_gamma: float = 1.0
    r1_every: Positive = 8
    ema: float = 0.998


AnyStage = Cgan | InitialLatent | Identity | Perceptual | Recogniser | Amortised | Joint


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """The shares of the faces that training never sees, drawn by `seed`."""

    seed: int = 0
    validation: Share = 0.01
    test: Share = 0.02

    def split(self, faces: Faces) -> tuple[Faces, ...]:
        """(training, validation, test): choices are made on validation, figures are reported on test.

        Raises EdgeageError if a part, or an age group of the training part, is empty.
        """
        shares = (1 - self.validation - self.test, self.validation, self.test)
        training, *held_out = faces.split(self.seed, shares)
        return (training.require_all_groups(), *held_out)


class Recipe(HeldOut, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A training run: `profile` names the networks, `stages` run in order."""

    name: str
    profile: str
    stages: tuple[AnyStage, ...]

    @property
    def needs_teacher(self) -> bool:
        return any(
            isinstance(stage, Perceptual) or (isinstance(stage, Recogniser) and stage.target == "teacher")
            for stage in self.stages
        )


def held_out_by(recipe: dict[str, Any]) -> HeldOut:
    """What the recipe in a checkpoint's description held out; its other fields may be of another version."""
    try:
        return msgspec.convert(recipe, HeldOut)
    except msgspec.ValidationError as error:
        raise EdgeageError(f"the checkpoint's recipe is not valid: {error}") from None


def load_recipe(name: str) -> Recipe:
    """Read and validate a recipe by shipped name or path; EdgeageError says which field is wrong."""
    try:
        recipe = msgspec.json.decode(read_data_file(name, "recipes", "recipe"), type=Recipe)
    except msgspec.DecodeError as error:
        raise EdgeageError(f"recipe {name!r} is not valid: {error}") from None
    if not recipe.stages:
        raise EdgeageError(f"recipe {name!r} has no stages")
    return recipe
