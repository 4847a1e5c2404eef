"""Where an engine's nodes run, and which of them take the time: by what each runtime itself tells.

LiteRT: its execution plan says what XNNPACK took. ONNX Runtime: its own profile of a few runs. TensorRT: the
engine inspector. What a runtime does not tell is "not available", with the reason.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeage.errors import EdgeageError
from edgeage.files import read_json
from edgeage.runtime.engines import ENGINE_FORMATS, Feeds, choose_file
from edgeage.runtime.engines.ports import to_file

if TYPE_CHECKING:
    from edgeage.runtime.bundle import Bundle
    from edgeage.runtime.engines.tensorrt.coverage import Coverage
    from edgeage.runtime.manifest import EngineFile

_TOP = 10
_PROFILED_RUNS = 30
_WEIGHTED = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
NO_LITERT_PROFILE = "not available: the Python interface of LiteRT has no profiler"


@dataclass(frozen=True)
class Placement:
    """
    Attributes:
        target: what should run the nodes: "XNNPACK", "CPUExecutionProvider", "TensorRT".
        nodes: of the graph as the runtime executes or loads it; None if it does not tell.
        delegated: of them, those that the target runs.
        partitions: parts that the target runs in one go; None if it does not tell.
        left: operators that run elsewhere, with their counts.
        profile: the nodes that take most of the time, at most 10: {"node", "operator", "share" of all nodes'
            time, "us" of a median run}.
        profile_note: where the profile is from, or why there is none.
        notes: one line each.
    """

    target: str
    nodes: int | None
    delegated: int | None
    partitions: int | None = None
    left: dict[str, int] = field(default_factory=dict)
    profile: tuple[dict[str, Any], ...] = ()
    profile_note: str = ""
    notes: tuple[str, ...] = ()

    @property
    def fell_back(self) -> bool:
        return self.nodes is not None and self.delegated is not None and self.delegated < self.nodes

    @property
    def summary(self) -> str:
        """One line."""
        if self.nodes is None:
            return f"{self.target}: {self.profile_note}"
        parts = "" if self.partitions is None else f" in {_plural(self.partitions, 'partition')}"
        left = ", ".join(f"{count} {name}" for name, count in self.left.items())
        return f"{self.target} runs {self.delegated} of {_plural(self.nodes, 'node')}{parts}" + (
            f"; elsewhere: {left}" if left else ""
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "profile": list(self.profile),
            "notes": list(self.notes),
            "fell_back": self.fell_back,
            "summary": self.summary,
        }


def place(
    bundle: Bundle, name: str, engine: str, precision: str, feeds: Feeds, threads: int = 1
) -> Placement:
    """Where the nodes of one of a bundle's engines run. Loads the file once more; takes a second at most.

    Raises EdgeageError as `open_engine`.
    """
    entry = bundle.manifest.engines.get(name)
    file = choose_file(name, entry, engine, precision) if entry else None
    if entry is None or file is None:
        if name == "generator_all":  # made of runs of the generator, see `open_engine`
            single = {key: values[:1] for key, values in feeds.items()}
            return place(bundle, "generator", engine, precision, single, threads)
        raise EdgeageError(f"{bundle.path.name} has no {engine} {precision} file for the {name}")
    content = bundle.read(file.file)
    if ENGINE_FORMATS[engine] == "tflite":
        return place_tflite(content, engine, precision, str(file.signature))
    if engine == "onnxruntime":
        return _place_onnx(content, file, {**to_file(feeds, entry.inputs, file)}, threads)
    from edgeage.runtime.engines.tensorrt.choose import open_tensorrt
    from edgeage.runtime.engines.tensorrt.coverage import plan_coverage
    from edgeage.runtime.engines.tensorrt.libraries import load_libraries

    plan = open_tensorrt(bundle, name, precision).runner.prepared
    return placement_of_coverage(plan_coverage(load_libraries().trt, plan))


def place_tflite(content: bytes, engine: str, precision: str, signature: str) -> Placement:
    """What XNNPACK takes of one signature of a TFLite file."""
    from edgeage.runtime.bench.xnnpack import delegation, only_signature

    if engine == "litert":
        content = only_signature(content, signature)
    report = delegation(content, engine)
    notes = []
    if engine == "tflite-runtime" and precision == "int8":
        notes.append("tflite-runtime 2.14 gives XNNPACK float only: INT8 runs in its slower kernels")
    return Placement(
        target="XNNPACK",
        nodes=report.operators,
        delegated=report.operators - sum(report.left.values()),
        partitions=report.partitions,
        left=report.left,
        profile_note=NO_LITERT_PROFILE,
        notes=tuple(notes),
    )


def _place_onnx(content: bytes, file: EngineFile, inputs: dict[str, Any], threads: int) -> Placement:
    """ONNX Runtime's profile of a few runs, of a session of its own: profiling slows a session down."""
    from edgeage.runtime.engines.onnxruntime import open_session

    target = "CPUExecutionProvider"
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "profile")
        session = open_session(content, threads, file.file, file.precision, prefix)
        for _ in range(_PROFILED_RUNS):
            session.run(None, inputs)
        events = read_json(Path(session.end_profiling()), "profile of ONNX Runtime")
    return placement_of_events(events, target, file.precision)


def placement_of_coverage(coverage: Coverage) -> Placement:
    """A placement from what TensorRT's engine inspector tells: all layers of a plan run on the GPU."""
    return Placement(
        target="TensorRT",
        nodes=coverage.layers,
        delegated=coverage.layers,
        profile_note="not available: a CUDA graph is one launch; trtexec --dumpProfile tells its layers",
        notes=(f"{coverage.int8_matrix_layers} of {coverage.matrix_layers} matrix layers compute in INT8",),
    )


def placement_of_events(events: list[dict[str, Any]], target: str, precision: str) -> Placement:
    """A placement from the events of ONNX Runtime's profile; of each node's runs the first is left out."""
    runs: dict[str, list[float]] = defaultdict(list)
    about: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            node = event["name"].removesuffix("_kernel_time")
            runs[node].append(float(event["dur"]))
            about[node] = event["args"]
    if not runs:
        return Placement(target, None, None, profile_note="not available: the profile names no nodes")
    medians = {node: statistics.median(times[1:] or times) for node, times in runs.items()}
    whole = sum(medians.values()) or 1.0
    slowest = sorted(medians, key=lambda node: -medians[node])[:_TOP]
    elsewhere = Counter(args["op_name"] for args in about.values() if args["provider"] != target)
    weighted = [args for args in about.values() if args["op_name"] in _WEIGHTED]
    notes = []
    if precision == "int8" and weighted:
        kinds = ", ".join(
            f"{count} {kind}" for kind, count in Counter(a["op_name"] for a in weighted).items()
        )
        notes.append(f"of this INT8 engine ONNX Runtime computes {kinds} in float")
    return Placement(
        target=target,
        nodes=len(runs),
        delegated=len(runs) - sum(elsewhere.values()),
        left=dict(sorted(elsewhere.items())),
        profile=tuple(
            {
                "node": node,
                "operator": about[node]["op_name"],
                "share": round(medians[node] / whole, 4),
                "us": round(medians[node], 2),
            }
            for node in slowest
        ),
        profile_note=f"ONNX Runtime's profile, {_PROFILED_RUNS} runs; profiling itself costs time",
        notes=tuple(notes),
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
