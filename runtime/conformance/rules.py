"""How near to the golden codes each kind of kernels has to come, and why.

The tolerances are those of the shipped model's networks; see docs/conformance.md for what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.conformance.record import FACE, PHOTO, Record
from edgeage.runtime.manifest import Manifest


@dataclass(frozen=True)
class Kernels:
    """A kind of kernels.

    Attributes:
        name: what they are.
        reason: why they may or may not differ from those that made the golden codes.
        codes: engine -> largest and mean difference in codes; None: identical codes.
        gradient: least cosine to the golden gradient, of the refinement step.
        faces: largest mean difference in codes of whole faces, after refinement.
        photo: largest and mean difference, in levels of 255, to a photo aged by another machine or kernels.
    """

    name: str
    reason: str
    codes: dict[str, tuple[int, float]] | None = None
    gradient: float = 1.0
    faces: float = 0.0
    photo: tuple[int, float] = (24, 0.1)


SAME = Kernels(
    "XNNPACK of the same LiteRT",
    "XNNPACK's int8 kernels compute the same integers and round them the same way",
)
OTHER_PROCESSOR = Kernels(
    "XNNPACK of the same LiteRT, another architecture",
    "products of two activations round in float on x86 and in integers on arm64, and a middle between two "
    "codes may fall to either side; a refinement step has some, and a gradient carries them on",
    dict.fromkeys(("encoder", "embedder", "generator", "generator_all"), (0, 0.0)),
    gradient=0.98,
    faces=3.0,
)
OTHER_LITERT = Kernels(
    "XNNPACK of another LiteRT",
    "another release may round a value between two codes to the other side, which layers behind it carry on",
    {"encoder": (2, 0.2), "embedder": (10, 0.8), "generator": (12, 0.6), "generator_all": (12, 0.6)},
    gradient=0.8,
    faces=6.0,
)
REFERENCE = Kernels(
    "TFLite's own int8 kernels, no XNNPACK",
    "they round LeakyReLU and requantisation otherwise, which the generator's steep last layers amplify",
    {"encoder": (8, 2.5), "embedder": (10, 1.2), "generator": (24, 4.5), "generator_all": (24, 4.5)},
    gradient=0.5,
    faces=12.0,
)
ONNXRUNTIME = Kernels(
    "ONNX Runtime on Q/DQ",
    "it computes Q/DQ in float or with integer kernels of its own; sums end on the other side of a rounding",
    {"encoder": (2, 0.3), "embedder": (10, 0.8), "generator": (14, 0.8), "generator_all": (14, 0.8)},
    gradient=0.5,
    faces=12.0,
)
# LiteRT.js, by its own version numbers, and the LiteRT whose codes it gave when it was measured.
_BROWSER_TWINS = {"LiteRT.js 2.5.3": "ai-edge-litert 2.3.0"}


def kernels_of(tool: str, machine: str, manifest: Manifest) -> Kernels:
    """What may be asked of a tool, e.g. "ai-edge-litert 2.3.0", on a machine, for a bundle.

    `machine`: see `edgeage.machine.kernel_set`; "" is taken for the architecture that the bundle was made on.
    """
    if tool.startswith("tflite-runtime"):
        return REFERENCE
    if tool.startswith("onnxruntime"):
        return ONNXRUNTIME
    made_with = f"ai-edge-litert {manifest.tools.get('ai-edge-litert')}"
    if _BROWSER_TWINS.get(tool, tool) != made_with:
        return OTHER_LITERT
    made_on = str(manifest.parity.get("kernels", ""))
    here, there = (text.partition(" ")[0] for text in (machine, made_on))
    return SAME if not here or not there or here == there else OTHER_PROCESSOR


@dataclass(frozen=True)
class Row:
    """One output that was compared.

    Attributes:
        variant, engine, port: which.
        differing, count: codes that differ, of so many.
        largest, mean: absolute difference in codes (in levels of 255 for photos).
        cosine: to the golden gradient; None for other outputs.
        rule: what was asked.
        ok: whether it was met.
    """

    variant: str
    engine: str
    port: str
    differing: int
    count: int
    largest: int
    mean: float
    cosine: float | None
    rule: str
    ok: bool

    @property
    def identical(self) -> bool:
        return not self.differing


def compare(
    found: Record, expected: dict[str, NDArray[np.int8]], reference: Record | None, kernels: Kernels
) -> list[Row]:
    """Every output of a record, beside the golden codes by "ENGINE/PORT".

    `reference`: a record whose golden codes are exact; whole faces and photos are compared with it, as
    golden.npz has none. None: they are left out.
    """
    rows = []
    twins = kernels is SAME and reference is not None and found.machine == reference.machine
    for key, codes in found.codes.items():
        variant, engine, port = key.split("/")
        if variant == FACE:
            wanted = None if reference is None else reference.codes[key]
        else:
            wanted = expected[f"{engine}/{port}"]
        if wanted is not None:
            rows.append(_code_row(variant, engine, port, codes, wanted, kernels))
    if reference is not None:
        rows += [
            _photo_row(group, pixels, reference.photos[group], (0, 0.0) if twins else kernels.photo)
            for group, pixels in found.photos.items()
            if group in reference.photos
        ]
    return rows


def _code_row(
    variant: str,
    engine: str,
    port: str,
    codes: NDArray[np.int8],
    wanted: NDArray[np.int8],
    kernels: Kernels,
) -> Row:
    apart = np.abs(codes.astype(int) - wanted)
    largest, mean, cosine = int(apart.max()), float(apart.mean()), None
    if kernels.codes is None:
        rule, ok = "identical", not largest
    elif variant == FACE:
        rule, ok = f"mean <= {kernels.faces:g}", mean <= kernels.faces
    elif engine in kernels.codes:
        most, most_mean = kernels.codes[engine]
        rule = f"<= {most}, mean <= {most_mean:g}" if most else "identical"
        ok = largest <= most and mean <= most_mean
    else:  # a refinement step: one mask that flips changes many codes
        cosine = _least_cosine(codes, wanted)
        rule, ok = f"cosine >= {kernels.gradient:g}", cosine >= kernels.gradient
    return Row(variant, engine, port, int((apart > 0).sum()), apart.size, largest, mean, cosine, rule, ok)


def _photo_row(
    group: str, pixels: NDArray[np.uint8], wanted: NDArray[np.uint8], allowed: tuple[int, float]
) -> Row:
    """Face detection is a float network: on another processor its sums end elsewhere, the crop moves by a
    fraction of a pixel, and codes follow. On the same one every pixel must be equal."""
    most, most_mean = allowed
    rule = f"<= {most} levels, mean <= {most_mean:g}" if most else "equal pixels"
    if pixels.shape != wanted.shape:
        return Row(PHOTO, group, "pixels", wanted.size, wanted.size, 255, 255.0, None, rule, False)
    apart = np.abs(pixels.astype(int) - wanted)
    largest, mean, differing = int(apart.max()), float(apart.mean()), int((apart > 0).sum())
    ok = largest <= most and mean <= most_mean
    return Row(PHOTO, group, "pixels", differing, apart.size, largest, mean, None, rule, ok)


def _least_cosine(codes: NDArray[np.int8], wanted: NDArray[np.int8]) -> float:
    """The least cosine between the rows of two arrays [n, L]; 0 where a row is all zero."""
    a, b = codes.astype(float), wanted.astype(float)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    return float(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0).min())
