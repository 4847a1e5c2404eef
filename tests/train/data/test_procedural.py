"""Procedural faces: the same by seed, known people and ages, and a face where the frame has one."""

from __future__ import annotations

import numpy as np

from edgeage.frames import FRAMES
from edgeage.groups import AGE_GROUPS
from edgeage.train.data import open_source
from edgeage.train.data.procedural import procedural_faces


def test_a_seed_gives_the_same_faces_and_another_seed_others():
    faces = open_source("procedural:24:5")
    assert open_source("procedural:24:5").fingerprint == faces.fingerprint
    assert open_source("procedural:24:6").fingerprint != faces.fingerprint
    assert open_source("procedural:24").source == "procedural:24:0"


def test_fewer_faces_are_the_first_of_more():
    few, more = procedural_faces(7), procedural_faces(13)
    assert (more.images[:7] == few.images).all()
    assert (more.ages[:7] == few.ages).all()
    assert open_source("procedural:13", limit=7).fingerprint == few.fingerprint


def test_each_person_is_drawn_once_in_every_group():
    faces = procedural_faces(30)
    assert list(faces.group_counts().values()) == [5] * len(AGE_GROUPS)
    assert (np.bincount(faces.identities) == len(AGE_GROUPS)).all()
    assert len(set(faces.ids)) == 30
    assert faces.ages.min() >= 1
    assert faces.ages.max() <= 90
    assert len({image.tobytes() for image in faces.images}) == 30


def test_eyes_and_mouth_lie_where_the_frame_has_them():
    """Averaged over people, both eyes and the mouth are darker than the cheek beside them."""
    mean = procedural_faces(60).images.mean(axis=(0, 3))
    for x, y in (FRAMES["utkface"][0], FRAMES["utkface"][1], FRAMES["utkface"][3]):
        row, column = round(y * 64), round(x * 64)
        assert mean[row - 2 : row + 3, column - 2 : column + 3].min() < mean[38:42, 18:22].mean() - 20
    assert mean[30:60, 20:44].mean() > 70


def test_age_shows_as_grey_hair_and_lines():
    faces = procedural_faces(120)
    hair = faces.images[:, 1:4, 24:40].astype(float)
    saturation = (hair.max(-1) - hair.min(-1)).mean((1, 2))
    assert saturation[faces.groups == 5].mean() < 0.8 * saturation[faces.groups == 1].mean()
    skin = faces.images[:, 36:44, 12:24].astype(float).mean(-1)
    roughness = np.abs(np.diff(skin, axis=1)).mean((1, 2))
    assert roughness[faces.groups == 5].mean() > 1.2 * roughness[faces.groups == 1].mean()


def test_people_differ_more_than_the_years_of_one_person():
    faces = procedural_faces(60, seed=2)
    adults = (faces.groups == 1) | (faces.groups == 2)
    pictures = faces.images[adults].astype(float).reshape(adults.sum(), -1)
    distance = ((pictures[:, None] - pictures[None]) ** 2).mean(-1)
    same = faces.identities[adults][:, None] == faces.identities[adults][None]
    np.fill_diagonal(same, False)
    other = ~same & ~np.eye(len(same), dtype=bool)
    assert distance[same].mean() < 0.6 * distance[other].mean()


def test_other_sizes_are_drawn():
    assert procedural_faces(2, image_size=128).images.shape == (2, 128, 128, 3)


def test_a_split_keeps_people_apart():
    training, validation = procedural_faces(90).split(0, (0.7, 0.3))
    assert not set(training.identities.tolist()) & set(validation.identities.tolist())
