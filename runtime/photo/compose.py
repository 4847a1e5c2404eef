"""The aged photos, each made when it is asked for: six photos of 12 megapixels would take 220 MB."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.photo.blend import Place, blend_delta, blend_raw


@dataclass(frozen=True)
class Layer:
    """One face to put into a photo.

    Attributes:
        where: its place and mask.
        generated: float32 [groups, S, S, 3] in [-1, 1].
        source: index of its own group.
        weight: 0..1, multiplied with the strength.
    """

    where: Place
    generated: NDArray[np.float32]
    source: int
    weight: float = 1.0


def compose(
    photo: NDArray[np.uint8], layers: Sequence[Layer], target: int, mode: str, strength: float
) -> NDArray[np.uint8]:
    """A copy of the photo with every layer's face at the group `target`; see `blend_delta`, `blend_raw`."""
    out: NDArray[np.uint8] = photo.copy()
    for layer in layers:
        aged, own = layer.generated[target], strength * layer.weight
        if mode == "delta":
            blend_delta(out, layer.where, aged, layer.generated[layer.source], own, out)
        else:
            blend_raw(out, layer.where, aged, own, out)
    return out


class AgedPixels(Mapping[str, NDArray[np.uint8]]):
    """The photo at each asked age group, uint8 [H, W, 3], blended anew at every access.

    Each access gives an array of its own; keep it if it is needed twice.
    """

    def __init__(
        self,
        photo: NDArray[np.uint8],
        layers: Sequence[Layer],
        targets: Mapping[str, int],
        mode: str,
        strength: float,
        clock: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """`targets`: name -> index of the groups. `clock("blend")` is entered for every blending."""
        self._photo, self._layers, self._targets = photo, layers, targets
        self._mode, self._strength, self._clock = mode, strength, clock

    def __getitem__(self, group: str) -> NDArray[np.uint8]:
        target = self._targets[group]
        with self._clock("blend"):
            return compose(self._photo, self._layers, target, self._mode, self._strength)

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)
