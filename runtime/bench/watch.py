"""Clocks, heat and other work of a machine during a measurement, from a thread that costs next to nothing.

A reading is a few small files that are kept open. What the readings themselves cost is measured and told.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgeage.runtime.bench.sampler import Sampler
from edgeage.runtime.bench.sysfs import Files, NotAvailable, told
from edgeage.runtime.bench.throttling import slowed, throttling

_CPU = "sys/devices/system/cpu"
_CORES = 16  # clocks of at most so many are read
_MOST = 1200  # readings that are kept; then every second one goes and the period doubles
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Reading:
    """
    Attributes:
        seconds: since the watch began.
        mhz: mean clock of this process's cores.
        celsius: the hottest sensor's temperature.
        busy, own, steal: CPU seconds of all work, of this process, taken by a host; each since its start.
    """

    seconds: float
    mhz: float | None
    celsius: float | None
    busy: float | None
    own: float
    steal: float | None


class Watch(Sampler):
    """Reads the machine every `period` seconds while its block runs.

    `root`: where the machine's "/" is.
    """

    def __init__(self, period: float = 1.0, root: str | os.PathLike[str] = "/") -> None:
        super().__init__("watch", period)
        self._files = Files(root)
        self._clocks, self._zones, self._stat = (
            self._open_clocks(),
            self._open_zones(),
            self._open("proc/stat"),
        )
        self._readings: list[Reading] = []
        self._cost = 0.0

    def begin(self) -> None:
        self._before = told(lambda: throttling(self._files))
        self._began = time.perf_counter()

    def end(self) -> None:
        self._after = told(lambda: throttling(self._files))
        for handle in {*self._clocks, *self._zones.values(), *filter(None, [self._stat])}:
            os.close(handle)

    def throttled(self) -> list[str]:
        """What slowed the machine down during the block, one line each, for the verdict."""
        return slowed(self._before, self._after)

    def summary(self) -> dict[str, Any]:
        """What was seen, as JSON values.

        Keys: "seconds", "readings", "period_s", "cost" (share of one core's time that the readings took),
        "clocks_mhz" and "temperature_c" (lowest, median, highest), "background_cores" (cores' worth of other
        processes' work), "steal_cores" (taken by a host), "throttled" (lines), "series" (of seconds, mhz and
        celsius).
        """
        first, last = self._readings[0], self._readings[-1]
        seconds = last.seconds - first.seconds
        return {
            "seconds": round(seconds, 3),
            "readings": len(self._readings),
            "period_s": self.period,
            "cost": self._cost / max(seconds, 1e-9),
            "clocks_mhz": _spread([r.mhz for r in self._readings], "no core's clock can be read"),
            "temperature_c": _spread([r.celsius for r in self._readings], "no sensor can be read"),
            "background_cores": told(lambda: self._background(first, last)),
            "steal_cores": told(lambda: _rate(first.steal, last.steal, seconds)),
            "throttled": self.throttled() if "not available" not in self._after else self._after,
            "series": {
                "seconds": [round(r.seconds, 3) for r in self._readings],
                "mhz": [r.mhz for r in self._readings],
                "celsius": [r.celsius for r in self._readings],
            },
        }

    def read(self) -> None:
        begin = time.perf_counter()
        busy, steal = self._cpu_seconds()
        times = os.times()
        self._readings.append(
            Reading(begin - self._began, self._mhz(), self._celsius(), busy, times.user + times.system, steal)
        )
        if len(self._readings) > _MOST:
            self._readings = [self._readings[0], *self._readings[2::2]]
            self.period *= 2
        self._cost += time.perf_counter() - begin

    def _mhz(self) -> float | None:
        if len(self._clocks) == 1 and self._cpuinfo:
            clocks = [
                float(line.partition(":")[2])
                for line in _text(self._clocks[0], 1 << 16).splitlines()
                if line.startswith("cpu MHz")
            ]
        else:
            clocks = [
                float(text) / 1000 for text in (_text(handle) for handle in self._clocks) if text.isdigit()
            ]
        return round(sum(clocks) / len(clocks), 1) if clocks else None

    def _celsius(self) -> float | None:
        texts = (_text(handle) for handle in self._zones.values())
        found = [int(text) / 1000 for text in texts if text.lstrip("-").isdigit()]
        return max((one for one in found if -100 < one < 200), default=None)

    def _cpu_seconds(self) -> tuple[float | None, float | None]:
        """Busy and stolen CPU seconds of the whole machine."""
        fields = _text(self._stat).split("\n", 1)[0].split() if self._stat else []
        if len(fields) < 8 or fields[0] != "cpu":
            return None, None
        user, nice, system, _idle, _wait, irq, soft = map(int, fields[1:8])
        steal = int(fields[8]) if len(fields) > 8 else 0
        return (user + nice + system + irq + soft) / _TICK, steal / _TICK

    def _background(self, first: Reading, last: Reading) -> float:
        busy = _rate(first.busy, last.busy, last.seconds - first.seconds)
        own = (last.own - first.own) / max(last.seconds - first.seconds, 1e-9)
        return round(max(busy - own, 0.0), 3)

    def _open_clocks(self) -> list[int]:
        affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(_CORES)
        paths = [f"{_CPU}/cpu{core}/cpufreq/scaling_cur_freq" for core in affinity][:_CORES]
        found = [handle for handle in map(self._open, paths) if handle is not None]
        self._cpuinfo = not found
        cpuinfo = self._open("proc/cpuinfo") if self._cpuinfo else None
        return found if cpuinfo is None else [cpuinfo]

    def _open_zones(self) -> dict[str, int]:
        paths = self._files.find("sys/class/thermal/thermal_zone*/temp")
        paths = paths or self._files.find("sys/class/hwmon/hwmon*/temp*_input")
        return {path: handle for path in paths if (handle := self._open(path)) is not None}

    def _open(self, path: str) -> int | None:
        try:
            return os.open(Path(self._files.root) / path, os.O_RDONLY)
        except OSError:
            return None


def _text(handle: int, most: int = 4096) -> str:
    try:
        return os.pread(handle, most, 0).decode("utf-8", "replace").strip()
    except OSError:  # a sensor that is gone
        return ""


def _spread(values: list[float | None], why: str) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if not known:
        return {"not available": why}
    return {"lowest": min(known), "median": round(median(known), 1), "highest": max(known)}


def _rate(first: float | None, last: float | None, seconds: float) -> float:
    if first is None or last is None:
        raise NotAvailable("/proc/stat cannot be read")
    return round(max(last - first, 0.0) / max(seconds, 1e-9), 3)
