"""The age groups that condition the generator (SPEC: 0-18, 19-29, 30-39, 40-49, 50-59, 60+)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError

AGE_GROUPS: tuple[str, ...] = ("0-18", "19-29", "30-39", "40-49", "50-59", "60+")
_UPPER = np.array([18, 29, 39, 49, 59])  # the last year of each group but the open one


def group_of(ages: NDArray[np.integer] | int) -> NDArray[np.int64]:
    """Index of the age group of each age in whole years (0..len(AGE_GROUPS) - 1)."""
    return np.searchsorted(_UPPER, np.asarray(ages), side="left").astype(np.int64)


def parse_group(text: str, groups: Sequence[str] = AGE_GROUPS) -> int:
    """Index of a group given by name ("60+") or by an age in years ("67").

    Raises EdgeageError if the text is neither.
    """
    text = text.strip()
    if text in groups:
        return list(groups).index(text)
    if text.isdigit() and tuple(groups) == AGE_GROUPS:
        return int(group_of(int(text)))
    close = get_close_matches(text, groups, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise EdgeageError(f"unknown age group {text!r}{hint}; the groups are {', '.join(groups)}")


def one_hot(indices: Iterable[int], count: int = len(AGE_GROUPS)) -> NDArray[np.float32]:
    """One-hot condition y, float32 [len(indices), count]."""
    rows = np.fromiter(indices, dtype=np.int64)
    return np.eye(count, dtype=np.float32)[rows]
