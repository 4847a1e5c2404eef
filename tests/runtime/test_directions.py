"""Directions of known gradients, and gradients that have none."""

from __future__ import annotations

import numpy as np
import pytest

from edgeage.runtime.directions import CONVERGED, METHODS, NOT_FINITE, SATURATED, Directions, fault

RNG = np.random.default_rng(3)
GRADIENTS = RNG.normal(size=(3, 4, 20)).astype(np.float32)  # steps, faces, latent
ALL = np.arange(4)


def directions(method: str, scale: float = 1.0) -> list[np.ndarray]:
    found = Directions(method, (4, 20))
    return [found(gradient * np.float32(scale), ALL, k) for k, gradient in enumerate(GRADIENTS)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_scale_of_gradients_does_not_matter(method: str, scale: float) -> None:
    for one, other in zip(directions(method), directions(method, scale), strict=True):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_sign_and_normalised_by_hand() -> None:
    assert np.array_equal(directions("sign")[1], np.sign(GRADIENTS[1]))
    along = directions("normalised")[1]
    np.testing.assert_allclose(np.sqrt(np.square(along).mean(axis=1)), 1, rtol=1e-6)
    np.testing.assert_allclose(along / along[:, :1], GRADIENTS[1] / GRADIENTS[1][:, :1], rtol=1e-5)


def test_momentum_sums_earlier_directions_and_normalises_again() -> None:
    directions, units = Directions("normalised", (4, 20), momentum=0.4), []
    for k, gradient in enumerate(GRADIENTS):
        units.append(gradient / np.sqrt(np.square(gradient).mean(axis=1, keepdims=True)))
        whole = sum(0.4 ** (k - j) * unit for j, unit in enumerate(units))
        wanted = whole / np.sqrt(np.square(whole).mean(axis=1, keepdims=True))
        np.testing.assert_allclose(directions(gradient, ALL, k), wanted, rtol=1e-5, atol=1e-6)


def test_directions_that_cancel_give_no_step() -> None:
    directions = Directions("normalised", (4, 20), momentum=1.0)
    assert directions(GRADIENTS[0], ALL, 0).any()
    assert not directions(-GRADIENTS[0], ALL, 1).any()


def test_adam_is_that_of_its_authors() -> None:
    mean = square = 0.0
    for k, (found, gradient) in enumerate(zip(directions("adam"), GRADIENTS.astype(float), strict=True), 1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        np.testing.assert_allclose(found, mean / (1 - 0.9**k) / np.sqrt(square / (1 - 0.999**k)), rtol=1e-5)


def test_adam_remembers_each_face_and_makes_nothing_of_zeros() -> None:
    together, alone = Directions("adam", (4, 20)), Directions("adam", (1, 20))
    gradient = GRADIENTS.copy()
    gradient[..., 5] = 0
    together(gradient[0], ALL, 0)
    alone(gradient[0, 2:3], np.array([0]), 0)
    found = together(gradient[1, [2, 3]], np.array([2, 3]), 1)  # two faces stopped
    assert np.array_equal(found[:1], alone(gradient[1, 2:3], np.array([0]), 1))
    assert not found[:, 5].any()


def clipped(count: int, low: float = -1.0, size: int = 100) -> np.ndarray:
    """`count` entries at the ends, the others in between."""
    gradient = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    gradient[:count] = np.where(np.arange(count) % 2, 1.0, low)
    return gradient


@pytest.mark.parametrize(
    ("gradient", "why"),
    [
        (clipped(51), SATURATED),
        (clipped(51, low=-128 / 127), SATURATED),  # int8 ends at -128 and 127
        (clipped(51) * np.float32(1e-30), SATURATED),
        (clipped(50), None),
        (clipped(8, size=12), SATURATED),
        (np.array([1, -1, 1, 1, -1, 1, 1, 0], np.float32), None),  # 7 are not zero
        (np.array([1, -1, 1, 1, -1, 1, 1, 1], np.float32), SATURATED),
        (np.zeros(9, np.float32), CONVERGED),
        (np.array([1, np.nan, 0], np.float32), NOT_FINITE),
        (np.array([1, -np.inf, 0], np.float32), NOT_FINITE),
    ],
)
def test_gradients_without_direction(gradient: np.ndarray, why: str | None) -> None:
    assert fault(gradient) == why
