"""How LiteRT hands an engine to XNNPACK: into how many partitions, and what it keeps for slow kernels."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from ai_edge_litert.interpreter import Interpreter

from edgeage.native_output import without_native_info

_DELEGATE = "DELEGATE"


@dataclass(frozen=True)
class XnnpackReport:
    """
    Attributes:
        operators: of the file.
        partitions: parts of the graph that XNNPACK runs; more than one means that data goes back and forth.
        left: operators that stay with LiteRT's own kernels, with their counts.
    """

    operators: int
    partitions: int
    left: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def delegation(data: bytes) -> XnnpackReport:
    """Load a TFLite file with LiteRT's default delegate, XNNPACK, and see what it takes."""
    with without_native_info():
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
    # the interpreter has no public way to its plan; the version is pinned and a test holds this one
    entries = interpreter._get_ops_details()
    own = [entry for entry in entries if entry["op_name"] != _DELEGATE]
    delegates = [entry for entry in entries if entry["op_name"] == _DELEGATE]
    makers = {int(tensor): entry for entry in own for tensor in entry["outputs"]}
    taken: set[int] = set()
    for delegate in delegates:
        # a delegate replaces what lies between its inputs and its outputs
        borders = {int(tensor) for tensor in delegate["inputs"]}
        todo = [int(tensor) for tensor in delegate["outputs"]]
        while todo:
            tensor = todo.pop()
            if tensor in borders or tensor not in makers or makers[tensor]["index"] in taken:
                continue
            taken.add(makers[tensor]["index"])
            todo += [int(source) for source in makers[tensor]["inputs"]]
    left = Counter(entry["op_name"] for entry in own if entry["index"] not in taken)
    return XnnpackReport(len(own), len(delegates), dict(sorted(left.items())))
