"""How LiteRT hands an engine to XNNPACK: into how many partitions, and what it keeps for slow kernels."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from edgeage.native_output import without_native_info
from edgeage.runtime.engines.litert import open_interpreter

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


def delegation(data: bytes, engine: str = "litert") -> XnnpackReport:
    """Load a TFLite file with the engine's default delegate, XNNPACK, and see what it takes.

    Of a file with several signatures, the first is looked at, see `only_signature`.
    """
    with without_native_info():
        interpreter = open_interpreter(engine, data, 1, "the file")
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


def only_signature(data: bytes, signature: str) -> bytes:
    """A TFLite file with the graph of one signature alone; the bytes as they are if it is alone already.

    The interpreter tells the plan of a file's first graph only. Needs ai-edge-litert.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    if len(model.subgraphs) == 1:
        return data
    (chosen,) = [one for one in model.signatureDefs if one.signatureKey == signature.encode()]
    model.subgraphs = [model.subgraphs[chosen.subgraphIndex]]
    chosen.subgraphIndex = 0
    model.signatureDefs = [chosen]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
