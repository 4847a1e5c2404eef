"""Faces: splits, the report, and the packed copy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeage.errors import EdgeageError
from edgeage.train.data import Faces
from edgeage.train.data.listing import stable_hash


def some_faces(count: int = 300, people: int | None = None) -> Faces:
    chance = np.random.default_rng(0)
    return Faces.of(
        images=chance.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8),
        ages=chance.integers(0, 100, count),
        ids=[f"face {index}" for index in range(count)],
        identities=None if people is None else np.arange(count) % people,
        drops={"unreadable": 2},
        source="test",
    )


def test_a_split_is_deterministic_complete_and_about_as_large_as_asked():
    faces = some_faces(2000)
    training, validation = faces.split(3, (0.9, 0.1))
    assert sorted(training.ids + validation.ids) == sorted(faces.ids)
    assert 150 < len(validation) < 250
    again = faces.split(3, (0.9, 0.1))[1]
    assert again.fingerprint == validation.fingerprint
    assert set(faces.split(4, (0.9, 0.1))[1].ids) != set(validation.ids)


def test_added_faces_do_not_move_the_others():
    few, many = some_faces(300), some_faces(400)
    assert set(few.split()[1].ids) == set(many.split()[1].ids) & set(few.ids)


def test_rows_stay_together():
    faces = some_faces()
    for part in faces.split(0, (0.5, 0.3, 0.2)):
        rows = [faces.ids.index(name) for name in part.ids]
        assert (part.images == faces.images[rows]).all()
        assert (part.ages == faces.ages[rows]).all()
        assert (part.groups == faces.groups[rows]).all()


def test_no_person_is_in_two_parts():
    training, validation = some_faces(600, people=60).split(1, (0.7, 0.3))
    assert not set(training.identities.tolist()) & set(validation.identities.tolist())


def test_people_without_identity_are_split_one_by_one():
    faces = some_faces(400, people=1)
    with pytest.raises(EdgeageError, match="is empty"):
        faces.split()
    unknown = Faces.of(faces.images, faces.ages, faces.ids, faces.identities - 1, {}, "unknown people")
    assert len(unknown.split()[1]) > 5
    assert unknown.to_dict()["people"] == 0


@pytest.mark.parametrize("fractions", [(), (0.5, 0.4), (1.2, -0.2), (1.0, 0.0)])
def test_fractions_that_make_no_split(fractions):
    with pytest.raises(EdgeageError, match="sum to 1"):
        some_faces().split(0, fractions)


def test_the_report_says_groups_and_drops():
    faces = some_faces(50)
    text = faces.report()
    counts = faces.group_counts()
    assert sum(counts.values()) == 50
    assert "50 faces of 8 px" in text
    assert f"60+  {counts['60+']:>7}" in text
    assert "2  unreadable" in text
    assert faces.to_dict()["dropped"] == {"unreadable": 2}


def test_an_empty_group_is_named():
    faces = some_faces()
    assert faces.require_all_groups() is faces
    with pytest.raises(EdgeageError, match=r"40-49 has 0; add images of these ages"):
        faces.select(faces.groups != 3).require_all_groups()


def test_the_fingerprint_covers_ids_labels_and_pixels():
    faces = some_faces(10)
    base = (faces.images, faces.ages, faces.ids, None, {}, "test")
    assert Faces.of(*base).fingerprint == faces.fingerprint
    pixels = faces.images.copy()
    pixels[3, 0, 0, 0] ^= 1
    changed = [
        Faces.of(pixels, *base[1:]),
        Faces.of(faces.images, faces.ages + 1, *base[2:]),
        Faces.of(faces.images, faces.ages, [*faces.ids[:-1], "other"], *base[3:]),
        Faces.of(*base[:3], np.arange(10), {}, "test"),
    ]
    assert len({faces.fingerprint, *(other.fingerprint for other in changed)}) == 5
    assert Faces.of(*base[:5], "another name").fingerprint == faces.fingerprint


@pytest.mark.parametrize("people", [None, 7])
def test_packing_keeps_everything(tmp_path, people):
    faces = some_faces(people=people)
    faces.save(tmp_path / "deep" / "faces.npz")
    back = Faces.load(tmp_path / "deep" / "faces.npz")
    assert back.fingerprint == faces.fingerprint
    assert (back.ids, back.drops, back.source) == (faces.ids, faces.drops, faces.source)
    assert (back.identities is None) == (people is None)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["faces.npz"]


def test_a_damaged_or_foreign_packed_file_is_an_error(tmp_path):
    path = tmp_path / "faces.npz"
    faces = some_faces(20)
    faces.save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(EdgeageError, match="delete it"):
        Faces.load(path)
    path.write_bytes(bytes(data[:500]))
    with pytest.raises(EdgeageError, match="delete it"):
        Faces.load(path)
    np.savez(path, header=np.array([object()], dtype=object), images=faces.images)
    with pytest.raises(EdgeageError, match="delete it"):
        Faces.load(path)
    with pytest.raises(EdgeageError, match="no packed faces"):
        Faces.load(tmp_path / "absent.npz")


def test_lengths_that_differ_are_a_mistake_of_the_caller():
    faces = some_faces(10)
    with pytest.raises(ValueError, match="same length"):
        Faces.of(faces.images[:9], faces.ages, faces.ids, None, {}, "test")


@given(st.text(), st.text(max_size=8))
def test_the_stable_hash_is_a_function_of_the_text(text: str, salt: str):
    value = stable_hash(text, salt)
    assert 0 <= value < 2**63
    assert stable_hash(text, salt) == value


def test_the_stable_hash_does_not_change_between_versions():
    assert stable_hash("25_0_0_20170116174525125.jpg.chip.jpg", "split 0") == 922215010322771929
