"""What the processor is, as far as it decides which kernels run."""

from __future__ import annotations

import platform
from pathlib import Path


def kernel_set() -> str:
    """By what int8 kernels are chosen here: equal texts and equal tools give equal codes; "" if not known."""
    instructions = int8_instructions()
    return " ".join([platform.machine(), *instructions]) if instructions else ""


def cpu_name() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.processor() or platform.machine()


def int8_instructions() -> list[str]:
    """Instruction sets for int8 dot products (x86 and arm64); empty if none are known of."""
    known = {"avx2", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm"}
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return sorted(known & set(value.split()))
    return []


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return []
