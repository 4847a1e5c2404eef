"""Perceptual hashes and the clusters made of them."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from edgeage.train.data.duplicates import judge_clusters, near_hash, perceptual_hash
from edgeage.train.data.prepare import Options, prepare
from edgeage.train.data.procedural import procedural_faces

ASTRONAUT = Path(__file__).resolve().parents[3] / "docs" / "samples" / "astronaut.jpg"


def clusters_by_hand(hashes: list[int], bits: int) -> list[set[int]]:
    """Every pair compared, linked sets merged."""
    sets = [{index} for index in range(len(hashes))]
    for one in range(len(hashes)):
        for other in range(one):
            if bin(hashes[one] ^ hashes[other]).count("1") <= bits:
                merged = next(s for s in sets if one in s) | next(s for s in sets if other in s)
                sets = [s for s in sets if not s & merged] + [merged]
    return sorted(sets, key=min)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=7)), max_size=16),
    st.integers(0, 4),
)
def test_bands_find_every_pair(seeds: list[int], changes: list[tuple[int, set[int]]], bits: int):
    hashes = list(seeds)
    for which, flipped in changes:
        hashes.append(seeds[which % len(seeds)] ^ sum(1 << bit for bit in flipped))
    found = near_hash(np.array(hashes, dtype=np.uint64), bits)
    sets = [set(np.flatnonzero(found == cluster).tolist()) for cluster in np.unique(found)]
    assert sorted(sets, key=min) == clusters_by_hand(hashes, bits)


def test_many_images_with_one_hash_are_one_cluster():
    tracemalloc.start()
    found = near_hash(np.array([5] * 3000 + [2**40], dtype=np.uint64), 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(found[:-1].tolist())) == 1
    assert found[-1] != found[0]
    assert peak < 2_000_000  # not every pair of them


def test_one_photo_saved_otherwise_keeps_its_hash_and_other_photos_do_not():
    with Image.open(ASTRONAUT) as opened:
        face = opened.convert("RGB").crop((160, 40, 300, 180)).resize((64, 64))
    buffer = io.BytesIO()
    face.save(buffer, "JPEG", quality=60)
    same = [
        Image.open(buffer),
        ImageEnhance.Brightness(face).enhance(1.1),
        face.resize((50, 50)).resize((64, 64)),
    ]
    base = perceptual_hash(np.array(face))
    for image in same:
        assert bin(perceptual_hash(np.array(image)) ^ base).count("1") <= 2
    others = [np.array(face)[:, ::-1], *procedural_faces(12, 64).images]
    for image in others:
        assert bin(perceptual_hash(np.ascontiguousarray(image)) ^ base).count("1") > 4


def test_copies_go_and_conflicts_take_all_with_them():
    clusters = np.array([0, 1, 0, 2, 1, 3, 3])
    ages = np.array([20, 30, 20, 40, 31, 9, 9])
    people = np.array([-1, -1, -1, -1, -1, 1, 2])
    copies, conflicting = judge_clusters(clusters, ages, people)
    assert np.flatnonzero(copies).tolist() == [2]
    assert np.flatnonzero(conflicting).tolist() == [1, 4, 5, 6]


@pytest.mark.parametrize(("bits", "left"), [(None, 3), (2, 2), (4, 2)])
def test_near_duplicates_go_when_asked_without_decoding_again(
    tmp_path: Path, bits: int | None, left: int, monkeypatch: pytest.MonkeyPatch
):
    with Image.open(ASTRONAUT) as opened:
        face = opened.convert("RGB").crop((160, 40, 300, 180)).resize((128, 128))
    folder = tmp_path / "faces"
    folder.mkdir()
    face.save(folder / "30_1_0_20170109000000001.jpg", quality=95)
    face.save(folder / "30_1_0_20170109000000002.jpg", quality=60)
    face.rotate(90).save(folder / "30_1_0_20170109000000003.jpg")
    assert len(prepare(f"utkface:{folder}", tmp_path / "store", Options())) == 3
    monkeypatch.setattr("edgeage.train.data.prepare._write_shard", None)  # decoding again would fail
    faces = prepare(f"utkface:{folder}", tmp_path / "store", Options(near_duplicates=bits))
    assert len(faces) == left
    assert faces.drops == ({} if bits is None else {"near duplicate": 1})
