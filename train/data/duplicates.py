"""Images that a set holds more than once: the same pixels, and nearly the same picture.

Both are found over a whole set at once, from a digest and a 64-bit hash of each image: neither needs the
pixels again, so half a million images take seconds and some megabytes.
"""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from edgeage.train.data.listing import Pixels

# Seen on UTKFace, 21,816 crops at 64 px: of the pairs at 0 bits all 215 are alike (scaled, compressed,
# brightened), at 2 bits 98 % of 255, at 4 bits 32 % of 269, at 6 bits 1 % of 1,999; docs/training.md says
# how that was counted. (Half the bits are set, so the distances are even.)
MOST_BITS = 4
_SIDE, _KEPT = 32, 8


def pixel_digest(pixels: Pixels) -> str:
    """32 hex digits that only the same pixels share."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits that change little when an image is compressed, scaled or brightened.

    The signs, about their median, of the 8x8 lowest cosine frequencies of the grey image at 32x32
    ("pHash": Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010), in
    whole numbers, so that every machine finds the same bits.
    """
    grey = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    frequencies = _cosines() @ np.asarray(grey, dtype=np.int64) @ _cosines().T
    bits = (frequencies > np.median(frequencies)).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@cache
def _cosines() -> NDArray[np.int64]:
    places = np.arange(_SIDE) + 0.5
    cosines = np.cos(np.pi / _SIDE * np.arange(_KEPT)[:, None] * places)
    return np.rint(cosines * 1024).astype(np.int64)


def same_digest(digests: list[str]) -> NDArray[np.int64]:
    """The cluster of each image [n]: images with equal digests share a number."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(digest, len(numbers)) for digest in digests], dtype=np.int64)


def near_hash(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """The cluster of each image [n]: images are linked whose hashes differ in at most `bits` bits.

    Two such hashes agree in at least one of bits + 1 bands (by the pigeonhole principle), so only hashes
    that share a band are compared. Equal
    hashes (a crawl holds many flat pictures) are compared once.
    """
    hashes, same = np.unique(hashes, return_inverse=True)
    links = [np.empty((2, 0), dtype=np.int64)]
    for shift, width in _bands(bits + 1):
        keys = (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        order = np.argsort(keys, kind="stable")
        first = np.arange(len(order) - 1)
        for step in range(1, len(order)):
            # neighbours at this distance in the order that still share the band
            first = first[first + step < len(order)]
            first = first[keys[order[first]] == keys[order[first + step]]]
            if not len(first):
                break
            one, other = order[first], order[first + step]
            near = _bit_count(hashes[one] ^ hashes[other]) <= bits
            links.append(np.stack([one[near], other[near]]))
    one, other = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(len(hashes),) * 2)
    return np.asarray(connected_components(graph, directed=False)[1][same], dtype=np.int64)


def _bands(count: int) -> list[tuple[int, int]]:
    """(lowest bit, width) of so many bands that share out 64 bits."""
    edges = np.linspace(0, 64, count + 1).astype(int).tolist()
    return [(low, high - low) for low, high in pairwise(edges)]


def _bit_count(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1, dtype=np.int64)


def judge_clusters(
    clusters: NDArray[np.int64], ages: NDArray[np.int64], people: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What to leave out of each cluster: (copies of its first image, all of it where labels disagree).

    Labels are age and person. Both results are masks [n] without overlap.
    """
    _, first, clusters = np.unique(clusters, return_index=True, return_inverse=True)
    leader = first[clusters]
    differs = (ages != ages[leader]) | (people != people[leader])
    conflicting = np.isin(clusters, clusters[differs])
    copies = (leader != np.arange(len(clusters))) & ~conflicting
    return copies, conflicting
