"""Peak memory of this process, and what it is made of."""

from __future__ import annotations

import os
import re
import sys
from types import TracebackType
from typing import Any

from edgeage.runtime.bench.sysfs import Files, NotAvailable, told

_SPLIT = {"anonymous": "RssAnon", "file": "RssFile", "shared": "RssShmem"}


class PeakMemory:
    """The largest resident memory while its block runs, where the kernel lets a process reset its peak.

    `root`: where the machine's "/" is.
    """

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self._files = Files(root)

    def __enter__(self) -> PeakMemory:
        self._reset = told(self._reset_peak)
        self._before = told(lambda: _status(self._files))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after = memory(self._files.root)

    def summary(self) -> dict[str, Any]:
        """`memory` at the end, with "since" (what the peak counts from) and "grown_mb" (peak minus start)."""
        found = dict(self._after)
        if "not available" in found:
            return found
        if isinstance(self._reset, dict):
            found["since"] = (
                f"the process's start, as the peak cannot be reset: {self._reset['not available']}"
            )
        else:
            found["since"] = "the measurement's start"
            found["grown_mb"] = round(found["peak_rss_mb"] - _mb(self._before["VmRSS"]), 2)
        return found

    def _reset_peak(self) -> bool:
        """Linux: 5 into clear_refs sets VmHWM back to VmRSS (proc(5))."""
        try:
            (self._files.root / "proc/self/clear_refs").write_text("5")
        except OSError as error:
            raise NotAvailable(f"/proc/self/clear_refs: {error.strerror}") from None
        return True


def memory(root: str | os.PathLike[str] = "/") -> dict[str, Any]:
    """Resident memory of this process in MB (10^6 bytes), as JSON values; never an exception.

    Keys: "peak_rss_mb" (VmHWM), "rss_mb", and of the latter "anonymous" (heap, stacks), "file" (mapped files:
    libraries, models) and "shared"; "pss_mb" (pages that several processes map are counted in part) and
    "swap_mb".
    """
    files = Files(root)
    status = told(lambda: _status(files))
    if "not available" in status:
        return _of_rusage(status["not available"])
    rollup = _kilobytes(files.maybe_text("proc/self/smaps_rollup") or "")
    return {
        "peak_rss_mb": _mb(status["VmHWM"]),
        "rss_mb": _mb(status["VmRSS"]),
        **{name: _mb(status[field]) if field in status else None for name, field in _SPLIT.items()},
        "pss_mb": _mb(rollup["Pss"]) if "Pss" in rollup else None,
        "swap_mb": _mb(status["VmSwap"]) if "VmSwap" in status else None,
    }


def _status(files: Files) -> dict[str, int]:
    found = _kilobytes(files.text("proc/self/status"))
    if not {"VmHWM", "VmRSS"} <= set(found):
        raise NotAvailable("/proc/self/status tells no VmHWM")
    return found


def _of_rusage(why: str) -> dict[str, Any]:
    """The peak that other Unixes tell."""
    try:
        import resource
    except ImportError:
        return {"not available": why}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, kB elsewhere
    return {"peak_rss_mb": round(peak * scale / 1e6, 2), "split": {"not available": why}}


def _kilobytes(text: str) -> dict[str, int]:
    return {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}


def _mb(kilobytes: int) -> float:
    return round(kilobytes * 1024 / 1e6, 2)
