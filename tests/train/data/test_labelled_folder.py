"""Folder and CSV: columns, ages, people, and rows that are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeage.errors import EdgeageError
from edgeage.train.data import open_source
from edgeage.train.data.labelled_folder import parse_age


def write_image(path: Path, age: int, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:] = (shade, 2 * age, 0)
    Image.fromarray(pixels).save(path, "PNG")


def test_rows_and_images_stay_together(tmp_path: Path):
    lines = ["\ufeffidentity, PATH ,age,comment"]
    for number, age in enumerate([5, 25, 35, 45, 55, 65]):
        write_image(tmp_path / f"sub dir/{number}.png", age, number)
        lines.append(f'person {number // 2},sub dir/{number}.png,{age}.4,"a, b"')
        lines.append(f"someone,absent{number}.png,30,")
    (tmp_path / "broken.png").write_bytes(b"broken")
    lines += ["x,broken.png,30,", "x,sub dir/0.png,old,", "x,sub dir/0.png,-1,", "x,,30,", ",short"]
    table = tmp_path / "faces.csv"
    table.write_text("\n".join(lines), encoding="utf-8")
    faces = open_source(f"csv:{table}")
    assert (faces.images[:, 0, 0, 1] == 2 * faces.ages).all()
    assert faces.ages.tolist() == [5, 25, 35, 45, 55, 65]
    assert faces.drops == {"malformed age": 3, "missing image": 6, "no path": 1, "unreadable": 1}
    people = faces.identities.tolist()
    assert people[0] == people[1] != people[2] == people[3]


def test_without_identities_there_are_none(tmp_path: Path):
    write_image(tmp_path / "a.png", 30, 1)
    (tmp_path / "faces.csv").write_text("path,age\na.png,30\na.png,30\n")
    faces = open_source(f"csv:{tmp_path / 'faces.csv'}")
    assert faces.identities is None
    assert faces.ids == ["a.png"]
    assert faces.drops == {"duplicate": 1}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"no column 'path'.*found: nothing"),
        (b"path;age\na.png;3\n", r"no column 'path'.*found: path;age"),
        (b"path,years\n", "no column 'age'"),
        (b"path,age\n", "no images in it"),
        (b"path,age\n\xff\xfe,3\n", "cannot read"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: bytes, says: str):
    (tmp_path / "faces.csv").write_bytes(content)
    with pytest.raises(EdgeageError, match=says) as caught:
        open_source(f"csv:{tmp_path / 'faces.csv'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "age"),
    [("34", 34), (" 34.9 ", 34), ("0", 0), ("120.5", 120), ("121", None), ("-0.5", None), ("nan", None)],
)
def test_ages(text: str, age: int | None):
    assert parse_age(text) == age


@given(st.text(max_size=12))
def test_any_text_is_an_age_in_range_or_none(text: str):
    age = parse_age(text)
    assert age is None or 0 <= age <= 120
