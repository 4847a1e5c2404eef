"""Forms of the refine engine that only NPUs are good for, made from a finished bundle.

- 16x8: activations of 16 bits over the same int8 weights. CPUs have no fast kernels for it; on an NPU it
  takes longer than 8 bits, and the gradient is nearly the float one.
- unrolled: K steps in one file, see `edgeage.export.refine.unroll`.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeage.calibration.observers import session
from edgeage.calibration.quantization import INT16, Quantization, decide
from edgeage.calibration.ranges import RangeTable
from edgeage.errors import EdgeageError
from edgeage.export.bundle_check import shared_graphs
from edgeage.export.forms import float_graph
from edgeage.export.refine.graph import INPUTS, Objective
from edgeage.export.refine.unroll import REFINED, unroll, unrolled_ranges
from edgeage.export.tflite.lowering import to_tflite
from edgeage.export.verify import TfliteFile, cosine
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.refinement import RefinementOptions


@dataclass(frozen=True)
class NpuFile:
    """One file, integers in and out: its name and signature, what was decided for it, its bytes."""

    name: str
    signature: str
    quantization: Quantization
    content: bytes


def npu_files(bundle: Bundle, steps: int | None = None) -> list[NpuFile]:
    """The 16x8 refine engine, and `steps` of the int8 one unrolled (the bundle's own K unless given).

    Raises EdgeageError for a bundle without a refine engine, or of another range table than its graphs.
    """
    told = bundle.manifest.refinement
    if "refine" not in bundle.manifest.engines or "pixel_weight" not in told:
        raise EdgeageError(f"{bundle.path.name} has no refine engine: {told.get('note', 'export again')}")
    manifest = bundle.manifest
    objective = Objective(told["pixel_weight"], bundle.preconditioner())
    graph = float_graph("refine", manifest.engines, shared_graphs(manifest.profile), bundle.read, objective)
    if graph is None:
        raise EdgeageError(f"{bundle.path.name} has no float ONNX of its networks; export it again")
    table = RangeTable.from_dict(json.loads(bundle.read("ranges.json"))["tables"]["refine"])
    if table.network != hashlib.sha256(graph.SerializeToString()).hexdigest():
        raise EdgeageError(
            f"the ranges of {bundle.path.name} are of another form of the refinement step than this edgeage "
            f"writes (the bundle is of edgeage {manifest.edgeage_version}); export it again"
        )
    options = RefinementOptions.from_manifest(told)
    options = options if steps is None else replace(options, steps=steps)
    sizes = [options.step * options.decay**k for k in range(options.steps)]
    unrolled = unroll(graph, sizes)
    prefixed: dict[str, Any] = {
        "corrections": {f"step{k}/{n}": v for k in range(len(sizes)) for n, v in table.corrections.items()},
        "floats": [f"step{k}/{name}" for k in range(len(sizes)) for name in table.floats],
    }
    wide = decide(graph, table.ranges, corrections=table.corrections, floats=table.floats, width=INT16)
    ranges = {name: seen.ends for name, seen in unrolled_ranges(table, sizes).items()}
    narrow = decide(unrolled, ranges, **prefixed)
    several = f"refine{len(sizes)}"
    return [
        NpuFile("refine.int16x8.tflite", "refine", wide, to_tflite(wide, "refine", "int8")),
        NpuFile(f"{several}.int8.tflite", several, narrow, to_tflite(narrow, several, "int8")),
    ]


def cosine_to_float(bundle: Bundle, file: NpuFile) -> float:
    """Of what a file gives for the bundle's golden face: its gradient, or how its K steps move the latent.

    The reference kernels of LiteRT run it; the float graph runs in ONNX Runtime.
    """
    with np.load(io.BytesIO(bundle.read("golden.npz")), allow_pickle=False) as golden:
        given = {name: golden[f"refine/in/{name}"] for name in INPUTS}
    decided, output = file.quantization, file.quantization.view.outputs[0]
    steps, dtype = decided.width.steps, decided.width.dtype
    codes = {
        name: np.clip(np.rint(value / decided.scale(name)), -steps, steps).astype(dtype)
        for name, value in given.items()
    }
    found = TfliteFile(file.content, file.signature).run(codes)[output].astype(np.float32)
    (wanted,) = session(decided.view.model).run([output], given)
    start = given["z"] if output == REFINED else 0.0
    return round(cosine(found * decided.scale(output) - start, wanted - start), 4)
