"""What limits a process beside the hardware: control groups (1 and 2), containers, virtual machines."""

from __future__ import annotations

import re
from typing import Any

from edgeage.runtime.bench.sysfs import Files, told

_UNLIMITED = 1 << 60  # version 1 writes "no limit" as a number near 2^63


def limits(files: Files) -> dict[str, Any]:
    """Limits of the control groups that this process is in, and of those above.

    Keys: "cgroup" (1, 2 or not available), "cpus" (cores' worth of time; None: no limit), "memory_mb" (None:
    no limit), "cores" (list as Linux writes it), "throttled" (periods in which the group used up its time,
    since its start), "inside" ("docker", "podman", "container" or None), "virtual machine" (True if the CPU
    says so).
    """
    version, folders = _folders(files)
    if version == 2:
        quota, memory = _quotas_2(files, folders["cpu"]), _lowest(files, folders["memory"], "memory.max")
        cores = _first_text(files, folders["cpuset"], "cpuset.cpus.effective")
    else:
        quota = _quotas_1(files, folders["cpu"])
        memory = _lowest(files, folders["memory"], "memory.limit_in_bytes")
        cores = _first_text(files, folders["cpuset"], "cpuset.cpus")
    flags = re.search(r"^flags\b.*", files.maybe_text("proc/cpuinfo") or "", re.M)
    return {
        "cgroup": version or {"not available": "no control groups below /sys/fs/cgroup"},
        "cpus": quota,
        "memory_mb": None if memory is None else memory >> 20,
        "cores": cores,
        "throttled": told(lambda: _throttled(files, folders["cpu"])),
        "inside": _inside(files),
        "virtual machine": bool(flags and "hypervisor" in flags[0].split()),
    }


def _folders(files: Files) -> tuple[int | None, dict[str, list[str]]]:
    """The version, and for each controller the group's folder and those above it, innermost first."""
    controllers = ("cpu", "cpuset", "memory")
    text = files.maybe_text("proc/self/cgroup")
    lines = [line.split(":", 2) for line in (text or "").splitlines()]
    rows = [row for row in lines if len(row) == 3]
    found: dict[str, list[str]] = {name: [] for name in controllers}
    if files.find("sys/fs/cgroup/cgroup.controllers"):
        group = next((path for number, _, path in rows if number == "0"), "/")
        return 2, {name: _upwards("sys/fs/cgroup", group) for name in controllers}
    for _, names, group in rows:
        for name in controllers:
            if name in names.split(","):
                mounts = files.find(f"sys/fs/cgroup/{names}") or files.find(f"sys/fs/cgroup/{name}")
                if mounts:
                    found[name] = _upwards(mounts[0], group)
    return (1 if any(found.values()) else None), found


def _upwards(mount: str, group: str) -> list[str]:
    """In a container the group's own path is often not mounted: its root is, which comes last."""
    parts = [part for part in group.split("/") if part and part != ".."]
    return ["/".join([mount, *parts[:count]]) for count in range(len(parts), -1, -1)]


def _quotas_2(files: Files, folders: list[str]) -> float | None:
    found = []
    for folder in folders:
        text = files.maybe_text(f"{folder}/cpu.max")
        match = re.fullmatch(r"(\d+) (\d+)", text or "")
        if match and int(match[2]):
            found.append(int(match[1]) / int(match[2]))
    return min(found, default=None)


def _quotas_1(files: Files, folders: list[str]) -> float | None:
    found = []
    for folder in folders:
        quota, period = (files.maybe_integer(f"{folder}/cpu.cfs_{end}_us") for end in ("quota", "period"))
        if quota and period and quota > 0:
            found.append(quota / period)
    return min(found, default=None)


def _lowest(files: Files, folders: list[str], name: str) -> int | None:
    found = [files.maybe_integer(f"{folder}/{name}") for folder in folders]
    return min((one for one in found if one is not None and one < _UNLIMITED), default=None)


def _first_text(files: Files, folders: list[str], name: str) -> str | None:
    found = (files.maybe_text(f"{folder}/{name}") for folder in folders)
    return next((text for text in found if text is not None), None)


def _throttled(files: Files, folders: list[str]) -> int:
    stats = [f"{folder}/cpu.stat" for folder in folders] or ["sys/fs/cgroup/cpu.stat"]
    stat = files.text(files.first(*stats))
    match = re.search(r"^nr_throttled (\d+)", stat, re.M)
    return int(match[1]) if match else 0


def _inside(files: Files) -> str | None:
    for mark, name in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if files.find(mark):
            return name
    first = files.maybe_text("proc/1/environ")
    return "container" if "container=" in (first or "") else None
