"""A claim, encoded pictures, a certificate for trials."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from edgeage.runtime.provenance import Claim

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


@pytest.fixture
def claim() -> Claim:
    return Claim("edge & 64 <ü>", "0123456789abcdef" * 4, ("60+",), "30-39", "delta", 1.1, "9.8.7")


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    def encode_picture(pixels: np.ndarray, format: str, **options: object) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format, **options)
        return stream.getvalue()

    return encode_picture


@pytest.fixture(scope="session")
def scene() -> Callable[[int, tuple[int, int]], np.ndarray]:
    """Pictures built as photos are: smooth areas, textured areas, edges, sensor noise; uint8 [H, W, 3]."""

    def draw(seed: int, size: tuple[int, int]) -> np.ndarray:
        random = np.random.default_rng(seed)
        height, width = size
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 0.005

        def clouds(steepness: float, channels: int) -> np.ndarray:
            noise = np.fft.rfft2(random.standard_normal((channels, height, width)))
            values = np.fft.irfft2(noise / frequency**steepness, (height, width))
            return values / values.std()

        textured = np.clip(clouds(2.5, 1), 0, 1)
        picture = 120 + 40 * clouds(2.5, 3) + 25 * textured * clouds(1, 1)
        for _ in range(6):  # shapes with edges
            y, x = random.integers(0, height), random.integers(0, width)
            picture[:, y : y + height // 4, x : x + width // 4] += random.uniform(-50, 50, (3, 1, 1))
        picture += 2 * random.standard_normal(picture.shape)
        return np.clip(picture, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy()

    return draw
