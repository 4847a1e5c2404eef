"""What TFLite files of one network are like, how near they come to the float network, and how fast."""

from __future__ import annotations

import time
from collections import Counter
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]
LOADS = 21
WARM_UP = 20

_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
_TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if name.isupper()}
_BOUNDARY = ("QUANTIZE", "DEQUANTIZE")


class Subject:
    """A file in LiteRT, one thread, with its own input and output types and layouts."""

    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()
        self.interpreter = Interpreter(model_content=self.content, num_threads=1)
        self.interpreter.allocate_tensors()
        (self.output,) = self.interpreter.get_output_details()

    def feed(self, values: Arrays) -> None:
        """Set the inputs from float32 NCHW; the shapes tell which is which and how it is laid out."""
        left = dict(values)
        for port in self.interpreter.get_input_details():
            shape = tuple(int(size) for size in port["shape"])
            name, array = next(
                (name, form)
                for name, value in left.items()
                for form in (value, *([value.transpose(0, 2, 3, 1)] if value.ndim == 4 else []))
                if form.shape == shape
            )
            del left[name]
            if port["dtype"] != np.float32:
                scale, zero = port["quantization"]
                limits = np.iinfo(port["dtype"])
                array = np.clip(np.rint(array / np.float32(scale)) + zero, limits.min, limits.max)
            self.interpreter.set_tensor(port["index"], np.ascontiguousarray(array, dtype=port["dtype"]))

    def result(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The output as float32 in `shape` (NCHW)."""
        values: NDArray[np.float32] = self.interpreter.get_tensor(self.output["index"])
        if values.dtype != np.float32:
            scale, zero = self.output["quantization"]
            values = (values.astype(np.float32) - zero) * np.float32(scale)
        return values if values.shape == shape else values.transpose(0, 3, 1, 2)

    def facts(self) -> dict[str, Any]:
        """Size, types, operators that do not work on int8, and what XNNPACK takes."""
        model = schema.ModelT.InitFromPackedBuf(self.content, 0)
        (graph,) = model.subgraphs
        counts: Counter[str] = Counter()
        not_int8: Counter[str] = Counter()
        for operator in graph.operators:
            entry = model.operatorCodes[operator.opcodeIndex]
            name = _NAMES[max(entry.builtinCode, entry.deprecatedBuiltinCode)]
            counts[name] += 1
            types = {_TYPES[graph.tensors[index].type] for index in operator.outputs}
            if types != {"int8"} or name in _BOUNDARY:
                not_int8[f"{name} {'/'.join(sorted(types))}"] += 1
        return {
            "bytes": len(self.content),
            "inputs": sorted({np.dtype(port["dtype"]).name for port in self.interpreter.get_input_details()}),
            "output": np.dtype(self.output["dtype"]).name,
            "operators": dict(sorted(counts.items())),
            "not int8": dict(sorted(not_int8.items())),
            "transposes": counts["TRANSPOSE"],
            **self._delegation(),
        }

    def _delegation(self) -> dict[str, Any]:
        """Partitions of the XNNPACK delegate, and the operators that run outside of them."""
        # the nodes as written come first, then one DELEGATE a partition; those that the output is made
        # from, walking back through the delegates, are what runs
        nodes = self.interpreter._get_ops_details()
        maker = {int(t): node for node in nodes for t in node["outputs"]}  # a delegate overrides its nodes
        wanted, seen = [int(self.output["index"])], set()
        outside: Counter[str] = Counter()
        while wanted:
            node = maker.get(wanted.pop())
            if node is None or node["index"] in seen:
                continue
            seen.add(node["index"])
            if node["op_name"] != "DELEGATE":
                outside[node["op_name"]] += 1
            wanted += [int(t) for t in node["inputs"] if t >= 0]
        partitions = sum(node["op_name"] == "DELEGATE" for node in nodes)
        return {"partitions": partitions, "outside XNNPACK": dict(sorted(outside.items()))}


def quality(subject: Subject, held_out: Arrays, expected: NDArray[np.float32]) -> dict[str, float]:
    """PSNR (images in [-1, 1]), SQNR and mean cosine to the float network's outputs."""
    made = []
    for index in range(len(expected)):
        subject.feed({name: values[index : index + 1] for name, values in held_out.items()})
        subject.interpreter.invoke()
        made.append(subject.result(expected[index : index + 1].shape).copy())
    got, wanted = (
        array.astype(np.float64).reshape(len(expected), -1) for array in (np.concatenate(made), expected)
    )
    noise = np.square(got - wanted)
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
    found = {
        "sqnr_db": float(10 * np.log10(np.square(wanted).sum() / noise.sum())),
        "cosine": float(np.mean((got * wanted).sum(axis=1) / norms)),
    }
    if expected.ndim == 4:
        found["psnr_db"] = float(10 * np.log10(4 / noise.mean()))
    return found


def latency(
    paths: dict[str, Path], held_out: Arrays, baseline: str, rounds: int, calls: int
) -> dict[str, dict[str, Any]]:
    """Milliseconds of each file and its ratio to `baseline`, all interleaved in random order.

    Where an interpreter's memory happens to lie is worth up to 7 % here, as long as it lives. So all files
    are loaded anew `LOADS` times, in random order; each time gives one ratio of medians. The interval is
    that of the median over the loads by order statistics (95 % or a little more), which asks nothing of
    the distribution.

    Args:
        calls: of a file in a row before the next one's turn; 1: each finds the caches filled by another.
    """
    random = np.random.default_rng(0)
    first = {name: values[:1] for name, values in held_out.items()}
    medians: dict[str, list[float]] = {label: [] for label in paths}
    for _ in range(LOADS):
        # kept until all are loaded: shifts where the interpreters come to lie
        ballast = [np.ones(int(size), dtype=np.uint8) for size in random.integers(1, 1 << 22, len(paths))]
        subjects = {}
        for label in random.permutation(list(paths)):
            subjects[str(label)] = Subject(paths[str(label)])
            subjects[str(label)].feed(first)
            ballast.pop()
        taken: dict[str, list[float]] = {label: [] for label in paths}
        for index in range(WARM_UP + rounds):
            for label in random.permutation(list(paths)):
                invoke = subjects[str(label)].interpreter.invoke
                for _ in range(calls):
                    begin = time.perf_counter()
                    invoke()
                    elapsed = (time.perf_counter() - begin) * 1e3
                    if index >= WARM_UP:
                        taken[str(label)].append(elapsed)
        for label, times in taken.items():
            medians[label].append(float(np.median(times)))
    found = {}
    for label, values in medians.items():
        ratios = np.sort(np.divide(values, medians[baseline]))
        low, high = median_interval(len(ratios))
        found[label] = {
            "median_ms": float(np.median(values)),
            "loads": LOADS,
            "runs": LOADS * rounds * calls,
            "calls_in_a_row": calls,
            "ratio": float(np.median(ratios)),
            "ratio_95": [float(ratios[low]), float(ratios[high])],
        }
    return found


def median_interval(count: int) -> tuple[int, int]:
    """Indices into `count` sorted values that enclose the median with at least 95 % confidence."""
    tails = np.cumsum([comb(count, k) / 2.0**count for k in range(count + 1)])
    low = max(int(np.searchsorted(tails, 0.025, side="right")) - 1, 0)
    return low, count - 1 - low


def figures(folder: Path, labels: list[str], rounds: int, calls: int) -> dict[str, dict[str, Any]]:
    """Everything about the files LABEL.tflite of one network's folder; the first label is the baseline."""
    paths = {label: folder / f"{label}.tflite" for label in labels}
    with np.load(folder / "held-out.npz") as arrays:
        held_out = {name: arrays[name] for name in arrays.files}
    expected = held_out.pop("expected")
    times = latency(paths, held_out, labels[0], rounds, calls)
    found = {}
    for label, path in paths.items():
        subject = Subject(path)
        near = quality(subject, held_out, expected)
        found[label] = {"facts": subject.facts(), "quality": near, "latency": times[label]}
    return found
