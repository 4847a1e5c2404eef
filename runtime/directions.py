"""From the gradient of a refine engine to the direction that a latent steps along, and gradients without one.

A refine engine gives the gradient on a scale of its own, so nothing here depends on that scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

METHODS = ("sign", "normalised", "adam")
_BETA_1, _BETA_2 = 0.9, 0.999

# Why a face takes no further step; see `edgeage.runtime.refinement`.
NOT_FINITE = "gradient not finite"
SATURATED = "gradient saturated"
CONVERGED = "converged"

_FEW = 8  # nonzero entries; a gradient of fewer is sparse, not clipped
# int8 ends at -128 and at 127: entries clipped on either side count as equally large.
_AS_LARGE = np.float32(127 / 128) * np.float32(1 - 1e-6)


def fault(gradient: NDArray[np.float32]) -> str | None:
    """Why the gradient [L] of one face has no direction to step along; None if it has one.

    Saturated: more than half of the entries sit at the largest magnitude, and at least 8 are not zero. That
    is int8 clipping, which keeps no order among the dimensions.
    """
    if not np.isfinite(gradient).all():
        return NOT_FINITE
    size = np.abs(gradient)
    largest = size.max(initial=0)
    if largest == 0:
        return CONVERGED
    if np.count_nonzero(size) >= _FEW and 2 * np.count_nonzero(size >= largest * _AS_LARGE) > size.size:
        return SATURATED
    return None


class Directions:
    """Directions for `shape` = (faces, latent size); each face's depends on its own gradients alone.

    "sign" is +-1 per dimension; "normalised" is the gradient with a root mean square of 1, so that a step has
    the same size as with "sign"; "adam" is Adam's. `momentum`, for "normalised": what the earlier directions
    still count, each times it once a step; their sum is normalised again.
    """

    def __init__(self, method: str, shape: tuple[int, int], momentum: float = 0.0) -> None:
        self._method, self._momentum = method, momentum
        self._mean = np.zeros(shape)
        if method == "adam":
            self._square = np.zeros(shape)

    def __call__(
        self, gradient: NDArray[np.float32], faces: NDArray[np.intp], step: int
    ) -> NDArray[np.float32]:
        """Directions [m, L] for gradients [m, L] of `faces` [m] at `step` 0, 1, ...

        No gradient is all zero or not finite, and these faces were given at every earlier step.
        """
        if self._method == "sign":
            return np.asarray(np.sign(gradient), np.float32)
        exact = gradient.astype(np.float64)  # squares of float32 neither vanish nor overflow
        if self._method == "normalised":
            self._mean[faces] = self._momentum * self._mean[faces] + _normalised(exact)
            return np.asarray(_normalised(self._mean[faces]), np.float32)
        mean = _BETA_1 * self._mean[faces] + (1 - _BETA_1) * exact
        square = _BETA_2 * self._square[faces] + (1 - _BETA_2) * np.square(exact)
        self._mean[faces], self._square[faces] = mean, square
        mean, square = mean / (1 - _BETA_1 ** (step + 1)), square / (1 - _BETA_2 ** (step + 1))
        # Adam's epsilon would make the direction depend on the gradient's scale; 0 / 0 is no step.
        steps = np.divide(mean, np.sqrt(square), out=np.zeros_like(mean), where=square > 0)
        return steps.astype(np.float32)


def _normalised(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows with a root mean square of 1; a row of zeros stays as it is."""
    size = np.sqrt(np.square(rows).mean(axis=1, keepdims=True))
    unit: NDArray[np.float64] = np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)
    return unit
