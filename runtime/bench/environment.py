"""What a measurement depends on beside the code: the machine, its clocks, its heat, its limits and work.

Everything is read, nothing is set, and nothing needs root. Linux and Android (x86, arm64, Jetson, Raspberry
Pi) tell most of it in files; what a machine does not tell is {"not available": why}.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any

from edgeage.machine import cpu_name, int8_instructions
from edgeage.runtime.bench.containers import limits
from edgeage.runtime.bench.jetson import jetson
from edgeage.runtime.bench.sysfs import Files, NotAvailable, told
from edgeage.runtime.bench.throttling import throttling

_CPU = "sys/devices/system/cpu"


def snapshot(root: str | os.PathLike[str] = "/") -> dict[str, Any]:
    """The machine as it is now: JSON values, never an exception.

    Keys: "time" (UTC), "device", "system", "python", "cpu" (name, architecture, cores, int8 instructions),
    "governor" and "clock limits" by policy, "boost", "clocks_mhz" by core, "temperatures_c" by sensor,
    "throttling" (see `throttling`), "affinity" (cores this process may use), "load" (averages of 1, 5 and 15
    minutes), "cpu pressure" (share of the last 10 s in which some work waited for a core), "container" (see
    `limits`), "power supply", "jetson" (see `jetson`).

    `root`: where the machine's "/" is.
    """
    files = Files(root)
    parts: dict[str, Callable[[], Any]] = {
        "device": lambda: device(files),
        "governor": lambda: _of_policies(files, "scaling_governor", str),
        "clock limits": lambda: _clock_limits(files),
        "boost": lambda: _boost(files),
        "clocks_mhz": lambda: clocks(files),
        "temperatures_c": lambda: temperatures(files),
        "throttling": lambda: throttling(files),
        "affinity": _affinity,
        "load": lambda: _load(files),
        "cpu pressure": lambda: _pressure(files),
        "container": lambda: limits(files),
        "power supply": lambda: _supply(files),
        "jetson": lambda: jetson(files),
    }
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": {
            "name": cpu_name(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "int8": int8_instructions(),
        },
        **{name: told(read) for name, read in parts.items()},
    }


def device(files: Files) -> str:
    """The board's or the computer's name."""
    try:
        return files.text(
            files.first("proc/device-tree/model", "sys/devices/soc0/machine", "sys/class/dmi/id/product_name")
        )
    except NotAvailable:
        raise NotAvailable("neither a device tree nor DMI names this machine") from None


def clocks(files: Files) -> dict[str, float]:
    """MHz of each core now: by cpufreq, else by /proc/cpuinfo."""
    found = {}
    for path in files.find(f"{_CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq"):
        reading = files.maybe_integer(path)  # a core that is off tells nothing
        if reading is not None:
            found[path.split("/")[4]] = reading / 1000
    if found:
        return found
    core = "0"
    for line in files.text("proc/cpuinfo").splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        core = value if key == "processor" else core
        if key == "cpu MHz":
            found[f"cpu{core}"] = float(value)
    if not found:
        raise NotAvailable("no cpufreq, and /proc/cpuinfo tells no clock")
    return found


def temperatures(files: Files) -> dict[str, float]:
    """Degrees Celsius by sensor: thermal zones, else hwmon. Sensors of parts that are off are left out."""
    readings: list[tuple[str, str]] = []
    for zone in files.find("sys/class/thermal/thermal_zone*"):
        name = files.maybe_text(f"{zone}/type")
        readings.append((name or zone.rsplit("/", 1)[1], f"{zone}/temp"))
    if not readings:
        for path in files.find("sys/class/hwmon/hwmon*/temp*_input"):
            label = path.replace("_input", "_label")
            named = [files.maybe_text(p) for p in (f"{path.rsplit('/', 1)[0]}/name", label)]
            name = " ".join(text for text in named if text)
            readings.append((name or path.split("/")[3], path))
    found: dict[str, float] = {}
    for name, path in readings:
        reading = files.maybe_integer(path)
        if reading is not None and -100_000 < reading < 200_000:  # a Jetson's unused zones say -256
            key = name if name not in found else f"{name} ({path.split('/')[3]})"
            found[key] = reading / 1000
    if not found:
        raise NotAvailable("no thermal zone and no hwmon sensor tells a temperature")
    return found


def _of_policies(files: Files, name: str, read: Callable[[str], Any]) -> dict[str, Any]:
    policies = files.find(f"{_CPU}/cpufreq/policy*")
    if not policies:
        raise NotAvailable("this kernel or virtual machine has no cpufreq")
    return {path.rsplit("/", 1)[1]: told(partial(_read, files, f"{path}/{name}", read)) for path in policies}


def _read(files: Files, path: str, read: Callable[[str], Any]) -> Any:
    return read(files.text(path))


def _clock_limits(files: Files) -> dict[str, Any]:
    """MHz that the hardware can do, and those that the governor is allowed."""
    ends = ("cpuinfo_min_freq", "cpuinfo_max_freq", "scaling_min_freq", "scaling_max_freq")
    found = {end: _of_policies(files, end, lambda text: int(text) / 1000) for end in ends}
    names = ("hardware_min", "hardware_max", "allowed_min", "allowed_max")
    return {
        policy: {name: found[end][policy] for name, end in zip(names, ends, strict=True)}
        for policy in found[ends[0]]
    }


def _boost(files: Files) -> str:
    for path, on in (("intel_pstate/no_turbo", 0), ("cpufreq/boost", 1)):
        state = files.maybe_integer(f"{_CPU}/{path}")
        if state is not None:
            return "on" if state == on else "off"
    raise NotAvailable("neither intel_pstate nor cpufreq tells of boost")


def _affinity() -> list[int]:
    if not hasattr(os, "sched_getaffinity"):
        raise NotAvailable(f"{platform.system()} does not tell a process's cores")
    return sorted(os.sched_getaffinity(0))


def _load(files: Files) -> list[float]:
    return [float(text) for text in files.text("proc/loadavg").split()[:3]]


def _pressure(files: Files) -> float:
    match = re.search(r"some avg10=([\d.]+)", files.text("proc/pressure/cpu"))
    if not match:
        raise NotAvailable("/proc/pressure/cpu has no average of 10 s")
    return float(match[1]) / 100


def _supply(files: Files) -> dict[str, str]:
    """What feeds the machine: {"BAT0": "Battery, Discharging", "AC": "Mains, online"}."""
    found = {}
    for path in files.find("sys/class/power_supply/*"):
        kind = files.maybe_text(f"{path}/type")
        state = files.maybe_text(f"{path}/status")
        if state is None:
            online = files.maybe_integer(f"{path}/online")
            state = None if online is None else "online" if online else "offline"
        found[path.rsplit("/", 1)[1]] = ", ".join(word for word in (kind, state) if word)
    if not found:
        raise NotAvailable("this machine has no power supply that tells of itself")
    return found
