"""The parity chain on whole faces: encoder to generator in each form, and what judges say of the faces.

Judges only report. They come from outside (`edgeage.commands.verify` brings them), so that no gate and no
choice of the export can hang on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeage.export.forms import Form, Forms
from edgeage.export.parity import links
from edgeage.export.verify import decibel
from edgeage.groups import one_hot
from edgeage.runtime.photo.levels import to_networks, to_pixels

Pixels = NDArray[np.uint8]


class Judges(Protocol):
    """Who judges, see `edgeage.train.evaluation.judges`."""

    def embeddings(self, images: Pixels, what: str) -> NDArray[np.float32]:
        """uint8 [n, S, S, 3] -> [n, d]."""
        ...

    def ages(self, images: Pixels, what: str) -> NDArray[np.float64]:
        """uint8 [n, S, S, 3] -> [n], years."""
        ...


def make_faces(forms: Mapping[str, Forms], faces: Pixels, groups: int) -> dict[str, Pixels]:
    """What each form makes of faces, uint8 [n, S, S, 3], at every age group: uint8 [n, groups, S, S, 3].

    Forms that have no encoder or no generator of all groups are left out.
    """
    encoders, generators = forms.get("encoder", {}), forms.get("generator_all", {})
    images = to_networks(faces)
    found: dict[str, Pixels] = {}
    for name in [name for name in encoders if name in generators]:
        made = [_age(encoders[name], generators[name], image, groups) for image in images]
        found[name] = np.stack([to_pixels(one) for one in made])
    return found


def _age(encoder: Form, generator: Form, image: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    z = encoder({"image": image[None]})["z"]
    conditions = one_hot(range(groups), groups)
    return np.asarray(generator({"z": np.repeat(z, groups, axis=0), "y": conditions})["image"])


def measure_faces(
    made: Mapping[str, Pixels], faces: Pixels, groups: Sequence[str], judges: Judges | None
) -> dict[str, Any]:
    """Every link between the forms of `made`, and the baseline against the first of each link.

    Returns {"count", "links": {link: figures}}, figures of 8-bit faces at all groups: psnr_db (peak 255),
    level_max, level_mean. With judges also, over all faces and by group under "groups": cosine (of the
    later form's face to the input), cosine_drop (the former's cosine less the later's), age_shift (years,
    later less former, its mean), age_shift_error (its standard error, of several faces), age_shift_abs
    (mean size); "baseline", {link: the same figures if the later form returned its input}; and
    "other_person", mean cosine between different faces of the input, if there are several.
    """
    pairs = links(made)
    found: dict[str, Any] = {
        f"{former} -> {later}": _levels(made[former], made[later]) for former, later in pairs
    }
    result: dict[str, Any] = {"count": len(faces), "links": found}
    if judges is None:
        return result
    judge = _Memory(judges, [faces, *made.values()])
    cosines = {name: judge.cosines(faces, pictures) for name, pictures in made.items()}
    ages = {name: judge.ages(pictures) for name, pictures in made.items()}
    own_ages = np.repeat(judge.ages(faces[:, None]), len(groups), axis=1)
    result["baseline"] = {}
    if len(faces) > 1:
        result["other_person"] = float(judge.cosines(faces, np.roll(faces, 1, axis=0)[:, None]).mean())
    for former, later in pairs:
        drop, shift = cosines[former] - cosines[later], ages[later] - ages[former]
        found[f"{former} -> {later}"] |= _judged(cosines[later], drop, shift, groups)
        unmade = np.ones_like(drop), cosines[former] - 1, own_ages - ages[former]
        result["baseline"][f"{former} -> {later}"] = _judged(*unmade, groups)
    return result


def _levels(former: Pixels, later: Pixels) -> dict[str, float]:
    error = np.abs(former.astype(np.int32) - later)
    return {
        "psnr_db": decibel(255.0**2 * error.size, float(np.square(error).sum())),
        "level_max": float(error.max()),
        "level_mean": float(error.mean()),
    }


def _judged(
    cosines: NDArray[np.float64],
    drop: NDArray[np.float64],
    shift: NDArray[np.float64],
    groups: Sequence[str],
) -> dict[str, Any]:
    """Figures of [n, groups] values, over all of them and by group."""

    def figures(column: slice | int) -> dict[str, float]:
        per_face = (
            shift[:, column].reshape(len(shift), -1).mean(axis=1)
        )  # a face's groups are not independent
        known = len(per_face) > 1
        error = {"age_shift_error": float(per_face.std(ddof=1) / np.sqrt(len(per_face)))} if known else {}
        return {
            "cosine": float(cosines[:, column].mean()),
            "cosine_drop": float(drop[:, column].mean()),
            "age_shift": float(shift[:, column].mean()),
            **error,
            "age_shift_abs": float(np.abs(shift[:, column]).mean()),
        }

    return {**figures(slice(None)), "groups": {name: figures(index) for index, name in enumerate(groups)}}


class _Memory:
    """Judges that look at each picture once: forms that agree to the last bit cost nothing."""

    def __init__(self, judges: Judges, pictures: Sequence[Pixels]) -> None:
        distinct = {face.tobytes(): face for part in pictures for face in part.reshape(-1, *part.shape[-3:])}
        images = np.stack(list(distinct.values()))
        self._rows = {key: row for row, key in enumerate(distinct)}
        embeddings = judges.embeddings(images, "faces of all forms").astype(np.float64)
        self._embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
        self._ages = judges.ages(images, "faces of all forms")

    def cosines(self, faces: Pixels, made: Pixels) -> NDArray[np.float64]:
        """[n, S, S, 3] and [n, groups, S, S, 3] -> cosine of each made face to its input, [n, groups]."""
        found: NDArray[np.float64] = np.einsum("nd,ngd->ng", self._take(faces), self._take(made))
        return found

    def ages(self, made: Pixels) -> NDArray[np.float64]:
        return self._ages[self._find(made)]

    def _take(self, pictures: Pixels) -> NDArray[np.float64]:
        return self._embeddings[self._find(pictures)]

    def _find(self, pictures: Pixels) -> NDArray[np.int64]:
        flat = pictures.reshape(-1, *pictures.shape[-3:])
        return np.array([self._rows[face.tobytes()] for face in flat]).reshape(pictures.shape[:-3])
