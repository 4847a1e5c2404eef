"""From a checkpoint to calibrated networks: read `calibrate_checkpoint` top to bottom."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgeage.calibration import samples
from edgeage.calibration.choose import AUTO, Calibrated, calibrate_network
from edgeage.calibration.mixed_plan import plan_floats
from edgeage.calibration.observers import Feeds, session
from edgeage.calibration.ranges import RangeTable
from edgeage.errors import EdgeageError
from edgeage.export.engines import EngineSpec, engine_specs
from edgeage.export.onnx_graph import compare, export_onnx, probe, with_batch
from edgeage.export.phase import decompose
from edgeage.export.progress import Clock, Steps
from edgeage.export.qdq import to_qdq
from edgeage.export.refine.calibrate import (
    RefineCalibration,
    RefinementSettings,
    calibrate_refinement,
    starting_points,
)
from edgeage.export.refine.rules import NoReverseRule
from edgeage.groups import one_hot
from edgeage.train.checkpoint import Checkpoint

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]
NETWORKS = ("encoder", "embedder", "generator")
LARGEST = 600  # images to calibrate with when their number is left to the stability test
SELECTION = 60  # images on which the calibrators are compared
CHECK = 120  # images that check the finished engines, at most
# Of the generator's calibration inputs, one in so many has its latent from the prior N(0, I): refinement
# and latent edits leave the places where the encoder puts faces.
_PRIOR_EVERY = 4
REFINED, REFINED_SELECTION = 20, 6  # faces that calibrate the refinement step, and that compare calibrators


@dataclass(frozen=True)
class Options:
    """How to calibrate.

    Attributes:
        count: of calibration images; None: as many as the stability test asks for, at most `LARGEST`.
        calibrator: see `edgeage.calibration.choose.calibrate_network`.
        target_db: output SQNR that a network must reach, by leaving layers in float32 if it must; None: any.
        seed: of the pick of the images and of the prior's latents.
        refinement: what the refine engine minimises, and its defaults; None: make no refine engine.
        half: also write the float16 graphs, for TensorRT.
    """

    count: int | None = None
    calibrator: str = AUTO
    target_db: float | None = None
    seed: int = 0
    refinement: RefinementSettings | None = field(default_factory=RefinementSettings)
    half: bool = True


@dataclass(frozen=True)
class Calibration:
    """The calibrated networks of a checkpoint.

    Attributes:
        specs: of the engines to build.
        graphs: float ONNX by engine.
        exported: by network, as torch's exporter wrote it, for the parity chain.
        networks: by network.
        tables: range table by network.
        selection: inputs that the calibrators were compared on, by network.
        fingerprint: of all calibration images, see `edgeage.calibration.samples.content_fingerprint`.
        used: float32 [n, 3, S, S], calibration images, with their groups int64 [n].
        check: float32 [m, 3, S, S], images that only check the engines, with their groups.
        refinement: of the refinement step, or why there is none.
    """

    specs: dict[str, EngineSpec]
    graphs: dict[str, onnx.ModelProto]
    exported: dict[str, onnx.ModelProto]
    networks: dict[str, Calibrated]
    tables: dict[str, RangeTable]
    selection: dict[str, Sequence[Feeds]]
    fingerprint: str
    used: tuple[Floats, NDArray[np.int64]]
    check: tuple[Floats, NDArray[np.int64]]
    refinement: RefineCalibration | str


def calibrate_checkpoint(
    checkpoint: Checkpoint,
    images: Images,
    groups: NDArray[np.int64],
    *,
    fingerprint: str,
    options: Options,
    held_out: tuple[Images, NDArray[np.int64]] | None,
    steps: Steps,
    clock: Clock,
) -> Calibration:
    """Float graphs and range tables of encoder, embedder and generator.

    Args: see `edgeage.export.pipeline.export_bundle`.

    Raises EdgeageError on bad input or if a network has no INT8 form.
    """
    profile = checkpoint.profile
    _check_images(images, profile.image_size)
    specs = engine_specs(profile)
    chosen = samples.pick(
        groups,
        count=options.count or LARGEST,
        validation=SELECTION if held_out else SELECTION + CHECK,
        seed=options.seed,
        data_fingerprint=fingerprint,
        names=profile.groups,
    )
    (selected, selected_groups), check = _parts(images, groups, chosen, held_out, options.seed)
    order = samples.interleaved(groups[chosen.calibration], options.seed)
    pixels, their_groups = images[chosen.calibration][order], groups[chosen.calibration][order]

    graphs: dict[str, onnx.ModelProto] = {}
    exported: dict[str, onnx.ModelProto] = {}
    networks = {name: specs[name] for name in NETWORKS}
    for spec in steps.track(networks.values(), len(networks), "float ONNX"):
        graphs[spec.name], exported[spec.name] = _float_graph(checkpoint, spec)
    clock.lap("float ONNX")

    encode, prior = session(graphs["encoder"]), np.random.default_rng(options.seed)
    latents = _encode(encode, pixels)
    drawn = prior.standard_normal(latents[::_PRIOR_EVERY].shape).astype(np.float32)
    mixed = np.insert(latents, np.arange(0, len(latents), _PRIOR_EVERY), drawn, axis=0)
    count = len(profile.groups)
    conditions = prior.integers(count, size=len(mixed))  # any face at any age
    of_selected = _encode(encode, selected)
    work: dict[str, tuple[Sequence[Feeds], Sequence[Feeds]]] = {
        "encoder": (ImageFeeds(pixels), ImageFeeds(selected)),
        "embedder": (ImageFeeds(pixels), ImageFeeds(selected)),
        "generator": (
            latent_feeds(mixed, conditions, count),
            latent_feeds(of_selected, np.arange(len(selected)) % count, count),
        ),
    }
    calibrated: dict[str, Calibrated] = {}
    tables: dict[str, RangeTable] = {}
    for network, (feeds, selection) in work.items():
        found = calibrate_network(
            graphs[network],
            feeds,
            selection,
            to_qdq,
            calibrator=options.calibrator,
            stop_when_stable=options.count is None,
            track=lambda items, total, what, network=network: steps.track(
                items, total, f"calibrate {network}, {what}"
            ),
        )
        floats = plan_floats(found, selection, to_qdq, options.target_db, network)
        calibrated[network] = found
        graphs[network] = found.graph
        tables[network] = RangeTable(
            network=hashlib.sha256(graphs[network].SerializeToString()).hexdigest(),
            calibration=samples.content_fingerprint(pixels[: found.samples]),
            count=found.samples,
            tensors=found.tensors,
            corrections=found.corrections,
            floats=sorted(floats),
        )
        clock.lap(f"calibrate {network}")
    graphs["generator_all"] = _batched(graphs["generator"], specs["generator_all"])
    refinement: RefineCalibration | str = "not asked for"
    if options.refinement is not None:
        some = np.linspace(0, len(selected) - 1, min(REFINED_SELECTION, len(selected))).astype(int)
        try:
            found_step = calibrate_refinement(
                graphs["generator"],
                graphs["embedder"],
                tables,
                refinement_starts(graphs, network_images(pixels[:REFINED]), their_groups[:REFINED], count),
                refinement_starts(graphs, network_images(selected[some]), selected_groups[some], count),
                to_qdq,
                options.refinement,
                fingerprint=samples.content_fingerprint(pixels[:REFINED]),
                track=lambda items, total: steps.track(items, total, "calibrate refine"),
            )
            graphs["refine"], tables["refine"] = found_step.graph, found_step.table
            graphs["refine_batch"] = _batched(found_step.graph, specs["refine_batch"])
            refinement = found_step
        except NoReverseRule as reason:
            refinement = str(reason)
    if isinstance(refinement, str):
        specs = {name: spec for name, spec in specs.items() if spec.network != "refine"}
    clock.lap("calibrate refine")
    return Calibration(
        specs=specs,
        graphs=graphs,
        exported=exported,
        networks=calibrated,
        tables=tables,
        selection={network: selection for network, (_, selection) in work.items()},
        fingerprint=samples.content_fingerprint(pixels),
        used=(network_images(pixels), their_groups),
        check=check,
        refinement=refinement,
    )


def refinement_starts(
    graphs: Mapping[str, onnx.ModelProto], images: Floats, groups: NDArray[np.int64], count: int
) -> list[Feeds]:
    """Where refinement of each image [n, 3, S, S] of a known age group begins."""
    encode, embed = session(graphs["encoder"]), session(graphs["embedder"])
    latents = [encode.run(None, {"image": image[None]})[0] for image in images]
    targets = [embed.run(None, {"image": image[None]})[0] for image in images]
    return starting_points(latents, one_hot(groups, count), targets, images)


def network_images(images: Images) -> Floats:
    """uint8 RGB [n, S, S, 3] -> float32 [n, 3, S, S] in [-1, 1]."""
    return np.ascontiguousarray((images.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2))


class ImageFeeds(Sequence[Feeds]):
    """Images [n, S, S, 3] as network inputs, made one by one when they are asked for."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Feeds: ...
    @overload
    def __getitem__(self, index: slice) -> ImageFeeds: ...
    def __getitem__(self, index: int | slice) -> Feeds | ImageFeeds:
        if isinstance(index, slice):
            return ImageFeeds(self._images[index])
        return {"image": network_images(self._images[index][None])}


def latent_feeds(latents: Floats, groups: NDArray[np.int64], count: int) -> list[Feeds]:
    """Generator inputs of batch 1: each latent of [n, latent] with the age group of its index, of `count`."""
    return [{"z": z[None], "y": one_hot([int(g)], count)} for z, g in zip(latents, groups, strict=True)]


def _parts(
    images: Images,
    groups: NDArray[np.int64],
    chosen: samples.Samples,
    held_out: tuple[Images, NDArray[np.int64]] | None,
    seed: int,
) -> tuple[tuple[Images, NDArray[np.int64]], tuple[Floats, NDArray[np.int64]]]:
    """The images that select and those that check, with their groups; they share none."""
    if held_out:
        rows = samples.balanced(held_out[1], CHECK, seed)
        selection, check = chosen.validation, rows
        return (images[selection], groups[selection]), (
            network_images(held_out[0][check]),
            held_out[1][check],
        )
    rest = chosen.validation[samples.interleaved(groups[chosen.validation], seed)]
    selection, check = np.split(rest, [max(len(rest) // 3, 1)])
    return (images[selection], groups[selection]), (network_images(images[check]), groups[check])


def _float_graph(checkpoint: Checkpoint, spec: EngineSpec) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Torch network -> canonical ONNX -> phase form, each compared with the one before; and as exported."""
    inputs = {port.name: port.shape for port in spec.inputs}
    kept: list[onnx.ModelProto] = []
    graph = export_onnx(checkpoint.networks[spec.network], inputs, spec.outputs[0].name, kept.append)
    phased, found = decompose(graph)
    if found == 0:
        return graph, kept[0]
    feeds = probe(inputs)
    compare(phased, feeds, session(graph).run(None, dict(feeds))[0], "the phase decomposition")
    return phased, kept[0]


def _batched(graph: onnx.ModelProto, spec: EngineSpec) -> onnx.ModelProto:
    """The same network for the batch of `spec`, compared item by item with the batch-1 form."""
    batched = with_batch(graph, spec.batch)
    feeds = probe({port.name: port.shape for port in spec.inputs})
    single = session(graph)
    items = [single.run(None, {k: v[i : i + 1] for k, v in feeds.items()})[0] for i in range(spec.batch)]
    compare(batched, feeds, np.concatenate(items), "batching")
    return batched


def _encode(encoder: onnxruntime.InferenceSession, images: Images) -> Floats:
    """z [n, latent] of each image by the float encoder, batch 1."""
    return np.concatenate([encoder.run(None, dict(feed))[0] for feed in ImageFeeds(images)])


def _check_images(images: Images, size: int) -> None:
    if images.ndim != 4 or images.shape[1:] != (size, size, 3) or images.dtype != np.uint8:
        raise EdgeageError(
            f"calibration images are {images.dtype} {list(images.shape)}, "
            f"the profile needs uint8 [n, {size}, {size}, 3]"
        )
