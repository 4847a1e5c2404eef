"""Latency of the same trained networks through other tools, as ratios to edgeage's INT8 files, in one run.

    python benchmarks/peer_latency.py
    python benchmarks/peer_latency.py --net generator --python torch=/envs/torch/bin/python

Every subject is a process of its own, so that each peer may have an environment of its own; processes take
turns run by run and are started anew several times. The files of other converters are those that
`int8_peers.py convert` has made in --work. What is not installed or not made is "not run", with the reason.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from int8_peers import HERE, NETS, PEERS

from edgeage.errors import EdgeageError
from edgeage.runtime.bench.compare import FEWEST_LOADS, compare_loads
from edgeage.runtime.bench.environment import snapshot
from edgeage.runtime.bundle import Bundle, open_bundle

REFINEMENT = "refinement"
WARM_UP = 5
PYTHON_HELP = "an interpreter for tflite, onnx, torch, torch.compile, refine or lbfgs"


@dataclass(frozen=True)
class Peer:
    """A subject: its label, and the worker's arguments or why there are none."""

    label: str
    arguments: tuple[str, ...] = ()
    not_run: str = ""


class Worker:
    """The process of one peer."""

    def __init__(self, peer: Peer, interpreter: str) -> None:
        command = [interpreter, str(HERE / "peers" / "worker.py"), *peer.arguments]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        if self._answer() != "ready":
            self.end()
            self._said.seek(0)
            lines = [line for line in self._said if line.strip() and not line.startswith("INFO")]
            raise EdgeageError((lines or [f"exit code {self.process.returncode}"])[-1].strip()[:160])

    def run(self) -> int:
        """Nanoseconds of one run."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self._answer())

    def end(self) -> None:
        self.process.communicate()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=HERE.parent / "models" / "edge64.agebundle")
    parser.add_argument("--checkpoint", type=Path, default=HERE.parent / "models" / "edge64.checkpoint")
    parser.add_argument(
        "--net", action="append", choices=[*NETS, REFINEMENT], help="only this one; repeatable"
    )
    parser.add_argument("--work", type=Path, default=HERE / ".peers", help="folder of int8_peers.py")
    parser.add_argument("--loads", type=int, default=7, help="times that all processes are started anew")
    parser.add_argument("--rounds", type=int, default=60, help="of each time; 6 of refinement")
    parser.add_argument("--python", action="append", default=[], metavar="KIND=PATH", help=PYTHON_HELP)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.loads < FEWEST_LOADS:
        sys.exit(f"error: {options.loads} loads bound no ratio; give --loads {FEWEST_LOADS} or more")
    interpreters = dict(pair.split("=", 1) for pair in options.python)
    try:
        bundle = open_bundle(options.bundle)
        report: dict[str, Any] = {"environment": snapshot(), "bundle": bundle.sha256, "networks": {}}
        for net in options.net or (*NETS, REFINEMENT):
            peers = subjects(net, bundle, options.checkpoint, options.work)
            rounds = min(options.rounds, 6) if net == REFINEMENT else options.rounds
            found = measure(peers, interpreters, options.loads, rounds)
            report["networks"][net] = found
            show(net, found)
    except EdgeageError as error:
        sys.exit(f"error: {error}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))


def subjects(net: str, bundle: Bundle, checkpoint: Path, work: Path) -> list[Peer]:
    """Everything that a network can run through; the first is the baseline."""
    if net == REFINEMENT:
        steps = str(bundle.manifest.refinement["steps"])
        return [
            Peer(f"edgeage INT8 K={steps}", ("refine", str(bundle.path), steps)),
            Peer("L-BFGS with autograd", ("lbfgs", str(checkpoint), str(bundle.path))),
        ]
    engines = bundle.path / "engines"
    found = [
        Peer("edgeage INT8", ("tflite", str(engines / f"{net}.int8.tflite"))),
        Peer("onnxruntime INT8", ("onnx", str(engines / f"{net}.qdq.onnx"))),
        Peer("onnxruntime float32", ("onnx", str(engines / f"{net}.onnx"))),
    ]
    for label in PEERS:
        file, note = work / net / f"{label}.int8.tflite", work / net / f"{label}.json"
        if file.is_file():
            found.append(Peer(f"{label} INT8", ("tflite", str(file))))
            continue
        reason = json.loads(note.read_text()).get("not run") if note.is_file() else None
        reason = reason or "its file was not made; see int8_peers.py setup, prepare, convert"
        found.append(Peer(f"{label} INT8", not_run=reason))
    found.append(Peer("PyTorch eager", ("torch", str(checkpoint), net)))
    found.append(Peer("torch.compile", ("torch.compile", str(checkpoint), net)))
    return found


def measure(peers: list[Peer], interpreters: dict[str, str], loads: int, rounds: int) -> dict[str, Any]:
    """Medians of each load and ratios to the first peer, all in turn and in an order drawn for each round."""
    draw = random.Random(0)
    medians: dict[str, list[float]] = {}
    not_run = {peer.label: peer.not_run for peer in peers if peer.not_run}
    for _ in range(loads):
        workers: dict[str, Worker] = {}
        for peer in draw.sample(peers, len(peers)):
            if peer.label not in not_run:
                try:
                    workers[peer.label] = Worker(peer, interpreters.get(peer.arguments[0], sys.executable))
                except (EdgeageError, OSError) as error:
                    not_run[peer.label] = str(error)
        times: dict[str, list[int]] = {label: [] for label in workers}
        for index in range(WARM_UP + rounds):
            for label in draw.sample(list(workers), len(workers)):
                taken = workers[label].run()
                if index >= WARM_UP:
                    times[label].append(taken)
        for label, worker in workers.items():
            worker.end()
            medians.setdefault(label, []).append(float(np.median(times[label])) / 1e6)
    baseline = peers[0].label
    if baseline in not_run:
        raise EdgeageError(f"the baseline, {baseline}, did not run: {not_run[baseline]}")
    found = {}
    for peer in peers:
        if peer.label not in not_run:
            own = medians[peer.label]
            ratios = [mine / base for mine, base in zip(own, medians[baseline], strict=True)]
            found[peer.label] = {"median_ms": float(np.median(own)), "times": compare_loads(ratios).to_dict()}
    return {"measured": found, "not run": not_run, "loads": loads, "rounds": rounds}


def show(net: str, found: dict[str, Any]) -> None:
    print(f"\n{net:24} {'ms':>9} {'times edgeage':>14} {'95 %':>15}")
    for label, figures in found["measured"].items():
        times = figures["times"]
        interval = f"{times['low']:.2f}–{times['high']:.2f}"
        median = figures["median_ms"]
        outcome = "baseline" if times["low"] == times["high"] == 1 else times["outcome"]
        print(f"{label:24} {median:9.3f} {times['ratio']:14.2f} {interval:>15}  {outcome}")
    for label, reason in found["not run"].items():
        print(f"{label:24} not run: {reason}")


if __name__ == "__main__":
    main()
