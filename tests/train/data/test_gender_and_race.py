"""Gender and race labels: where they are read, and that they stay beside their face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeage.train.data import Faces, open_source
from edgeage.train.data.faces import GENDERS, RACES
from edgeage.train.data.labelled_folder import parse_label
from edgeage.train.data.utkface import labels_in_name


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("26_1_0_20170116192021430.jpg.chip.jpg", (1, 0)),
        ("26_0_4_20170116192021430.jpg", (0, 4)),
        ("61_1_20170109142408075.jpg", (-1, -1)),  # one field is missing: which?
        ("26_2_0_20170116192021430.jpg", (-1, -1)),
        ("holiday.jpg", (-1, -1)),
    ],
)
def test_labels_in_utkface_names(name: str, labels: tuple[int, int]):
    assert labels_in_name(name) == labels


@pytest.mark.parametrize(
    ("text", "number"), [("", -1), (" ", -1), ("Female", 1), ("0", 0), ("2", None), ("x", None), ("-1", None)]
)
def test_labels_in_a_table(text: str, number: int | None):
    assert parse_label(text, GENDERS) == number


def write_folder(folder: Path) -> Path:
    """Images whose red is the gender and whose green is the race in their names."""
    folder.mkdir()
    for number in range(40):
        gender, race = number % 2, number % 5
        pixels = np.full((64, 64, 3), (gender, race, number), np.uint8)
        name = f"{20 + number}_{gender}_{race}_2017010900000{number:04d}.jpg.png"
        Image.fromarray(pixels).save(folder / name)
    return folder


def test_labels_stay_with_their_face_through_splits_and_packing(tmp_path: Path):
    whole = open_source(f"utkface:{write_folder(tmp_path / 'faces')}", cache_dir=tmp_path / "cache")
    packed = open_source(f"utkface:{tmp_path / 'faces'}", cache_dir=tmp_path / "cache")
    for faces in (whole, packed, *whole.split(0, (0.6, 0.4))):
        assert (faces.images[:, 0, 0, 0] == faces.genders).all()
        assert (faces.images[:, 0, 0, 1] == faces.races).all()
    assert len(RACES) == 5


def test_they_do_not_change_the_fingerprint(tmp_path: Path):
    faces = open_source(f"utkface:{write_folder(tmp_path / 'faces')}")
    without = Faces.of(faces.images, faces.ages, faces.ids, None, {}, "test")
    assert faces.fingerprint == without.fingerprint
    assert without.genders is without.races is without.select(np.arange(3)).genders is None


def test_a_table_may_name_them(tmp_path: Path):
    for number in range(4):
        Image.fromarray(np.full((64, 64, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    lines = ["path,age,gender,race", "0.png,30,male,Indian", "1.png,30,1,", "2.png,30,,", "3.png,30,other,"]
    (tmp_path / "faces.csv").write_text("\n".join(lines))
    faces = open_source(f"csv:{tmp_path / 'faces.csv'}")
    assert faces.genders is not None
    assert faces.races is not None
    assert faces.genders.tolist() == [0, 1, -1]
    assert faces.races.tolist() == [3, -1, -1]
    assert faces.drops == {"malformed gender or race": 1}
