"""What each layer costs when it becomes INT8: in its own output, and in the network's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeage.calibration.choose import Calibrated, Writer, output_sqnr
from edgeage.calibration.graph import GraphView
from edgeage.calibration.observers import Feeds, session
from edgeage.calibration.quantization import WEIGHTED

Outputs = Sequence[NDArray[np.float32]]


@dataclass(frozen=True)
class Layer:
    """A node with weights and what follows it without any: activations, reshapes, sums.

    Attributes:
        name: output of its first node.
        operator: of its first node.
        outputs: of all its nodes.
    """

    name: str
    operator: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class LayerReport:
    """
    Attributes:
        layer: which.
        sqnr_db, cosine: of the layer's last tensor in the INT8 network against the float one.
        alone_db: SQNR of the network's output if this layer alone is INT8.
        without_db: SQNR of the network's output if all but this layer are INT8.
        effect: of this layer alone on the final image, see `report`.
    """

    layer: Layer
    sqnr_db: float
    cosine: float
    alone_db: float
    without_db: float
    effect: dict[str, float]


def layers(view: GraphView) -> list[Layer]:
    """Every node of the graph in exactly one layer, in execution order."""
    found: list[list[onnx.NodeProto]] = []
    home: dict[str, int] = {}
    for node in view.nodes:
        # a node that joins branches belongs to the latest of them
        sources = [home[name] for name in node.input if name in home]
        if node.op_type in WEIGHTED or not sources:
            found.append([])
            sources = [len(found) - 1]
        found[max(sources)].append(node)
        home[node.output[0]] = max(sources)
    return [
        Layer(nodes[0].output[0], nodes[0].op_type, tuple(node.output[0] for node in nodes))
        for nodes in found
    ]


def report(
    calibrated: Calibrated,
    feeds: Sequence[Feeds],
    write: Writer,
    effect: Callable[[Outputs, Outputs], dict[str, float]] = lambda outputs, wanted: {},
    track: Callable[[Sequence[Layer]], Iterable[Layer]] = lambda items: items,
) -> list[LayerReport]:
    """Sensitivity of every layer over `feeds`.

    Args:
        effect: figures of what the network's outputs become further on, from INT8 and float outputs; the
            training recogniser may measure here, a judge may not.
    """
    view = GraphView(calibrated.graph)
    running = session(calibrated.graph)
    wanted = [running.run(None, dict(feed))[0] for feed in feeds]
    everything = {node.output[0] for node in view.nodes}
    quality = _tensors(calibrated, feeds, write)
    rows = []
    for layer in track(layers(view)):
        alone = session(write(calibrated.decide(everything - set(layer.outputs))))
        outputs = [alone.run(None, dict(feed))[0] for feed in feeds]
        last = next((name for name in reversed(layer.outputs) if name in quality), None)
        sqnr, cosine = quality[last] if last else (float("nan"), float("nan"))
        rows.append(
            LayerReport(
                layer=layer,
                sqnr_db=sqnr,
                cosine=cosine,
                alone_db=_sqnr(wanted, outputs),
                without_db=output_sqnr(write(calibrated.decide(layer.outputs)), feeds, wanted),
                effect=effect(outputs, wanted),
            )
        )
    return rows


def _tensors(calibrated: Calibrated, feeds: Sequence[Feeds], write: Writer) -> dict[str, tuple[float, float]]:
    """(SQNR in dB, cosine) of every stored activation of the INT8 network against the float one."""
    decided = calibrated.decide()
    view = decided.view
    names = [node.output[0] for node in view.nodes if decided.is_stored(node.output[0])]
    float_graph, int8_graph = onnx.ModelProto(), write(decided)
    float_graph.CopyFrom(calibrated.graph)
    for graph, suffix, kind in ((float_graph, "", 1), (int8_graph, ".int8", onnx.TensorProto.INT8)):
        present = {port.name for port in graph.graph.output}
        graph.graph.output.extend(
            onnx.helper.make_tensor_value_info(f"{name}{suffix}", kind, view.shapes[name])
            for name in names
            if f"{name}{suffix}" not in present
        )
    exact, coded = session(float_graph), session(int8_graph)
    sums = {name: np.zeros(4) for name in names}  # of x^2, q^2, x*q, (x-q)^2
    for feed in feeds:
        of_float = exact.run(names, dict(feed))
        of_codes = coded.run([f"{name}.int8" for name in names], dict(feed))
        for name, x, codes in zip(names, of_float, of_codes, strict=True):
            x, q = x.astype(np.float64).ravel(), codes.ravel() * float(decided.scale(name))
            sums[name] += x @ x, q @ q, x @ q, np.square(x - q).sum()
    return {
        name: (_decibel(xx, error), float(xq / max(np.sqrt(xx * qq), 1e-30)))
        for name, (xx, qq, xq, error) in sums.items()
    }


def _sqnr(wanted: Outputs, outputs: Outputs) -> float:
    noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(wanted, outputs, strict=True))
    return _decibel(sum(float(np.square(a, dtype=np.float64).sum()) for a in wanted), noise)


def _decibel(signal: float, noise: float) -> float:
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))


def as_dict(row: LayerReport) -> Mapping[str, object]:
    """JSON of one row."""
    return {
        "layer": row.layer.name,
        "operator": row.layer.operator,
        "nodes": len(row.layer.outputs),
        "sqnr_db": row.sqnr_db,
        "cosine": row.cosine,
        "alone_db": row.alone_db,
        "without_db": row.without_db,
        **row.effect,
    }
