"""Arm's NPU compiler: which operators of an INT8 file an Ethos-U takes, and its estimate of the time.

`vela` (PyPI ethos-u-vela) is the compiler that device builds use. Its time is an estimate for the memory
system that is the compiler's default for the accelerator, not a measurement.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from edgeage.errors import EdgeageError

ACCELERATORS = ("ethos-u55-128", "ethos-u65-512", "ethos-u85-256")
DEFAULT = "ethos-u85-256"
# Where three tensors just fill the default cache of 384 KiB, vela 5.2 plans a little more than fits, searches
# for long and gives up; asked to do with less, it puts some of them elsewhere.
SMALLER_CACHE = 288 * 1024  # bytes
INSTALL = 'pip install "edgeage[compilers]"'


@dataclass(frozen=True)
class VelaReport:
    """
    Attributes:
        accelerator: one of `ACCELERATORS`.
        npu_operators, cpu_operators: counts after the compiler's own rewriting.
        refused: what stays on the CPU and why, in vela's words.
        milliseconds: estimated time of one inference on `system`.
        sram_kib: on-chip memory that it uses.
        off_chip_kib: memory in DRAM and flash, weights included.
        system: system configuration and memory mode of vela.ini, vela's defaults for the accelerator, and the
            arena cache if it was given.
        version: of vela.
    """

    accelerator: str
    npu_operators: int
    cpu_operators: int
    refused: list[str]
    milliseconds: float
    sram_kib: float
    off_chip_kib: float
    system: str
    version: str

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "refused": "; ".join(self.refused) or "nothing"}


def executable() -> Path | None:
    """The compiler beside this interpreter, or None."""
    found = Path(sysconfig.get_path("scripts")) / ("vela.exe" if sys.platform == "win32" else "vela")
    return found if found.is_file() else None


def compile_tflite(data: bytes, accelerator: str = DEFAULT, cache: int | None = None) -> VelaReport:
    """Compile an INT8 TFLite file with int8 inputs and outputs.

    Args:
        cache: bytes of the arena cache; None: the default of the accelerator's memory mode.

    Raises EdgeageError if vela is not installed, the accelerator is unknown or vela fails.
    """
    program = executable()
    if program is None:
        raise EdgeageError(f"ethos-u-vela is not installed; {INSTALL}")
    if accelerator not in ACCELERATORS:
        raise EdgeageError(f"no accelerator {accelerator!r}; choose one of {', '.join(ACCELERATORS)}")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "engine.tflite"
        model.write_bytes(data)
        command: list[Any] = [program, "--accelerator-config", accelerator, "--output-dir", folder, model]
        if cache is not None:
            command += ["--arena-cache-size", cache]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder, check=False)
        text = done.stdout + done.stderr
        summaries = list(Path(folder).glob("engine_summary_*.csv"))
        if done.returncode or len(summaries) != 1:
            last = next((line for line in reversed(text.splitlines()) if line.strip()), "no output")
            raise EdgeageError(f"vela could not compile the file: {last.strip()}")
        with summaries[0].open(newline="") as file:
            row = next(csv.DictReader(file))
    return VelaReport(
        accelerator=accelerator,
        npu_operators=_count("NPU", text),
        cpu_operators=_count("CPU", text),
        refused=_refused(text),
        milliseconds=round(float(row["inference_time"]) * 1e3, 4),
        sram_kib=_kib(row, "sram"),
        off_chip_kib=_kib(row, "dram", "off_chip_flash"),
        system=f"{row['system_config']}, {row['memory_mode']}"
        + (f", arena cache {cache // 1024} KiB" if cache is not None else ""),
        version=metadata.version("ethos-u-vela"),
    )


def report(data: bytes, accelerator: str) -> dict[str, Any]:
    """What vela says, with a smaller cache where the default fails; {"not compiled": why} where both do."""
    try:
        return compile_tflite(data, accelerator).to_dict()
    except EdgeageError:
        try:
            return compile_tflite(data, accelerator, SMALLER_CACHE).to_dict()
        except EdgeageError as error:
            return {"not compiled": str(error)}


def _count(kind: str, text: str) -> int:
    found = re.search(rf"^{kind} operators = (\d+)", text, re.MULTILINE)
    if found is None:
        raise EdgeageError(f"vela's report names no {kind} operators; use the version of constraints.txt")
    return int(found[1])


def _kib(row: Mapping[str, str], *memories: str) -> float:
    return round(sum(float(row[f"{memory}_memory_used"]) for memory in memories), 1)


def _refused(text: str) -> list[str]:
    """The warnings that name an operator that goes to the CPU, with the reasons below them."""
    found = re.findall(r"^Warning \(supported operators\) (.+)\n(?:Reason: )?(.*)", text, re.MULTILINE)
    return [f"{operator} ({reason})" for operator, reason in found]
