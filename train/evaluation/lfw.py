"""Verification on Labeled Faces in the Wild: are the two photos of a pair one person?

Huang et al. 2007, the pairs protocol: a fold's threshold is chosen on the other folds. Photos become faces
the way a user's do: detected, aligned to the profile's frame and scaled to its size by `runtime/photo`.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from edgeage.errors import EdgeageError
from edgeage.frames import FRAMES
from edgeage.profile import Profile
from edgeage.runtime.photo.align import align, photo_to_crop
from edgeage.runtime.photo.detect import Detector
from edgeage.runtime.photo.read import read_photo
from edgeage.runtime.photo.resample import Matrix, invert
from edgeage.train.data.listing import Pixels
from edgeage.train.evaluation import intervals

# uint8 [n, S, S, 3] -> embeddings [n, d] and the similarity of two rows of them
Embed = Callable[[Pixels], NDArray[np.floating]]


@dataclass(frozen=True)
class Pairs:
    """The protocol on aligned faces.

    Attributes:
        images: uint8 [n, S, S, 3], each photo once.
        first, second: int64 [pairs], indices into images; same: bool [pairs]; fold: int64 [pairs].
        missed: photos in which no face was found; they are cut where the others' faces are on average.
    """

    images: Pixels
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    missed: int


def parse_pairs(text: str) -> tuple[list[tuple[str, str]], NDArray[np.bool_], NDArray[np.int64]]:
    """pairs.txt -> (pairs of "NAME/NAME_0001"), whether they are one person, and their folds.

    EdgeageError names the line that is not as the protocol has it.
    """
    lines = text.splitlines()
    try:
        folds, each = (int(field) for field in lines[0].split())
    except (IndexError, ValueError):
        raise EdgeageError("pairs.txt does not begin with the numbers of folds and pairs") from None
    if len(lines) - 1 != 2 * folds * each or min(folds, each) < 1:
        raise EdgeageError(f"pairs.txt announces {folds} x 2 x {each} pairs, but has {len(lines) - 1}")
    pairs, same = [], []
    for number, line in enumerate(lines[1:], 2):
        fields = line.split("\t")
        matched = len(fields) == 3
        if matched:
            fields = [fields[0], fields[1], fields[0], fields[2]]
        numbers = fields[1::2]
        if len(fields) != 4 or not all(text.isascii() and text.isdigit() for text in numbers):
            raise EdgeageError(f"pairs.txt, line {number}: not a pair of photos: {line[:60]!r}")
        a, b = (f"{name}/{name}_{int(index):04}" for name, index in zip(fields[::2], numbers, strict=True))
        pairs.append((a, b))
        same.append(matched)
    return pairs, np.array(same), np.repeat(np.arange(folds), 2 * each)


def read_lfw(path: Path, profile: Profile, *, progress: bool = False) -> Pairs:
    """The folds that a .tar of `lfw/NAME/NAME_0001.jpg` and `lfw/pairs.txt` holds.

    Raises EdgeageError if it is no such archive.
    """
    try:
        with tarfile.open(path) as archive:
            members = {member.name: member for member in archive if member.isfile()}
            listed = members.get("lfw/pairs.txt")
            if listed is None:
                raise EdgeageError(f"{path} holds no lfw/pairs.txt; it is no LFW archive")
            text = archive.extractfile(listed).read().decode("utf-8", "replace")  # type: ignore[union-attr]
            pairs, same, fold = parse_pairs(text)
            names = sorted({name for pair in pairs for name in pair})
            photos = []
            for name in names:
                member = members.get(f"lfw/{name}.jpg")
                if member is None:
                    raise EdgeageError(f"{path} lists {name} in pairs.txt, but holds no photo of it")
                with Image.open(archive.extractfile(member)) as photo:  # type: ignore[arg-type]
                    photos.append(read_photo(photo).pixels)
    except (OSError, tarfile.TarError) as error:
        raise EdgeageError(f"cannot read the LFW archive {path}: {error}") from None
    images, missed = _aligned(photos, profile, progress)
    place = {name: index for index, name in enumerate(names)}
    first, second = np.array([[place[name] for name in pair] for pair in pairs]).T
    return Pairs(images, first, second, same, fold, missed)


def _aligned(photos: list[NDArray[np.uint8]], profile: Profile, progress: bool) -> tuple[Pixels, int]:
    """Faces in the profile's frame: of several in a photo the one nearest its middle, as LFW means it."""
    detector = Detector("onnxruntime")
    size, frame = profile.image_size, FRAMES[profile.frame]
    crops: list[Matrix | None] = []
    for photo in tqdm(photos, desc="LFW: find faces", unit="img", leave=False, disable=not progress):
        middle = np.array(photo.shape[1::-1]) / 2
        faces = detector.find(photo)
        nearest = min(faces, key=lambda face: np.hypot(*(face.keypoints[2] - middle)), default=None)
        crops.append(None if nearest is None else invert(photo_to_crop(nearest, frame, size)))
    found = [crop for crop in crops if crop is not None]
    if not found:
        raise EdgeageError("no face was found in any photo of the LFW archive")
    usual = np.mean(found, axis=0)
    images = [
        align(photo, usual if crop is None else crop, size) for photo, crop in zip(photos, crops, strict=True)
    ]
    return np.stack(images), len(photos) - len(found)


def verification(pairs: Pairs, embeddings: NDArray[np.floating], *, cosine: bool) -> dict[str, Any]:
    """Accuracy (each fold at the threshold of the others) with its interval, and area under the ROC curve.

    `cosine`: compare directions; otherwise Euclidean distance.
    """
    vectors = embeddings.astype(np.float64)
    if cosine:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = -np.linalg.norm(vectors[pairs.first] - vectors[pairs.second], axis=1)
    correct = np.zeros(len(similarity), bool)
    folds = np.unique(pairs.fold)
    for fold in folds:
        here = pairs.fold == fold
        others = ~here if len(folds) > 1 else here
        limit = best_threshold(similarity[others], pairs.same[others])
        correct[here] = (similarity[here] >= limit) == pairs.same[here]
    low, high = intervals.of_share(correct)
    return {
        "accuracy": float(correct.mean()),
        "low": low,
        "high": high,
        "auc": area_under_curve(similarity, pairs.same),
    }


def best_threshold(similarity: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The threshold of most correct answers, "same" at or above it; in the middle between two values."""
    order = np.argsort(similarity)
    values, matched = similarity[order], same[order]
    # moving the cut above a value makes a mismatched pair right and a matched one wrong
    cut = int(np.concatenate([[0], np.cumsum(np.where(matched, -1, 1))]).argmax())
    edges = np.concatenate([[values[0] - 1], (values[:-1] + values[1:]) / 2, [values[-1] + 1]])
    return float(edges[cut])


def area_under_curve(similarity: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Share of (matched, mismatched) pairs in which the matched is more similar; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(similarity)
    matched, mismatched = int(same.sum()), int((~same).sum())
    return float((ranks[same].sum() - matched * (matched + 1) / 2) / (matched * mismatched))
