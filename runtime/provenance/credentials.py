"""Content Credentials: a signed C2PA manifest in a written picture, and the check of one, without a network.

By c2pa-python (extra `provenance`), which is imported when a manifest is written or read. What is claimed, in
the words of the C2PA specification 2.x: the photo was opened (an ingredient, with its own manifest if it has
one) and edited, and the edit composites it with the output of a trained model.
"""

from __future__ import annotations

import importlib.util
import io
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.runtime.provenance.claim import SOURCE_TYPE, Claim

ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")
INSTALL = 'pip install "edgeage[provenance]"'
# Nothing is fetched: no remote manifest, no revocation list, no trust list. Thumbnails would double the file.
_SETTINGS: dict[str, Any] = {
    "version": 1,
    "core": {"allowed_network_hosts": []},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_MAX_MANIFEST_TEXT = 500  # letters of any text that is taken from a manifest


def is_installed() -> bool:
    """Whether c2pa-python is there; it is not imported."""
    return importlib.util.find_spec("c2pa") is not None


@dataclass(frozen=True)
class Signer:
    """Who signs.

    Attributes:
        certificates: PEM, the signer's first, then those above it.
        private_key: PEM (PKCS#8), not encrypted.
        algorithm: one of `ALGORITHMS`.
        timestamp_url: of an RFC 3161 time stamp authority; None asks none. The only network access there is.
    """

    certificates: str
    private_key: str
    algorithm: str
    timestamp_url: str | None = None

    def __repr__(self) -> str:
        return f"Signer({self.algorithm}, key not shown)"

    @classmethod
    def from_files(
        cls,
        certificates: Path,
        private_key: Path,
        algorithm: str | None = None,
        timestamp_url: str | None = None,
    ) -> Signer:
        """Read both PEM files; `algorithm` is the key's usual one unless given.

        Raises EdgeageError if c2pa-python is absent, a file cannot be read, the key is encrypted or belongs
        to another certificate, or the certificate is not valid today.
        """
        _require()
        chain, key = _read(certificates, "certificate"), _read(private_key, "private key")
        key_pem, usual = _check_pair(chain, key, certificates, private_key)
        chosen = algorithm or usual
        if chosen not in ALGORITHMS:
            raise EdgeageError(f"unknown signing algorithm {chosen!r}; there are {', '.join(ALGORITHMS)}")
        return cls(chain.decode("ascii", "replace"), key_pem, chosen, timestamp_url)


@dataclass(frozen=True)
class Credentials:
    """What the C2PA manifest of a file says, and whether it holds.

    Attributes:
        state: "trusted" (holds, and the signer is on the given trust list), "valid" (holds, signer unknown),
            "invalid" (the file or the manifest was changed), "remote" (it is elsewhere and was not fetched).
        reasons: codes of the C2PA specification for what is wrong or unknown, with their explanations.
        signer: name in the certificate; issuer: its organisation.
        generator: the program that made the manifest.
        actions: what was done, as "c2pa.edited (compositeWithTrainedAlgorithmicMedia)".
        facts: edgeage's own parameters of the edit: bundle, hash, target groups; empty for other programs.
        ingredients: what the picture was made from, and whether that brought its own manifest.
    """

    state: str
    reasons: tuple[str, ...]
    signer: str = ""
    issuer: str = ""
    generator: str = ""
    actions: tuple[str, ...] = ()
    facts: dict[str, str] | None = None
    ingredients: tuple[str, ...] = ()


def sign(
    content: bytes,
    mime_type: str,
    claim: Claim,
    signer: Signer,
    *,
    original: tuple[bytes, str] | None = None,
    watermarked: bool = False,
) -> bytes:
    """The file with a signed manifest in it.

    `content`: an encoded picture or video that c2pa-python can write into. `original`: bytes and MIME type of
    the photo; without it the picture counts as created, not edited. EdgeageError if it cannot be signed.
    """
    c2pa = _require()
    edit = {
        "action": "c2pa.edited",
        "digitalSourceType": SOURCE_TYPE,
        "softwareAgent": {"name": "edgeage", "version": claim.version},
        "description": claim.label,
        "parameters": {
            "edgeage.bundle": claim.bundle,
            "edgeage.bundle_sha256": claim.bundle_sha256,
            "edgeage.target_groups": ", ".join(claim.groups),
            "edgeage.own_group": claim.own_group,
            "edgeage.mode": claim.mode,
            "edgeage.strength": f"{claim.strength:g}",
        },
    }
    actions = [edit, *([{"action": "c2pa.watermarked.unbound"}] if watermarked else [])]
    manifest = {
        "claim_generator_info": [{"name": "edgeage", "version": claim.version}],
        "format": mime_type,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }
    try:
        with c2pa.Context.from_dict(_SETTINGS) as context, c2pa.Builder(manifest, context=context) as builder:
            if original is None:
                composite = c2pa.C2paDigitalSourceType.COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA
                builder.set_intent(c2pa.C2paBuilderIntent.CREATE, composite)
            else:
                builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
                photo, photo_type = original
                # no file name: it may be private
                builder.add_ingredient(
                    {"title": "photo", "relationship": "parentOf"}, photo_type, io.BytesIO(photo)
                )
            signed = io.BytesIO()
            with _native_signer(c2pa, signer) as native:
                builder.sign(native, mime_type, io.BytesIO(content), signed)
            return signed.getvalue()
    except c2pa.C2paError as error:
        raise EdgeageError(
            f"cannot sign with this certificate: {_line(error)}; see docs/provenance.md"
        ) from None


def read(content: bytes, mime_type: str | None = None, trust: str | None = None) -> Credentials | None:
    """The manifest of a file, checked; None if there is none or c2pa cannot read such files.

    `trust`: PEM of the certificates whose signers are trusted; without it nobody is. EdgeageError if
    c2pa-python is absent, or what is there cannot be parsed.
    """
    c2pa = _require()
    settings = {**_SETTINGS, **({"trust": {"user_anchors": trust}} if trust else {})}
    try:
        with c2pa.Context.from_dict(settings) as context:
            reader = c2pa.Reader(mime_type, io.BytesIO(content), context=context)
            with reader:
                return _credentials(json.loads(reader.json()))
    except (KeyError, TypeError, AttributeError):  # a manifest of another program, in another form
        raise EdgeageError("its C2PA manifest is not of the form that is read here") from None
    except (c2pa.C2paError.ManifestNotFound, c2pa.C2paError.NotSupported):
        return None
    except c2pa.C2paError as error:
        if str(error).startswith("Remote"):  # has no exception class of its own
            return Credentials("remote", (f"not fetched: {_line(error)}",))
        raise EdgeageError(f"its C2PA manifest cannot be read: {_line(error)}") from None


def _credentials(store: dict[str, Any]) -> Credentials:
    manifest = store["manifests"][store["active_manifest"]]
    signature = manifest.get("signature_info") or {}
    results = (store.get("validation_results") or {}).get("activeManifest") or {}
    failures = results.get("failure") or store.get("validation_status") or []
    program = (manifest.get("claim_generator_info") or [{}])[0]
    actions = [
        action
        for assertion in manifest.get("assertions") or []
        if assertion.get("label", "").startswith("c2pa.actions")
        for action in assertion["data"].get("actions") or []
    ]
    parameters = {k: v for action in actions for k, v in (action.get("parameters") or {}).items()}
    return Credentials(
        state=str(store.get("validation_state", "Invalid")).lower(),
        reasons=tuple(f"{one['code']}: {_cut(one.get('explanation'))}" for one in failures),
        signer=_cut(signature.get("common_name")),
        issuer=_cut(signature.get("issuer")),
        generator=_cut(f"{program.get('name', '')} {program.get('version', '')}".strip()),
        actions=tuple(_action(one) for one in actions),
        facts={
            _cut(k).removeprefix("edgeage."): _cut(v)
            for k, v in parameters.items()
            if k.startswith("edgeage.")
        },
        ingredients=tuple(_ingredient(one) for one in manifest.get("ingredients") or []),
    )


def _action(action: dict[str, Any]) -> str:
    source = _cut(action.get("digitalSourceType")).rpartition("/")[2]
    return _cut(action.get("action")) + (f" ({source})" if source else "")


def _ingredient(ingredient: dict[str, Any]) -> str:
    own = "without a manifest of its own"
    if ingredient.get("active_manifest"):
        active = (ingredient.get("validation_results") or {}).get("activeManifest") or {}
        codes = [_cut(one["code"]) for one in active.get("failure") or []]
        own = "with its own manifest" + (f" ({', '.join(codes)})" if codes else "")
    return f"{_cut(ingredient.get('title'))} ({_cut(ingredient.get('format'))}), {own}"


def _cut(value: object) -> str:
    return str(value or "")[:_MAX_MANIFEST_TEXT]


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _native_signer(c2pa: Any, signer: Signer) -> Any:
    return c2pa.Signer.from_info(
        c2pa.C2paSignerInfo(
            signer.algorithm, signer.certificates.encode(), signer.private_key.encode(), signer.timestamp_url
        )
    )


def _require() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise EdgeageError(
            f"C2PA manifests need c2pa-python ({_line(error)}); add it with: {INSTALL}"
        ) from None
    return c2pa


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EdgeageError(f"cannot read the {what} {path}: {error.strerror}") from None


def _check_pair(chain: bytes, key: bytes, chain_path: Path, key_path: Path) -> tuple[str, str]:
    """The key as PKCS#8, and the usual algorithm for it."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        raise EdgeageError(f"{chain_path} holds no PEM certificates") from None
    try:
        private = serialization.load_pem_private_key(key, None)
    except TypeError:
        raise EdgeageError(f"the private key {key_path} is encrypted; give one that is not") from None
    except (ValueError, UnsupportedAlgorithm):
        raise EdgeageError(f"{key_path} holds no PEM private key that can sign") from None
    if private.public_key() != certificate.public_key():
        raise EdgeageError(
            f"the private key {key_path} does not belong to the first certificate of {chain_path}"
        )
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= datetime.now(timezone.utc) <= end:
        raise EdgeageError(
            f"the certificate {chain_path} is valid from {start:%Y-%m-%d} to {end:%Y-%m-%d} only"
        )
    if isinstance(private, ec.EllipticCurvePrivateKey):
        usual = {256: "es256", 384: "es384", 521: "es512"}.get(private.key_size, "es256")
    elif isinstance(private, rsa.RSAPrivateKey):
        usual = "ps256"
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        usual = "ed25519"
    else:
        raise EdgeageError(f"{key_path} is no EC, RSA or Ed25519 key, which C2PA needs")
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.PEM, *form).decode(), usual
