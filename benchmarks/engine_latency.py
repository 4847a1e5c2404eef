"""Latency of each engine of a bundle, as a ratio to the float32 ONNX file in ONNX Runtime.

Subjects are run in turn, round by round, so that a change of the machine's clock meets all of them alike. For
one engine alone, with a verdict, use `edgeage bench`; for two, `edgeage bench compare`.
"""

from __future__ import annotations

import argparse
import json

from edgeage.runtime.bench.load import Plan
from edgeage.runtime.bench.results import Result
from edgeage.runtime.bench.run import measure_interleaved, prepare_all
from edgeage.runtime.bench.statistics import compare
from edgeage.runtime.bench.subjects import Spec
from edgeage.runtime.bundle import open_bundle

SUBJECTS = (  # the first is the baseline
    ("onnxruntime", "float32"),
    ("onnxruntime", "int8"),
    ("litert", "int8"),
    ("tflite-runtime", "int8"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="models/edge64.agebundle")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=400, help="After the warm-up; p99 takes 368 at least.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    report = {}
    for name in bundle.manifest.engines:
        specs = [Spec(name, engine, precision, options.threads) for engine, precision in SUBJECTS]
        ready, not_run = prepare_all(bundle, specs, lacking_ok=True)
        results = measure_interleaved(ready, Plan(runs=options.rounds)).results
        report[name] = {
            "not run": not_run,
            "baseline": results[0].subject.label,
            **{result.subject.label: figures(result, results[0]) for result in results},
        }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for rows in report.values():
        for subject, reason in rows.pop("not run").items():
            print(f"{subject:42} not run: {reason}")
        print(f"ratios to {rows.pop('baseline')}")
        for label, row in rows.items():
            print(
                f"{label:42} {row['p50_ms']:8.3f} ms, ratio {row['ratio']:.2f} "
                f"({row['low']:.2f} to {row['high']:.2f}), {row['runs']} runs, {row['verdict']}"
            )


def figures(result: Result, baseline: Result) -> dict[str, object]:
    compared = compare(baseline.steady_ns, result.steady_ns, paired=True)
    quantiles = {
        f"p{one.q:g}_ms": None if one.value is None else one.value / 1e6 for one in result.percentiles
    }
    return {
        **quantiles,
        "ratio": compared.ratio,
        "low": compared.low,
        "high": compared.high,
        "runs": int(result.steady_ns.size),
        "verdict": result.verdict.word,
    }


if __name__ == "__main__":
    main()
