"""Any folder of face crops with a CSV file: columns `path` and `age`, and optionally `identity`."""

from __future__ import annotations

import csv
from pathlib import Path

from edgeage.errors import EdgeageError
from edgeage.train.data.faces import GENDERS, RACES, UNKNOWN
from edgeage.train.data.listing import Listing, Record, stable_hash, stamp

OLDEST = 120


def parse_age(text: str) -> int | None:
    """Whole years of an age written as a number ("34", "34.5"); None if it is none in 0..120."""
    try:
        age = float(text)
    except ValueError:
        return None
    # the comparison is false for nan
    return int(age) if 0 <= age < OLDEST + 1 else None


def parse_label(text: str, names: tuple[str, ...]) -> int | None:
    """The number of a label written as its name or its number; -1 if empty, None if it is no label.

    >>> parse_label("Female", ("male", "female"))
    1
    """
    word = text.strip().lower()
    if not word:
        return UNKNOWN
    known = {name.lower(): number for number, name in enumerate(names)}
    known |= {str(number): number for number in range(len(names))}
    return known.get(word)


def list_labelled_folder(path: Path) -> Listing:
    """Records of a CSV file with a header line; paths in it are relative to its folder.

    Images must be square face crops in the frame of the profile. Column `identity` may hold any text
    that names the person; rows where it is empty are people of their own. Columns `gender` and `race`
    hold names or numbers of `GENDERS` and `RACES`; empty is unknown, rows with anything else are left out.

    Raises EdgeageError if the file is absent, not UTF-8 text or lacks a column.
    """
    listing = Listing()
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            columns = [name.strip().lower() for name in rows.fieldnames or []]
            rows.fieldnames = columns
            missing = [name for name in ("path", "age") if name not in columns]
            if missing:
                found = ", ".join(columns) or "nothing"
                raise EdgeageError(
                    f"{path} has no column {missing[0]!r}; its first line must name path, age and "
                    f"optionally identity, gender, race, separated by commas (found: {found})"
                )
            for row in rows:
                _add(listing, path.parent, row)
    except FileNotFoundError:
        raise EdgeageError(f"no CSV file at {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EdgeageError(f"cannot read {path} as CSV: {error}") from None
    return listing


def _add(listing: Listing, folder: Path, row: dict[str, str | None]) -> None:
    name = (row["path"] or "").strip()
    age = parse_age(row["age"] or "")
    identity = (row.get("identity") or "").strip()
    if not name:
        listing.drops["no path"] += 1
        return
    if age is None:
        listing.drops["malformed age"] += 1
        return
    file = folder / name
    try:
        file_stamp = stamp(file)
    except (OSError, ValueError):
        listing.drops["missing image"] += 1
        return
    gender, race = parse_label(row.get("gender") or "", GENDERS), parse_label(row.get("race") or "", RACES)
    if gender is None or race is None:
        listing.drops["malformed gender or race"] += 1
        return
    person = stable_hash(identity, "identity") if identity else None
    name = name.replace("\\", "/")
    listing.records.append(Record(name, age, file.read_bytes, file_stamp, person, None, gender, race))
