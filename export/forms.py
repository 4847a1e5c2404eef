"""Every form that a network takes on its way to a device, each as one function from feeds to outputs.

torch -> exported (ONNX as torch writes it) -> onnx (canonical, phase form) -> qdq -> int8 -> int8-float-io,
and beside these, for TensorRT, float16 (of onnx) and qdq-float16 (of the decisions that qdq and int8 follow).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeage.calibration.observers import Feeds, session
from edgeage.errors import EdgeageError
from edgeage.export.engines import TRAITS, EngineSpec
from edgeage.export.float16 import rounded
from edgeage.export.onnx_graph import trace, with_batch
from edgeage.export.refine.graph import INPUTS, Objective, refine_graph
from edgeage.runtime.engines.litert import TfliteEngine
from edgeage.runtime.manifest import EngineEntry, EngineFile, Port

if TYPE_CHECKING:
    import torch

# Contract form: float32, NCHW, by port name, static batch.
Outputs = Mapping[str, NDArray[np.float32]]
Form = Callable[[Feeds], Outputs]
Forms = dict[str, Form]

ORDER = ("torch", "exported", "onnx", "qdq", "int8", "int8-float-io")
# What is compared beside the order: both of half precision with what they stand for.
BESIDE = (("onnx", "float16"), ("onnx", "qdq-float16"), ("qdq-float16", "int8"))
_FORM_OF = {
    ("onnx", "float32", "float32"): "onnx",
    ("onnx", "int8", "float32"): "qdq",
    ("onnx", "float16", "float32"): "float16",
    ("onnx", "int8-float16", "float32"): "qdq-float16",
    ("tflite", "int8", "int8"): "int8",
    ("tflite", "int8", "float32"): "int8-float-io",
}


def possible_forms(engine: str) -> set[str]:
    """The forms that an engine can have, given its bundle and its checkpoint."""
    traits = TRAITS[engine]
    found = {*ORDER, *(form for link in BESIDE for form in link)}
    if traits.is_gradient:  # it is no torch network
        found.remove("exported")
    return found - {"qdq", "qdq-float16", "float16"} if traits.for_cpus else found


def bundle_forms(
    entries: Mapping[str, EngineEntry],
    networks: Mapping[str, str],
    read: Callable[[str], bytes],
    objective: Objective | None = None,
) -> dict[str, Forms]:
    """The forms that a bundle's files are, by engine.

    Args:
        entries: of the manifest.
        networks: engine -> engine of batch 1 whose float graph it shares (generator_all -> generator).
        read: bytes of a file by its path in the bundle.
        objective: of the refine engines, whose float graph is made again from those of G and FR.

    A second file of the same kind is named with it: "int8 (all.tflite)". Raises EdgeageError if a file does
    not load or has other ports than the manifest says.
    """
    found: dict[str, Forms] = {}
    for name, entry in entries.items():
        forms: Forms = {}
        for file in entry.files:
            kind = _FORM_OF.get((file.format, file.precision, file.io), f"{file.precision} {file.format}")
            key = kind if kind not in forms else f"{kind} ({PurePosixPath(file.file).name})"
            forms[key] = _file_form(entry, file, read(file.file))
        if "onnx" not in forms:
            graph = float_graph(name, entries, networks, read, objective)
            if graph is not None:
                forms["onnx"] = onnx_form(graph, entry, f"the float graph of {name}")
        found[name] = forms
    return found


def float_graph(
    engine: str,
    entries: Mapping[str, EngineEntry],
    networks: Mapping[str, str],
    read: Callable[[str], bytes],
    objective: Objective | None = None,
) -> onnx.ModelProto | None:
    """The float ONNX of an engine, None if the bundle has none. Args: as `bundle_forms`.

    A bundle holds a float graph once, for batch 1; other batches have the same weights, and a refinement step
    is made again from its two networks.
    """
    if TRAITS[engine].is_gradient:
        if objective is None:
            return None
        made = [float_graph(part, entries, networks, read) for part in ("generator", "embedder")]
        if made[0] is None or made[1] is None:
            raise EdgeageError("the bundle has no float ONNX of generator and embedder; export it again")
        model = refine_graph(made[0], made[1], objective)
    else:
        entry = entries.get(networks.get(engine, engine))
        path = (
            next((f.file for f in entry.files if _FORM_OF.get(_kind(f)) == "onnx"), None) if entry else None
        )
        if path is None:
            return None
        model = _load(read(path), path)
    return with_batch(model, entries[engine].inputs[0].shape[0])


def checkpoint_forms(
    networks: Mapping[str, torch.nn.Module],
    specs: Mapping[str, EngineSpec],
    exported: Mapping[str, onnx.ModelProto] | None = None,
    objective: Objective | None = None,
) -> dict[str, Forms]:
    """The forms that come before a bundle, by engine.

    Args:
        networks: of the checkpoint, in eval mode.
        exported: what torch's exporter wrote for each network, if it ran already; it runs here otherwise.
        objective: of the refine engines, if the bundle has them.
    """
    graphs = dict(exported or {})
    found: dict[str, Forms] = {}
    for spec in specs.values():
        if spec.network == "refine":
            if objective is not None:
                found[spec.name] = {"torch": _autograd(networks, objective)}
            continue
        network = networks[spec.network]
        if spec.network not in graphs:
            single = next(one for one in specs.values() if one.name == spec.network)
            shapes = {port.name: port.shape for port in single.inputs}
            graphs[spec.network] = trace(network, shapes, single.outputs[0].name)
        found[spec.name] = {
            "torch": torch_form(network, spec.outputs),
            "exported": one_by_one(graphs[spec.network], spec.outputs),
        }
    return found


def _autograd(networks: Mapping[str, torch.nn.Module], objective: Objective) -> Form:
    """The refinement step by torch's own derivatives: what the reverse rules are measured against."""

    def run(feeds: Feeds) -> Outputs:
        import torch

        z, y, target, image = (torch.from_numpy(feeds[name]) for name in INPUTS)
        z = z.clone().requires_grad_()
        made = networks["generator"](z, y)
        embedding = networks["embedder"](made)
        pixels = (made - image).pow(2).mean((1, 2, 3))
        loss = (embedding - target).pow(2).sum(1) + objective.pixel_weight * pixels
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        # in the units of `edgeage.export.refine.graph`
        unit = made[0].numel() / (2 * objective.pixel_weight)
        if objective.preconditioner is not None:
            gradient = gradient @ torch.from_numpy(objective.preconditioner)
        return {"gradient": (gradient * unit).numpy(), "embedding": embedding.detach().numpy()}

    return run


def torch_form(network: torch.nn.Module, outputs: tuple[Port, ...]) -> Form:
    def run(feeds: Feeds) -> Outputs:
        import torch

        with torch.inference_mode():
            made = network(*(torch.from_numpy(value) for value in feeds.values()))
        arrays = made if isinstance(made, tuple) else (made,)
        return {port.name: array.numpy() for port, array in zip(outputs, arrays, strict=True)}

    return run


def one_by_one(model: onnx.ModelProto, outputs: tuple[Port, ...]) -> Form:
    """A graph of batch 1 for any batch."""
    running = session(model)

    def run(feeds: Feeds) -> Outputs:
        batch = len(next(iter(feeds.values())))
        parts = [running.run(None, {k: v[i : i + 1] for k, v in feeds.items()}) for i in range(batch)]
        arrays = (np.concatenate(part) for part in zip(*parts, strict=True))
        return {port.name: array for port, array in zip(outputs, arrays, strict=True)}

    return run


def onnx_form(model: onnx.ModelProto, entry: EngineEntry, what: str) -> Form:
    """A graph in ONNX Runtime without optimisation: node by node as written (see `verify`)."""
    try:
        running = session(model)
    except Exception as error:  # onnxruntime's exceptions share no base class that is exported
        raise EdgeageError(f"onnxruntime cannot load {what}: {str(error).splitlines()[0]}") from None
    for ports, found in ((entry.inputs, running.get_inputs()), (entry.outputs, running.get_outputs())):
        shapes = {port.name: tuple(port.shape) for port in found}
        if shapes != (wanted := {port.name: port.shape for port in ports}):
            raise EdgeageError(f"{what} has the ports {shapes}, its manifest says {wanted}; export again")
    names = [port.name for port in entry.outputs]

    def run(feeds: Feeds) -> Outputs:
        return dict(zip(names, running.run(names, dict(feeds)), strict=True))

    return run


def _file_form(entry: EngineEntry, file: EngineFile, content: bytes) -> Form:
    if file.format == "onnx":
        model = _load(content, file.file)
        return onnx_form(rounded(model) if "float16" in file.precision else model, entry, file.file)
    engine = TfliteEngine(entry, file, content, "litert", threads=1)
    return lambda feeds: engine.run(dict(feeds))


def _load(content: bytes, what: str) -> onnx.ModelProto:
    try:
        return onnx.load_from_string(content)
    except Exception as error:  # protobuf's own, which onnx lets through
        raise EdgeageError(f"{what} is not an ONNX file: {error}") from None


def _kind(file: EngineFile) -> tuple[str, str, str]:
    return file.format, file.precision, file.io
