"""A machine with TensorRT that does not exist, a bundle for it, and a cache folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_tensorrt import World

from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.engines.tensorrt.cache import PlanCache
from edgeage.runtime.engines.tensorrt.prepare import Workshop


@pytest.fixture(scope="session")
def shipped(loose_bundle: Path) -> Bundle:
    return open_bundle(loose_bundle)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of plans; also where the command line and the session look."""
    place = tmp_path / "plans"
    monkeypatch.setenv("EDGEAGE_TENSORRT_CACHE", str(place))
    return place


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """TensorRT 10.3, cuda-python 12.6: JetPack 6."""
    return World().install(monkeypatch)


@pytest.fixture
def new_world(monkeypatch: pytest.MonkeyPatch) -> World:
    """TensorRT 11.4, cuda-python 13.2."""
    return World("11.4.0.106", "13.2.0").install(monkeypatch)


@pytest.fixture
def workshop(folder: Path) -> Callable[[], Workshop]:
    """A new one over the same cache, as another process has it."""
    return lambda: Workshop(PlanCache(folder))
