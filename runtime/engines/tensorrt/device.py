"""What a plan depends on: the device and the versions. Plans run nowhere else."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeage.errors import EdgeageError
from edgeage.runtime.engines.tensorrt.libraries import Libraries, checked

if TYPE_CHECKING:
    from cuda.bindings import runtime as cuda_types

_L4T = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class Device:
    """One CUDA device with what runs on it.

    Attributes:
        name: as the driver tells it, "Orin" for example.
        compute_capability: "8.7".
        tensorrt: full version, "10.3.0.26" for example.
        cuda_driver: of CUDA that the driver brings, "12.6".
        l4t: release of Jetson Linux, "R36.4.3"; "" elsewhere.
    """

    name: str
    compute_capability: str
    tensorrt: str
    cuda_driver: str
    l4t: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def read_device(libraries: Libraries) -> Device:
    """The current device; EdgeageError if there is none that can be used."""
    cuda = libraries.cuda
    try:
        count = checked(cuda, cuda.cudaGetDeviceCount())
    except RuntimeError as error:  # cuda-python before 12.8, where there is no driver
        raise EdgeageError(f"CUDA does not start: {error}; TensorRT engines need an NVIDIA GPU") from None
    if not count:
        raise EdgeageError("no CUDA device here; TensorRT engines need an NVIDIA GPU")
    device = checked(cuda, cuda.cudaGetDevice())
    properties: cuda_types.cudaDeviceProp = checked(cuda, cuda.cudaGetDeviceProperties(device))
    driver = checked(cuda, cuda.cudaDriverGetVersion())  # 12060 is 12.6
    name = properties.name
    return Device(
        name=(name.decode() if isinstance(name, bytes) else str(name)).strip("\0 "),
        compute_capability=f"{properties.major}.{properties.minor}",
        tensorrt=libraries.trt.__version__,
        cuda_driver=f"{driver // 1000}.{driver % 1000 // 10}",
        l4t=l4t_release(),
    )


def l4t_release(file: Path = _L4T) -> str:
    """ "R36.4.3" from a line like "# R36 (release), REVISION: 4.3, GCID: ..."; "" if this is no Jetson."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(r"# (R\d+) \(release\), REVISION: ([\d.]+)", text)
    return ".".join(match.groups()) if match else ""
