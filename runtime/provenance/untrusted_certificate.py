"""A certificate chain for trying C2PA out, made on the spot; every validator calls its signer untrusted.

    python -m edgeage.runtime.provenance.untrusted_certificate FOLDER

writes certificate.pem, private-key.pem and trust.pem, good for 30 days.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from edgeage.files import write_bytes

if TYPE_CHECKING:
    from cryptography import x509

_NAME = "UNTRUSTED edgeage test"


@dataclass(frozen=True)
class TestChain:
    """PEM texts: the signer's certificate with its root, the signer's key, the root alone."""

    __test__ = False  # for pytest, which takes the name for a test class

    certificates: str
    private_key: str
    root: str


def make_chain(days: float = 30) -> TestChain:
    """A root and a signer's certificate below it (ES256), both with the extensions that C2PA 2.x asks for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, name = _name(f"{_NAME} root"), _name(f"{_NAME} signer")
    now = datetime.now(timezone.utc)

    def certificate(subject: x509.Name, owner: ec.EllipticCurvePrivateKey, is_root: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder(root_name, subject, owner.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(owner.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False
            )
            .add_extension(
                x509.KeyUsage(not is_root, False, False, False, False, is_root, is_root, False, False),
                critical=True,
            )
        )
        if not is_root:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, critical=False)
        return builder.sign(root_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    root = certificate(root_name, root_key, True).public_bytes(pem).decode()
    signer = certificate(name, key, False).public_bytes(pem).decode()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return TestChain(signer + root, private.decode(), root)


def _name(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _NAME),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def write_chain(folder: Path) -> None:
    """certificate.pem, private-key.pem and trust.pem of a new chain, over older ones."""
    chain = make_chain()
    write_bytes(folder / "certificate.pem", chain.certificates.encode())
    write_bytes(folder / "private-key.pem", chain.private_key.encode())
    write_bytes(folder / "trust.pem", chain.root.encode())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m edgeage.runtime.provenance.untrusted_certificate FOLDER")
    write_chain(Path(sys.argv[1]))
    print(f"{sys.argv[1]}/certificate.pem, private-key.pem, trust.pem: UNTRUSTED, for trials only, 30 days")
