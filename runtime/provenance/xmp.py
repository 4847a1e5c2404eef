"""The claim as an XMP packet, and any XMP packet read back: what it says about AI, rights and edgeage.

XMP: ISO 16684-1. IPTC Photo Metadata Standard 2025.1 for DigitalSourceType and AISystemUsed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from edgeage.errors import EdgeageError
from edgeage.runtime.provenance.claim import SOURCE_TYPE, Claim

# docs/provenance.md shows this very text, for writers in other languages. {rights} is whole lines or nothing.
TEMPLATE = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:edgeage="urn:edgeage:provenance:1#">
<Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
<Iptc4xmpExt:AISystemUsed>edgeage, model {bundle}</Iptc4xmpExt:AISystemUsed>
<Iptc4xmpExt:AISystemVersionUsed>{version}</Iptc4xmpExt:AISystemVersionUsed>
<xmp:CreatorTool>edgeage {version}</xmp:CreatorTool>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{label}</rdf:li></rdf:Alt></dc:description>
<edgeage:Bundle>{bundle}</edgeage:Bundle>
<edgeage:BundleSHA256>{bundle_sha256}</edgeage:BundleSHA256>
<edgeage:TargetGroups>{groups}</edgeage:TargetGroups>
<edgeage:OwnGroup>{own_group}</edgeage:OwnGroup>
<edgeage:Mode>{mode}</edgeage:Mode>
<edgeage:Strength>{strength}</edgeage:Strength>
<edgeage:Version>{version}</edgeage:Version>
{rights}</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
_EDGEAGE = "{urn:edgeage:provenance:1#}"
_MAX_BYTES = 1 << 20  # a packet of ours has 2 kB; others keep whole edit histories, but not more than this


@dataclass(frozen=True)
class Rights:
    """What of a photo's own metadata goes on into the pictures made from it.

    Attributes:
        creators: who made it, as its EXIF or XMP says.
        notice: its copyright notice.
        source_type: its IPTC digital source type, where it was marked already.
    """

    creators: tuple[str, ...] = ()
    notice: str = ""
    source_type: str = ""


@dataclass(frozen=True)
class XmpFacts:
    """What an XMP packet says.

    Attributes:
        source_type: IPTC digital source type, a URI; empty if none is stated.
        description: dc:description.
        claim: edgeage's own, if it is there whole.
        rights: of the photo.
    """

    source_type: str
    description: str
    claim: Claim | None
    rights: Rights


def make_xmp(claim: Claim, rights: Rights | None = None) -> bytes:
    """The packet as UTF-8. It holds no date: equal claims give equal bytes."""
    texts = {
        "source_type": SOURCE_TYPE,
        "bundle": claim.bundle,
        "bundle_sha256": claim.bundle_sha256,
        "groups": ", ".join(claim.groups),
        "own_group": claim.own_group,
        "mode": claim.mode,
        "strength": f"{claim.strength:g}",
        "version": claim.version,
        "label": claim.label,
    }
    safe = {name: _text(text) for name, text in texts.items()}
    return TEMPLATE.format(**safe, rights=_rights_lines(rights or Rights())).encode()


def _rights_lines(rights: Rights) -> str:
    lines = ""
    if rights.creators:
        names = "".join(f"<rdf:li>{_text(name)}</rdf:li>" for name in rights.creators)
        lines += f"<dc:creator><rdf:Seq>{names}</rdf:Seq></dc:creator>\n"
    if rights.notice:
        notice = f'<rdf:li xml:lang="x-default">{_text(rights.notice)}</rdf:li>'
        lines += f"<dc:rights><rdf:Alt>{notice}</rdf:Alt></dc:rights>\n"
    if rights.source_type:
        lines += f"<edgeage:InputSourceType>{_text(rights.source_type)}</edgeage:InputSourceType>\n"
    return lines


def _text(text: str) -> str:
    """Escaped, without the characters that XML 1.0 forbids."""
    return escape("".join(letter for letter in text if letter in "\t\n\r" or _is_xml(ord(letter))))


def _is_xml(code: int) -> bool:
    return 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000


def read_xmp(packet: bytes) -> XmpFacts:
    """Facts of a packet, from whatever program; EdgeageError if it is no XML or larger than 1 MiB."""
    if len(packet) > _MAX_BYTES:
        raise EdgeageError(f"its XMP has {len(packet)} bytes; more than {_MAX_BYTES} are not read")
    try:
        text = packet.decode("utf-8-sig").strip("\0 \t\r\n")
        if "<!" in text.replace("<!--", "").replace("<![CDATA[", ""):
            raise EdgeageError("its XMP declares document types or entities, which no XMP needs; not read")
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise EdgeageError(f"its XMP is damaged: {error}") from None
    values: dict[str, list[str]] = {}
    for description in root.iter(f"{_RDF}Description"):
        for name, value in description.attrib.items():  # XMP has two spellings of a simple property
            values.setdefault(name, []).append(value)
        for child in description:
            items = [item.text or "" for item in child.iter(f"{_RDF}li")]
            values.setdefault(child.tag, []).extend(items or [child.text or ""])

    def first(name: str) -> str:
        return values.get(name, [""])[0].strip()

    source_type = first(f"{_IPTC}DigitalSourceType")
    creators = tuple(name.strip() for name in values.get(f"{_DC}creator", []) if name.strip())
    return XmpFacts(
        source_type=source_type,
        description=first(f"{_DC}description"),
        claim=_claim(first),
        rights=Rights(creators, first(f"{_DC}rights"), source_type),
    )


def _claim(first: Callable[[str], str]) -> Claim | None:
    names = ("Bundle", "BundleSHA256", "TargetGroups", "OwnGroup", "Mode", "Strength", "Version")
    found = {name: first(_EDGEAGE + name) for name in names}
    try:
        strength = float(found["Strength"])
    except ValueError:
        return None
    if not all(found.values()) or not math.isfinite(strength):
        return None
    return Claim(
        bundle=found["Bundle"],
        bundle_sha256=found["BundleSHA256"],
        groups=tuple(group.strip() for group in found["TargetGroups"].split(",")),
        own_group=found["OwnGroup"],
        mode=found["Mode"],
        strength=strength,
        version=found["Version"],
    )
