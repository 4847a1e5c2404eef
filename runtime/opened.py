"""The engines of one thread: opened when they are first needed, then kept."""

from __future__ import annotations

from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines import Engine, check_engine_name, check_precision, open_engine
from edgeage.runtime.photo.detect import Detector
from edgeage.runtime.refiner import Refiner


class Opened:
    """A bundle's engines, a detector and a refiner. Engines keep their tensors: for one thread only."""

    def __init__(self, bundle: Bundle, engine: str, precision: str, threads: int) -> None:
        self._bundle, self._engine_name = bundle, check_engine_name(engine)
        self._precision, self._threads = check_precision(precision, engine), threads
        self._engines: dict[str, Engine] = {}
        self._detector: Detector | None = None
        self.refiner = Refiner(bundle.manifest, engine, precision, self.engine)

    def engine(self, name: str) -> Engine:
        """One of the bundle's engines ("encoder", "generator_all", ...)."""
        if name not in self._engines:
            self._engines[name] = open_engine(
                self._bundle, name, self._engine_name, self._precision, self._threads
            )
        return self._engines[name]

    @property
    def detector(self) -> Detector:
        if self._detector is None:
            self._detector = Detector(self._engine_name, self._threads)
        return self._detector

    def descriptions(self) -> dict[str, str]:
        """What runs each engine opened so far, one line each."""
        return {name: engine.description for name, engine in self._engines.items()}
