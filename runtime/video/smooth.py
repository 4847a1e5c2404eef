"""Filters that take the jitter from a track without making it lag behind."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class OneEuro:
    """A low-pass whose cut-off rises with speed: still faces are steady, moving ones are not held back.

    Source: Casiez, Roussel and Vogel, "1€ Filter: A Simple Speed-based Low-pass Filter for Noisy Input in
    Interactive Systems", CHI 2012.
    """

    def __init__(self, cutoff: float, speed: float, speed_cutoff: float = 3.0) -> None:
        """`cutoff`: in Hz at rest. `speed`: Hz added per unit and second of motion. `speed_cutoff`: in Hz."""
        self._cutoff, self._speed, self._speed_cutoff = cutoff, speed, speed_cutoff
        self._value: Floats | None = None
        self._slope: Floats = np.zeros(())

    def __call__(self, value: Floats, seconds: float) -> Floats:
        """The smoothed value, of any shape, `seconds` after the one before (> 0)."""
        if self._value is None:
            self._value, self._slope = value, np.zeros_like(value)
            return value
        slope = (value - self._value) / seconds
        self._slope = self._slope + _share(self._speed_cutoff, seconds) * (slope - self._slope)
        # One cut-off for the whole value: points of a face that were held back unequally would bend it.
        cutoff = self._cutoff + self._speed * float(np.sqrt(np.square(self._slope).mean()))
        self._value = self._value + _share(cutoff, seconds) * (value - self._value)
        return self._value


class Mean:
    """An exponential mean with a time constant in seconds."""

    def __init__(self, constant: float) -> None:
        self._constant = constant
        self._value: NDArray[np.float32] | None = None

    def __call__(self, value: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
        if self._value is None:
            self._value = value
        else:
            share = np.float32(1 - math.exp(-seconds / self._constant))
            self._value = self._value + share * (value - self._value)
        return self._value


def _share(cutoff: float, seconds: float) -> float:
    """What a first-order low-pass takes of a new value."""
    reach = 2 * math.pi * cutoff * seconds
    return reach / (reach + 1)
