"""Procedural faces: drawn by a program, so that identity and age are known exactly.

For tests and continuous integration, where real faces cannot be shipped. A model trained on them ages
drawings, not people.
"""

from __future__ import annotations

import numpy as np

from edgeage.errors import EdgeageError
from edgeage.groups import AGE_GROUPS
from edgeage.train.data.faces import Faces
from edgeage.train.data.procedural_face import draw_face, draw_person

# First and last year of age drawn in each group.
_YEARS = ((1, 18), (19, 29), (30, 39), (40, 49), (50, 59), (60, 90))


def procedural_faces(count: int, image_size: int = 64, seed: int = 0) -> Faces:
    """Draw `count` faces: each person once in every age group, then the next person.

    Args:
        count: number of faces; the first n of a larger count are the same faces.
        image_size: side in pixels.
        seed: another seed draws other people.
    """
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    ages = np.empty(count, np.int64)
    identities = np.arange(count, dtype=np.int64) // len(AGE_GROUPS)
    for index in range(count):
        person_number, group = divmod(index, len(AGE_GROUPS))
        person = draw_person(np.random.Generator(np.random.PCG64([seed, person_number, 0])))
        chance = np.random.Generator(np.random.PCG64([seed, person_number, 1 + group]))
        first, last = _YEARS[group]
        ages[index] = first + int(chance.random() * (last - first + 1))
        images[index] = draw_face(person, int(ages[index]), chance, image_size)
    ids = [f"procedural-{seed}-{index:06d}" for index in range(count)]
    return Faces.of(images, ages, ids, identities, {}, f"procedural:{count}:{seed}")


def open_procedural(text: str, image_size: int, limit: int | None) -> Faces:
    """`procedural_faces` from the text "COUNT" or "COUNT:SEED"; EdgeageError if it is something else."""
    count, _, seed = text.partition(":")
    if not (count.isascii() and count.isdigit()) or not (seed or "0").isdecimal() or int(count) < 1:
        raise EdgeageError(
            f"procedural:{text} names no count; give procedural:COUNT or procedural:COUNT:SEED"
        )
    return procedural_faces(min(int(count), limit or int(count)), image_size, int(seed or 0))
