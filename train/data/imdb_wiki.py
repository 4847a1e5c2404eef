"""IMDB-WIKI: `imdb.mat` / `wiki.mat` with the images in folders beside them.

Rothe, Timofte, Van Gool, "Deep expectation of real and apparent age from a single image without facial
landmarks" (2016). The labels were crawled, so most of the work here is to leave out what is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from edgeage.errors import EdgeageError
from edgeage.train.data.faces import UNKNOWN
from edgeage.train.data.listing import Box, Listing, Record, stable_hash, stamp

YOUNGEST, OLDEST = 0, 100
# Below this the detector was not sure that there is a face at all (-inf: none found, the whole image
# was taken).
LEAST_FACE_SCORE = 1.0
# Share of the face box added on each side. The box runs from brow to chin; the training frame also
# shows the forehead. It centres the face as the frame does, but does not align the eyes.
MARGIN = 0.1
# The release also comes with cropped images ("imdb_crop", "wiki_crop"): the box plus this margin.
_RELEASE_MARGIN = 0.4
# MATLAB counts days from year 0, Python from year 1; year 0 of the proleptic calendar is a leap year.
_DAYS_OF_YEAR_ZERO = 366
_MIDDLE_OF_YEAR = (7, 1)
_COLUMNS = ("dob", "photo_taken", "full_path", "face_location", "face_score", "second_face_score")


def date_of_datenum(datenum: float) -> date | None:
    """The calendar date of a MATLAB datenum (day 1 is 1 January of year 0), None outside years 1-9999.

    >>> date_of_datenum(730486)
    datetime.date(2000, 1, 1)
    """
    if not math.isfinite(datenum):
        return None
    ordinal = math.floor(datenum) - _DAYS_OF_YEAR_ZERO
    if not 1 <= ordinal <= date.max.toordinal():
        return None
    return date.fromordinal(ordinal)


def age_when_taken(birth: date, year_taken: int) -> int:
    """Whole years of age in the middle of the year of the photo; only that year is known.

    The convention of the data set's authors: a photo counts as taken on 1 July.
    """
    before_birthday = (birth.month, birth.day) > _MIDDLE_OF_YEAR
    return year_taken - birth.year - int(before_birthday)


@dataclass(frozen=True)
class FaceBox:
    """Where the face lies, in MATLAB's 1-based pixels of the full photo; None for the cropped release."""

    location: tuple[float, float, float, float] | None

    def __call__(self, size: tuple[int, int]) -> Box | None:
        """The square to cut from an image of (width, height); None if the box lies outside of it."""
        width, height = size
        if self.location is None:
            side = min(size) * (1 + 2 * MARGIN) / (1 + 2 * _RELEASE_MARGIN)
            centre_x, centre_y = width / 2, height / 2
        else:
            left, top, right, bottom = self.location
            if left < 0 or top < 0 or right > width + 1 or bottom > height + 1:
                return None
            if right <= left or bottom <= top:
                return None
            centre_x, centre_y = (left + right) / 2 - 1, (top + bottom) / 2 - 1
            side = max(right - left, bottom - top) * (1 + 2 * MARGIN)
        side = max(1, round(side))
        left, top = round(centre_x - side / 2), round(centre_y - side / 2)
        return left, top, left + side, top + side


def list_imdb_wiki(path: Path, least_face_score: float = LEAST_FACE_SCORE) -> Listing:
    """Records of a .mat file; images are looked up beside it.

    A folder whose name ends in "_crop" holds the cropped release; otherwise images are the full photos
    and are cut by `face_location`. Identity is `celeb_id`, or the name where there is none (wiki.mat).

    Raises EdgeageError if the file is not one of these.
    """
    columns = _read_columns(path)
    cropped = path.resolve().parent.name.endswith("_crop")
    listing = Listing(notes=f"cropped {cropped}, margin {MARGIN}, face score {least_face_score}")
    for row in range(len(columns["dob"])):
        values = {name: column[row] for name, column in columns.items()}
        age = _age_or_reason(values, least_face_score)
        if isinstance(age, str):
            listing.drops[age] += 1
            continue
        name = str(values["full_path"]).strip()
        file = path.parent / name
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            listing.drops["path outside the data set"] += 1
            continue
        try:
            file_stamp = stamp(file)
        except OSError:
            listing.drops["missing image"] += 1
            continue
        location = tuple(float(value) for value in np.ravel(values["face_location"]))
        if len(location) != 4 or not all(math.isfinite(value) for value in location):
            listing.drops["malformed face location"] += 1
            continue
        box = FaceBox(None if cropped else location)
        person, gender = _identity(values), _gender(values)
        listing.records.append(Record(name, age, file.read_bytes, file_stamp, person, box, gender))
    return listing


def _age_or_reason(values: dict[str, Any], least_face_score: float) -> int | str:
    """The age of a row, or the reason to leave it out."""
    score, second = float(values["face_score"]), float(values["second_face_score"])
    if not math.isfinite(score):
        return "no face found"
    if score < least_face_score:
        return f"face score below {least_face_score:g}"
    if not math.isnan(second):
        return "second face"
    birth = date_of_datenum(float(values["dob"]))
    if birth is None:
        return "no date of birth"
    age = age_when_taken(birth, int(values["photo_taken"]))
    if not YOUNGEST <= age <= OLDEST:
        return f"age outside {YOUNGEST}-{OLDEST}"
    return age


def _identity(values: dict[str, Any]) -> int | None:
    if "celeb_id" in values:
        return int(values["celeb_id"])
    name = values.get("name")
    text = "" if name is None or np.size(name) == 0 else str(np.ravel(name)[0]).strip()
    return stable_hash(text, "name") if text else None


def _gender(values: dict[str, Any]) -> int:
    """The data set has 0 female, 1 male, nan unknown; `Faces` counts the other way round."""
    value = float(values.get("gender", math.nan))
    return 1 - int(value) if value in (0.0, 1.0) else UNKNOWN


def _read_columns(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    if not path.is_file():
        raise EdgeageError(f"no file {path}; give the imdb.mat or wiki.mat of the data set")
    try:
        content = loadmat(path, variable_names=["imdb", "wiki"])
    except Exception as error:  # scipy's readers raise whatever broken data provokes
        detail = " ".join(str(error).split()) or type(error).__name__
        raise EdgeageError(f"{path} is not a readable .mat file: {detail}") from None
    tables = [name for name in ("imdb", "wiki") if name in content]
    if not tables or content[tables[0]].dtype.names is None or content[tables[0]].size != 1:
        raise EdgeageError(f"{path} holds no IMDB-WIKI table; give the imdb.mat or wiki.mat of the data set")
    # a 1x1 struct whose fields are 1xN rows; texts and boxes are cells, that is arrays within an array
    table = content[tables[0]].reshape(-1)[0]
    missing = [name for name in _COLUMNS if name not in table.dtype.names]
    if missing:
        raise EdgeageError(f"{path} lacks the field {missing[0]} of IMDB-WIKI")
    optional = [name for name in ("celeb_id", "name", "gender") if name in table.dtype.names]
    columns = {name: table[name].reshape(-1) for name in (*_COLUMNS, *optional)}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise EdgeageError(f"{path} has fields of different lengths: {lengths}")
    columns["full_path"] = np.array([_text(cell) for cell in columns["full_path"]], dtype=object)
    return columns


def _text(cell: Any) -> str:
    return str(np.ravel(cell)[0]) if np.size(cell) else ""
