"""The CUDA runtime without one: it records calls, and its device memory is memory of this process.

Copies really copy, a graph replays the runs that it was captured with, a copy to freed memory is an error.
Only names that a recorded version of cuda-python has (`data/tensorrt_api`) are there.
"""

from __future__ import annotations

import ctypes
import enum
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fake_tensorrt import World

SURFACES = Path(__file__).parent / "data" / "tensorrt_api"
CUDA_VERSIONS = ("12.2.1", "12.6.0", "12.9.10", "13.2.0")


def surface(kind: str, version: str) -> dict[str, Any]:
    return json.loads((SURFACES / f"{kind}-{version}.json").read_text())  # type: ignore[no-any-return]


_CACHE: dict[tuple[str, str, str], frozenset[str]] = {}


def members(kind: str, version: str, name: str) -> frozenset[str]:
    key = kind, version, name
    if key not in _CACHE:
        found = surface(kind, version)
        _CACHE[key] = frozenset(found["module"] if name == "" else found["classes"][name])
    return _CACHE[key]


class Code(int):
    """cudaError_t."""


class Stream:
    def __init__(self, number: int) -> None:
        self.number = number
        self.capture: list[Any] | None = None

    def __int__(self) -> int:
        return self.number


class FakeCuda:
    """The functions of the CUDA runtime that are used, each a method with an underscore in front."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._streams: dict[int, Stream] = {}

    def __getattr__(self, name: str) -> Any:
        world = self.__dict__["_world"]
        if name.startswith("__") or name not in world.allowed("cuda", ""):
            raise AttributeError(f"cuda-python {world.cuda_version} has no {name}")
        if name in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
            members = sorted(part for part in world.allowed("cuda", name) if part.startswith("cuda"))
            return enum.IntEnum(name, members)  # type: ignore[misc]
        if name == "cudaHostAllocDefault":
            return 0
        function = getattr(type(self), f"_{name}")

        def call(*arguments: Any) -> tuple[Any, ...]:
            world.calls.append((name, *arguments))
            if name in world.fail:
                world.fail[name] -= 1
                if world.fail[name] < 0:
                    if name == "cudaStreamEndCapture":  # which ends it all the same
                        arguments[0].capture = None
                    return (Code(2), *[None] * (name in _GIVES))
            return function(self, *arguments)  # type: ignore[no-any-return]

        return call

    def _cudaGetDeviceCount(self) -> Any:
        return Code(0), 1

    def _cudaGetDevice(self) -> Any:
        return Code(0), 0

    def _cudaGetDeviceProperties(self, device: int) -> Any:
        return Code(0), SimpleNamespace(name=self._world.device.encode(), major=8, minor=7)

    def _cudaDriverGetVersion(self) -> Any:
        return Code(0), 12060

    def _cudaGetErrorName(self, code: int) -> Any:
        return Code(0), b"cudaErrorMemoryAllocation" if code == 2 else b"cudaErrorInvalidValue"

    def _cudaGetErrorString(self, code: int) -> Any:
        return Code(0), b"out of memory" if code == 2 else b"invalid argument"

    def _cudaGetLastError(self) -> Any:
        return (Code(0),)

    def _cudaMalloc(self, size: int) -> Any:
        return Code(0), self._allocate(size)

    def _cudaHostAlloc(self, size: int, flags: int) -> Any:
        return Code(0), self._allocate(size)

    def _allocate(self, size: int) -> int:
        block = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(block)
        self._world.memory[address] = block
        return address

    def _cudaFree(self, address: int) -> Any:
        del self._world.memory[address]
        return (Code(0),)

    _cudaFreeHost = _cudaFree

    def _cudaStreamCreate(self) -> Any:
        stream = Stream(len(self._streams) + 1)
        self._streams[int(stream)] = stream
        return Code(0), stream

    def _cudaStreamDestroy(self, stream: Stream) -> Any:
        del self._streams[int(stream)]
        return (Code(0),)

    def _cudaStreamSynchronize(self, stream: Any) -> Any:
        return (Code(0),)

    def _cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: Stream) -> Any:
        memory = self._world.memory
        if target not in memory or source not in memory or len(memory[target]) < size:
            return (Code(1),)
        ctypes.memmove(target, source, size)
        return (Code(0),)

    def _cudaStreamBeginCapture(self, stream: Stream, mode: Any) -> Any:
        stream.capture = []
        return (Code(0),)

    def _cudaStreamEndCapture(self, stream: Stream) -> Any:
        graph, stream.capture = stream.capture, None
        return Code(0), graph

    def _cudaGraphInstantiate(self, graph: list[Any], flags: int) -> Any:
        return Code(0), list(graph)

    def _cudaGraphLaunch(self, graph: list[Any], stream: Stream) -> Any:
        for run in graph:
            run()
        return (Code(0),)

    def _cudaGraphDestroy(self, graph: Any) -> Any:
        return (Code(0),)

    _cudaGraphExecDestroy = _cudaGraphDestroy


_GIVES = ("cudaMalloc", "cudaHostAlloc", "cudaStreamCreate", "cudaStreamEndCapture", "cudaGraphInstantiate")
