// What every saved picture says about itself: docs/provenance.md, "The label, for writers in other languages".

import { concatenate, insertChunks, latin1 } from "./png.mjs";

const SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";
const TEMPLATE = `<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
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
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>`;

/** `claim`: {bundle, bundleSha256, group, ownGroup, strength, version}. */
export function plainLabel({ bundle, bundleSha256, group, version }) {
  return (
    `AI-manipulated picture: face aged to ${group} by edgeage ${version} ` +
    `(model ${bundle}, mode delta, bundle SHA-256 ${bundleSha256}).`
  );
}

export function xmpPacket(claim) {
  const texts = {
    source_type: SOURCE_TYPE,
    bundle: claim.bundle,
    bundle_sha256: claim.bundleSha256,
    groups: claim.group,
    own_group: claim.ownGroup,
    mode: "delta",
    strength: String(Number(claim.strength.toPrecision(6))),
    version: claim.version,
    label: plainLabel(claim),
  };
  return TEMPLATE.replace(/\{(\w+)\}/g, (_, name) => escaped(texts[name]));
}

/** Without what XML forbids, and what it gives a meaning of its own. */
function escaped(text) {
  const allowed = text.replace(/[^\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/gu, "");
  return allowed.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

/** The bytes of a PNG file with the label. */
export function labelled(png, claim) {
  const packet = concatenate([latin1("XML:com.adobe.xmp\0\0\0\0\0"), new TextEncoder().encode(xmpPacket(claim))]);
  return insertChunks(png, [
    ["iTXt", packet],
    ["tEXt", latin1(`Description\0${plainLabel(claim)}`)],
    ["tEXt", latin1(`Software\0edgeage ${claim.version}`)],
  ]);
}
