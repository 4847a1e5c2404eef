"""C2PA manifests: signed with a certificate made here, checked, tampered with, never fetched."""

from __future__ import annotations

import http.server
import io
import json
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeage.errors import EdgeageError
from edgeage.runtime.provenance import Claim, credentials
from edgeage.runtime.provenance.credentials import Signer, read, sign
from edgeage.runtime.provenance.label import add_label, read_label
from edgeage.runtime.provenance.untrusted_certificate import TestChain, make_chain, write_chain

c2pa = pytest.importorskip("c2pa", reason="SKIPPED FOR LACK OF c2pa-python (extra provenance)")


@pytest.fixture(scope="module")
def chain() -> TestChain:
    return make_chain()


@pytest.fixture(scope="module")
def signer(chain: TestChain) -> Signer:
    return Signer(chain.certificates, chain.private_key, "es256")


@pytest.fixture(scope="module")
def photo() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 48), 60).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def signed(portrait: np.ndarray, encode, claim: Claim, signer: Signer, photo: bytes) -> bytes:
    labelled = add_label(encode(portrait[:64, :80], "PNG"), claim)
    return sign(labelled, "image/png", claim, signer, original=(photo, "image/jpeg"), watermarked=True)


def test_round_trip(signed: bytes, claim: Claim, chain: TestChain) -> None:
    found = read(signed)
    assert found is not None
    assert found.state == "valid"
    assert [reason.partition(":")[0] for reason in found.reasons] == ["signingCredential.untrusted"]
    assert "UNTRUSTED" in found.signer
    assert "UNTRUSTED" in found.issuer
    assert found.generator == "edgeage 9.8.7"
    assert found.actions == (
        "c2pa.opened",
        "c2pa.edited (compositeWithTrainedAlgorithmicMedia)",
        "c2pa.watermarked.unbound",
    )
    assert found.facts == {
        "bundle": claim.bundle,
        "bundle_sha256": claim.bundle_sha256,
        "target_groups": "60+",
        "own_group": "30-39",
        "mode": "delta",
        "strength": "1.1",
    }
    assert found.ingredients == ("photo (image/jpeg), without a manifest of its own",)
    trusted = read(signed, trust=chain.root)
    assert trusted is not None
    assert (trusted.state, trusted.reasons) == ("trusted", ())
    stranger = read(signed, trust=make_chain().root)
    assert stranger is not None
    assert stranger.state == "valid"


def test_the_label_stays_beside_the_manifest(signed: bytes, portrait: np.ndarray, claim: Claim) -> None:
    assert read_label(signed).claim == claim
    with Image.open(io.BytesIO(signed)) as image:
        assert np.array_equal(np.asarray(image), portrait[:64, :80])


def test_a_reader_that_is_not_ours_finds_the_same(signed: bytes) -> None:
    """c2pa's own JSON, with its default settings."""
    with c2pa.Reader("image/png", io.BytesIO(signed)) as reader:
        store = json.loads(reader.json())
    assert store["validation_state"] == "Valid"
    actions = store["manifests"][store["active_manifest"]]["assertions"][0]["data"]["actions"]
    assert [action["action"] for action in actions][:2] == ["c2pa.opened", "c2pa.edited"]
    assert actions[1]["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert b"thumbnail" not in signed


@pytest.mark.parametrize(
    ("kind", "mime"), [("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif")]
)
def test_other_formats(
    portrait: np.ndarray, encode, claim: Claim, signer: Signer, kind: str, mime: str
) -> None:
    content = sign(add_label(encode(portrait[:64, :64], kind), claim), mime, claim, signer)
    found = read(content)
    assert found is not None
    assert found.state == "valid"
    assert found.actions == (
        "c2pa.created (compositeWithTrainedAlgorithmicMedia)",
        "c2pa.edited (compositeWithTrainedAlgorithmicMedia)",
    )
    assert read_label(content).claim == claim


@pytest.mark.parametrize("what", ["a pixel", "the label", "the claim's bundle"])
def test_tampering_is_noticed(signed: bytes, what: str) -> None:
    changed = bytearray(signed)
    if what == "a pixel":
        changed[signed.rindex(b"IDAT") + 50] ^= 1
    elif what == "the label":
        place = signed.index(b"face aged to 60+")
        changed[place + 13 : place + 16] = b"19+"
    else:
        place = signed.index(b"edgeage.bundle_sha256") + 30
        changed[place] ^= 1
    found = read(bytes(changed))
    assert found is not None
    assert found.state == "invalid"
    assert any("mismatch" in reason for reason in found.reasons)


def test_a_photo_with_a_manifest_keeps_it(
    signed: bytes, claim: Claim, signer: Signer, encode, portrait
) -> None:
    content = encode(portrait[:48, :48], "PNG")
    found = read(sign(content, "image/png", claim, signer, original=(signed, "image/png")))
    assert found is not None
    assert found.state == "valid"
    assert found.ingredients[0].startswith("photo (image/png), with its own manifest")
    assert "mismatch" not in found.ingredients[0]
    changed = bytearray(signed)
    changed[signed.rindex(b"IDAT") + 50] ^= 1
    found = read(sign(content, "image/png", claim, signer, original=(bytes(changed), "image/png")))
    assert found is not None
    assert "mismatch" in found.ingredients[0]


def test_files_without_a_manifest(portrait: np.ndarray, encode) -> None:
    for content in (b"", b"Roses are red", encode(portrait[:9, :9], "BMP"), encode(portrait[:9, :9], "PNG")):
        assert read(content) is None


def test_a_damaged_manifest_is_one_line(signed: bytes) -> None:
    with pytest.raises(EdgeageError, match="cannot be read") as caught:
        read(signed[: len(signed) // 2])
    assert "\n" not in str(caught.value)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", asked
        listening.shutdown()
        thread.join()


def remote(content: bytes, url: str, signer: Signer) -> bytes:
    """The content with a link to a manifest instead of one."""
    definition = {
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [{"action": "c2pa.edited"}]}}]
    }
    with (
        c2pa.Context.from_dict(credentials._SETTINGS) as context,
        c2pa.Builder(definition, context=context) as b,
    ):
        b.set_intent(c2pa.C2paBuilderIntent.EDIT)
        b.set_no_embed()
        b.set_remote_url(url + "/manifest.c2pa")
        out = io.BytesIO()
        with credentials._native_signer(c2pa, signer) as native:
            b.sign(native, "image/jpeg", io.BytesIO(content), out)
        return out.getvalue()


def test_a_remote_manifest_is_not_fetched(photo: bytes, signer: Signer, claim: Claim, server) -> None:
    url, asked = server
    linked = remote(photo, url, signer)
    found = read(linked)
    assert found is not None
    assert found.state == "remote"
    assert url in found.reasons[0]
    sign(photo, "image/jpeg", claim, signer, original=(linked, "image/jpeg"))
    assert asked == []
    with pytest.raises(c2pa.C2paError):  # the default would have asked: the test can fail
        c2pa.Reader("image/jpeg", io.BytesIO(linked))
    assert asked == ["/manifest.c2pa"]


def test_a_time_stamp_is_asked_for_only_if_wanted(
    photo: bytes, claim: Claim, chain: TestChain, server
) -> None:
    url, asked = server
    sign(photo, "image/jpeg", claim, Signer(chain.certificates, chain.private_key, "es256"))
    assert asked == []
    with pytest.raises(EdgeageError, match="cannot sign"):
        sign(photo, "image/jpeg", claim, Signer(chain.certificates, chain.private_key, "es256", url))
    assert len(asked) == 1


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    write_chain(tmp_path)
    return tmp_path / "certificate.pem", tmp_path / "private-key.pem"


def test_signer_from_files(files: tuple[Path, Path], photo: bytes, claim: Claim) -> None:
    signer = Signer.from_files(*files)
    assert signer.algorithm == "es256"
    assert "PRIVATE" not in repr(signer)
    assert read(sign(photo, "image/jpeg", claim, signer)) is not None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no file", "cannot read the certificate"),
        ("no key", "cannot read the private key"),
        ("not PEM", "holds no PEM certificates"),
        ("no PEM key", "holds no PEM private key"),
        ("encrypted", "is encrypted"),
        ("another key", "does not belong to"),
        ("expired", "is valid from"),
        ("algorithm", "unknown signing algorithm 'rot13'"),
    ],
)
def test_bad_certificates_are_told_before_the_work(files: tuple[Path, Path], fault: str, said: str) -> None:
    certificate, key = files
    algorithm = None
    if fault == "no file":
        certificate = certificate.with_name("gone.pem")
    elif fault == "no key":
        key = key.with_name("gone.pem")
    elif fault == "not PEM":
        certificate.write_text("roses")
    elif fault == "no PEM key":
        key.write_text("roses")
    elif fault == "encrypted":
        from cryptography.hazmat.primitives import serialization

        private = serialization.load_pem_private_key(key.read_bytes(), None)
        secret = serialization.BestAvailableEncryption(b"secret")
        form = serialization.PrivateFormat.PKCS8
        key.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, secret))
    elif fault == "another key":
        key.write_text(make_chain().private_key)
    elif fault == "expired":
        old = make_chain(days=-0.5)
        certificate.write_text(old.certificates)
        key.write_text(old.private_key)
    else:
        algorithm = "rot13"
    with pytest.raises(EdgeageError, match=said) as caught:
        Signer.from_files(certificate, key, algorithm)
    assert "\n" not in str(caught.value)


def test_a_certificate_that_c2pa_refuses_is_one_line(chain: TestChain, photo: bytes, claim: Claim) -> None:
    for bad in (
        Signer(chain.certificates, chain.private_key, "ps256"),
        Signer(chain.certificates, make_chain().private_key, "es256"),
        Signer(chain.root, chain.private_key, "es256"),
        Signer("", "", "es256"),
    ):
        with pytest.raises(EdgeageError, match="cannot sign with this certificate") as caught:
            sign(photo, "image/jpeg", claim, bad)
        assert "\n" not in str(caught.value)


@settings(max_examples=60)
@given(st.data())
def test_no_damage_passes_for_another_statement(data: st.DataObject) -> None:
    """Not every byte of a manifest is signed (padding, box names), but what it says is, and the picture."""
    whole = _signed_once()
    content = bytearray(whole)
    places = data.draw(st.lists(st.integers(whole.index(b"jumb"), len(whole) - 1), min_size=1, max_size=3))
    for place in places:
        content[place] ^= data.draw(st.integers(1, 255))
    found = None
    try:
        found = read(bytes(content))
    except EdgeageError as error:
        assert_one_line(error)
    if found and found.state == "valid":
        true = read(whole)
        assert true is not None
        assert (found.facts, found.actions, found.ingredients) == (true.facts, true.actions, true.ingredients)
        picture = whole.rindex(b"\xff\xdb")  # the last quantisation table, behind the manifest
        assert content[picture:] == whole[picture:]


def assert_one_line(error: EdgeageError) -> None:
    assert "\n" not in str(error)


@lru_cache(maxsize=1)
def _signed_once() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((16, 16), 60).convert("RGB").save(stream, "JPEG")
    made = make_chain()
    signer = Signer(made.certificates, made.private_key, "es256")
    return sign(
        stream.getvalue(), "image/jpeg", Claim("tiny", "f" * 64, ("60+",), "19-29", "raw", 1.0), signer
    )
