"""Plans behind the `Engine` protocol: one lane a thread, everything freed at the end or on an error."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from edgeage.runtime.engines import Feeds
from edgeage.runtime.engines.ports import check_feeds, from_file, to_file
from edgeage.runtime.engines.tensorrt.arrays import DeviceArray, borrow, is_on_device
from edgeage.runtime.engines.tensorrt.lane import Lane, open_stream
from edgeage.runtime.engines.tensorrt.libraries import Libraries
from edgeage.runtime.engines.tensorrt.memory import Buffer
from edgeage.runtime.engines.tensorrt.prepare import Prepared
from edgeage.runtime.manifest import EngineEntry, EngineFile


class PlanRunner:
    """Runs a plan with the names of its own ports; any thread may call it.

    Each thread that does gets a context, a stream and buffers of its own, which live until `close`, or until
    the runner or the interpreter ends.
    """

    def __init__(self, libraries: Libraries, prepared: Prepared) -> None:
        self.prepared, self._libraries = prepared, libraries
        self._stacks = _Stacks()
        self.close = weakref.finalize(self, self._stacks.close)
        self._local = threading.local()
        self.graph_note = self.lane().graph_note

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs, copied from pinned memory; inputs are float32 arrays of the ports' shapes."""
        lane, stream = self.lane(), self._local.stream
        for port in self.prepared.inputs:
            lane.buffers[port.name].upload(feeds[port.name], stream)
        lane.launch()
        for port in self.prepared.outputs:
            lane.buffers[port.name].download(stream)
        lane.synchronise()
        return {port.name: lane.buffers[port.name].host.copy() for port in self.prepared.outputs}

    def run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """As `run`, but inputs may be arrays on the device, which are read where they are, and outputs stay.

        Outputs are this thread's buffers: the next run overwrites them.
        """
        lane, stream = self.lane(), self._local.stream
        borrowed = {}
        for port in self.prepared.inputs:
            if is_on_device(feeds[port.name]):
                borrowed[port.name] = borrow(feeds[port.name], port, self._libraries.cuda, stream)
            else:
                lane.buffers[port.name].upload(feeds[port.name], stream)
        if borrowed:  # the graph has addresses of its own
            with lane.borrowed({name: array.address for name, array in borrowed.items()}):
                lane.enqueue()
        else:
            lane.launch()
            lane.synchronise()
        outputs = [(port, lane.buffers[port.name]) for port in self.prepared.outputs]
        for _, buffer in outputs:
            buffer.written()
        return {port.name: DeviceArray(port.shape, buffer.device, self) for port, buffer in outputs}

    def lane(self) -> Lane:
        """This thread's."""
        if not hasattr(self._local, "lane"):
            with ExitStack() as stack:  # frees what it has if the rest fails
                cuda, prepared = self._libraries.cuda, self.prepared
                ports = (*prepared.inputs, *prepared.outputs)
                buffers = {port.name: Buffer(cuda, port.shape, stack) for port in ports}
                stream = open_stream(cuda, stack)
                lane = Lane(self._libraries, prepared, buffers, stream, stack)
                self._stacks.add(stack.pop_all())
            self._local.stream, self._local.lane = stream, lane
        made: Lane = self._local.lane
        return made


class _Stacks:
    """What all threads have opened; does not know the runner, so that it can outlive it."""

    def __init__(self) -> None:
        self._all: list[ExitStack] = []

    def add(self, stack: ExitStack) -> None:
        self._all.append(stack)

    def close(self) -> None:
        while self._all:
            self._all.pop().close()


class TensorrtEngine:
    """One engine of a bundle in TensorRT."""

    def __init__(
        self, libraries: Libraries, prepared: Prepared, entry: EngineEntry, file: EngineFile, note: str = ""
    ) -> None:
        self.inputs, self.outputs, self._file = entry.inputs, entry.outputs, file
        self.runner = PlanRunner(libraries, prepared)
        self.close = self.runner.close
        device, recipe = prepared.identity.device, prepared.recipe
        kept = "plan from the cache" if prepared.reused else f"plan built now: {prepared.reason}"
        facts = [f"{recipe.precision} ({recipe})", self.runner.graph_note, kept, *([note] if note else [])]
        self.description = f"{file.file} in TensorRT {device.tensorrt} on {device.name}, {', '.join(facts)}"

    def run(self, feeds: Feeds) -> Feeds:
        return from_file(self.runner.run(to_file(feeds, self.inputs, self._file)), self.outputs, self._file)

    def run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Outputs on the device, by the contract's names, for NumPy arrays or arrays on the device.

        NCHW float32 on both sides; see `PlanRunner.run_on_device`.
        """
        on_host = {name: value for name, value in feeds.items() if not is_on_device(value)}
        check_feeds(
            on_host, tuple(port for port in self.inputs if port.name not in feeds or port.name in on_host)
        )
        stored = zip(self.inputs, self._file.inputs, strict=True)
        results = self.runner.run_on_device({there.name: feeds[port.name] for port, there in stored})
        named = zip(self.outputs, self._file.outputs, strict=True)
        return {port.name: results[there.name] for port, there in named}
