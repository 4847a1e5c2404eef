"""Which images calibrate the engines and which check them: a balanced, reproducible pick."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.groups import AGE_GROUPS

# Below this many images a min-max range misses the tails of activations that training reached.
MINIMUM = 100


@dataclass(frozen=True)
class Samples:
    """Indices into one data source, each list sorted, without a common index.

    Attributes:
        calibration: int64 [n], images that make the range table.
        validation: int64 [m], images that only ever check the finished engines.
        seed: of the pick.
        fingerprint: hex SHA-256 over the data's fingerprint and the calibration indices.
    """

    calibration: NDArray[np.int64]
    validation: NDArray[np.int64]
    seed: int
    fingerprint: str


def pick(
    groups: NDArray[np.int64],
    *,
    count: int = 300,
    validation: int = 60,
    seed: int = 0,
    data_fingerprint: str = "",
    names: Sequence[str] = AGE_GROUPS,
    allow_missing: bool = False,
) -> Samples:
    """Pick `count` calibration and `validation` validation images, as even over the groups as they allow.

    A source with fewer images than asked for gives a sixth of them (at most `validation`) to validation
    and the rest to calibration. The result depends on `groups`, the numbers and the seed only.

    Args:
        groups: int64 [n], group index of each image.
        names: of the groups.
        allow_missing: accept groups without any image.

    Raises EdgeageError if the set is empty, leaves fewer than 100 images to calibrate with, or lacks a
    group that it must have.
    """
    groups = np.asarray(groups)
    total = len(groups)
    if total == 0:
        raise EdgeageError("the calibration set is empty; point --calibration at a source with faces")
    if count < MINIMUM:
        raise EdgeageError(f"{count} calibration images are too few; ask for at least {MINIMUM} (--samples)")
    if groups.min() < 0 or groups.max() >= len(names):
        found = f"{groups.min()}..{groups.max()}"
        raise EdgeageError(f"group indices reach {found}, but there are {len(names)} groups")
    validation = min(validation, total // 6)
    count = min(count, total - validation)
    if count < MINIMUM:
        need = next(size for size in range(MINIMUM, 2 * MINIMUM) if size - size // 6 >= MINIMUM)
        raise EdgeageError(
            f"the calibration set is too small: {total} images; give at least {need} "
            f"({MINIMUM} to calibrate and a sixth on top to check the engines)"
        )
    sizes = np.bincount(groups, minlength=len(names))
    missing = [name for name, size in zip(names, sizes, strict=True) if size == 0]
    if missing and not allow_missing:
        raise EdgeageError(
            f"the calibration set has no image of group {', '.join(missing)}; add some, "
            "the ranges of a group that was never seen would be a guess"
        )
    random = np.random.default_rng(seed)
    quotas = _even_quotas(sizes, count + validation)
    calibration_part: list[int] = []
    validation_part: list[int] = []
    dealt = 0
    for group, quota in enumerate(quotas):
        members = random.permutation(np.flatnonzero(groups == group))[:quota]
        # rounded on the running total, so that the parts have exactly the sizes asked for
        held_out = _share(dealt + quota, validation, count) - _share(dealt, validation, count)
        dealt += quota
        validation_part += members[:held_out].tolist()
        calibration_part += members[held_out:].tolist()
    chosen = np.sort(np.array(calibration_part, dtype=np.int64))
    digest = hashlib.sha256(data_fingerprint.encode() + b"\n" + chosen.astype("<i8").tobytes())
    return Samples(chosen, np.sort(np.array(validation_part, dtype=np.int64)), seed, digest.hexdigest())


def balanced(groups: NDArray[np.int64], count: int, seed: int = 0) -> NDArray[np.int64]:
    """Sorted indices of at most `count` images, as even over the groups as they allow."""
    random = np.random.default_rng(seed)
    quotas = _even_quotas(np.bincount(groups), min(count, len(groups)))
    taken = [
        random.permutation(np.flatnonzero(groups == group))[:quota] for group, quota in enumerate(quotas)
    ]
    return np.sort(np.concatenate(taken))


def interleaved(groups: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """An order of all images in which any first part is as even over the groups as it can be."""
    random = np.random.default_rng(seed)
    ranks = np.empty(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        ranks[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((groups, ranks))


def content_fingerprint(images: NDArray[np.uint8]) -> str:
    """Hex SHA-256 of the pixels, whatever the order of the images."""
    digests = sorted(hashlib.sha256(image.tobytes()).digest() for image in images)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _share(dealt: int, validation: int, calibration: int) -> int:
    return dealt * validation // (validation + calibration)


def _even_quotas(sizes: NDArray[np.int64], total: int) -> list[int]:
    """How many to take of each group: equal shares, what a small group cannot give goes to the others."""
    quotas = [0] * len(sizes)
    while (left := total - sum(quotas)) > 0:
        open_groups = [group for group, size in enumerate(sizes) if quotas[group] < size]
        share, rest = divmod(left, len(open_groups))
        for position, group in enumerate(open_groups):
            # the indivisible rest is dealt last, once, so that no group gets two more than another
            quotas[group] += min(int(sizes[group]) - quotas[group], share or int(position < rest))
    return quotas
