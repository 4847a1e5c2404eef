"""Running the float network over calibration images and noting which values every tensor takes."""

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

# Bins are cut from the bits of a float32: its exponent and the first 8 bits of its fraction. So they are
# fixed before the first value is seen, which makes one pass enough and the order of values irrelevant.
_FRACTION = 8
_SHIFT = 23 - _FRACTION
_SMALLEST, _LARGEST = -24, 16  # exponents; what lies beyond falls into the first or the last bin
_OFFSET = (127 + _SMALLEST) << _FRACTION
_BINS = (_LARGEST - _SMALLEST) << _FRACTION
_TOP = _OFFSET + _BINS - 1
# Channel sums are kept as whole multiples of this, for then addition does not depend on its order.
_SUM_UNIT = 2.0**-20
_LARGEST_SUM = 2.0**48  # of one input; ten thousand of them still fit into an int64


class Histogram:
    """How often each magnitude |x| occurs, in bins of equal relative width (256 to an octave).

    The memory is the same after one image and after ten thousand; updates in any order, or histograms of
    parts merged in any order, give the same result to the bit.

    Attributes:
        low, high: smallest and largest value, exact.
        counts: int64 [bins].
        count: number of values.
    """

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf
        self.counts: NDArray[np.int64] = np.zeros(_BINS, dtype=np.int64)
        self.count = 0
        self._sums: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self._reaches: NDArray[np.float64] = np.zeros(1)

    def update(self, values: NDArray[np.float32]) -> None:
        """Add a tensor [n, channels, ...]; ValueError if a value is NaN or infinite."""
        low, high = float(values.min()), float(values.max())
        # numpy's min and max let NaN through, so the two ends tell of any non-finite value
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("non-finite")
        self.low = min(self.low, low)
        self.high = max(self.high, high)
        magnitudes = np.abs(np.ascontiguousarray(values))
        bins = (
            magnitudes.view(np.int32) >> _SHIFT
        ).ravel()  # the order of positive floats is that of their bits
        self.counts += np.bincount(np.clip(bins, _OFFSET, _TOP, out=bins) - _OFFSET, minlength=_BINS)
        self.count += values.size
        axes = (0, *range(2, values.ndim)) if values.ndim > 1 else None
        sums = values.sum(axis=axes, dtype=np.float64)
        steps = np.clip(np.atleast_1d(sums) / _SUM_UNIT, -_LARGEST_SUM, _LARGEST_SUM)
        self._sums = self._sums + np.rint(steps).astype(np.int64)
        self._reaches = np.maximum(self._reaches, magnitudes.max(axis=axes))

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both."""
        both = Histogram()
        both.low, both.high = min(self.low, other.low), max(self.high, other.high)
        both.counts = self.counts + other.counts
        both.count = self.count + other.count
        both._sums = self._sums + other._sums
        both._reaches = np.maximum(self._reaches, other._reaches)
        return both

    @property
    def reach(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def reaches(self) -> NDArray[np.float64]:
        """Largest magnitude of each channel (axis 1)."""
        return self._reaches

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean value of each channel (axis 1)."""
        return self._sums.astype(np.float64) * (_SUM_UNIT * len(self._sums) / self.count)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Upper edge of each bin, float64 [bins]; the last is infinite."""
        tops = (np.arange(1, _BINS + 1) + _OFFSET).astype(np.uint32) << np.uint32(_SHIFT)
        edges: NDArray[np.float64] = tops.view(np.float32).astype(np.float64)
        edges[-1] = np.inf
        return edges

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


class Observer:
    """A float network that fills a histogram for each of its activations, inputs and outputs included."""

    def __init__(self, model: onnx.ModelProto, *, threads: int = 1) -> None:
        view = GraphView(model)
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        for node in view.nodes:
            name = node.output[0]
            if name not in view.outputs:
                watched.graph.output.append(
                    onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, view.shapes[name])
                )
        self._running = session(watched, threads=threads)
        self._names: list[str] = [port.name for port in self._running.get_outputs()]
        self._activations = view.activations
        self._seen = 0

    def histograms(self) -> dict[str, Histogram]:
        """An empty histogram for each activation."""
        return {name: Histogram() for name in self._activations}

    def add(self, feed: Feeds, histograms: Mapping[str, Histogram]) -> None:
        """Run one input and count its activations; EdgeageError if one is NaN or infinite."""
        outputs: list[Any] = self._running.run(self._names, dict(feed))
        self._seen += 1
        for name, values in [*feed.items(), *zip(self._names, outputs, strict=True)]:
            try:
                histograms[name].update(values)
            except ValueError:
                raise EdgeageError(
                    f"tensor {name} of the float network is not finite on calibration input {self._seen}; "
                    "the checkpoint is broken, export one from an earlier step"
                ) from None

    def observe(self, feeds: Iterable[Feeds]) -> dict[str, Histogram]:
        """Histograms over all `feeds`, which are read one at a time and never kept.

        Raises EdgeageError if there is no feed or a tensor becomes NaN or infinite.
        """
        histograms = self.histograms()
        for feed in feeds:
            self.add(feed, histograms)
        if not self._seen:
            raise EdgeageError("no calibration input was given; the ranges would be empty")
        return histograms


def observe(model: onnx.ModelProto, feeds: Iterable[Feeds], *, threads: int = 1) -> dict[str, Range]:
    """Smallest and largest value of every activation of `model` over all `feeds`, see `Observer`."""
    return {name: seen.range() for name, seen in Observer(model, threads=threads).observe(feeds).items()}
