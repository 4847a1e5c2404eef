"""The parity chain: how far each form of a network is from the one before it, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.calibration.observers import Feeds
from edgeage.errors import EdgeageError
from edgeage.export import verify
from edgeage.export.engines import TRAITS
from edgeage.export.forms import BESIDE, ORDER, Form, Forms
from edgeage.export.onnx_graph import TOLERANCE
from edgeage.groups import one_hot
from edgeage.runtime.manifest import EngineEntry

Floats = NDArray[np.float32]
# What golden.npz stores of the float ONNX and of the INT8 file, as forms of their own.
STORED, STORED_CODES = "stored float", "stored codes"
_FLOAT = frozenset({"torch", "exported", "onnx", STORED})
# Fewer outputs than this have no 99.9th percentile, only a largest.
_MANY = 1000
# Beyond this, float forms differ in the order of their sums, which is the machine's own.
_ROUNDING_DB = 80.0
# Of two float gradients, and of what float16 makes of any output.
_SAME_DIRECTION = 0.999
# Of a gradient in float16: where an activation is 0 to within its rounding, another side of a ReLU is taken.
_HALF_DIRECTION = 0.99
# The int8 file and the float16 Q/DQ graph are right in different ways, each as far from the float network as
# its own roundings: the former has those of element-wise operators, the latter those of float16.
_TWO_ROUNDINGS = 2
# Of an INT8 gradient to the float one; a single one may be off by more than their mean.
_LEAST_GRADIENT = 0.5
# The same link on another processor or version of a tool: how far its SQNR may be from the stated one.
_OTHER_KERNELS_DB = 1.5


@dataclass(frozen=True)
class Difference:
    """One link: the later form's output against the former's, over all feeds.

    Attributes:
        count: number of feeds.
        max_abs: largest difference; `relative`: the same as a share of the former's largest value.
        sqnr_db: energy of the former over that of the difference; 200 if they are equal.
        cosine: mean over the feeds.
        psnr_db: for images in [-1, 1] (peak 2), else None.
        lsb_max, lsb_p999, lsb_mean: in output codes of the INT8 engine; None between float forms, the
            99.9th percentile also where there are too few outputs to have one.
    """

    count: int
    max_abs: float
    relative: float
    sqnr_db: float
    cosine: float
    psnr_db: float | None = None
    lsb_max: float | None = None
    lsb_p999: float | None = None
    lsb_mean: float | None = None

    def to_dict(self) -> dict[str, float]:
        """JSON numbers, six digits."""
        return {name: float(f"{value:.6g}") for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Difference:
        """Raises EdgeageError if a figure lacks or is not known."""
        try:
            return replace(cls(**values), count=int(values["count"]))
        except (TypeError, KeyError, ValueError):
            raise EdgeageError(
                f"the manifest's parity has the figures {', '.join(values) or 'none'}; export again"
            ) from None


# link "former -> later" -> difference; by output port; by engine
Links = dict[str, Difference]
Chain = dict[str, dict[str, Links]]


def links(forms: Iterable[str]) -> list[tuple[str, str]]:
    """(former, later) for the forms that are there: each with the next, and float to INT8 as a whole."""
    names = list(forms)
    chain = [name for name in ORDER if name in names]
    found = list(pairwise(chain))
    if "onnx" in chain and "int8" in chain:
        found.append(("onnx", "int8"))
    # a second file of a kind is compared with the first
    found += [(kind, name) for name in names if (kind := name.partition(" (")[0]) != name and kind in chain]
    more = (*BESIDE, (STORED, "onnx"), (STORED_CODES, "int8"))
    found += [(a, b) for a, b in more if a in names and b in names]
    return found


def chain(
    forms: Mapping[str, Forms], entries: Mapping[str, EngineEntry], feeds: Mapping[str, Sequence[Feeds]]
) -> Chain:
    """Measure every link of every engine over its feeds (contract form: float32 NCHW)."""
    return {name: measure(forms[name], output_scales(entries[name]), feeds[name]) for name in entries}


def measure(forms: Forms, scales: Mapping[str, float], feeds: Iterable[Feeds]) -> dict[str, Links]:
    """The links of one engine by output port.

    Args:
        scales: of the INT8 engine's outputs; differences of ports without one are not told in codes.

    Raises EdgeageError if there is no feed or a form gives NaN or infinity.
    """
    pairs = links(forms)
    meters: dict[tuple[str, str, str], _Meter] = {}
    for feed in feeds:
        made = {name: _run(form, name, feed) for name, form in forms.items()}
        for former, later in pairs:
            for port in made[former]:
                scale = None if later in _FLOAT else scales.get(port)
                meter = meters.setdefault((port, former, later), _Meter(scale))
                meter.add(made[former][port], made[later][port])
    if not meters:
        raise EdgeageError("nothing to measure the engines with: no input was given")
    found: dict[str, Links] = {}
    for (port, former, later), meter in meters.items():
        found.setdefault(port, {})[f"{former} -> {later}"] = meter.difference()
    return found


def output_scales(entry: EngineEntry) -> dict[str, float]:
    """Scale of each output of the engine's INT8 files."""
    return {
        port.name: stored.scale
        for file in entry.files
        for port, stored in zip(entry.outputs, file.outputs, strict=True)
        if stored.scale is not None
    }


def fault(engine: str, link: str, found: Difference, *, exact: bool = False) -> str | None:
    """What is wrong with a link by the gates, None if nothing is.

    `exact`: stored codes must come out again to the bit (same tools, same kernel set).
    """
    former, _, later = link.partition(" -> ")
    traits = TRAITS[engine]
    if former in _FLOAT and later in _FLOAT:
        if traits.is_gradient:
            # where an activation is 0 to within rounding, two float forms may take different sides of a ReLU
            if not found.cosine >= _SAME_DIRECTION:
                return f"has cosine {found.cosine:.5f}, at least {_SAME_DIRECTION} is needed"
            return None
        if not found.relative <= TOLERANCE:
            return f"differs by {found.relative:.1e} of the output's range, allowed is {TOLERANCE:.0e}"
        return None
    if former in _FLOAT:  # what quantisation costs
        least = _LEAST_GRADIENT if traits.is_gradient else verify.MIN_COSINE
        if later == "float16":  # what half precision costs
            least = _HALF_DIRECTION if traits.is_gradient else _SAME_DIRECTION
        if not found.cosine >= least:
            return f"has cosine {found.cosine:.3f}, at least {least} is needed"
        return None
    if traits.codes is None:
        if not found.cosine >= _LEAST_GRADIENT:
            return f"has cosine {found.cosine:.3f}, at least {_LEAST_GRADIENT} is needed"
        return None
    if found.lsb_max is None:
        return None
    usual, largest = (0, 0) if former == STORED_CODES and exact else traits.codes
    if former == "qdq-float16":
        usual, largest = _TWO_ROUNDINGS * usual, _TWO_ROUNDINGS * largest
    if found.lsb_max > largest:
        return f"differs by up to {found.lsb_max:.0f} output codes, allowed are {largest}"
    if found.lsb_p999 is not None and found.lsb_p999 > usual:
        return f"differs by {found.lsb_p999:.0f} output codes at 99.9 %, allowed are {usual}"
    return None


def contradiction(link: str, stated: Difference, found: Difference, *, same_kernels: bool) -> str | None:
    """How a link measured again differs from what the manifest states, None if it does not.

    With other kernels only what quantisation costs can be compared; how two INT8 forms differ is theirs.
    """
    if not same_kernels and link.partition(" -> ")[0] not in _FLOAT:
        return None
    if min(stated.sqnr_db, found.sqnr_db) > _ROUNDING_DB:
        return None
    allowed = 0.01 if same_kernels else _OTHER_KERNELS_DB
    if abs(stated.sqnr_db - found.sqnr_db) > allowed:
        return f"has {found.sqnr_db:.2f} dB, the manifest states {stated.sqnr_db:.2f} dB"
    if same_kernels and stated.lsb_max != found.lsb_max:
        return f"differs by up to {found.lsb_max} codes, the manifest states {stated.lsb_max}"
    return None


def golden_forms(entry: EngineEntry, engine: str, golden: Mapping[str, NDArray[Any]]) -> tuple[Feeds, Forms]:
    """The stored input of an engine, and its stored outputs as forms.

    Raises EdgeageError if golden.npz lacks an array of the engine or holds another shape or type.
    """

    def stored(key: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        array = golden.get(key)
        if array is None:
            raise EdgeageError(f"golden.npz has no {key}; export the bundle again")
        if array.shape != shape or array.dtype != dtype or not np.isfinite(array).all():
            found = f"{array.dtype} {list(array.shape)}"
            raise EdgeageError(
                f"golden.npz holds {key} as {found}, expected finite {dtype} {list(shape)}; export again"
            )
        return array

    feed = {port.name: stored(f"{engine}/in/{port.name}", port.shape, "float32") for port in entry.inputs}
    floats = {port.name: stored(f"{engine}/out/{port.name}", port.shape, "float32") for port in entry.outputs}
    forms: Forms = {STORED: lambda feeds: floats}
    if scales := output_scales(entry):
        values = {
            port.name: stored(f"{engine}.int8/out/{port.name}", port.shape, "int8").astype(np.float32)
            * np.float32(scales[port.name])
            for port in entry.outputs
        }
        forms[STORED_CODES] = lambda feeds: values
    return feed, forms


def face_feeds(
    entries: Mapping[str, EngineEntry], forms: Mapping[str, Forms], faces: Floats
) -> dict[str, list[Feeds]]:
    """Inputs for every engine from faces, float32 [n, 3, S, S] in [-1, 1]: the faces, or their latents (by
    the float encoder) at each age group in turn; in an engine of all groups at once, at every group; for
    refinement also the face and its embedding (by the float embedder).

    Engines with other inputs than these are left out.
    """
    images: list[Feeds] = [{"image": face[None]} for face in faces]
    encoder = forms.get("encoder", {}).get("onnx")
    latents = [] if encoder is None else [np.asarray(encoder(image)["z"]) for image in images]
    found: dict[str, list[Feeds]] = {}
    for name, entry in entries.items():
        ports = {port.name: port.shape for port in entry.inputs}
        if set(ports) == {"image"}:
            found[name] = images
        elif set(ports) == {"z", "y"} and latents:
            batch, count = ports["y"]
            turns = [one_hot([(i + k) % count for k in range(batch)], count) for i in range(count)]
            found[name] = [
                {"z": np.repeat(z, batch, axis=0), "y": turns[i % count]} for i, z in enumerate(latents)
            ]
        elif set(ports) == {"z", "y", "target", "image"} and latents and "onnx" in forms.get("embedder", {}):
            batch, count = ports["y"]
            embed = forms["embedder"]["onnx"]
            found[name] = [
                {
                    "z": np.concatenate([latents[k % len(faces)] for k in rows]),
                    "y": one_hot([k % count for k in rows], count),
                    "target": np.concatenate([embed(images[k % len(faces)])["embedding"] for k in rows]),
                    "image": np.stack([faces[k % len(faces)] for k in rows]),
                }
                for rows in (range(i, i + batch) for i in range(len(faces)))
            ]
    return found


def to_json(measured: Chain) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    return {
        engine: {
            port: {link: difference.to_dict() for link, difference in found.items()}
            for port, found in ports.items()
        }
        for engine, ports in measured.items()
    }


def from_json(values: Mapping[str, Any]) -> Chain:
    """What `to_json` gave; EdgeageError otherwise."""
    try:
        return {
            engine: {
                port: {link: Difference.from_dict(figures) for link, figures in found.items()}
                for port, found in ports.items()
            }
            for engine, ports in values.items()
        }
    except AttributeError:
        raise EdgeageError("the manifest's parity is not one of engines; export the bundle again") from None


class _Meter:
    """Adds up what one link is off by."""

    def __init__(self, scale: float | None) -> None:
        self._scale = None if scale is None else np.float32(scale)
        self._signal = self._noise = self._worst = self._peak = 0.0
        self._cosines: list[float] = []
        self._codes: NDArray[np.int64] = np.zeros(256, np.int64)  # histogram of differences
        self._elements = 0
        self._is_image = False

    def add(self, former: Floats, later: Floats) -> None:
        error = np.abs(former.astype(np.float64) - later)
        self._signal += float(np.square(former, dtype=np.float64).sum())
        self._noise += float(np.square(error).sum())
        self._worst = max(self._worst, float(error.max()))
        self._peak = max(self._peak, float(np.abs(former).max()))
        self._cosines.append(verify.cosine(former, later))
        self._elements += former.size
        self._is_image = former.ndim == 4
        if self._scale is not None:
            codes = [verify.to_codes(values, self._scale).astype(np.int32) for values in (former, later)]
            self._codes += np.bincount(np.abs(codes[0] - codes[1]).ravel(), minlength=256)

    def difference(self) -> Difference:
        found = Difference(
            count=len(self._cosines),
            max_abs=self._worst,
            relative=self._worst / max(self._peak, 1e-6),
            sqnr_db=verify.decibel(self._signal, self._noise),
            cosine=float(np.mean(self._cosines)),
            psnr_db=verify.decibel(4.0 * self._elements, self._noise) if self._is_image else None,
        )
        if self._scale is None:
            return found
        largest = float(np.flatnonzero(self._codes)[-1])
        usual = float(np.searchsorted(np.cumsum(self._codes), 0.999 * self._elements))
        return replace(
            found,
            lsb_max=largest,
            lsb_p999=usual if self._elements >= _MANY else None,
            lsb_mean=float(self._codes @ np.arange(256)) / self._elements,
        )


def _run(form: Form, name: str, feed: Feeds) -> dict[str, Floats]:
    made = {port: np.asarray(values, np.float32) for port, values in form(feed).items()}
    if not all(np.isfinite(values).all() for values in made.values()):
        raise EdgeageError(f"the form {name!r} of a network gives NaN or infinity; export the bundle again")
    return made
