"""Ranges of the refinement step: forward ones are those of G and FR, the reverse ones come from trajectories.

A gradient reaches far: its largest values are rare, and steps of the size that they ask for would drown the
rest. Which calibrator cuts best is chosen by the direction of the INT8 gradient, on faces that made no range.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeage.calibration.calibrators import CALIBRATORS, calibrate
from edgeage.calibration.graph import GraphView
from edgeage.calibration.observers import Feeds, Observer, session
from edgeage.calibration.quantization import Quantization, decide
from edgeage.calibration.ranges import RangeTable, TensorRange
from edgeage.errors import EdgeageError
from edgeage.export.refine.graph import EMBEDDER, GENERATOR, MADE, Objective, forward_name, refine_graph
from edgeage.export.verify import cosine, to_codes
from edgeage.files import read_json
from edgeage.runtime.directions import Directions
from edgeage.runtime.refinement import RefinementOptions

_EXACT_SLOPES = "exact slopes"

Writer = Callable[[Quantization], onnx.ModelProto]


@dataclass(frozen=True)
class RefinementSettings:
    """What the refine engine minimises, and the host's defaults; see `edgeage tune-refine`.

    Attributes:
        pixel_weight: of the mean squared pixel error against the squared distance of raw embeddings.
        steps: K.
        step: first change of each latent dimension; decay: factor from one step to the next.
        method, momentum: how the host steps, see `edgeage.runtime.refinement`.
        preconditioner: [L, L], see `edgeage.export.refine.graph`.
    """

    pixel_weight: float = 20.0
    steps: int = 3
    step: float = 0.2
    decay: float = 0.85
    method: str = "sign"
    momentum: float = 0.0
    preconditioner: NDArray[np.float32] | None = None

    @property
    def objective(self) -> Objective:
        return Objective(self.pixel_weight, self.preconditioner)


def read_settings(path: Path, checkpoint: str) -> RefinementSettings:
    """What `edgeage tune-refine` wrote; EdgeageError if it is of another checkpoint or another form."""
    found: Any = read_json(path, "refinement settings")
    try:
        of, settings = found["checkpoint"], found["settings"]
        read = RefinementSettings(
            pixel_weight=float(settings["pixel_weight"]),
            steps=int(settings["steps"]),
            step=float(settings["step"]),
            decay=float(settings["decay"]),
            method=str(settings["method"]),
            momentum=float(settings["momentum"]),
            preconditioner=_matrix(found["preconditioner"]),
        )
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise EdgeageError(
            f"{path} holds no refinement settings ({error!r}); run edgeage tune-refine"
        ) from None
    if of != checkpoint:
        raise EdgeageError(
            f"{path} was tuned for checkpoint {str(of)[:12]}..., this one is {checkpoint[:12]}...; "
            "run edgeage tune-refine on it"
        )
    RefinementOptions(
        read.steps, read.step, read.decay, read.method, read.momentum
    )  # what the device would refuse
    return read


def _matrix(rows: list[str] | None) -> NDArray[np.float32] | None:
    return None if rows is None else np.array([row.split() for row in rows], np.float32)


@dataclass(frozen=True)
class RefineCalibration:
    """
    Attributes:
        objective: what it goes down.
        graph: the float refinement step.
        table: its ranges.
        trials: mean cosine of the INT8 gradient by calibrator of the reverse pass.
        chosen: the best of them.
    """

    objective: Objective
    graph: onnx.ModelProto
    table: RangeTable
    trials: dict[str, float]
    chosen: str

    def summary(self) -> dict[str, Any]:
        """JSON for the manifest and the card."""
        return {
            "calibrator": f"reverse pass {self.chosen}, forward as its networks",
            "equalised_regions": 0,
            "bias_correction": bool(self.table.corrections),
            "samples": self.table.count,
            "stable": True,
            "gradient_cosine": self.trials,
        }


def calibrate_refinement(
    generator: onnx.ModelProto,
    embedder: onnx.ModelProto,
    tables: Mapping[str, RangeTable],
    starts: Sequence[Feeds],
    selection: Sequence[Feeds],
    write: Writer,
    settings: RefinementSettings,
    *,
    fingerprint: str,
    track: Callable[[Iterable[Feeds], int], Iterable[Feeds]] = lambda items, total: items,
) -> RefineCalibration:
    """Build the refinement step of two calibrated graphs and calibrate it.

    Args:
        tables: of "generator" and "embedder".
        starts: {z, y, target, image} of calibration faces, see `starting_points`.
        selection: the same of faces that make no range; the calibrators are compared on them.
        write: makes the Q/DQ graph.
        fingerprint: of the calibration faces.

    Raises NoReverseRule if an operator has no reverse rule.
    """
    graph = refine_graph(generator, embedder, settings.objective)
    running = session(graph)
    feeds = trajectories(running, starts, settings)
    histograms = Observer(graph).observe(track(feeds, len(feeds)))
    view = GraphView(graph)
    forward = {name: found for name in view.activations if (found := _of_networks(name, tables)) is not None}
    exact = exact_slopes(view)
    corrections = {
        own_name(network, tensor): values
        for network in ("generator", "embedder")
        for tensor, values in tables[network].corrections.items()
    }
    floats = {own_name(network, t) for network in ("generator", "embedder") for t in tables[network].floats}

    tests = trajectories(running, selection, settings)
    candidates = {name: {**calibrate(histograms, name), **forward, **exact} for name in CALIBRATORS}

    def agreement(name: str) -> float:
        ranges = {tensor: chosen.ends for tensor, chosen in candidates[name].items()}
        decided = decide(graph, ranges, corrections=corrections, floats=floats)
        twin = session(write(decided))
        found = [
            cosine(running.run(["gradient"], feed)[0], twin.run(["gradient"], feed)[0])
            for feed in (snapped(decided, test) for test in tests)
        ]
        return round(float(np.mean(found)), 4)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        trials = dict(zip(CALIBRATORS, pool.map(agreement, CALIBRATORS), strict=True))
    chosen = max(trials, key=lambda name: trials[name])
    table = RangeTable(
        network=hashlib.sha256(graph.SerializeToString()).hexdigest(),
        calibration=fingerprint,
        count=len(starts),
        tensors=candidates[chosen],
        corrections=corrections,
        floats=sorted(floats),
    )
    return RefineCalibration(settings.objective, graph, table, trials, chosen)


def starting_points(
    latents: Sequence[np.ndarray], conditions: np.ndarray, targets: Sequence[np.ndarray], images: np.ndarray
) -> list[Feeds]:
    """What a refinement begins with: z = E(x) [1, L], own group's y, FR(x), x float32 [n, 3, S, S]."""
    return [
        {"z": z, "y": conditions[i : i + 1], "target": target, "image": images[i : i + 1]}
        for i, (z, target) in enumerate(zip(latents, targets, strict=True))
    ]


def trajectories(running: Any, starts: Sequence[Feeds], settings: RefinementSettings) -> list[Feeds]:
    """The latents at which K steps ask for a gradient: each start, and where the float step leads from it."""
    found: list[Feeds] = []
    for start in starts:
        z = start["z"]
        directions, rows = Directions(settings.method, z.shape, settings.momentum), np.arange(len(z))
        count = max(settings.steps, 1)
        for k in range(count):
            found.append({**start, "z": z})
            if k + 1 < count:
                (gradient,) = running.run(["gradient"], found[-1])
                z = z - np.float32(settings.step * settings.decay**k) * directions(gradient, rows, k)
    return found


def snapped(quantization: Quantization, feed: Feeds) -> Feeds:
    """The values that the INT8 engine sees: inputs rounded to their codes."""
    return {
        name: to_codes(value, quantization.scale(name)).astype(np.float32) * quantization.scale(name)
        for name, value in feed.items()
    }


def exact_slopes(view: GraphView) -> dict[str, TensorRange]:
    """Ranges of the slopes of LeakyReLUs (a mask plus alpha) at which alpha and 1 both are whole codes."""
    found = {}
    for node in view.nodes:
        mask = view.producer.get(node.input[0])
        added = view.constants.get(node.input[1]) if node.op_type == "Add" else None
        if added is None or added.size > 1 or mask is None or mask.op_type != "Clip":
            continue
        alpha = float(added.item())
        codes = min(range(127, 99, -1), key=lambda n: (round(abs(alpha * n - round(alpha * n)), 6), -n))
        found[node.output[0]] = TensorRange(0.0, 127 / codes, _EXACT_SLOPES)
    return found


def own_name(network: str, tensor: str) -> str:
    """The name in the refinement step of a tensor of "generator" or "embedder"."""
    if (network, tensor) in (("generator", "z"), ("generator", "y"), ("embedder", "embedding")):
        return tensor
    if (network, tensor) == ("embedder", "image"):
        return MADE
    return f"{GENERATOR if network == 'generator' else EMBEDDER}{tensor}"


def _of_networks(tensor: str, tables: Mapping[str, RangeTable]) -> TensorRange | None:
    """The range that a forward tensor, or an input of the host's, has in its own network."""
    outside = {"image": ("embedder", "image"), "target": ("embedder", "embedding")}
    found = outside.get(tensor) or forward_name(tensor)
    return None if found is None else tables[found[0]].tensors.get(found[1])
