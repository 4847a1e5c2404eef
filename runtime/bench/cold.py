"""A cold start, measured in the fresh process that this module runs in.

Needs a clock that all processes share, as Linux, macOS and Windows have behind `time.perf_counter_ns`. Files
come from the system's cache after the first start: it is the process that is cold, not the disk.
"""

import time

BEGAN = time.perf_counter_ns()  # before the imports below, which are a part of the start

import importlib  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import TYPE_CHECKING, Any, cast  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from edgeage.runtime.bundle import Bundle
    from edgeage.runtime.manifest import Manifest

PARTS = ("start", "import", "load", "compile", "first")


def start_cold(request: dict[str, Any]) -> dict[str, int]:
    """Run a cold start in a fresh process: nanoseconds of its PARTS; RuntimeError if it fails.

    They are: from the call to this module's first line; importing the runtime and the engine's package;
    reading and checking the bundle's files; opening engines; the first run.

    `request`: "bundle" (path), "engine", "precision", "threads", "steps", and "name": an engine of the
    bundle, or "" for the whole way of a photo.
    """
    told = json.dumps({**request, "called": time.perf_counter_ns()})
    command = [sys.executable, "-m", "edgeage.runtime.bench.cold", told]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the cold start failed with exit code {done.returncode}: {last}")
    parts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return parts


def measure(request: dict[str, Any]) -> dict[str, int]:
    """What `start_cold` has measured in the fresh process."""
    marks = [int(request["called"]), BEGAN]
    name, engine, precision = request["name"], request["engine"], request["precision"]
    threads, steps = request["threads"], request["steps"]

    from edgeage.runtime.bundle import open_bundle
    from edgeage.runtime.engines import ENGINE_FORMATS, choose_file, open_engine
    from edgeage.runtime.engines.packages import PACKAGES
    from edgeage.runtime.session import Session

    module = PACKAGES[engine][1] if engine in PACKAGES else engine
    importlib.import_module(f"{module}.interpreter" if ENGINE_FORMATS[engine] == "tflite" else module)
    marks.append(time.perf_counter_ns())

    bundle = open_bundle(request["bundle"])
    names = [name] if name else needed(steps)
    chosen = (choose_file(one, bundle.manifest.engines[one], engine, precision) for one in names)
    files = {file.file: bundle.read(file.file) for file in chosen if file}
    held = cast("Bundle", _Held(bundle.path, bundle.manifest, files, bundle))
    marks.append(time.perf_counter_ns())

    if name:
        opened = open_engine(held, name, engine, precision, threads)
        marks.append(time.perf_counter_ns())
        from edgeage.runtime.bench.subjects import feeds_of  # what only the bench needs is not counted

        feeds = feeds_of(bundle, name, opened)
        begin = time.perf_counter_ns()
        opened.run(feeds)
    else:
        session = Session(held, engine, precision, threads)
        for one in names:
            session.engine(one)
        session.detector()
        marks.append(time.perf_counter_ns())
        from edgeage.runtime.bench.subjects import own_photo

        photo = own_photo(Session(bundle, engine, precision, threads))
        own = session.profile.groups[len(session.profile.groups) // 2]
        begin = time.perf_counter_ns()
        session.age(photo, source_group=own, steps=steps)
    first = time.perf_counter_ns() - begin
    spans = [after - before for before, after in itertools.pairwise(marks)]
    return dict(zip(PARTS, [*spans, first], strict=True))


def needed(steps: int) -> list[str]:
    """Engines of a photo's way."""
    return ["encoder", "generator_all", *(["refine", "embedder", "generator"] if steps else [])]


@dataclass(frozen=True)
class _Held:
    """A bundle whose engines were read already, so that opening them reads nothing."""

    path: "Path"
    manifest: "Manifest"
    files: dict[str, bytes]
    bundle: "Bundle"

    def read(self, name: str) -> bytes:
        return self.files.get(name) or self.bundle.read(name)


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))), flush=True)
    os._exit(0)  # what the interpreter does at its end is not a part of the start
