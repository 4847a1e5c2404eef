"""Sensors of power and energy: INA3221 (Jetson), tegrastats, RAPL (Intel, AMD), a battery's gauge.

A sensor reads watts, or joules that it has counted. Which one a machine has decides what a figure means: a
board's input, a processor's package, or a whole phone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from typing import Protocol

from edgeage.runtime.bench.sysfs import Files, NotAvailable

_TOTALS = ("VDD_IN", "POM_5V_IN", "POM_5V_IN_TOTAL")  # rails that feed all others
# Of an AGX Orin, fed by VIN_SYS_5V0, which is measured too: counted once.
_WITHIN = ("VDDQ_VDD2_1V8AO",)


class Sensor(Protocol):
    """
    Attributes:
        name: what is measured, and by what, in one line.
        counts: whether `read` gives joules since some start, else watts at this moment.
        interval: seconds between two readings that make sense.
    """

    name: str
    counts: bool
    interval: float

    def read(self) -> float:
        """NotAvailable if it cannot be read any more."""
        ...

    def close(self) -> None: ...


def find_sensor(root: str | os.PathLike[str] = "/", *, tools: bool = True) -> Sensor:
    """The best sensor of a machine; NotAvailable with what was looked for.

    A board's own sensors come before a processor's, and these before a battery, whose gauge is slow.

    `tools`: whether tegrastats may be started where its sensors cannot be read.
    """
    files, reasons = Files(root), []
    makers = [Ina3221, *([Tegrastats] if tools else []), Rapl, Battery]
    for maker in makers:
        try:
            sensor: Sensor = maker(files)
            sensor.read()
            return sensor
        except NotAvailable as why:
            reasons.append(f"{maker.__name__}: {why}")
    raise NotAvailable("; ".join(reasons))


def choose_rails(rails: dict[str, float]) -> dict[str, float]:
    """Those of a board's rails that make up its power: the input, else all that are no part of another."""
    for total in _TOTALS:
        if total in rails:
            return {total: rails[total]}
    return {name: watts for name, watts in rails.items() if name not in _WITHIN and name != "NC"}


class Ina3221:
    """The power monitors of a Jetson (and of other boards) as hwmon has them: mV and mA of three rails."""

    counts, interval = False, 0.1

    def __init__(self, files: Files) -> None:
        self._files = files
        self._rails: dict[str, tuple[str, str]] = {}
        for path in files.find("sys/class/hwmon/hwmon*/name"):
            if files.maybe_text(path) == "ina3221":
                folder = path.rsplit("/", 1)[0]
                for channel in (1, 2, 3):  # in4 to in7 are shunt voltages
                    label = files.maybe_text(f"{folder}/in{channel}_label")
                    ends = f"{folder}/in{channel}_input", f"{folder}/curr{channel}_input"
                    if isinstance(label, str) and isinstance(files.maybe_integer(ends[1]), int):
                        self._rails[label] = ends
        if not self._rails:
            raise NotAvailable("no hwmon named ina3221 with readable rails")
        self._rails = {name: self._rails[name] for name in choose_rails(dict.fromkeys(self._rails, 0.0))}
        self.name = f"INA3221, rails {' + '.join(self._rails)}"

    def read(self) -> float:
        return sum(
            self._files.integer(volts) * self._files.integer(amperes) * 1e-6
            for volts, amperes in self._rails.values()
        )

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class TegraLine:
    """One line of tegrastats: watts by rail, degrees Celsius by zone, (percent, MHz) by core that is on."""

    rails: dict[str, float]
    temperatures: dict[str, float]
    cores: tuple[tuple[int, int | None], ...]


_PAIR = re.compile(r"(?:^|\s)([A-Z][A-Z0-9_]*) (-?\d+)(mW)?/(-?\d+)(mW)?(?=\s|$)")


def parse_tegrastats(line: str) -> TegraLine:
    """Read a line of any JetPack: "VDD_IN 4067/4067" (mW) up to JetPack 4, "VDD_IN 4824mW/4824mW" since.

    Of the two numbers the first is of this moment, the second the mean since tegrastats began. Small negative
    readings occur and are kept: they are the monitor's offset, which takes part in means.
    """
    rails = {name: int(now) / 1000 for name, now, *_ in _PAIR.findall(line)}
    zones = re.findall(r"(?:^|\s)(\w+)@(-?[\d.]+)C(?=\s|$)", line)
    cpu = re.search(r"CPU \[([^\]]*)\]", line)
    cores = [re.fullmatch(r"(\d+)%(?:@(\d+))?", core) for core in cpu[1].split(",")] if cpu else []
    return TegraLine(
        rails=rails,
        temperatures={name: float(text) for name, text in zones if float(text) > -100},
        cores=tuple((int(core[1]), int(core[2]) if core[2] else None) for core in cores if core),
    )


class Tegrastats:
    """NVIDIA's tool, started here, for where its sensors are hidden (a container): its latest line counts."""

    counts, interval = False, 0.1

    def __init__(self, files: Files, command: str = "tegrastats") -> None:
        found = shutil.which(command)
        if found is None:
            raise NotAvailable("there is no tegrastats")
        self._process = subprocess.Popen(
            [found, "--interval", "100"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self._latest = TegraLine({}, {}, ())
        self._came = threading.Event()
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()
        self._came.wait(5)
        rails = choose_rails(self._latest.rails)
        if not rails:
            self.close()
            raise NotAvailable("tegrastats tells no power within 5 s; it may need root")
        self._rails = tuple(rails)
        self.name = f"tegrastats, rails {' + '.join(rails)}"

    def _follow(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._latest = parse_tegrastats(line)
                self._came.set()
        self._came.set()

    def read(self) -> float:
        if self._process.poll() is not None:
            raise NotAvailable(f"tegrastats ended with exit code {self._process.returncode}")
        rails = self._latest.rails
        if missing := [rail for rail in self._rails if rail not in rails]:
            raise NotAvailable(f"tegrastats tells no {missing[0]} any more")
        return sum(rails[rail] for rail in self._rails)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._follower.join()


class Rapl:
    """Energy counters of x86 processors (Intel's RAPL, which AMD has too): packages and their memory."""

    counts, interval = True, 0.1

    def __init__(self, files: Files) -> None:
        self._files = files
        self._zones: dict[str, tuple[str, int]] = {}
        refused: NotAvailable | None = None
        for path in files.find("sys/class/powercap/intel-rapl:*/name"):
            folder = path.rsplit("/", 1)[0]
            name = files.maybe_text(path)
            # core, uncore and psys are parts of a package or hold it
            if name and (name.startswith("package") or name == "dram"):
                try:
                    files.integer(f"{folder}/energy_uj")
                    self._zones[f"{name} ({folder.rsplit('/', 1)[1]})"] = (
                        f"{folder}/energy_uj",
                        files.integer(f"{folder}/max_energy_range_uj"),
                    )
                except NotAvailable as why:
                    refused = why
        if not self._zones:
            if refused:
                raise NotAvailable(f"{refused} (most systems let root alone read it)")
            raise NotAvailable("no powercap zone intel-rapl")
        self.name = f"RAPL, {' + '.join(name.split(' ')[0] for name in self._zones)}"
        self._last: dict[str, int] = {}
        self._turns: dict[str, int] = {}

    def read(self) -> float:
        total = 0
        for name, (path, most) in self._zones.items():
            now = self._files.integer(path)
            if now < self._last.get(name, 0):  # the counter began again
                self._turns[name] = self._turns.get(name, 0) + most
            self._last[name] = now
            total += self._turns.get(name, 0) + now
        return total * 1e-6

    def close(self) -> None:
        pass


class Battery:
    """A battery's gauge while it discharges: the whole device, screen and radio included."""

    counts, interval = False, 1.0

    def __init__(self, files: Files) -> None:
        self._files = files
        for path in files.find("sys/class/power_supply/*/type"):
            if files.maybe_text(path) == "Battery":
                self._folder = path.rsplit("/", 1)[0]
                break
        else:
            raise NotAvailable("no battery")
        self.name = f"battery {self._folder.rsplit('/', 1)[1]}, its own gauge"

    def read(self) -> float:
        status = self._files.maybe_text(f"{self._folder}/status")
        if status != "Discharging":
            raise NotAvailable(
                f"the battery is {str(status).lower()}, so its gauge tells nothing of the load; unplug it"
            )
        power = self._files.maybe_integer(f"{self._folder}/power_now")
        if power is not None:
            return abs(power) * 1e-6
        # microvolts and microamperes by the kernel's documentation; Android gives the current a sign
        current = self._files.integer(f"{self._folder}/current_now")
        return abs(current) * self._files.integer(f"{self._folder}/voltage_now") * 1e-12

    def close(self) -> None:
        pass
