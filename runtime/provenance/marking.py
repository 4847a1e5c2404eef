"""What is done to every written picture: pixels if asked for, the label always, a manifest with a signer."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeage.errors import EdgeageError
from edgeage.runtime.provenance import credentials, watermark
from edgeage.runtime.provenance.claim import Claim
from edgeage.runtime.provenance.label import MIME_TYPES, add_label, format_of, read_rights
from edgeage.runtime.provenance.visible_mark import draw_mark
from edgeage.runtime.provenance.watermark_code import MAX_GROUPS, Payload

if TYPE_CHECKING:
    from edgeage.runtime.aged import AgedPhoto
    from edgeage.runtime.bundle import Bundle
    from edgeage.runtime.provenance.xmp import Rights


_JUMBF = b"jumdc2pa"  # how every embedded C2PA manifest begins, whatever the container


@dataclass(frozen=True)
class Marking:
    """How the pictures of a run are marked beside the label in their metadata, which is always written.

    Attributes:
        signer: signs a C2PA manifest; None writes none.
        visible: draw the visible mark into a corner.
        watermark: put the invisible watermark into the pixels.
    """

    signer: credentials.Signer | None = None
    visible: bool = False
    watermark: bool = False

    def describe(self) -> dict[str, str]:
        """Each mark and what becomes of it, for people."""
        if self.signer:
            c2pa = f"signed ({self.signer.algorithm})"
        elif credentials.is_installed():
            c2pa = "not written: no certificate given (--certificate, --private-key)"
        else:
            c2pa = f"not written: c2pa-python is not installed ({credentials.INSTALL})"
        return {
            "metadata": "IPTC digital source type and a plain-text label",
            "c2pa": c2pa,
            "watermark": "in the pixels" if self.watermark else "not asked for",
            "visible_mark": "lower right corner" if self.visible else "not asked for",
        }


@dataclass(frozen=True)
class Provenance:
    """What is said about the pictures of one photo, and how.

    Attributes:
        claim: about all of them together.
        marking: how they are marked.
        group_names: all age groups of the bundle, in its order.
        original: the photo's file; None for a photo from memory.
    """

    claim: Claim
    marking: Marking
    group_names: tuple[str, ...]
    original: bytes | None = None

    @classmethod
    def of(
        cls, bundle: Bundle, result: AgedPhoto, marking: Marking | None = None, original: bytes | None = None
    ) -> Provenance:
        """For the result of `Session.age`; `original`: the bytes of the photo's file, if it is one."""
        names = bundle.manifest.profile.groups
        return cls(Claim.of(bundle, result), marking or Marking(), tuple(names), original)

    def mark_pixels(self, pixels: NDArray[np.uint8], group: str | None = None) -> NDArray[np.uint8]:
        """The picture, uint8 [H, W, 3], as it is to be encoded; the same array if no mark in it is asked for.

        `group`: the age group it shows; None for several. EdgeageError if a watermark does not fit.
        """
        if self.marking.watermark:
            index = self.group_names.index(group) if group is not None else None
            known = index if index is not None and index < MAX_GROUPS else None
            payload = Payload(known, self.claim.mode == "raw", self.claim.bundle_sha256[:6])
            pixels = watermark.embed(pixels, payload)
        return draw_mark(pixels) if self.marking.visible else pixels

    def mark_file(self, content: bytes, group: str | None = None) -> bytes:
        """An encoded PNG, JPEG, WebP or GIF with its label and, with a signer, its C2PA manifest."""
        claim = self.claim if group is None else self.claim.for_group(group)
        labelled = add_label(content, claim, self._rights[0])
        if self.marking.signer is None:
            return labelled
        return credentials.sign(
            labelled,
            MIME_TYPES[format_of(labelled)],
            claim,
            self.marking.signer,
            original=self._ingredient,
            watermarked=self.marking.watermark,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the photo's own metadata, one line each."""
        notes = self._rights[1]
        if self.original is not None and not self.marking.signer and _JUMBF in self.original:
            notes += ("the photo's C2PA manifest is not carried on: that takes --certificate",)
        return notes

    @cached_property
    def _rights(self) -> tuple[Rights | None, tuple[str, ...]]:
        return (None, ()) if self.original is None else read_rights(self.original)

    @cached_property
    def _ingredient(self) -> tuple[bytes, str] | None:
        return None if self.original is None else (self.original, _mime_type(self.original))


def _mime_type(content: bytes) -> str:
    """Of a photo that was read already."""
    try:
        return MIME_TYPES[format_of(content)]
    except EdgeageError:
        return Image.open(io.BytesIO(content)).get_format_mimetype() or "application/octet-stream"
