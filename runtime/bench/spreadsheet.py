"""Results as CSV: one line per result, times in milliseconds."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from edgeage.files import write_bytes
from edgeage.runtime.bench.results import Run


def write_csv(path: Path, run: Run) -> None:
    """Write one line per result: what and how, percentiles with their intervals, the verdict. Atomically."""
    qs = sorted({one.q for result in run.results for one in result.percentiles})
    ends = ("", "_low", "_high")
    columns = [f"p{q:g}{end}_ms" for q in qs for end in ends]
    stream = io.StringIO()
    writer = csv.writer(stream)
    head = ("bundle", "complete", "subject", "steps", "engine", "precision", "threads", "load", "rate_hz")
    writer.writerow(
        (*head, "concurrency", "runs", "warmup", *columns, "max_ms", "missed", "verdict", "reasons")
    )
    for result in run.results:
        subject, load, steady = result.subject, result.load, result.steady_ns
        times: list[str] = []
        for q in qs:
            found = result.percentile(q)
            values = (found.value, found.low, found.high) if found else (None,) * 3
            times += ["" if value is None else f"{value / 1e6:.6f}" for value in values]
        writer.writerow(
            [
                *(run.bundle, run.complete, subject.name, subject.steps, subject.engine, subject.precision),
                *(subject.threads, load.shape, load.rate_hz, load.concurrency, steady.size, result.warmup),
                *times,
                f"{steady.max() / 1e6:.6f}" if steady.size else "",
                *(load.missed, result.verdict.word, "; ".join(result.verdict.reasons)),
            ]
        )
    write_bytes(path, stream.getvalue().encode())
