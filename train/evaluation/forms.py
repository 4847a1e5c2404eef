"""The forms in which a model refines latents: its float networks, and the INT8 engines of its bundle.

Each is a set of engines behind one protocol, so that the device's own loop (`edgeage.runtime.refinement`)
runs all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from edgeage.errors import EdgeageError
from edgeage.groups import one_hot
from edgeage.profile import Profile
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines import Engine, Feeds, choose_file, open_engine
from edgeage.runtime.manifest import Manifest, engine_ports
from edgeage.runtime.refinement import Refined, RefinementOptions, refine, unrefined
from edgeage.runtime.refiner import Forward
from edgeage.train.checkpoint import Checkpoint
from edgeage.train.data.listing import Pixels
from edgeage.train.evaluation.outputs import Model, pixels, tensors
from edgeage.train.latent_optimization import Face, RefinementSettings, losses

FLOAT = "float"
DEVICE = "INT8 TFLite"  # what a device does
INT8 = {"INT8 ONNX": "onnxruntime", DEVICE: "litert"}  # form -> the engine that runs it
NETWORKS = ("encoder", "embedder", "generator", "refine")

Floats = NDArray[np.float32]


class TorchEngine:
    """A function of tensors behind the engines' protocol, with the ports of the profile's engine `name`."""

    def __init__(self, name: str, profile: Profile, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self.inputs, self.outputs = engine_ports(profile)[name]
        self.description = f"{name}: float32, torch {torch.__version__}"
        self._function = function

    def run(self, feeds: Feeds) -> Feeds:
        results = self._function(**{name: torch.from_numpy(values) for name, values in feeds.items()})
        named = zip(self.outputs, results, strict=True)
        return {port.name: np.ascontiguousarray(result.numpy()) for port, result in named}


@dataclass(frozen=True)
class Form:
    """One way to run all four networks, batch 1.

    Attributes:
        name: for the report.
        engines: by name, all of `NETWORKS`.
    """

    name: str
    engines: Mapping[str, Engine]

    def encode(self, images: Pixels) -> Floats:
        """uint8 [n, S, S, 3] -> z [n, L]."""
        encoder = self.engines["encoder"]
        return np.concatenate(
            [encoder.run({"image": image})["z"] for image in tensors(images).numpy()[:, None]]
        )

    def embed(self, images: Pixels) -> Floats:
        """uint8 [n, S, S, 3] -> raw embeddings [n, E]."""
        return self.forward().embed(tensors(images).numpy())

    def generate(self, z: Floats, groups: NDArray[np.int64]) -> Pixels:
        """z [n, L] and age groups [n] -> uint8 [n, S, S, 3]."""
        return pixels(torch.from_numpy(self.forward().generate(z, one_hot(groups.tolist()))))

    def forward(self) -> _Forward:
        """Generator and embedder, as `refine` asks for them."""
        return _Forward(self.engines["generator"], self.engines["embedder"])


class _Forward(Forward):
    """Counts the latents that it was asked for."""

    latents = 0

    def generate(self, z: Floats, y: Floats) -> Floats:
        self.latents += len(z)
        return super().generate(z, y)


@dataclass(frozen=True)
class Way:
    """What K steps made of n faces, each refined by itself.

    Attributes:
        latents: float32 [n, L]; milliseconds: [n], of the loop and its checks, 0 at K = 0.
        evaluations: [n], runs of the refine engine; checks: [n], latents looked at without a gradient.
        flags: what became of each face, one of `edgeage.runtime.descent.FLAGS`.
    """

    latents: Floats
    milliseconds: NDArray[np.float64]
    evaluations: NDArray[np.int64]
    checks: NDArray[np.int64]
    flags: tuple[str, ...]


def check_bundle(checkpoint: Checkpoint, bundle: Bundle) -> None:
    """EdgeageError unless the bundle was exported from the checkpoint and can refine."""
    name, made_of = bundle.path.name, str(bundle.manifest.lineage.get("checkpoint"))
    if made_of != checkpoint.sha256:
        raise EdgeageError(
            f"{name} was exported from checkpoint {made_of[:12]}, this is {checkpoint.sha256[:12]}; "
            "give the run and the bundle that belong together"
        )
    if "refine" not in bundle.manifest.engines or "pixel_weight" not in bundle.manifest.refinement:
        raise EdgeageError(
            f"{name} has no refine engine (or does not say its pixel weight); "
            "make the bundle again with: edgeage export"
        )


def loss_of(manifest: Manifest) -> RefinementSettings:
    """What the refine engine of a bundle minimises, and the host's steps."""
    told = manifest.refinement
    options = RefinementOptions.from_manifest(told)
    return RefinementSettings("euclidean", told["pixel_weight"], options.step, options.decay)


def refined(
    form: Form,
    images: Pixels,
    groups: NDArray[np.int64],
    steps: Collection[int],
    options: RefinementOptions,
    *,
    progress: bool = False,
) -> dict[int, Way]:
    """K -> what K steps of `options` make of faces at their own age group, from the form's own E(x).

    Every K is run by itself, as a user would, so that its time is its own.
    """
    z, target, real, y = form.encode(images), form.embed(images), tensors(images).numpy(), one_hot(groups)
    parts: dict[int, list[tuple[Refined, int]]] = {k: [] for k in steps}
    for face in tqdm(range(len(images)), desc=f"refine {form.name}", leave=False, disable=not progress):
        one = slice(face, face + 1)
        for k in steps:
            parts[k].append(_one(form, z[one], y[one], target[one], real[one], replace(options, steps=k)))
    return {
        k: Way(
            latents=np.concatenate([found.z for found, _ in part]),
            milliseconds=np.array([found.milliseconds for found, _ in part]),
            evaluations=np.array([found.evaluations for found, _ in part]),
            checks=np.array([checks for _, checks in part]),
            flags=tuple(found.flags[0] for found, _ in part),
        )
        for k, part in parts.items()
    }


def float_form(
    model: Model,
    profile: Profile,
    settings: RefinementSettings,
    preconditioner: NDArray[np.float32] | None = None,
) -> Form:
    """The checkpoint's networks, and torch's gradient of the loss of `settings`, times the preconditioner."""
    matrix = None if preconditioner is None else torch.from_numpy(preconditioner)

    def step(z: Tensor, y: Tensor, target: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        embeddings: list[Tensor] = []

        def embedder(images: Tensor) -> Tensor:
            embeddings.append(model.embedder(images))
            return embeddings[-1]

        latent = z.clone().requires_grad_()
        loss, _ = losses(model.generator, embedder, latent, Face(image, y, target), settings)
        (gradient,) = torch.autograd.grad(loss.sum(), latent)
        return gradient if matrix is None else gradient @ matrix, embeddings[-1].detach()

    plain: dict[str, Callable[..., Tensor]] = {
        "encoder": lambda image: model.encoder(image),
        "embedder": lambda image: model.embedder(image),
        "generator": lambda z, y: model.generator(z, y),
    }

    def forward(network: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        return torch.no_grad()(lambda **feeds: (network(**feeds),))

    functions = {name: forward(network) for name, network in plain.items()} | {"refine": step}
    return Form(FLOAT, {name: TorchEngine(name, profile, run) for name, run in functions.items()})


def int8_forms(bundle: Bundle, threads: int) -> tuple[list[Form], list[str]]:
    """The INT8 forms that the bundle has all engines for, and a text about each other one.

    Raises EdgeageError if it has none, an engine is not installed, or a file is damaged.
    """
    forms, lacking = [], []
    for name in INT8:
        if absent := _absent(bundle, name):
            lacking.append(absent)
        else:
            forms.append(int8_form(bundle, name, threads))
    if not forms:
        raise EdgeageError(f"no INT8 form can be measured: {'; '.join(lacking)}")
    return forms, lacking


def int8_form(bundle: Bundle, name: str, threads: int) -> Form:
    """One of `INT8`; EdgeageError as `int8_forms`."""
    if absent := _absent(bundle, name):
        raise EdgeageError(absent)
    opened = {network: open_engine(bundle, network, INT8[name], "int8", threads) for network in NETWORKS}
    return Form(name, opened)


def _absent(bundle: Bundle, name: str) -> str:
    """Which engines of a form the bundle lacks, as text; "" if none."""
    entries = bundle.manifest.engines
    absent = [
        network
        for network in NETWORKS
        if network not in entries or choose_file(network, entries[network], INT8[name], "int8") is None
    ]
    return f"{name}: {bundle.path.name} has no such file for the {', '.join(absent)}" if absent else ""


def _one(
    form: Form, z: Floats, y: Floats, target: Floats, image: Floats, options: RefinementOptions
) -> tuple[Refined, int]:
    """One face, and how many latents were checked."""
    if not options.steps:
        return unrefined(z), 0
    check = form.forward()
    return refine(form.engines["refine"], z, y, target, image, options, check=check), check.latents
