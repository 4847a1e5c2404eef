"""What a face model works on: the sizes and the frame that train, export and runtime share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.groups import AGE_GROUPS


@dataclass(frozen=True)
class Profile:
    """The shared vocabulary of one model family.

    Attributes:
        name: "edge", "paper", ...
        image_size: side of the square RGB image in pixels; images are float32 in [-1, 1], NCHW.
        latent_size: number of latent dimensions, prior N(0, I).
        embedding_size: number of dimensions of the face embedding.
        groups: the age groups that the condition y encodes, one-hot, in this order.
        frame: how a face lies in the image, a key of `edgeage.frames.FRAMES`.
    """

    name: str
    image_size: int = 64
    latent_size: int = 100
    embedding_size: int = 128
    groups: tuple[str, ...] = AGE_GROUPS
    frame: str = "utkface"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "groups": list(self.groups)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Profile:
        try:
            return cls(**{**fields, "groups": tuple(fields["groups"])})
        except (TypeError, KeyError) as error:
            raise EdgeageError(f"not a profile: {error}; made by another version?") from None
