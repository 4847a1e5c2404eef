"""What a file's metadata holds for us, whatever the format: one XMP packet and named plain texts."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeage.errors import EdgeageError


@dataclass(frozen=True)
class Texts:
    """Metadata to write.

    Attributes:
        xmp: a packet, UTF-8.
        label: one line for people.
        software: name and version of the program.
        creators, notice: rights in the photo that the picture is made of.
    """

    xmp: bytes
    label: str
    software: str
    creators: tuple[str, ...] = ()
    notice: str = ""


@dataclass(frozen=True)
class Extracted:
    """Metadata as found: the XMP packet, if there is one, and plain texts by the format's names for them."""

    xmp: bytes | None = None
    texts: dict[str, str] = field(default_factory=dict)


def damaged(kind: str, why: str) -> EdgeageError:
    return EdgeageError(f"the {kind} is damaged: {why}")
