"""The LFW protocol: its list, its thresholds, and photos that become faces."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from edgeage.errors import EdgeageError
from edgeage.profile import Profile
from edgeage.train.evaluation.lfw import (
    Pairs,
    area_under_curve,
    best_threshold,
    parse_pairs,
    read_lfw,
    verification,
)

SAMPLE = Path(__file__).resolve().parents[3] / "docs" / "samples" / "astronaut.jpg"
LIST = "2\t1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBob\t3\nBob\t3\t4\nBob\t4\tAnn_Lee\t2\n"


def test_the_list_is_read():
    pairs, same, fold = parse_pairs(LIST)
    assert pairs[0] == ("Ann_Lee/Ann_Lee_0001", "Ann_Lee/Ann_Lee_0002")
    assert pairs[3] == ("Bob/Bob_0004", "Ann_Lee/Ann_Lee_0002")
    assert same.tolist() == [True, False, True, False]
    assert fold.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x\ty",
        "2 1\nA\t1\t2",
        "1\t1\nA\t1\t2\nA\t1\tB",
        "1\t1\nA\t1\t2\nA\t1\tB\ttwo",
        "1\t1\nA\t1\t2\nA\t-1\tB\t2",
        "0\t0",
        "1\t1\nA 1 2\nA\t1\tB\t1",
    ],
)
def test_another_list_is_refused(text: str):
    with pytest.raises(EdgeageError, match=r"pairs\.txt"):
        parse_pairs(text)


@given(st.text(alphabet="0123456789\tAb_\n -²", max_size=60))
def test_any_text_is_read_or_refused(text: str):
    try:
        pairs, same, fold = parse_pairs(text)
    except EdgeageError:
        return
    assert len(pairs) == len(same) == len(fold)


SCORES = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30).filter(
    lambda items: len({same for _, same in items}) == 2
)


@settings(max_examples=60)
@given(SCORES)
def test_the_best_threshold_beats_every_other(items: list[tuple[int, bool]]):
    rng = np.random.default_rng(0)
    scores = np.array([score for score, _ in items]) + rng.random(len(items)) * 0.1  # no ties
    same = np.array([same for _, same in items])
    found = ((scores >= best_threshold(scores, same)) == same).mean()
    assert all(((scores >= limit) == same).mean() <= found for limit in [*scores, 99])


@settings(max_examples=60)
@given(SCORES)
def test_the_area_is_the_share_of_right_orders(items: list[tuple[int, bool]]):
    scores = np.array([score for score, _ in items], float)
    same = np.array([same for _, same in items])
    orders = [(a > b) + 0.5 * (a == b) for a in scores[same] for b in scores[~same]]
    assert area_under_curve(scores, same) == pytest.approx(np.mean(orders))


def test_verification_chooses_its_threshold_on_the_other_fold():
    """Fold 1 wants another threshold than fold 0: each is judged by the other's, and errs."""
    embeddings = np.array([[0.0, 0], [1.0, 0], [2.0, 0], [10.0, 0], [13.0, 0], [20.0, 0]])
    pairs = Pairs(
        images=np.zeros((6, 4, 4, 3), np.uint8),
        first=np.array([0, 0, 3, 3]),
        second=np.array([1, 2, 4, 5]),
        same=np.array([True, False, True, False]),
        fold=np.array([0, 0, 1, 1]),
        missed=0,
    )
    found = verification(pairs, embeddings, cosine=False)
    # fold 0 at fold 1's 6.5: both "same"; fold 1 at fold 0's 1.5: both "different"
    assert found["accuracy"] == 0.5
    assert found["auc"] == 0.75
    assert found["low"] < 0.5 < found["high"]


def test_cosine_ignores_lengths():
    rng = np.random.default_rng(0)
    people = rng.normal(size=(10, 8))
    images = np.repeat(people, 2, 0) + 0.1 * rng.normal(size=(20, 8))
    first = np.concatenate([np.arange(0, 20, 2)] * 2)
    second = np.concatenate([np.arange(1, 20, 2), np.roll(np.arange(1, 20, 2), 2)])
    pairs = Pairs(np.zeros((20, 4, 4, 3), np.uint8), first, second, np.arange(20) < 10, np.arange(20) % 2, 0)
    scaled = images * rng.uniform(0.1, 10, (20, 1))
    assert verification(pairs, scaled, cosine=True)["accuracy"] == 1.0
    assert verification(pairs, scaled, cosine=False)["accuracy"] < 1.0


def write_archive(path: Path, photos: dict[str, Image.Image], text: str | None) -> Path:
    with tarfile.open(path, "w") as archive:

        def add(name: str, data: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))

        for name, photo in photos.items():
            stream = io.BytesIO()
            photo.save(stream, "JPEG")
            add(f"lfw/{name}.jpg", stream.getvalue())
        if text is not None:
            add("lfw/pairs.txt", text.encode())
    return path


def test_photos_become_faces_in_the_profiles_frame(tmp_path: Path):
    with Image.open(SAMPLE) as opened:
        photo = opened.convert("RGB")
    photos = {
        "Ann/Ann_0001": photo,
        "Ann/Ann_0002": ImageOps.expand(photo, 60, "grey"),  # the same face somewhere else
        "Bob/Bob_0001": Image.new("RGB", (250, 250), "white"),  # nobody
    }
    path = write_archive(tmp_path / "lfw.tar", photos, "1\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\n")
    pairs = read_lfw(path, Profile("tiny", image_size=32))
    assert pairs.images.shape == (3, 32, 32, 3)
    assert pairs.missed == 1
    assert np.abs(pairs.images[0].astype(int) - pairs.images[1]).mean() < 4
    assert pairs.first.tolist() == [0, 0]
    assert pairs.second.tolist() == [1, 2]


def test_another_archive_is_refused(tmp_path: Path):
    blank = {"Ann/Ann_0001": Image.new("RGB", (20, 20))}
    with pytest.raises(EdgeageError, match=r"holds no lfw/pairs\.txt"):
        read_lfw(write_archive(tmp_path / "a.tar", blank, None), Profile("tiny"))
    with pytest.raises(EdgeageError, match="holds no photo of it"):
        read_lfw(write_archive(tmp_path / "b.tar", blank, "1\t1\nAnn\t1\t2\nAnn\t1\tBob\t1"), Profile("tiny"))
    (tmp_path / "c.tar").write_bytes(b"no tar")
    with pytest.raises(EdgeageError, match="cannot read the LFW archive"):
        read_lfw(tmp_path / "c.tar", Profile("tiny"))
    with pytest.raises(EdgeageError, match="cannot read the LFW archive"):
        read_lfw(tmp_path / "absent.tar", Profile("tiny"))
