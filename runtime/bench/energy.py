"""Energy of a run of the subject, minus what the machine takes when it does nothing.

sensor = find_sensor()
with Meter(sensor) as idle: time.sleep(5)
with Meter(sensor) as loaded: ...        # so many runs
energy = per_run(loaded, idle, runs)     # JSON values for `results.Result.energy`
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.bench.sampler import Sampler
from edgeage.runtime.bench.sensors import Sensor
from edgeage.runtime.bench.statistics import LEVEL, block_length
from edgeage.runtime.bench.sysfs import NotAvailable

_LEAST = 8  # changes of the sensor's reading, below which its power is not told
_DRAWS = 1000


class Meter(Sampler):
    """Reads a sensor while its block runs.

    `clock`: seconds.
    """

    def __init__(self, sensor: Sensor, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__("meter", sensor.interval)
        self.sensor, self._clock = sensor, clock
        self._times: list[float] = []
        self._values: list[float] = []
        self.lost: str | None = None

    def begin(self) -> None:
        self._began = self._clock()

    def end(self) -> None:
        self.seconds = self._clock() - self._began

    @property
    def watts(self) -> NDArray[np.float64]:
        """Power [n - 1] between successive readings."""
        times, values = np.asarray(self._times), np.asarray(self._values)
        if self.sensor.counts:
            return np.diff(values) / np.maximum(np.diff(times), 1e-9)
        return np.asarray((values[1:] + values[:-1]) / 2)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Seconds [n - 1] between successive readings."""
        return np.diff(np.asarray(self._times))

    @property
    def changes(self) -> int:
        """How often the reading changed: a gauge that is read faster than it measures tells nothing new."""
        return int(np.count_nonzero(np.diff(np.asarray(self._values))))

    def mean_watts(self) -> float:
        return float(np.average(self.watts, weights=self.weights))

    def read(self) -> None:
        if self.lost:
            return
        try:
            value = self.sensor.read()
        except NotAvailable as why:
            self.lost = str(why)
            self._lost_after = self._clock() - self._began
            return
        self._times.append(self._clock())
        self._values.append(value)

    def trouble(self, what: str) -> str | None:
        """Why these readings tell no power; None if they do. `what`: was measured, for the text."""
        if self.lost:
            when = f"{self._lost_after:.1f} s into {self.seconds:.1f} s of {what}"
            return f"the sensor ({self.sensor.name}) vanished {when}: {self.lost}"
        if self.changes < _LEAST:
            seen = f"changed its reading {self.changes} times in {self.seconds:.1f} s of {what}"
            return f"{self.sensor.name} {seen}, {_LEAST} are needed; measure longer"
        return None


def per_run(loaded: Meter, idle: Meter, runs: int, seed: int = 0) -> dict[str, Any]:
    """Millijoules of a run above idle, with the 95 % interval of a bootstrap over blocks of readings.

    Keys: "sensor", "rate_hz" (changes of its reading a second), "idle_w", "loaded_w", "seconds", "runs",
    "millijoules", "low", "high", "gross_millijoules" (idle not taken off). Or "not available": why, with
    "sensor" and, if a sensor was lost, "until_then_w".

    A sensor's own error and what it does not see are not in the interval.
    """
    found: dict[str, Any] = {"sensor": loaded.sensor.name}
    if runs < 1:
        return found | {"not available": "nothing was run"}
    for meter, what in ((idle, "idling"), (loaded, "running")):
        if trouble := meter.trouble(what):
            if meter.lost and len(meter.watts):
                found["until_then_w"] = round(meter.mean_watts(), 4)
            return found | {"not available": trouble}
    rng = np.random.default_rng(seed)
    share = loaded.seconds / runs * 1000
    drawn = (_means(loaded, rng) - _means(idle, rng)) * share
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    loaded_w, idle_w = loaded.mean_watts(), idle.mean_watts()
    return found | {
        "rate_hz": round(loaded.changes / loaded.seconds, 3),
        "idle_w": round(idle_w, 4),
        "loaded_w": round(loaded_w, 4),
        "seconds": round(loaded.seconds, 3),
        "runs": runs,
        "millijoules": (loaded_w - idle_w) * share,
        "low": float(low),
        "high": float(high),
        "gross_millijoules": loaded_w * share,
    }


def _means(meter: Meter, rng: np.random.Generator) -> NDArray[np.float64]:
    """Mean powers [draws] of resampled blocks of readings."""
    watts, weights = meter.watts, meter.weights
    block = min(block_length(watts), watts.size)
    starts = rng.integers(0, watts.size - block + 1, (_DRAWS, -(-watts.size // block)))
    rows = (starts[..., None] + np.arange(block)).reshape(_DRAWS, -1)[:, : watts.size]
    return np.asarray((watts[rows] * weights[rows]).sum(axis=1) / weights[rows].sum(axis=1))
