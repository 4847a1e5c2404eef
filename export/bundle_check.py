"""Everything that `edgeage verify` measures on a bundle, and what is wrong with it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.export import parity
from edgeage.export.engines import TRAITS, engine_specs
from edgeage.export.face_parity import Judges, Pixels, make_faces, measure_faces
from edgeage.export.forms import BESIDE, ORDER, Forms, bundle_forms, checkpoint_forms, possible_forms
from edgeage.export.lineage import check_checkpoint, check_lineage
from edgeage.export.parity import Chain
from edgeage.export.refine.graph import Objective
from edgeage.machine import kernel_set
from edgeage.profile import Profile
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.manifest import EngineEntry, Manifest
from edgeage.runtime.photo.levels import to_networks, to_pixels

if TYPE_CHECKING:
    from edgeage.train.checkpoint import Checkpoint

GOLDEN, FACES = "golden", "faces"
# Codes depend on them, and on the processor's kernels.
_TOOLS = ("onnxruntime", "ai-edge-litert", "numpy")
_BEFORE_EXPORT = ("torch", "exported")

Golden = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Fault:
    """One link that fails: where it was measured, which it is, what is wrong."""

    where: str
    link: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.link} {self.problem}"


@dataclass
class Findings:
    """What was found on a bundle.

    Attributes:
        lineage: links of the hash chain with what is wrong (None: nothing).
        chains: the parity chain measured on "golden" vectors and on "faces".
        same_kernels: whether tools and processor are those of the export, so that codes must be exact.
        not_run: what else could not run -> reason.
        links_not_run: engine -> link -> reason.
        faults: every failed link.
        inputs: faces, uint8 [n, S, S, 3], and `made`: what each form makes of them [n, groups, S, S, 3].
        figures: of whole faces, see `measure_faces`.
    """

    lineage: dict[str, str | None] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    same_kernels: bool = False
    not_run: dict[str, str] = field(default_factory=dict)
    links_not_run: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    inputs: Pixels | None = None
    made: dict[str, Pixels] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": not self.faults,
            "faults": [str(one) for one in self.faults],
            "same_kernels": self.same_kernels,
            "lineage": {link: problem or "ok" for link, problem in self.lineage.items()},
            "chains": {part: parity.to_json(chain) for part, chain in self.chains.items()},
            "whole_faces": self.figures,
            "not_run": self.reasons(),
        }

    def reasons(self) -> dict[str, str]:
        """Everything that did not run; a link that several engines miss for one reason is told once."""
        engines = self.links_not_run
        found: dict[str, str] = {}
        for engine, links in engines.items():
            for link, reason in links.items():
                missing = [other[link] for other in engines.values() if link in other]
                alike = len(missing) > 1 and set(missing) == {reason}
                found[link if alike else f"{link} of {engine}"] = reason
        return {**found, **self.not_run}


def shared_graphs(profile: Profile) -> dict[str, str]:
    """Engine -> engine of batch 1 with the same float graph."""
    return {name: spec.network for name, spec in engine_specs(profile).items()}


def open_forms(bundle: Bundle, checkpoint: Checkpoint | None) -> dict[str, Forms]:
    """All forms of all engines; EdgeageError for another checkpoint or a file that does not load."""
    manifest = bundle.manifest
    weight = manifest.refinement.get("pixel_weight")
    objective = None if weight is None else Objective(weight, bundle.preconditioner())
    before: dict[str, Forms] = {}
    if checkpoint is not None:
        check_checkpoint(manifest, checkpoint.sha256)
        before = checkpoint_forms(checkpoint.networks, engine_specs(manifest.profile), None, objective)
    files = bundle_forms(manifest.engines, shared_graphs(manifest.profile), bundle.read, objective)
    return {name: {**before.get(name, {}), **forms} for name, forms in files.items()}


def check_bundle(
    bundle: Bundle, forms: dict[str, Forms], faces: Pixels | None = None, judges: Judges | None = None
) -> Findings:
    """Check the hash chain, measure every link on the golden vectors and on `faces`, and hold the gates.

    Args:
        faces: aligned faces, uint8 RGB [n, S, S, 3]; without them the golden face stands for them.

    Raises EdgeageError if there is nothing to measure with or golden.npz is broken.
    """
    manifest = bundle.manifest
    found = Findings(lineage=check_lineage(bundle, shared_graphs(manifest.profile)))
    found.faults += [Fault("hashes", link, problem) for link, problem in found.lineage.items() if problem]
    found.same_kernels = _same_kernels(manifest)
    found.links_not_run = {name: _absent_links(name, of_engine) for name, of_engine in forms.items()}

    own = faces
    if "golden.npz" in manifest.files:
        golden = _read_golden(bundle)
        found.chains[GOLDEN] = _golden_chain(manifest.engines, forms, golden)
        if faces is None and "encoder/in/image" in golden:
            faces = to_pixels(golden["encoder/in/image"])
    elif faces is None:
        raise EdgeageError(
            f"{bundle.path} has no golden.npz to measure with; give --images, or export it again"
        )
    else:
        found.not_run[GOLDEN] = "the bundle has no golden.npz"
    if faces is not None:
        found.inputs = faces
        if own is not None:
            feeds = parity.face_feeds(manifest.engines, forms, to_networks(own))
            found.chains[FACES] = parity.chain(forms, {name: manifest.engines[name] for name in feeds}, feeds)
        groups = manifest.profile.groups
        found.made = make_faces(forms, faces, len(groups))
        found.figures = measure_faces(found.made, faces, groups, judges) if found.made else {}
    _gate(found)
    if manifest.parity:
        _compare(found, parity.from_json(manifest.parity.get(GOLDEN, {})))
    else:
        found.not_run["comparison with the manifest"] = "this bundle is older than its field parity"
    return found


def record(
    checkpoint: Checkpoint,
    exported: Mapping[str, onnx.ModelProto],
    entries: Mapping[str, EngineEntry],
    read: Callable[[str], bytes],
    golden: Golden,
    faces: Pixels,
    judges: Judges | None = None,
    objective: Objective | None = None,
) -> dict[str, Any]:
    """The manifest's `parity`: what `edgeage verify` will measure again.

    Args:
        exported: torch's own ONNX by network, see `export_onnx`.
        entries, read: engines of the bundle that is being made and the bytes of its files by path.
        golden: arrays of golden.npz.
        faces: aligned, uint8 [n, S, S, 3]; a few are enough.
        objective: of the refine engines, if there are any.
    """
    specs = engine_specs(checkpoint.profile)
    before = checkpoint_forms(checkpoint.networks, specs, exported, objective)
    networks = {name: spec.network for name, spec in specs.items()}
    files = bundle_forms(entries, networks, read, objective)
    forms = {name: {**before[name], **files[name]} for name in files}
    groups = checkpoint.profile.groups
    made = make_faces(forms, faces, len(groups))
    return {
        "kernels": kernel_set() or "unknown",
        GOLDEN: parity.to_json(_golden_chain(entries, forms, golden)),
        FACES: measure_faces(made, faces, groups, judges),
    }


def _absent_links(engine: str, forms: Forms) -> dict[str, str]:
    """Links of the whole chain that lack a form, with the reason."""
    possible = possible_forms(engine)
    order = pairwise([form for form in ORDER if form in possible])
    found: dict[str, str] = {}
    for former, later in [*order, *(link for link in BESIDE if possible >= set(link))]:
        if absent := [name for name in (former, later) if name not in forms]:
            to_give = absent[0] in _BEFORE_EXPORT
            found[f"{former} -> {later}"] = (
                "give --checkpoint RUN" if to_give else f"the bundle has no {absent[0]} file"
            )
    return found


def _golden_chain(entries: Mapping[str, EngineEntry], forms: Mapping[str, Forms], golden: Golden) -> Chain:
    found: Chain = {}
    for name, entry in entries.items():
        feed, stored = parity.golden_forms(entry, name, golden)
        found[name] = parity.measure({**forms[name], **stored}, parity.output_scales(entry), [feed])
    return found


def _read_golden(bundle: Bundle) -> dict[str, NDArray[Any]]:
    try:
        with np.load(io.BytesIO(bundle.read("golden.npz")), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise EdgeageError(f"{bundle.path}: golden.npz cannot be read ({error}); export it again") from None


def _gate(found: Findings) -> None:
    for part, engine, port, link, difference in _links(found.chains):
        exact = part == GOLDEN and found.same_kernels
        if problem := parity.fault(engine, link, difference, exact=exact):
            found.faults.append(Fault(f"{engine}.{port} on {part}", link, problem))


def _compare(found: Findings, stated: Chain) -> None:
    """The golden vectors' links that the manifest states, against those measured here."""
    for _, engine, port, link, difference in _links({GOLDEN: stated}):
        if TRAITS[engine].is_gradient and not found.same_kernels:
            continue  # which masks flip is the kernels' own
        again = found.chains.get(GOLDEN, {}).get(engine, {}).get(port, {}).get(link)
        if again is None:
            continue  # a form that is not there; `not_run` says so
        if problem := parity.contradiction(link, difference, again, same_kernels=found.same_kernels):
            found.faults.append(Fault(f"{engine}.{port} on {GOLDEN}", link, problem))


def _links(chains: Mapping[str, Chain]) -> Iterable[tuple[str, str, str, str, parity.Difference]]:
    for part, chain in chains.items():
        for engine, ports in chain.items():
            for port, links in ports.items():
                for link, difference in links.items():
                    yield part, engine, port, link, difference


def _same_kernels(manifest: Manifest) -> bool:
    def here(tool: str) -> str | None:
        try:
            return metadata.version(tool)
        except metadata.PackageNotFoundError:
            return None

    kernels = manifest.parity.get("kernels")
    return bool(kernels) and kernels == kernel_set() and all(manifest.tools.get(t) == here(t) for t in _TOOLS)
