"""Power from the INA3221 sensors of a Jetson, as the kernel's hwmon shows them. No root, no extra package."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HWMON = Path("/sys/class/hwmon")
_INTERVAL = 0.05  # seconds; the sensor averages over longer


class Rails:
    """The rails that a device measures, {label: watts}; none where there is no sensor."""

    def __init__(self, root: Path = HWMON) -> None:
        self._rails: dict[str, tuple[Path, Path]] = {}
        for chip in sorted(root.glob("hwmon*")):
            if _text(chip / "name") != "ina3221":
                continue
            for label in sorted(chip.glob("in*_label")):
                number = label.name.removeprefix("in").removesuffix("_label")
                volts, amperes = chip / f"in{number}_input", chip / f"curr{number}_input"
                name = _text(label)
                # channel 7 is the sum of shunt voltages and has no current
                if name and amperes.exists() and volts.exists():
                    self._rails[name] = volts, amperes

    def __bool__(self) -> bool:
        return bool(self._rails)

    def read(self) -> dict[str, float]:
        """Watts by rail; a rail that cannot be read now is left out."""
        found = {}
        for name, (volts, amperes) in self._rails.items():
            try:
                found[name] = int(_text(volts)) * int(_text(amperes)) / 1e6  # mV, mA
            except ValueError:
                continue
        return found


@contextmanager
def sampled(rails: Rails, interval: float = _INTERVAL) -> Iterator[dict[str, Any]]:
    """Samples while the block runs; {rail: {"mean_w", "max_w", "samples"}} afterwards."""
    samples: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(interval):
            for name, watts in rails.read().items():
                samples.setdefault(name, []).append(watts)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        for name, watts in samples.items():
            mean = sum(watts) / len(watts)
            found[name] = {"mean_w": round(mean, 3), "max_w": round(max(watts), 3), "samples": len(watts)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
