"""What reaches the disk: every picture marked unless told otherwise, pixels changed only when asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeage.errors import EdgeageError
from edgeage.groups import AGE_GROUPS
from edgeage.runtime.bundle import open_bundle
from edgeage.runtime.photo.write import write_photos
from edgeage.runtime.provenance import Claim, credentials
from edgeage.runtime.provenance.claim import SOURCE_TYPE
from edgeage.runtime.provenance.label import read_label
from edgeage.runtime.provenance.marking import Marking, Provenance
from edgeage.runtime.provenance.report import examine
from edgeage.runtime.provenance.untrusted_certificate import write_chain
from edgeage.runtime.provenance.visible_mark import draw_mark
from edgeage.runtime.provenance.watermark import detect
from edgeage.runtime.provenance.watermark_code import Payload

BOX = [(200.0, 80.0, 300.0, 200.0)]


@pytest.fixture
def age(run, built_bundle: Path, sample: Path, tmp_path: Path):
    """`edgeage age` on the sample to two groups, into tmp_path/out."""

    def run_age(*more: object, photo: Path = sample) -> tuple[int, str, str]:
        where = ("--out", tmp_path / "out", "--bundle", built_bundle, "--engine", "onnxruntime")
        return run("age", photo, *where, "--groups", "60+,30-39", "--from", "30-39", *more)

    return run_age


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[object, ...]:
    pytest.importorskip("c2pa", reason="SKIPPED FOR LACK OF c2pa-python (extra provenance)")
    write_chain(tmp_path / "pem")
    return (
        "--certificate",
        tmp_path / "pem/certificate.pem",
        "--private-key",
        tmp_path / "pem/private-key.pem",
    )


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_every_picture_is_marked_by_default(age, tmp_path: Path, built_bundle: Path, portrait) -> None:
    code, out, _ = age()
    assert code == 0
    assert "C2PA manifest not written: no certificate given" in out
    for group in ("60+", "30-39"):
        label = read_label((tmp_path / "out" / f"age-{group}.png").read_bytes())
        assert label.source_type == SOURCE_TYPE
        assert label.claim == Claim("tiny", open_bundle(built_bundle).sha256, (group,), "30-39", "delta", 1.1)
    strip = read_label((tmp_path / "out" / "strip.png").read_bytes())
    assert strip.claim is not None
    assert strip.claim.groups == ("60+", "30-39")
    assert np.array_equal(pixels_of(tmp_path / "out" / "age-30-39.png"), portrait)


def test_the_label_leaves_all_pixels_as_they_are_without_it(age, tmp_path: Path, certificate) -> None:
    age(*certificate)
    marked = {path.name: pixels_of(path) for path in (tmp_path / "out").iterdir()}
    code, out, _ = age("--force", "--no-provenance")
    assert code == 0
    assert "NONE, as --no-provenance asks" in out
    for name, pixels in marked.items():
        path = tmp_path / "out" / name
        assert np.array_equal(pixels_of(path), pixels)
        assert not examine(path).found


def test_all_marks_at_once_and_read_back(age, run, tmp_path: Path, certificate, built_bundle: Path) -> None:
    code, out, _ = age(*certificate, "--watermark", "--visible-mark", "--json")
    assert code == 0
    marks = json.loads(out)["provenance"]
    assert marks["marked"] is True
    assert marks["c2pa"] == "signed (es256)"
    path = tmp_path / "out" / "age-60+.png"
    code, out, err = run("provenance", path, "--trust", tmp_path / "pem/trust.pem", "--json")
    assert (code, err) == (0, "")
    (report,) = json.loads(out)
    assert report["c2pa"]["state"] == "trusted"
    assert report["c2pa"]["facts"]["target_groups"] == "60+"
    assert report["label"]["claim"]["groups"] == ["60+"]
    digest = open_bundle(built_bundle).sha256
    assert report["watermark"]["payload"] == {"group": 5, "raw": False, "bundle": digest[:6]}
    code, out, _ = run("provenance", path)
    shown = " ".join(out.split())
    assert code == 0
    for text in ("AI-manipulated picture", "nobody vouches", "UNTRUSTED", "age group 6 of its bundle"):
        assert text in shown


def test_exit_codes(run, tmp_path: Path, sample: Path, claim: Claim, encode, portrait) -> None:
    text = tmp_path / "poem.txt"
    text.write_text("Roses are red")
    marking = Provenance(claim, Marking(), tuple(AGE_GROUPS))
    marked = tmp_path / "marked.png"
    marked.write_bytes(marking.mark_file(encode(portrait[:40, :40], "PNG")))
    assert run("provenance", marked)[0] == 0
    code, out, _ = run("provenance", sample)
    assert code == 1
    assert "does not prove" in out
    assert run("provenance", marked, sample)[0] == 1
    code, out, err = run("provenance", marked, text, tmp_path / "gone.png")
    assert code == 2
    assert "AI-manipulated" in out
    assert err.count("edgeage: error: ") == err.count("\n") == 2
    code, out, err = run("provenance", marked, "--trust", text)
    assert (code, out) == (2, "")
    assert "holds no PEM certificates" in err


def test_a_damaged_mark_is_told_and_the_others_are_read(
    run, tmp_path: Path, portrait, claim: Claim, encode
) -> None:
    marks = Provenance(claim, Marking(watermark=True), tuple(AGE_GROUPS))
    content = marks.mark_file(encode(marks.mark_pixels(portrait, "60+"), "JPEG", quality=90), "60+")
    path = tmp_path / "photo.jpg"
    path.write_bytes(content.replace(b"<rdf:RDF", b"<rdf RDF"))
    code, out, _ = run("provenance", path, "--json")
    (report,) = json.loads(out)
    assert code == 0
    assert "damaged" in report["problems"][0]
    assert report["label"]["text"].startswith("AI-manipulated")
    assert report["watermark"]["payload"]["bundle"] == claim.bundle_sha256[:6]


def test_a_foreign_text_does_not_steer_the_terminal(
    run, tmp_path: Path, portrait, encode, claim: Claim
) -> None:
    path = tmp_path / "photo.gif"
    content = Provenance(claim, Marking(), tuple(AGE_GROUPS)).mark_file(encode(portrait[:40, :40], "GIF"))
    path.write_bytes(content.replace(b"picture: face aged", b"picture: \x1b[2Jee age"))
    code, out, _ = run("provenance", path)
    assert code == 0
    assert "\x1b" not in out
    assert "?[2Jee age" in " ".join(out.split())


def test_without_c2pa_the_output_says_so(age, run, tmp_path: Path, certificate, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "c2pa", None)
    monkeypatch.setattr(credentials, "is_installed", lambda: False)
    code, out, _ = age()
    assert code == 0
    assert 'c2pa-python is not installed (pip install "edgeage[provenance]")' in " ".join(out.split())
    code, out, err = run("provenance", tmp_path / "out" / "strip.png")
    assert code == 0
    assert "C2PA not checked" in err
    code, out, err = age("--force", *certificate)
    assert (code, out) == (2, "")
    assert 'pip install "edgeage[provenance]"' in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--no-provenance", "--watermark"), "--no-provenance excludes"),
        (("--certificate", "x.pem"), "both --certificate and --private-key"),
        (("--timestamp-url", "http://x"), "both --certificate and --private-key"),
        (("--certificate", "x.pem", "--private-key", "y.pem"), "cannot read the certificate x.pem"),
    ],
)
def test_options_that_do_not_fit(age, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    code, out, err = age(*options)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_rights_and_notes_of_the_photo(age, tmp_path: Path, portrait) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 3, "(c) Ann"  # upside down
    exif.get_ifd(0x8825)[1] = "N"
    photo = tmp_path / "photo.jpg"
    Image.fromarray(portrait[::-1, ::-1]).save(photo, quality=95, exif=exif.tobytes())
    code, _, err = age(photo=photo)
    assert code == 0
    assert "GPS position is not kept" in err
    with Image.open(tmp_path / "out" / "age-30-39.png") as image:
        assert b"(c) Ann" in image.info["XML:com.adobe.xmp"].encode()
        assert not image.getexif()
        assert np.abs(np.asarray(image).astype(int) - portrait).mean() < 3  # upright


def test_a_manifest_of_the_photo_is_carried_on_or_missed(
    age, tmp_path: Path, certificate, sample: Path
) -> None:
    age(*certificate)
    (signed := tmp_path / "signed.png").write_bytes((tmp_path / "out" / "age-30-39.png").read_bytes())
    _, _, err = age("--force", photo=signed)
    assert "the photo's C2PA manifest is not carried on" in err
    _, _, err = age("--force", *certificate, photo=signed)
    assert "not carried on" not in err
    report = examine(tmp_path / "out" / "age-60+.png")
    assert report.c2pa is not None
    assert "with its own manifest" in report.c2pa.ingredients[0]


def test_unmarked_writing_must_be_said(tmp_path: Path, portrait) -> None:
    with pytest.raises(TypeError, match="provenance"):
        write_photos(tmp_path, portrait, {"60+": portrait}, BOX)  # type: ignore[call-arg]
    paths = write_photos(tmp_path, portrait, {"60+": portrait}, BOX, provenance=None)
    assert not any(examine(path).found for path in paths)


def test_a_mark_that_fails_leaves_no_file(tmp_path: Path, claim: Claim) -> None:
    small = np.full((100, 300, 3), 90, np.uint8)
    marks = Provenance(claim, Marking(watermark=True), tuple(AGE_GROUPS))
    with pytest.raises(EdgeageError, match="at least 128 pixels"):
        write_photos(tmp_path / "out", small, {"60+": small}, [(10.0, 10.0, 60.0, 60.0)], provenance=marks)
    assert not (tmp_path / "out").exists()


def test_the_claim_of_several_groups_has_no_group_in_the_watermark(portrait, claim: Claim) -> None:
    marks = Provenance(claim, Marking(watermark=True), tuple(AGE_GROUPS))
    found = detect(marks.mark_pixels(portrait))
    assert found is not None
    assert found.payload == Payload(None, False, claim.bundle_sha256[:6])
    unasked = Provenance(claim, Marking(), tuple(AGE_GROUPS))
    assert unasked.mark_pixels(portrait, "60+") is portrait


@pytest.mark.parametrize("value", [0, 90, 255])
@pytest.mark.parametrize("size", [(30, 20), (200, 300), (900, 1600)])
def test_the_visible_mark_is_small_and_seen_on_any_ground(size: tuple[int, int], value: int) -> None:
    picture = np.full((*size, 3), value, np.uint8)
    marked = draw_mark(picture)
    changed = (marked != picture).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (picture == value).all()
    if min(size) >= 200:  # the lower right corner, about a twentieth of the height
        assert rows[0] > size[0] * 0.85
        assert columns[0] > size[1] * 0.7
        assert 0.03 < np.ptp(rows) / min(size) < 0.1
    window = marked[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, 0].astype(int)
    assert window.max() - window.min() > 130  # letters against pill, whatever lies below


def test_the_python_api_says_what_it_needs(built_bundle: Path, portrait, tmp_path: Path) -> None:
    import edgeage

    session = edgeage.load(built_bundle, engine="onnxruntime")
    result = session.age(portrait, groups=["60+"], source_group="30-39")
    marks = Provenance.of(session.bundle, result)
    boxes = [face.box for face in result.faces]
    paths = write_photos(tmp_path / "out", result.photo, result.aged, boxes, provenance=marks)
    assert all(examine(path).found for path in paths)
    assert marks.notes == ()
