"""What a refinement step costs beside the forward pass that it contains: generator + embedder.

All files run in LiteRT, in turn, round by round. The reference is the article's way: L-BFGS with autograd.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from edgeage.runtime.bench.load import Plan
from edgeage.runtime.bench.run import measure_interleaved, prepare_all
from edgeage.runtime.bench.statistics import compare
from edgeage.runtime.bench.subjects import Spec
from edgeage.runtime.bundle import open_bundle
from edgeage.runtime.engines import open_engine
from edgeage.runtime.refinement import RefinementOptions, refine
from edgeage.runtime.refiner import Forward

ENGINES = ("encoder", "generator", "embedder", "refine", "refine_batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="models/edge64.agebundle")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument(
        "--checkpoint", type=Path, help="Also time the autograd reference on this checkpoint."
    )
    parser.add_argument("--faces", type=int, default=5, help="Of the reference.")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    ready, _ = prepare_all(bundle, [Spec(name, threads=options.threads) for name in ENGINES])
    measured = measure_interleaved(ready, Plan(runs=options.rounds)).results
    samples = {result.subject.name: result.steady_ns for result in measured}
    forward = samples["generator"] + samples["embedder"]
    step, several = samples["refine"], samples["refine_batch"]
    batch = bundle.manifest.engines["refine_batch"].inputs[0].shape[0]
    report: dict[str, object] = {
        "milliseconds": {name: round(float(np.median(taken)) / 1e6, 4) for name, taken in samples.items()},
        "step / forward of generator and embedder": ratio(step, forward),
        f"step per face in a batch of {batch} / alone": ratio(several / batch, step),
        "rounds": len(step),
    }
    if options.checkpoint:
        engines = {name: open_engine(bundle, name, threads=options.threads) for name in ENGINES}
        report.update(reference(options.checkpoint, engines, bundle.manifest.refinement, options.faces))
    print(json.dumps(report, indent=2))


def ratio(subject: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """Ratio of the medians of rounds in turn, with its 95 % interval."""
    found = compare(baseline, subject, paired=True)
    return {"ratio": round(found.ratio, 3), "low": round(found.low, 3), "high": round(found.high, 3)}


def reference(path: Path, engines: dict, settings: dict, faces: int) -> dict[str, object]:
    """Milliseconds per face of K = 3 on the engines and of L-BFGS with autograd, in turn."""
    import torch

    from edgeage.train.checkpoint import load_checkpoint
    from edgeage.train.latent_optimization import Face, RefinementSettings, optimise

    torch.set_num_threads(1)
    networks = load_checkpoint(path).networks
    rng = np.random.default_rng(2)
    own, theirs = [], []
    loss = RefinementSettings("euclidean", settings["pixel_weight"])
    for _ in range(faces):
        image = rng.uniform(-1, 1, engines["encoder"].inputs[0].shape).astype("f4")
        y = np.eye(6, dtype=np.float32)[[2]]
        z = engines["encoder"].run({"image": image})["z"]
        target = engines["embedder"].run({"image": image})["embedding"]
        check = Forward(engines["generator"], engines["embedder"])

        begin = time.perf_counter()
        refine(engines["refine"], z, y, target, image, RefinementOptions.from_manifest(settings), check=check)
        own.append((time.perf_counter() - begin) * 1e3)
        begin = time.perf_counter()
        face = Face.of(torch.from_numpy(image), torch.from_numpy(y), networks["embedder"])
        optimise(networks["generator"], networks["embedder"], torch.from_numpy(z), face, "combined", loss)
        theirs.append((time.perf_counter() - begin) * 1e3)
    return {
        "K": settings["steps"],
        "milliseconds per face, INT8": round(float(np.median(own)), 3),
        "milliseconds per face, L-BFGS with autograd": round(float(np.median(theirs)), 1),
        "times faster": round(float(np.median(theirs) / np.median(own)), 1),
    }


if __name__ == "__main__":
    main()
