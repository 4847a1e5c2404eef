"""Where the time of one photo goes: the engines, and what the pipeline around them takes, stage by stage.

The photo is the sample enlarged to the asked size. A photo with its file in hand goes to six aged arrays;
writing PNGs is measured beside it. Engines are those of the bundle and the face detector's network.
`overhead` is the share of the time outside of them: from decoded pixels to aged pixels, and with the decoding
of the JPEG.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from photo_memory import enlarged

from edgeage.runtime.photo.sheets import png
from edgeage.runtime.session import Session, load

GOAL = 0.30
WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="models/edge64.agebundle")
    parser.add_argument("--engine", default="litert")
    parser.add_argument("--megapixels", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = enlarged(options.megapixels, Path(folder) / "photo.jpg")
        report = measure(load(options.bundle, options.engine), photo, options.rounds)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for stage, figures in report["stages"].items():
        print(f"{stage:9} {figures['ms']:7.2f} ms, of which engines {figures['engines_ms']:6.2f}")
    for label, share in report["overhead"].items():
        print(f"overhead, {label}: {share:.2f} (goal {GOAL})")


def measure(session: Session, photo: Path, rounds: int) -> dict[str, Any]:
    """Medians over the rounds."""
    engines: dict[str, float] = defaultdict(float)
    session.age(photo)  # opens the engines
    detector = session.detector().blazeface
    detector.network = timed(detector.network, engines, "detect")
    stage_of = {"encoder": "encode", "generator_all": "generate"}
    for name in ("encoder", "generator_all", "embedder", "generator", "refine"):
        engine = session.engine(name)
        engine.run = timed(engine.run, engines, stage_of.get(name, "refine"))  # type: ignore[method-assign]
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for index in range(WARM_UP + rounds):
        engines.clear()
        result = session.age(photo)
        aged = [result.aged[group] for group in result.aged]
        start = time.perf_counter()
        for pixels in aged:
            png(pixels)
        timings = {**result.timings, "write": (time.perf_counter() - start) * 1e3}
        if index >= WARM_UP:
            for stage, spent in timings.items():
                rows[stage].append((spent, engines[stage] * 1e3))
    stages = {
        stage: dict(zip(("ms", "engines_ms"), np.median(taken, axis=0).round(3).tolist(), strict=True))
        for stage, taken in rows.items()
    }

    def overhead(*left_out: str) -> float:
        kept = [figures for stage, figures in stages.items() if stage not in ("load", *left_out)]
        return round(1 - sum(one["engines_ms"] for one in kept) / sum(one["ms"] for one in kept), 4)

    shares = {
        "pixels to pixels": overhead("read", "write"),
        "with JPEG decoding": overhead("write"),
        "with six PNGs written": overhead(),
    }
    return {"stages": stages, "overhead": shares, "rounds": rounds}


def timed(run: Callable[..., Any], spent: dict[str, float], stage: str) -> Callable[..., Any]:
    def wrapped(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = run(*arguments)
        spent[stage] += time.perf_counter() - start
        return result

    return wrapped


if __name__ == "__main__":
    main()
