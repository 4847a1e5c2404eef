"""From the contract's float32 NCHW to what a file stores, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.engines import Feeds
from edgeage.runtime.manifest import EngineFile, FilePort, Port


def quantize(values: NDArray[np.float32], scale: float, zero_point: int) -> NDArray[np.int8]:
    """Nearest int8 codes, halves to even, saturated to [-128, 127]."""
    codes = np.rint(values / np.float32(scale)) + zero_point
    return np.asarray(np.clip(codes, -128, 127), dtype=np.int8)


def dequantize(codes: NDArray[np.int8], scale: float, zero_point: int) -> NDArray[np.float32]:
    """The real values of int8 codes: scale * (code - zero_point)."""
    return np.asarray(
        (codes.astype(np.float32) - np.float32(zero_point)) * np.float32(scale), dtype=np.float32
    )


def check_feeds(feeds: Feeds, ports: tuple[Port, ...]) -> None:
    """EdgeageError unless `feeds` holds exactly `ports`, in shape and as finite float32."""
    if set(feeds) != {port.name for port in ports}:
        expected = ", ".join(port.name for port in ports)
        raise EdgeageError(f"the engine takes {expected}; it was given {', '.join(feeds) or 'nothing'}")
    for port in ports:
        values = feeds[port.name]
        if values.shape != port.shape or values.dtype != np.float32:
            raise EdgeageError(
                f"the engine's input {port.name} is float32 {list(port.shape)}; "
                f"it was given {values.dtype} {list(values.shape)}"
            )
        if not np.isfinite(values).all():
            raise EdgeageError(f"the engine's input {port.name} holds NaN or infinity")


def to_file(feeds: Feeds, ports: tuple[Port, ...], file: EngineFile) -> dict[str, NDArray[Any]]:
    """The contract's inputs as `file` stores them, by its own names; EdgeageError as `check_feeds`."""
    check_feeds(feeds, ports)
    return {
        stored.name: _store(feeds[port.name], stored, file.layout)
        for port, stored in zip(ports, file.inputs, strict=True)
    }


def from_file(results: Mapping[str, NDArray[Any]], ports: tuple[Port, ...], file: EngineFile) -> Feeds:
    """What `file` gave, by its own names, as the contract's outputs."""
    return {
        port.name: _restore(results[stored.name], stored, file.layout)
        for port, stored in zip(ports, file.outputs, strict=True)
    }


def _store(values: NDArray[np.float32], port: FilePort, layout: str) -> NDArray[Any]:
    if layout == "NHWC" and values.ndim == 4:
        values = values.transpose(0, 2, 3, 1)
    if port.dtype == "int8":
        assert port.scale is not None  # the manifest's readers hold this for int8 ports
        assert port.zero_point is not None
        return np.ascontiguousarray(quantize(values, port.scale, port.zero_point))
    return np.ascontiguousarray(values)


def _restore(stored: NDArray[Any], port: FilePort, layout: str) -> NDArray[np.float32]:
    if port.dtype == "int8":
        assert port.scale is not None
        assert port.zero_point is not None
        stored = dequantize(stored, port.scale, port.zero_point)
    if layout == "NHWC" and stored.ndim == 4:
        stored = stored.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(stored, dtype=np.float32)
