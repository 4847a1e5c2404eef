"""Whether a machine slows itself down: its counters and flags of heat, current and voltage."""

from __future__ import annotations

from typing import Any

from edgeage.runtime.bench.sysfs import Files, NotAvailable

# Raspberry Pi firmware, "vcgencmd get_throttled" in its documentation: bit now, bit + 16 since the start.
_PI_FLAGS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
# Jetson Linux Developer Guide, "Over-current throttling" (Orin).
_JETSON_EVENTS = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "instantaneous over-current"}
_COOLS_CPU = ("processor", "cpufreq", "cpu-", "cpu_")


def throttling(files: Files) -> dict[str, Any]:
    """{"counters": {what: events since the start}, "now": [what slows it down at this moment]}.

    NotAvailable if the machine has neither kind.
    """
    counters = {**_x86(files), **_jetson(files)}
    flags, pi_counters = _pi(files)
    cooling, has_cooling = _cooling(files)
    counters |= pi_counters
    if not counters and not has_cooling and flags is None:
        raise NotAvailable("no throttle counters, no firmware flags and no CPU cooling devices")
    return {"counters": counters, "now": [*(flags or []), *cooling]}


def slowed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What slowed the machine down between two readings, one line each; [] also where nothing is told."""
    old, new = before.get("counters", {}), after.get("counters", {})
    rises = {what: count - old.get(what, 0) for what, count in new.items()}
    risen = [f"{what}: {count} events" for what, count in rises.items() if count > 0]
    return risen + [f"{what} at the end" for what in after.get("now", [])]


def _x86(files: Files) -> dict[str, int]:
    """Thermal throttle events; cores of one package tell the package's count each."""
    found = {}
    for kind in ("core", "package"):
        paths = files.find(f"sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/{kind}_throttle_count")
        known = [count for path in paths if (count := files.maybe_integer(path)) is not None]
        if known:
            found[f"thermal throttling of a {kind}"] = sum(known) if kind == "core" else max(known)
    return found


def _jetson(files: Files) -> dict[str, int]:
    found = {}
    for path in files.find("sys/class/hwmon/hwmon*/oc*_event_cnt"):
        short = path.rsplit("/", 1)[1].partition("_")[0]
        count = files.maybe_integer(path)
        if count is not None:
            found[_JETSON_EVENTS.get(short, short)] = count
    return found


def _pi(files: Files) -> tuple[list[str] | None, dict[str, int]]:
    """Flags of this moment (None: no such firmware), and those since the start, as counts of 0 or 1."""
    places = ("sys/devices/platform/soc/soc:firmware/get_throttled", "sys/firmware/raspberrypi/get_throttled")
    for place in places:
        text = files.maybe_text(place)
        if text is not None:
            try:
                bits = int(text, 16)
            except ValueError:
                continue
            now = [f"{what} (firmware)" for bit, what in _PI_FLAGS.items() if bits >> bit & 1]
            since = {f"{what} since the start": bits >> (bit + 16) & 1 for bit, what in _PI_FLAGS.items()}
            return now, since
    for name in files.find("sys/class/hwmon/hwmon*/name"):
        if files.maybe_text(name) == "rpi_volt":
            alarm = files.maybe_integer(name.replace("/name", "/in0_lcrit_alarm"))
            if alarm is not None:
                return ["under-voltage (hwmon rpi_volt)"] * bool(alarm), {}
    return None, {}


def _cooling(files: Files) -> tuple[list[str], bool]:
    """Cooling devices that hold the CPU's clock down now, and whether there are any that could."""
    active, known = [], False
    for path in files.find("sys/class/thermal/cooling_device*"):
        kind = files.maybe_text(f"{path}/type")
        state = files.maybe_integer(f"{path}/cur_state")
        if kind and state is not None and any(word in kind.lower() for word in _COOLS_CPU):
            known = True
            if state > 0:
                active.append(f"cooling by {kind}, state {state}")
    return active, known
