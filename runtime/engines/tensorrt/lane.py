"""One execution context with its memory and stream: what a thread runs a plan on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from edgeage.errors import EdgeageError
from edgeage.runtime.engines.tensorrt.libraries import CudaError, Libraries, checked, complaint
from edgeage.runtime.engines.tensorrt.memory import Buffer
from edgeage.runtime.engines.tensorrt.prepare import Prepared

if TYPE_CHECKING:
    from collections.abc import Iterator

    import tensorrt as trt_types


def open_stream(cuda: Any, stack: ExitStack) -> Any:
    """A stream of its own, destroyed when `stack` closes."""
    stream = checked(cuda, cuda.cudaStreamCreate())
    stack.callback(cuda.cudaStreamDestroy, stream)
    return stream


class Lane:
    """A plan bound to buffers, one per port; for one thread at a time.

    Attributes:
        buffers: by port.
        graph_note: "CUDA graph", or why the plan is enqueued anew at each run.
    """

    def __init__(
        self,
        libraries: Libraries,
        prepared: Prepared,
        buffers: Mapping[str, Buffer],
        stream: Any,
        stack: ExitStack,
    ) -> None:
        """Binds, runs once to warm up, and captures the second run. Freed when `stack` closes."""
        self.buffers, self._stream, self._prepared = buffers, stream, prepared
        self._cuda = libraries.cuda
        engine: trt_types.ICudaEngine = prepared.engine
        context: trt_types.IExecutionContext | None = engine.create_execution_context()
        if context is None:
            raise EdgeageError(
                f"TensorRT has no memory for the {prepared.recipe.engine}: {complaint(prepared.logger)}"
            )
        self._context = context
        stack.callback(self._drop)
        for name, buffer in buffers.items():
            self._bind(name, buffer.device)
        self._graph: Any = None
        self.enqueue()  # TensorRT prepares itself at the first run, which must not be captured
        self.synchronise()
        self.graph_note = self._capture(stack)

    def launch(self) -> None:
        """Run on what the buffers hold; returns before it has ended."""
        if self._graph is None:
            self.enqueue()
        else:
            checked(self._cuda, self._cuda.cudaGraphLaunch(self._graph, self._stream))
        self._mark_outputs()

    def enqueue(self) -> None:
        """Run without the graph, at the addresses that are bound now."""
        context: trt_types.IExecutionContext = self._context
        if not context.execute_async_v3(int(self._stream)):
            recipe, logger = self._prepared.recipe, self._prepared.logger
            raise EdgeageError(f"TensorRT could not run the {recipe.engine}: {complaint(logger)}")

    def synchronise(self) -> None:
        checked(self._cuda, self._cuda.cudaStreamSynchronize(self._stream))

    @contextmanager
    def borrowed(self, addresses: Mapping[str, int]) -> Iterator[None]:
        """Inputs at other device addresses for the runs inside; `enqueue` there, a graph has its own."""
        try:
            for name, address in addresses.items():
                self._bind(name, address)
            yield
            self.synchronise()  # what runs must not see the old addresses
        finally:
            for name in addresses:
                self._bind(name, self.buffers[name].device)

    def _bind(self, name: str, address: int) -> None:
        context: trt_types.IExecutionContext = self._context
        if not context.set_tensor_address(name, int(address)):
            raise EdgeageError(
                f"TensorRT does not take memory for {name} of the {self._prepared.recipe.engine}: "
                f"{complaint(self._prepared.logger)}"
            )

    def _capture(self, stack: ExitStack) -> str:
        """Record one run as a CUDA graph; a plan that cannot be captured is enqueued as before."""
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        try:
            checked(cuda, cuda.cudaStreamBeginCapture(self._stream, mode))
            try:
                self.enqueue()
            finally:  # ends the capture in any case, else the stream stays unusable
                ended = cuda.cudaStreamEndCapture(self._stream)
            graph = checked(cuda, ended)
            stack.callback(cuda.cudaGraphDestroy, graph)
            self._graph = checked(cuda, cuda.cudaGraphInstantiate(graph, 0))
        except EdgeageError as error:
            cuda.cudaGetLastError()  # else the next call would report it
            what = str(error).partition(";")[0] if isinstance(error, CudaError) else "TensorRT refused"
            return f"no CUDA graph ({what})"
        stack.callback(cuda.cudaGraphExecDestroy, self._graph)
        return "CUDA graph"

    def _mark_outputs(self) -> None:
        for port in self._prepared.outputs:
            self.buffers[port.name].written()

    def _drop(self) -> None:
        """The context's memory is the device's: it goes before the buffers that it was bound to."""
        self._graph = self._context = None
