"""Running the float network over calibration images and noting what range every tensor takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgeage.calibration.graph import GraphView
from edgeage.errors import EdgeageError

Feeds = Mapping[str, NDArray[np.float32]]
Range = tuple[float, float]


class MinMax:
    """Smallest and largest value seen; the order of the updates does not matter."""

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf

    def update(self, values: NDArray[np.float32]) -> None:
        low, high = float(values.min()), float(values.max())
        # numpy's min and max let NaN through, so the two ends tell of any non-finite value
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("non-finite")
        self.low = min(self.low, low)
        self.high = max(self.high, high)

    def range(self) -> Range:
        return self.low, self.high


def session(
    model: onnx.ModelProto, *, optimise: bool = False, threads: int = 1
) -> onnxruntime.InferenceSession:
    """An ONNX Runtime CPU session.

    One thread by default: the same sums in the same order on every machine of one kind, so that range
    tables are reproducible. Without `optimise` the graph runs node by node as it is written.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def observe(model: onnx.ModelProto, feeds: Iterable[Feeds], *, threads: int = 1) -> dict[str, Range]:
    """Range of every activation of `model`, inputs and outputs included, over all `feeds`.

    Feeds are read one at a time and never kept.

    Raises EdgeageError if there is no feed or a tensor becomes NaN or infinite.
    """
    view = GraphView(model)
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for node in view.nodes:
        if node.output[0] not in view.outputs:
            name = node.output[0]
            watched.graph.output.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, view.shapes[name])
            )
    running = session(watched, threads=threads)
    names: list[str] = [port.name for port in running.get_outputs()]
    observers = {name: MinMax() for name in view.activations}
    seen = 0
    for feed in feeds:
        outputs: list[Any] = running.run(names, dict(feed))
        seen += 1
        for name, values in [*feed.items(), *zip(names, outputs, strict=True)]:
            try:
                observers[name].update(values)
            except ValueError:
                raise EdgeageError(
                    f"tensor {name} of the float network is not finite on calibration input {seen}; "
                    "the checkpoint is broken, export one from an earlier step"
                ) from None
    if seen == 0:
        raise EdgeageError("no calibration input was given; the ranges would be empty")
    return {name: observer.range() for name, observer in observers.items()}
