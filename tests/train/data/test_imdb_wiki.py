"""IMDB-WIKI: .mat files in the layout of the release, ages from dates, and rows that are left out."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from edgeage.errors import EdgeageError
from edgeage.train.data import open_source
from edgeage.train.data.imdb_wiki import FaceBox, age_when_taken, date_of_datenum

# Values of MATLAB's datenum(year, month, day).
DATENUMS = [
    (367, date(1, 1, 1)),
    (693_962, date(1900, 1, 1)),
    (694_020, date(1900, 2, 28)),
    (694_021, date(1900, 3, 1)),  # 1900 was no leap year
    (719_529, date(1970, 1, 1)),
    (730_486, date(2000, 1, 1)),
    (730_545, date(2000, 2, 29)),
    (730_851, date(2000, 12, 31)),
    (730_852, date(2001, 1, 1)),
    (736_330, date(2016, 1, 1)),
]


@pytest.mark.parametrize(("datenum", "day"), DATENUMS)
def test_datenums_are_dates_exactly(datenum: int, day: date):
    assert date_of_datenum(datenum) == day
    assert date_of_datenum(datenum + 0.75) == day


@pytest.mark.parametrize("datenum", [0, 1, 366, -5, float("nan"), float("inf"), 1e12])
def test_datenums_before_year_one_or_out_of_reach_are_no_date(datenum: float):
    assert date_of_datenum(datenum) is None


@pytest.mark.parametrize(
    ("birth", "taken", "age"),
    [
        (date(1980, 6, 30), 2010, 30),
        (date(1980, 7, 1), 2010, 30),
        (date(1980, 7, 2), 2010, 29),
        (date(1980, 12, 31), 2010, 29),
        (date(1980, 1, 1), 2010, 30),
        (date(2000, 2, 29), 2001, 1),
        (date(2010, 9, 1), 2010, -1),
    ],
)
def test_a_photo_counts_as_taken_on_the_first_of_july(birth: date, taken: int, age: int):
    assert age_when_taken(birth, taken) == age


@given(st.dates(date(1850, 1, 1), date(2020, 12, 31)), st.integers(1850, 2025))
def test_the_age_is_the_number_of_birthdays_passed(birth: date, taken: int):
    age = age_when_taken(birth, taken)
    photo = date(taken, 7, 1)
    if age >= 0:
        # the day after 28 February stands for 29 February in common years
        def birthday(year: int) -> date:
            try:
                return birth.replace(year=year)
            except ValueError:
                return date(year, 3, 1)

        assert birthday(birth.year + age) <= photo < birthday(birth.year + age + 1)
    else:
        assert photo < birth


@given(st.dates())
def test_dates_go_to_datenums_and_back(day: date):
    datenum = (day - date(1970, 1, 1)) // timedelta(days=1) + 719_529
    assert date_of_datenum(datenum) == day


def cell(values: list[Any]) -> np.ndarray[Any, Any]:
    """A 1xN cell array."""
    cells = np.empty((1, len(values)), dtype=object)
    for index, value in enumerate(values):
        cells[0, index] = value
    return cells


def datenum(day: date) -> int:
    return day.toordinal() + 366


ROW: dict[str, Any] = {
    "dob": datenum(date(1970, 3, 1)),
    "photo_taken": 2010,
    "face_location": [1.0, 1.0, 128.0, 128.0],
    "face_score": 3.0,
    "second_face_score": float("nan"),
    "name": "A. Person",
    "celeb_id": 5,
}


def write_mat(path: Path, rows: list[dict[str, Any]], table: str = "imdb") -> Path:
    """A 1x1 struct of 1xN fields, as the release has it."""
    full = [{**ROW, **row} for row in rows]
    fields: dict[str, Any] = {
        "dob": np.array([[row["dob"] for row in full]], dtype=np.float64),
        "photo_taken": np.array([[row["photo_taken"] for row in full]], dtype=np.uint16),
        "full_path": cell([row["full_path"] for row in full]),
        "gender": np.ones((1, len(full))),
        "name": cell([row["name"] for row in full]),
        "face_location": cell([np.array([row["face_location"]], dtype=np.float64) for row in full]),
        "face_score": np.array([[row["face_score"] for row in full]]),
        "second_face_score": np.array([[row["second_face_score"] for row in full]]),
    }
    if table == "imdb":
        fields["celeb_id"] = np.array([[row["celeb_id"] for row in full]], dtype=np.float64)
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {table: fields})
    return path


def write_image(path: Path, age: int, size: int = 240) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:] = (9, 2 * age, len(path.name))
    Image.fromarray(pixels).save(path, "PNG")


def test_rows_are_left_out_for_what_is_wrong_with_them_and_labels_stay(tmp_path: Path):
    """Every kind of bad row stands between good ones, whose images carry their age."""
    bad: list[tuple[dict[str, Any], str]] = [
        ({"face_score": float("-inf")}, "no face found"),
        ({"face_score": 0.4}, "face score below 1"),
        ({"second_face_score": 1.2}, "second face"),
        ({"dob": 0}, "no date of birth"),
        ({"dob": float("nan")}, "no date of birth"),
        ({"photo_taken": 1969}, "age outside 0-100"),
        ({"photo_taken": 2071}, "age outside 0-100"),
        ({"full_path": "01/absent.jpg"}, "missing image"),
        ({"full_path": ""}, "path outside the data set"),
        ({"full_path": "../../outside.jpg"}, "path outside the data set"),
        ({"face_location": [1.0, 1.0, 500.0, 500.0]}, "face box outside the image"),
        ({"face_location": [50.0, 50.0, 20.0, 20.0]}, "face box outside the image"),
        ({"face_location": [1.0, 1.0, 20.0, 20.0]}, "smaller than 64 px"),
        ({"face_location": [float("nan")] * 4}, "malformed face location"),
    ]
    rows = []
    for number, age in enumerate(range(1, 85, 6)):
        path = f"{number:02d}/good{'x' * number}.jpg"
        write_image(tmp_path / path, age)
        rows.append({"full_path": path, "photo_taken": 1970 + age, "celeb_id": number})
        write_image(tmp_path / f"bad/{number}.jpg", 110)
        rows.append({"full_path": f"bad/{number}.jpg", **bad[number][0]})
    (tmp_path / "bad/unreadable.jpg").write_bytes(b"GIF89a but not really")
    rows.insert(3, {"full_path": "bad/unreadable.jpg"})
    faces = open_source(f"imdb-wiki:{write_mat(tmp_path / 'imdb.mat', rows)}")
    assert sorted(faces.ages.tolist()) == list(range(1, 85, 6))
    assert (faces.images[:, 0, 0, 1] == 2 * faces.ages).all()
    reasons = [reason for _, reason in bad] + ["unreadable"]
    assert faces.drops == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert faces.identities is not None
    assert sorted(faces.identities.tolist()) == list(range(14))


def test_the_full_photo_is_cut_by_the_face_box_with_its_margin(tmp_path: Path):
    photo = Image.new("RGB", (400, 300), "blue")
    photo.paste("red", (150, 100, 250, 200))
    photo.save(tmp_path / "a.png")
    rows = [{"full_path": "a.png", "face_location": [151.0, 101.0, 251.0, 201.0]}]
    image = open_source(f"imdb-wiki:{write_mat(tmp_path / 'wiki.mat', rows, 'wiki')}").images[0]
    red = (image[..., 0] > 128).sum(0) > 0
    # 100 px of face in a cut of 120 px
    assert 52 <= red.sum() <= 55
    assert abs(np.flatnonzero(red).mean() - 31.5) <= 0.5


def test_the_cropped_release_is_known_by_its_folder(tmp_path: Path):
    """A crop of box + 40 % a side is cut back to box + 10 %; its box refers to another image."""
    crop = Image.new("RGB", (180, 180), "blue")
    crop.paste("red", (40, 40, 140, 140))
    path = tmp_path / "imdb_crop" / "a.png"
    path.parent.mkdir()
    crop.save(path)
    rows = [{"full_path": "a.png", "face_location": [900.0, 900.0, 1000.0, 1000.0]}]
    image = open_source(f"imdb-wiki:{write_mat(path.parent / 'imdb.mat', rows)}").images[0]
    assert 52 <= ((image[..., 0] > 128).sum(0) > 0).sum() <= 55


def test_a_box_at_the_edge_repeats_the_edge():
    assert FaceBox((1.0, 1.0, 101.0, 101.0))((400, 300)) == (-10, -10, 110, 110)


def test_wiki_takes_people_from_their_names(tmp_path: Path):
    for number in range(3):
        write_image(tmp_path / f"{'n' * (number + 1)}.jpg", 40)
    rows = [
        {"full_path": "n.jpg", "name": "Ann"},
        {"full_path": "nn.jpg", "name": "Bob"},
        {"full_path": "nnn.jpg", "name": "Ann"},
    ]
    faces = open_source(f"imdb-wiki:{write_mat(tmp_path / 'wiki.mat', rows, 'wiki')}")
    people = faces.identities.tolist()
    assert people[0] == people[2] != people[1]


def test_files_that_are_no_imdb_wiki(tmp_path: Path):
    text = tmp_path / "text.mat"
    text.write_text("hello")
    savemat(tmp_path / "other.mat", {"x": np.eye(3)})
    savemat(tmp_path / "array.mat", {"imdb": np.eye(3)})
    savemat(tmp_path / "lacks.mat", {"imdb": {"dob": np.ones((1, 2))}})
    for name, says in {
        "text.mat": "not a readable .mat",
        "other.mat": "holds no IMDB-WIKI table",
        "array.mat": "holds no IMDB-WIKI table",
        "lacks.mat": "lacks the field photo_taken",
    }.items():
        with pytest.raises(EdgeageError, match=says) as caught:
            open_source(f"imdb-wiki:{tmp_path / name}")
        assert "\n" not in str(caught.value)
