"""The morph and the page beside the photos."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeage.errors import EdgeageError
from edgeage.runtime.job import Job
from edgeage.runtime.photo.morph import Morph
from edgeage.runtime.photo.page import Page
from edgeage.runtime.photo.sheets import ORIGINAL, Strip, faces_of
from edgeage.runtime.session import load

BOX = [(60.0, 40.0, 100.0, 80.0)]
COLOURS = {"0-18": "red", "30-39": "green", "60+": "blue"}


def as_it_is(pixels: np.ndarray) -> np.ndarray:
    return pixels


def fill(sheet, size: tuple[int, int] = (200, 150)):
    for label, colour in {ORIGINAL: "grey", **COLOURS}.items():
        sheet.add(label, np.asarray(Image.new("RGB", size, colour)))
    return sheet


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_the_morph_goes_there_and_back(kind: str) -> None:
    sheet = fill(Morph(kind, BOX))
    assert sheet.name == f"morph.{kind}"
    with Image.open(io.BytesIO(sheet.content(as_it_is))) as morph:
        assert morph.is_animated
        assert morph.info["loop"] == 0
        colours, held = [], []
        for number in range(morph.n_frames):
            morph.seek(number)
            colours.append(np.asarray(morph.convert("RGB"))[50, 50].astype(int))
            held.append(morph.info["duration"])
    stills = [colour for colour, duration in zip(colours, held, strict=True) if duration > 200]
    assert [int(np.argmax(still)) for still in stills] == [0, 1, 2, 1]
    steps = np.abs(np.diff(colours, axis=0)).max(axis=1)
    assert (
        steps.max() < 135
    )  # cross-faded (these flat colours leave the palette one step between); a cut would be 255


def test_a_morph_of_one_group_stands_still() -> None:
    sheet = Morph("gif", BOX)
    sheet.add("60+", np.zeros((100, 120, 3), np.uint8))
    with Image.open(io.BytesIO(sheet.content(as_it_is))) as morph:
        assert morph.n_frames == 1
    with pytest.raises(EdgeageError, match="unknown kind of morph"):
        Morph("avi", BOX)


def test_the_page_needs_nothing_else() -> None:
    page = fill(Page("<b>me & you</b>.jpg", "model", "Strength 1.", BOX)).content(as_it_is).decode()
    assert "&lt;b&gt;me &amp; you&lt;/b&gt;.jpg" in page
    assert "<b>" not in page
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert re.findall(r">([^<>]+)</button>", page) == list(COLOURS)
    assert "--at: 40%" in page  # the slider starts on the face
    for data in re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page):
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (200, 150)


def test_the_pages_pictures_have_a_screens_size() -> None:
    sheet = Page("large", "model", "", [(0.0, 0.0, 900.0, 900.0)])
    for label in (ORIGINAL, "60+"):
        sheet.add(label, np.zeros((4000, 6000, 3), np.uint8))
    data = re.findall(r"base64,([A-Za-z0-9+/=]+)", sheet.content(as_it_is).decode())
    with Image.open(io.BytesIO(base64.b64decode(data[0]))) as picture:
        assert max(picture.size) == 1280
        assert picture.width / picture.height == pytest.approx(1.5, abs=0.01)


def test_marks_are_put_into_every_sheet() -> None:
    def white(pixels: np.ndarray) -> np.ndarray:
        return np.full_like(pixels, 255)

    with Image.open(io.BytesIO(fill(Strip(BOX)).content(white))) as strip:
        assert strip.convert("L").getextrema() == (255, 255)
    with Image.open(io.BytesIO(fill(Morph("webp", BOX)).content(white))) as morph:
        assert np.asarray(morph.convert("L"))[:300].min() > 250
    data = re.findall(r"base64,([A-Za-z0-9+/=]+)", fill(Page("p", "m", "", BOX)).content(white).decode())
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))).mean() for one in data]
    assert sorted(shown)[0] < 200 < 250 < sorted(shown)[1]  # the photo itself is not marked


def test_the_window_stays_in_the_photo() -> None:
    picture = faces_of(np.zeros((50, 60, 3), np.uint8), [(-20.0, -10.0, 70.0, 55.0)], 100)
    assert picture.size == (120, 100)


def test_a_job_writes_all_and_makes_each_photo_once(built_bundle: Path, sample: Path, tmp_path: Path) -> None:
    session = load(built_bundle, engine="onnxruntime")
    job = Job(session, session.plan(["60+", "0-18"]), ("onnxruntime", "int8"), "gif", True, None)
    done = job.age(sample, tmp_path / "out")
    names = [path.name for path in done.files]
    assert names == ["age-60+.png", "age-0-18.png", "morph.gif", "compare.html", "strip.png"]
    for group in ("60+", "0-18"):
        written = np.asarray(Image.open(tmp_path / "out" / f"age-{group}.png"))
        assert np.array_equal(written, done.result.aged[group])
    for photo in (tmp_path / "out").glob("age-*.png"):
        photo.unlink()
    with pytest.raises(EdgeageError, match=r"morph\.gif already"):
        job.check_output(tmp_path / "out")
