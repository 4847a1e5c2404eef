"""A session that threads share: the same bits as one after the other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgeage.runtime.session import Session, load

SHIPPED = Path(__file__).parents[2] / "models" / "edge64.agebundle"


@pytest.fixture(scope="module")
def session() -> Session:
    return load(SHIPPED)


@pytest.fixture(scope="module")
def photos(portrait: np.ndarray) -> list[np.ndarray]:
    """The same face in eight places and brightnesses."""
    return [
        np.clip(np.roll(portrait[:400], 12 * i, axis=1) * (0.7 + 0.05 * i), 0, 255).astype(np.uint8)
        for i in range(8)
    ]


def aged(session: Session, photo: np.ndarray) -> tuple[bytes, ...]:
    result = session.age(photo, ["0-18", "60+"], all_faces=True)
    (face,) = result.faces
    return (*(result.aged[group].tobytes() for group in result.aged), face.generated.tobytes())


def test_four_threads_give_the_bits_of_one(session: Session, photos: list[np.ndarray]) -> None:
    alone = [aged(session, photo) for photo in photos]
    assert len({pictures[0] for pictures in alone}) == len(photos)
    together = threading.Barrier(4)

    def work(photo: np.ndarray) -> tuple[bytes, ...]:
        if not together.broken and threading.current_thread() not in started:
            started.add(threading.current_thread())
            together.wait(timeout=60)  # all four open their engines at once
        return aged(session, photo)

    started: set[threading.Thread] = set()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, photos * 2)) == alone * 2
    assert len(started) == 4


def test_each_thread_has_engines_of_its_own(session: Session) -> None:
    mine = session.engine("encoder")
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(session.engine, "encoder").result()
    assert theirs is not mine
    assert session.engine("encoder") is mine


def test_what_lies_outside_of_the_mask_keeps_its_bytes(session: Session, portrait: np.ndarray) -> None:
    """PSNR there is infinite, in both modes and for every group."""
    for mode in ("delta", "raw"):
        result = session.age(portrait, mode=mode, source_group="30-39")
        (layer,) = result.aged._layers  # type: ignore[attr-defined]
        mask = np.zeros(portrait.shape[:2], bool)
        height, width = layer.where.mask.shape[:2]
        window = mask[layer.where.top : layer.where.top + height, layer.where.left : layer.where.left + width]
        window[:] = layer.where.mask[..., 0] > 0
        assert 0.02 < mask.mean() < 0.2
        for group, pixels in result.aged.items():
            assert np.array_equal(pixels[~mask], portrait[~mask])
            if mode == "delta" and group == "30-39":
                assert np.array_equal(pixels, portrait)
            else:
                assert (pixels[mask] != portrait[mask]).mean() > 0.5
