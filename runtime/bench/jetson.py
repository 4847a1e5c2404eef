"""The power mode of a Jetson and whether jetson_clocks holds its clocks, without running either tool.

`nvpmodel` keeps its mode in a file. `jetson_clocks` keeps none, it sets every lowest clock to the highest; so
equal ends mean that it was run (or that somebody did by hand what it does).
"""

from __future__ import annotations

import re
from typing import Any

from edgeage.runtime.bench.sysfs import Files, NotAvailable, told


def jetson(files: Files) -> dict[str, Any]:
    """{"release", "nvpmodel", "jetson_clocks", "clocks"} of a Jetson; NotAvailable on other machines."""
    release = files.maybe_text("etc/nv_tegra_release")
    compatible = files.maybe_text("proc/device-tree/compatible")
    if release is None and "tegra" not in (compatible or ""):
        raise NotAvailable("this is no Jetson")
    clocks = told(lambda: _clock_ranges(files))
    if "not available" in clocks:
        held: Any = clocks
    else:
        fixed = [low == high for low, high in clocks.values()]
        held = "on" if all(fixed) else "off" if not any(fixed) else "in part"
    return {
        "release": release.splitlines()[0] if release else None,
        "nvpmodel": told(lambda: _mode(files)),
        "jetson_clocks": held,
        "clocks": clocks,
    }


def _mode(files: Files) -> str:
    """Number and name of the power mode, such as "2 (MAXN_SUPER)"."""
    status = files.text("var/lib/nvpmodel/status")
    match = re.search(r"pmode:(\d+)", status)
    if not match:
        raise NotAvailable(f"/var/lib/nvpmodel/status holds {status[:40]!r}, no mode")
    number = int(match[1])
    models = files.maybe_text("etc/nvpmodel.conf")
    named = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", models or "", re.M)
    name = next((name for mode, name in named if int(mode) == number), None)
    return f"{number} ({name})" if name else f"{number}"


def _clock_ranges(files: Files) -> dict[str, list[float]]:
    """Lowest and highest MHz that are allowed, of the CPU's clusters and of the GPU."""
    found: dict[str, list[float]] = {}
    for policy in files.find("sys/devices/system/cpu/cpufreq/policy*"):
        ends = [files.maybe_integer(f"{policy}/scaling_{end}_freq") for end in ("min", "max")]
        found[f"cpu {policy.rsplit('/', 1)[1]}"] = [end / 1e3 for end in ends if end is not None]
    for gpu in files.find("sys/class/devfreq/*"):
        name = gpu.rsplit("/", 1)[1]
        if re.search(r"gpu|gv11b|ga10b|gp10b", name):
            ends = [files.maybe_integer(f"{gpu}/{end}_freq") for end in ("min", "max")]
            found[f"gpu {name}"] = [end / 1e6 for end in ends if end is not None]
    known = {name: ends for name, ends in found.items() if len(ends) == 2}
    if not known:
        raise NotAvailable("neither cpufreq nor devfreq tells clock limits")
    return known
