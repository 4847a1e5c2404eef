"""What is observed during a measurement: the machine, the energy, the memory; one object for all three."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from edgeage.runtime.bench.energy import Meter, per_run
from edgeage.runtime.bench.memory import PeakMemory
from edgeage.runtime.bench.sensors import Sensor, find_sensor
from edgeage.runtime.bench.sysfs import NotAvailable
from edgeage.runtime.bench.watch import Watch

IDLE_SECONDS = 3.0


class Power:
    """The machine's sensor and what it reads when nothing runs; or why there is none."""

    def __init__(self) -> None:
        self.sensor: Sensor | None = None
        try:
            self.sensor = find_sensor()
        except NotAvailable as why:
            self.lacking = str(why)
            return
        with Meter(self.sensor) as self.idle:
            time.sleep(IDLE_SECONDS)

    def close(self) -> None:
        if self.sensor:
            self.sensor.close()


class Observer:
    """Observes one measurement while its block runs."""

    def __init__(self, power: Power) -> None:
        self._power = power
        self._watch, self._peak = Watch(), PeakMemory()
        self._meter = Meter(power.sensor) if power.sensor else None
        self._stack = ExitStack()

    def __enter__(self) -> Observer:
        for one in (self._peak, self._watch, self._meter):
            if one:
                self._stack.enter_context(one)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def throttled(self) -> list[str]:
        return self._watch.throttled()

    def machine(self) -> dict[str, Any]:
        return self._watch.summary()

    def memory(self) -> dict[str, Any]:
        return self._peak.summary()

    def energy(self, runs: int, subjects: int) -> dict[str, Any]:
        """Of one run; subjects that take turns share the meter, so that none has a figure of its own."""
        if self._meter is None:
            return {"not available": self._power.lacking}
        if subjects > 1:
            return {"not available": "subjects took turns; measure them one after the other"}
        return per_run(self._meter, self._power.idle, runs)
