"""Latency of each engine of a bundle, as a ratio to the float32 ONNX file in ONNX Runtime.

Subjects are run in turn, round by round, so that a change of the machine's clock meets all of them alike.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import open_bundle
from edgeage.runtime.engines import open_engine

SUBJECTS = (  # the first is the baseline
    ("onnxruntime", "float32"),
    ("onnxruntime", "int8"),
    ("litert", "int8"),
    ("tflite-runtime", "int8"),
)
WARM_UP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="models/edge64.agebundle")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    rng = np.random.default_rng(0)
    report = {}
    for name, entry in bundle.manifest.engines.items():
        feeds = {port.name: rng.standard_normal(port.shape).clip(-1, 1).astype("f4") for port in entry.inputs}
        runs: dict[str, Callable[[], object]] = {}
        skipped = {}
        for engine, precision in SUBJECTS:
            label = f"{engine} {precision}"
            try:
                opened = open_engine(bundle, name, engine, precision, options.threads)
            except EdgeageError as error:
                skipped[label] = str(error)
                continue
            runs[label] = partial(opened.run, feeds)
        samples = measure(runs, options.rounds)
        baseline = np.median(samples[next(iter(runs))])
        report[name] = {
            "not run": skipped,
            **{
                label: {
                    "median_ms": round(float(np.median(taken)), 4),
                    "p90_ms": round(float(np.quantile(taken, 0.9)), 4),
                    "ratio": round(float(np.median(taken) / baseline), 4),
                    "runs": len(taken),
                }
                for label, taken in samples.items()
            },
        }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for name, rows in report.items():
        for label, figures in rows.items():
            if label == "not run":
                for subject, reason in figures.items():
                    print(f"{name:14} {subject:22} not run: {reason}")
            else:
                print(
                    f"{name:14} {label:22} {figures['median_ms']:8.3f} ms (p90 {figures['p90_ms']:.3f})"
                    f"  {figures['ratio']:.2f} x baseline, {figures['runs']} runs"
                )


def measure(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each subject, interleaved; the first WARM_UP rounds are not kept."""
    samples: dict[str, list[float]] = {label: [] for label in runs}
    for index in range(WARM_UP + rounds):
        for label, run in runs.items():
            begin = time.perf_counter()
            run()
            elapsed = (time.perf_counter() - begin) * 1e3
            if index >= WARM_UP:
                samples[label].append(elapsed)
    return samples


if __name__ == "__main__":
    main()
