"""The label in four formats, read back by this package and by others that know nothing of it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, IptcImagePlugin

from edgeage.errors import EdgeageError
from edgeage.runtime.provenance import Claim
from edgeage.runtime.provenance.claim import SOURCE_TYPE
from edgeage.runtime.provenance.label import add_label, read_label, read_rights
from edgeage.runtime.provenance.xmp import TEMPLATE, Rights, make_xmp, read_xmp

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
RIGHTS = Rights(
    ("Zoë", "B & Co"), "© 2026 <Zoë>", "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
)
DOCUMENT = Path(__file__).parents[3] / "docs" / "provenance.md"


@pytest.fixture(params=FORMATS)
def picture(request: pytest.FixtureRequest, portrait: np.ndarray, encode) -> bytes:
    return encode(portrait[::4, ::3], request.param)


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def test_round_trip_leaves_the_pixels_alone(picture: bytes, claim: Claim) -> None:
    labelled = add_label(picture, claim, RIGHTS)
    label = read_label(labelled)
    assert label.claim == claim
    assert label.source_type == SOURCE_TYPE
    assert label.is_ai
    assert not label.problems
    # PNG texts are Latin-1, which has the letters of this label; WebP has the label in its XMP alone
    assert label.text == claim.label
    assert np.array_equal(decoded(labelled), decoded(picture))
    assert not read_label(picture).is_ai


def test_labelling_twice_is_labelling_once(picture: bytes, claim: Claim) -> None:
    once = add_label(picture, claim.for_group("0-18"))
    assert add_label(add_label(once, claim), claim) == add_label(once, claim)
    assert read_label(add_label(once, claim)).claim == claim


def test_rights_are_read_from_what_was_written(picture: bytes, claim: Claim) -> None:
    rights, notes = read_rights(add_label(picture, claim, RIGHTS))
    assert (rights.creators, rights.notice) == (RIGHTS.creators, RIGHTS.notice)
    assert rights.source_type == SOURCE_TYPE
    assert notes == ("creator and copyright notice of the photo are kept in the metadata",)


def test_pillow_reads_it(portrait: np.ndarray, encode, claim: Claim) -> None:
    read = {}
    for kind in FORMATS:
        with Image.open(io.BytesIO(add_label(encode(portrait[:64, :64], kind), claim, RIGHTS))) as image:
            image.load()
            read[kind] = image
    assert read["PNG"].text["XML:com.adobe.xmp"].encode() == make_xmp(claim, RIGHTS)
    assert read["PNG"].text["Description"] == claim.label
    assert read["PNG"].text["Software"] == "edgeage 9.8.7"
    assert read["JPEG"].info["comment"] == claim.label.encode()
    iim = IptcImagePlugin.getiptcinfo(read["JPEG"])
    assert iim is not None
    assert iim[(2, 120)] == claim.label.encode()
    assert iim[(2, 80)] == [name.encode() for name in RIGHTS.creators]
    assert iim[(2, 116)] == RIGHTS.notice.encode()
    assert read["GIF"].info["comment"] == claim.label.encode()
    for kind in ("JPEG", "WEBP"):
        assert read[kind].info["xmp"] == make_xmp(claim, RIGHTS)


@pytest.mark.skipif(
    not shutil.which("exiftool"), reason="SKIPPED FOR LACK OF exiftool (libimage-exiftool-perl)"
)
def test_exiftool_reads_it_and_has_no_complaint(picture: bytes, claim: Claim, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(add_label(picture, claim, RIGHTS))
    done = subprocess.run(
        ["exiftool", "-json", "-G1", "-validate", "-all", path], capture_output=True, text=True, check=True
    )
    (read,) = json.loads(done.stdout)
    assert read["ExifTool:Validate"] == "OK"
    assert read["XMP-iptcExt:DigitalSourceType"] == SOURCE_TYPE
    assert read["XMP-dc:Description"] == claim.label
    assert read["XMP-dc:Creator"] == list(RIGHTS.creators)
    assert read["XMP-dc:Rights"] == RIGHTS.notice
    assert read["XMP-edgeage:BundleSHA256"] == claim.bundle_sha256
    assert read["XMP-edgeage:TargetGroups"] == "60+"
    assert read["XMP-edgeage:InputSourceType"] == RIGHTS.source_type


@pytest.mark.parametrize(("kind", "options"), [("GIF", {"loop": 3}), ("WEBP", {}), ("PNG", {})])
def test_animations_stay_animations(portrait: np.ndarray, claim: Claim, kind: str, options: dict) -> None:
    frames = [Image.fromarray(np.roll(portrait[:64, :64], turn, axis=1)) for turn in (0, 9, 20)]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:], duration=80, **options)
    labelled = add_label(stream.getvalue(), claim)
    assert read_label(labelled).claim == claim
    with Image.open(stream) as before, Image.open(io.BytesIO(labelled)) as after:
        assert after.n_frames == before.n_frames == 3
        assert after.info.get("loop") == before.info.get("loop")
        for index in range(3):
            before.seek(index), after.seek(index)
            assert np.array_equal(np.asarray(before.convert("RGB")), np.asarray(after.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_other_pixel_modes(portrait: np.ndarray, claim: Claim, kind: str, mode: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(portrait[:33, :21]).convert(mode).save(stream, kind, lossless=True)
    labelled = add_label(stream.getvalue(), claim)
    assert read_label(labelled).claim == claim
    with Image.open(stream) as before, Image.open(io.BytesIO(labelled)) as after:
        assert after.mode == before.mode
        assert after.tobytes() == before.tobytes()


def test_a_photo_keeps_its_rights_and_nothing_private(portrait: np.ndarray, encode, claim: Claim) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x013B], exif[0x8298] = 6, "Ann", "(c) Ann"  # orientation, artist, copyright
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 24.0)
    photo = encode(portrait[:64, :64], "JPEG", exif=exif.tobytes())
    rights, notes = read_rights(photo)
    assert (rights.creators, rights.notice) == (("Ann",), "(c) Ann")
    assert any("GPS" in note and "not kept" in note for note in notes)
    with Image.open(io.BytesIO(add_label(encode(portrait[:64, :64], "JPEG"), claim, rights))) as image:
        assert not image.getexif()


def test_metadata_of_a_photo_cannot_do_harm(portrait: np.ndarray, encode, claim: Claim) -> None:
    long = Rights(("x" * 10**5,) * 50, "ü" * 10**5)
    bomb = b'<!DOCTYPE x [<!ENTITY a "' + b"A" * 100 + b'"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    photo = encode(portrait[:64, :64], "PNG")
    rights, _ = read_rights(add_label(photo, claim, long))
    assert read_label(add_label(encode(portrait[:64, :64], "JPEG"), claim, rights)).claim == claim
    for packet, said in ((bomb, "declares"), (b"<x", "damaged"), (b"\xff\xfe<\0", "damaged")):
        harmful = add_label(photo, claim).replace(make_xmp(claim), packet.ljust(len(make_xmp(claim))))
        assert said in read_label(harmful).problems[0]
        assert said in read_rights(harmful)[1][0]


def test_other_programs_marks_count(portrait: np.ndarray, encode) -> None:
    for name, is_ai in (("trainedAlgorithmicMedia", True), ("digitalCapture", False)):
        packet = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<r:Description xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" i:DigitalSourceType='
            f'"http://cv.iptc.org/newscodes/digitalsourcetype/{name}"/></r:RDF></x:xmpmeta>'
        )
        label = read_label(encode(portrait[:64, :64], "JPEG", xmp=packet.encode()))
        assert label.is_ai == is_ai
        assert label.claim is None


def test_the_document_shows_the_very_template() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"```xml\n{TEMPLATE}\n```" in text
    example = Claim("{bundle}", "{bundle_sha256}", ("{groups}",), "x", "{mode}", 1, "{version}")
    assert f"```text\n{example.label}\n```" in text


texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)


@given(texts, texts, st.lists(texts, max_size=3), texts)
@example("]]>", "&amp;", ["<!--", "\0\x0b"], "\ufffe\u2028")
def test_any_text_survives_as_far_as_xml_allows(
    bundle: str, own: str, creators: list[str], notice: str
) -> None:
    packet = make_xmp(Claim(bundle, "0" * 64, ("60+",), own, "raw", 0.25), Rights(tuple(creators), notice))
    facts = read_xmp(packet)

    def kept(text: str) -> str:
        legal = "".join(c for c in text if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff"))
        return legal.replace("\r\n", "\n").replace("\r", "\n").strip()

    assert facts.rights.notice == kept(notice)
    assert facts.rights.creators == tuple(filter(None, map(kept, creators)))
    if kept(bundle) and kept(own):
        assert facts.claim is not None
        assert (facts.claim.bundle, facts.claim.own_group) == (kept(bundle), kept(own))


@given(st.data())
def test_damaged_files_are_one_clear_error_or_readable(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(WHOLE)))
    content = bytearray(WHOLE[kind])
    content = content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, min(len(content), 2500) - 1))] = data.draw(st.integers(0, 255))
    assert_readable_or_one_line(lambda: read_label(bytes(content)))
    assert_readable_or_one_line(lambda: add_label(bytes(content), CLAIM))
    read_rights(bytes(content))


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\1\0\0WEBP", b""]), st.binary()
)
def test_rubbish_is_one_clear_error_or_readable(magic: bytes, rest: bytes) -> None:
    assert_readable_or_one_line(lambda: read_label(magic + rest))
    read_rights(magic + rest)


def assert_readable_or_one_line(read: Callable[[], object]) -> None:
    said = ""
    try:
        read()
    except EdgeageError as error:
        said = str(error)
    assert "\n" not in said


def _whole() -> dict[str, bytes]:
    files = {}
    for kind in FORMATS:
        stream = io.BytesIO()
        Image.effect_noise((24, 16), 50).convert("RGB").save(stream, kind)
        files[kind] = add_label(stream.getvalue(), CLAIM, RIGHTS)
    return files


CLAIM = Claim("tiny", "f" * 64, ("0-18", "60+"), "19-29", "raw", 1.0)
WHOLE = _whole()
