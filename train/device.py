"""Which device a run computes on, and in which numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgeage.errors import EdgeageError

PRECISIONS = ("auto", "float32", "bf16")


def choose_device(name: str) -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:N"; EdgeageError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EdgeageError("no CUDA device is available to torch here; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise EdgeageError(f"unknown device {name!r}; give auto, cpu, cuda or cuda:N") from None


def choose_precision(name: str, device: torch.device, say: Callable[[str], None]) -> bool:
    """Whether networks run in bfloat16 (autocast; weights and optimizers stay float32).

    "auto" is bfloat16 on CUDA devices that compute in it, else float32. Raises EdgeageError if "bf16" is
    asked of a CUDA device that only emulates it; on CPUs it is right but slow.
    """
    if name not in PRECISIONS:
        raise EdgeageError(f"unknown precision {name!r}; give one of {', '.join(PRECISIONS)}")
    if name == "float32" or (name == "auto" and device.type != "cuda"):
        return False
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        model = torch.cuda.get_device_name(device)
        if name == "bf16":
            raise EdgeageError(f"{model} does not compute in bf16; use --precision float32")
        say(f"Precision: float32, {model} does not compute in bf16")
        return False
    return True
