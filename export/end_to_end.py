"""The chain as the runtime runs it, encoder to generator, beside the float chain and what no model gives.

These figures need no judge. How well a face is recognised, and how old it looks, only judges that never
trained can say; the model card says so where they did not run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeage.calibration.observers import session
from edgeage.export import verify
from edgeage.export.bundle import Build
from edgeage.groups import one_hot

Floats = NDArray[np.float32]
LEVELS = 127.5  # of an 8-bit picture, per unit of [-1, 1]


def measure(
    graphs: Mapping[str, onnx.ModelProto],
    builds: Mapping[str, Build],
    images: Floats,
    groups: NDArray[np.int64],
    mean_faces: Floats,
) -> dict[str, float]:
    """Reconstruction and size of the age effect over images [n, 3, S, S] with their age groups [n].

    Args:
        mean_faces: [groups, 3, S, S], the trivial reconstruction: the mean calibration face of each group.

    Returns mean PSNR in dB of G(E(x), own group) against x, by the float networks, by the INT8 files and
    of the mean face; and the mean absolute difference between the oldest and the youngest group's image in
    8-bit levels (returning the input would give 0).
    """
    conditions = one_hot(range(len(mean_faces)), len(mean_faces))
    float_encoder, float_generator = session(graphs["encoder"]), session(graphs["generator_all"])
    encoder = _Int8Chain(builds["encoder"])
    generator = _Int8Chain(builds["generator_all"])
    figures: dict[str, list[float]] = {}
    for image, group in zip(images, groups, strict=True):
        repeated = np.repeat(float_encoder.run(None, {"image": image[None]})[0], len(conditions), axis=0)
        made = {"float": float_generator.run(None, {"z": repeated, "y": conditions})[0]}
        latent = encoder.run({"image": image[None]})
        made["int8"] = generator.run({"z": np.repeat(latent, len(conditions), axis=0), "y": conditions})
        for kind, faces in made.items():
            figures.setdefault(f"psnr_{kind}_db", []).append(_psnr(faces[group], image))
            reach = float(np.abs(faces[-1] - faces[0]).mean()) * LEVELS
            figures.setdefault(f"aging_{kind}_levels", []).append(reach)
        figures.setdefault("psnr_mean_face_db", []).append(_psnr(mean_faces[group], image))
    return {"count": float(len(images)), **{name: float(np.mean(taken)) for name, taken in figures.items()}}


class _Int8Chain:
    """An INT8 file with the host's part: quantise what goes in, dequantise what comes out."""

    def __init__(self, build: Build) -> None:
        self._quantization = build.quantization
        self._file = verify.TfliteFile(build.files["int8.tflite"], build.spec.signature)
        (self._output,) = build.quantization.view.outputs

    def run(self, feeds: Mapping[str, Floats]) -> Floats:
        codes = {
            name: verify.to_codes(value, self._quantization.scale(name)) for name, value in feeds.items()
        }
        values: Floats = self._file.run(codes)[self._output].astype(np.float32)
        return values * self._quantization.scale(self._output)


def _psnr(image: Floats, other: Floats) -> float:
    """dB, peak 2."""
    return float(10 * np.log10(4 / max(float(np.square(image - other).mean()), 1e-12)))
