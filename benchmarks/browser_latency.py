"""What the way of a photo takes in the browser (edgeage demo, headless), as a ratio to native LiteRT.

Both age the same file to all groups, blending included, on one thread and in turn, round by round; what each
reads, searches and refines is the same to the bit. Medians are of the rounds after the warm-up.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeage.demo.headless import chromium, first_visit, open_page, served
from edgeage.demo.site import make_site
from edgeage.runtime.bench.statistics import compare
from edgeage.runtime.bundle import open_bundle
from edgeage.runtime.session import Session

STAGES = ("read", "detect", "align", "encode", "refine", "generate", "blend")
_AGE = """async (steps) => {
    const { openPipeline } = await import("./pipeline.mjs");
    const { readPhoto } = await import("./photo.mjs");
    const pipeline = await openPipeline();
    const file = await (await fetch("benchmark-photo")).blob();
    const { picture } = await pipeline.timed("read", () => readPhoto(file));
    const [face] = await pipeline.findFaces(picture);
    const encoded = await pipeline.encode(picture, face);
    const made = await pipeline.generate(encoded, steps, encoded.nearest);
    await pipeline.timed("blend", () =>
        made.ages.forEach((_, group) => pipeline.blend(picture, encoded.map, made, group, 1.1)));
    return pipeline.times;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="models/edge64.agebundle")
    parser.add_argument("--photo", type=Path, default=Path("docs/samples/astronaut.jpg"))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=15)
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    site = make_site(bundle)
    session = Session(bundle)
    steps = bundle.manifest.refinement.get("steps", 0)
    # the server knows types by suffixes; the photo's is of no interest to the page
    with served(site | {"benchmark-photo.txt": options.photo.read_bytes()}) as address, chromium() as browser:
        transferred, ready = first_visit(browser, address)
        report = {
            "photo": str(options.photo),
            "browser": browser.version,
            "transferred bytes": transferred,
            "load ms": ready,
        }
        page = open_page(browser, address)
        age = _AGE.replace("benchmark-photo", "benchmark-photo.txt")
        subjects = {
            "native": lambda: native(session, options.photo),
            "browser": lambda: in_browser(page, age, steps),
        }
        report |= measure(subjects, options.warm_up, options.rounds)
    print(json.dumps(report, indent=2))


def native(session: Session, photo: Path) -> dict[str, float]:
    result = session.age(photo)
    for group in result.aged:
        result.aged[group]
    return result.timings


def in_browser(page: Any, age: str, steps: int) -> dict[str, float]:
    times: dict[str, float] = page.evaluate(age, steps)
    times["generate"] += times.pop("search")  # natively the search for the own group is a part of it
    return times


def measure(subjects: dict[str, Callable[[], dict[str, float]]], warm_up: int, rounds: int) -> dict[str, Any]:
    taken: dict[str, list[list[float]]] = {name: [] for name in subjects}
    for _ in range(warm_up + rounds):
        for name, run in subjects.items():
            times = run()
            taken[name].append([times[stage] for stage in STAGES])
    table = {name: np.array(rows)[warm_up:] for name, rows in taken.items()}
    whole = compare(table["native"].sum(axis=1), table["browser"].sum(axis=1), paired=True)
    milliseconds = {
        name: {
            **{stage: round(float(ms), 2) for stage, ms in zip(STAGES, np.median(rows, axis=0), strict=True)},
            "total": round(float(np.median(rows.sum(axis=1))), 2),
        }
        for name, rows in table.items()
    }
    return {
        "rounds": rounds,
        "milliseconds": milliseconds,
        "browser / native": {
            "ratio": round(whole.ratio, 2),
            "low": round(whole.low, 2),
            "high": round(whole.high, 2),
        },
    }


if __name__ == "__main__":
    main()
