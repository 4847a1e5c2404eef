"""What a profile file may say: the shapes of the four networks."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from edgeage.errors import EdgeageError
from edgeage.groups import AGE_GROUPS
from edgeage.profile import Profile


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Immutable; a field that is not known is refused, not ignored."""


class EncoderShape(_Strict, kw_only=True):
    channels: tuple[int, ...]
    kernel: int
    dense: tuple[int, ...] = ()
    normalised_latent: bool = False


class GeneratorShape(_Strict, kw_only=True):
    dense: tuple[int, ...]
    stem_channels: int
    stem_size: int
    stem_norm: Literal["channel", "unit"] = "channel"
    channels: tuple[int, ...]
    kernel: int
    dropout: float = 0.0
    film: bool = False
    output: Literal["upsample", "subpixel"] = "upsample"


class DiscriminatorShape(_Strict, kw_only=True):
    channels: tuple[int, ...]
    kernel: int
    condition: Literal["concat", "projection"]


class RecogniserShape(_Strict, kw_only=True):
    """`channels` are those of "mobile", `kept` the residual blocks of "mobilefacenet" at each scale."""

    kind: Literal["mobile", "mobilefacenet", "inception-resnet-v2"]
    channels: tuple[int, ...] = ()
    kept: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())
    input_scale: int = 1


class NetworkProfile(_Strict, kw_only=True):
    """A profile with the shapes of its networks (`train/profiles/NAME.json`)."""

    name: str
    encoder: EncoderShape
    generator: GeneratorShape
    discriminator: DiscriminatorShape
    recogniser: RecogniserShape
    image_size: int = 64
    latent_size: int = 100
    embedding_size: int = 128
    groups: tuple[str, ...] = AGE_GROUPS
    frame: str = "utkface"

    def __post_init__(self) -> None:
        upsamplings = len(self.generator.channels) + 1
        if self.generator.stem_size << upsamplings != self.image_size:
            raise ValueError(
                f"the generator's stem of {self.generator.stem_size} px doubled {upsamplings} times "
                f"is not image_size {self.image_size}"
            )
        if self.image_size % (1 << len(self.encoder.channels)):
            raise ValueError(f"image_size {self.image_size} cannot be halved once per encoder layer")

    @property
    def vocabulary(self) -> Profile:
        """The part that export and runtime share."""
        return Profile(
            name=self.name,
            image_size=self.image_size,
            latent_size=self.latent_size,
            embedding_size=self.embedding_size,
            groups=self.groups,
            frame=self.frame,
        )


def shipped(package: str) -> list[str]:
    """Names of the data files that come with `edgeage.train.<package>`."""
    folder = resources.files(f"edgeage.train.{package}")
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".json"))


def read_data_file(name: str, package: str, what: str) -> bytes:
    """Bytes of a JSON file given by path, or by the name of one that is shipped."""
    if name.endswith(".json"):
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise EdgeageError(f"cannot read the {what} {name}: {error.strerror}") from None
    if name not in shipped(package):
        raise EdgeageError(
            f"no {what} named {name!r}; shipped are {', '.join(shipped(package))}, "
            f"or give the path of a .json file"
        )
    return resources.files(f"edgeage.train.{package}").joinpath(f"{name}.json").read_bytes()


def load_profile(name: str) -> NetworkProfile:
    """Read and validate a profile by shipped name or path; EdgeageError says which field is wrong."""
    try:
        return msgspec.json.decode(read_data_file(name, "profiles", "profile"), type=NetworkProfile)
    except msgspec.DecodeError as error:
        raise EdgeageError(f"profile {name!r} is not valid: {error}") from None
