"""What is said about a written picture: by which model and for which age group its face was made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeage import __version__

if TYPE_CHECKING:
    from edgeage.runtime.aged import AgedPhoto
    from edgeage.runtime.bundle import Bundle

# IPTC's word for "edited with generative AI": part of the picture comes from a trained model.
# https://cv.iptc.org/newscodes/digitalsourcetype/
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCE_TYPE = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
LABEL_START = "AI-manipulated picture: "


@dataclass(frozen=True)
class Claim:
    """Facts about one picture that edgeage made.

    Attributes:
        bundle: the bundle's name.
        bundle_sha256: SHA-256 of its manifest.json, which holds the hashes of all its files; hexadecimal.
        groups: the age groups that the picture shows: one for a photo, several for a strip or a morph.
        own_group: the age group that the face was taken to have.
        mode: "delta" or "raw".
        strength: of the change, 0..2.
        version: of edgeage.
    """

    bundle: str
    bundle_sha256: str
    groups: tuple[str, ...]
    own_group: str
    mode: str
    strength: float
    version: str = __version__

    @classmethod
    def of(cls, bundle: Bundle, result: AgedPhoto) -> Claim:
        """What is true of all pictures of a result together."""
        return cls(
            bundle=bundle.manifest.name,
            bundle_sha256=bundle.sha256,
            groups=tuple(result.aged),
            own_group=result.source_group,
            mode=result.mode,
            strength=result.strength,
        )

    def for_group(self, group: str) -> Claim:
        """The same claim about the picture of a single age group."""
        return replace(self, groups=(group,))

    @property
    def label(self) -> str:
        """The claim as one sentence for people."""
        return (
            f"{LABEL_START}face aged to {', '.join(self.groups)} by edgeage {self.version} "
            f"(model {self.bundle}, mode {self.mode}, bundle SHA-256 {self.bundle_sha256})."
        )
