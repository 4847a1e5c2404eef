"""The engines of a bundle: their names, signatures and ports (SPEC 2), derived from the profile."""

from __future__ import annotations

from dataclasses import dataclass

from edgeage.profile import Profile
from edgeage.runtime.manifest import REFINE_BATCH, Port


@dataclass(frozen=True)
class Traits:
    """What holds for an engine in every profile; gates, forms and the parity chain read it here.

    Attributes:
        codes: difference in output codes that two right implementations may show, (99.9th percentile,
            largest); None: a gradient, held by its direction (one mask that flips changes many codes).
        for_cpus: whether it takes several faces at once, for CPUs alone: it is in the packed TFLite files
            only.
    """

    codes: tuple[int, int] | None
    for_cpus: bool = False

    @property
    def is_gradient(self) -> bool:
        return self.codes is None


# Integer kernels round their multipliers, so a value near the middle of two codes falls to either side.
# In the generator one code at the Tanh's input is up to 2.8 output codes (its range ends at 2.77, the
# output's scale is 1/128). The embedder's 50 layers carry a code that falls to the other side on: 3 and 4
# were measured between right implementations.
TRAITS = {
    "encoder": Traits((2, 2)),
    "embedder": Traits((4, 8)),
    "generator": Traits((4, 8)),
    "generator_all": Traits((4, 8)),
    "refine": Traits(None),
    "refine_batch": Traits(None, for_cpus=True),
}


@dataclass(frozen=True)
class EngineSpec:
    """Contract of one engine.

    Attributes:
        name: as in the manifest.
        network: which network of the checkpoint it is; "refine" is made of two.
        signature: of its TFLite files.
        inputs, outputs: float32, NCHW; the first size is the static batch.
    """

    name: str
    network: str
    signature: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def batch(self) -> int:
        return self.inputs[0].shape[0]

    @property
    def traits(self) -> Traits:
        return TRAITS[self.name]


def engine_specs(profile: Profile) -> dict[str, EngineSpec]:
    """Every engine of a bundle by name.

    generator_all makes all age groups in one call; refine is a step of latent refinement, refine_batch the
    same for several faces. A bundle whose networks have no reverse pass lacks the last two.
    """
    groups = len(profile.groups)

    def image(batch: int) -> Port:
        return Port("image", (batch, 3, profile.image_size, profile.image_size))

    def generator(name: str, signature: str, batch: int) -> EngineSpec:
        inputs = Port("z", (batch, profile.latent_size)), Port("y", (batch, groups))
        return EngineSpec(name, "generator", signature, inputs, (image(batch),))

    z = Port("z", (1, profile.latent_size))
    embedding = Port("embedding", (1, profile.embedding_size))

    def refine(name: str, batch: int) -> EngineSpec:
        latent, target = Port("z", (batch, *z.shape[1:])), Port("target", (batch, *embedding.shape[1:]))
        inputs = latent, Port("y", (batch, groups)), target, image(batch)
        outputs = Port("gradient", latent.shape), Port("embedding", target.shape)
        return EngineSpec(name, "refine", name, inputs, outputs)

    specs = [
        EngineSpec("encoder", "encoder", "encode", (image(1),), (z,)),
        EngineSpec("embedder", "embedder", "embed", (image(1),), (embedding,)),
        generator("generator", "generate", 1),
        generator("generator_all", "generate_all", groups),
        refine("refine", 1),
        refine("refine_batch", REFINE_BATCH),
    ]
    return {spec.name: spec for spec in specs}
