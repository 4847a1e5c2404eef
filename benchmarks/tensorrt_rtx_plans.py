"""Plans that TensorRT for RTX builds ahead of time of each engine: the INT8 and float16 ones against float32.

A stand-in without a GPU, not the Jetson engine; nothing is executed, so this says nothing of speed.
"""

from __future__ import annotations

import argparse
import json

from edgeage.export.bundle_check import shared_graphs
from edgeage.export.compilers import tensorrt_rtx
from edgeage.export.engines import TRAITS
from edgeage.export.float16 import to_float16
from edgeage.export.forms import float_graph
from edgeage.export.refine.graph import Objective
from edgeage.runtime.bundle import Bundle, open_bundle

SECONDS, SHARE = 5.0, 0.3  # goals: of each build; of an INT8 plan in the float32 one
BASELINE = "float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="models/edge64.agebundle")
    bundle = open_bundle(parser.parse_args().bundle)
    report = {name: plans(bundle, name) for name in bundle.manifest.engines if not TRAITS[name].for_cpus}
    builds = [one for found in report.values() for one in found.values()]
    int8 = [found[form]["share"] for found in report.values() for form in found if form.startswith("int8")]
    goals = {
        f"every build under {SECONDS:g} s": all(one["seconds"] < SECONDS for one in builds),
        f"every INT8 plan at most {SHARE:g} of float32": all(share <= SHARE for share in int8),
    }
    print(json.dumps({"label": tensorrt_rtx.LABEL, "plans": report, "goals": goals}, indent=2))


def plans(bundle: Bundle, engine: str) -> dict[str, dict[str, float]]:
    """By precision: plan_bytes, its share in that of float32, layers and seconds."""
    manifest = bundle.manifest
    weight = manifest.refinement.get("pixel_weight")
    objective = None if weight is None else Objective(weight, bundle.preconditioner())
    graph = float_graph(engine, manifest.engines, shared_graphs(manifest.profile), bundle.read, objective)
    if graph is None:
        raise SystemExit(f"the bundle has no float ONNX of the {engine}, nothing to compare with")
    models = {BASELINE: graph.SerializeToString(), "float16": to_float16(graph).SerializeToString()}
    for file in manifest.engines[engine].files:
        if file.format == "onnx":
            models[file.precision] = bundle.read(file.file)
    built = {precision: tensorrt_rtx.build(model) for precision, model in models.items()}
    return {
        precision: {
            "plan_bytes": one.plan_bytes,
            "share": round(one.plan_bytes / built[BASELINE].plan_bytes, 3),
            "layers": one.layers,
            "seconds": one.seconds,
        }
        for precision, one in built.items()
    }


if __name__ == "__main__":
    main()
