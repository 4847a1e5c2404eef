"""Faces found and how exactly they are placed, on photos with known faces.

LFW photos (250 pixels, one person in the middle): the share in which a face is found, and in which the
largest is the one in the middle. UTKFace crops with dlib's landmarks: the mean distance between the
detector's eyes and the middle of dlib's eye corners, in eye distances, on the half of the crops that the
detector's correction was not fitted to. dlib takes nostrils or a mouth for eyes in about 1 crop of 150;
UTKFace's crops are aligned, so these are known by dlib's eyes alone, more than 0.3 eye distances from their
median place. Both means are given. The nose is no measure: the detector gives its tip and dlib its base.

The baseline is the detector's first look alone: the whole photo once, as an app that feeds its camera picture
to BlazeFace does.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tarfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from edgeage.runtime.photo.blazeface import INPUT, Rows
from edgeage.runtime.photo.detect import Detector, Face

GOALS = {"found": 0.99, "error": 0.04}
IMPLAUSIBLE = 0.3  # eye distances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lfw", type=Path, required=True, help="a .tar of LFW photos")
    parser.add_argument("--utkface", type=Path, required=True, help="a .tar of UTKFace crops of 128 pixels")
    parser.add_argument("--landmarks", type=Path, required=True, help="CSV: file, x0, y0 ... x4, y4")
    parser.add_argument("--engine", default="litert")
    parser.add_argument("--crops", type=int, default=2000, help="UTKFace crops, evenly spread")
    parser.add_argument("--photos", type=int, help="LFW photos, evenly spread; all unless given")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    detector = Detector(options.engine)
    report = {
        "lfw": search(detector, options.lfw, options.photos),
        "utkface": landmarks(detector, options.utkface, options.landmarks, options.crops),
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    lfw, crops = report["lfw"], report["utkface"]
    print(
        f"LFW      {lfw['photos']} photos: a face in {lfw['found']:.4f} (goal {GOALS['found']}), the one in "
        f"the middle in {lfw['middle']:.4f}; one look {lfw['one_look']:.4f}; median {lfw['median_ms']:.1f} ms"
    )
    print(
        f"UTKFace  {crops['crops']} crops: found {crops['found']:.4f}; error in eye distances (goal "
        f"{GOALS['error']}): {crops['error']:.4f}, 90 % below {crops['p90']:.4f}; with the "
        f"{crops['implausible']} where dlib's own eyes are off: {crops['error_with_implausible']:.4f}; "
        f"one look: found {crops['one_look_found']:.4f}, error {crops['one_look_error']:.4f}"
    )


def search(detector: Detector, tar: Path, count: int | None) -> dict[str, float]:
    found, middle, one_look, taken = [], [], [], []
    for _, pixels in pictures(tar, count):
        start = time.perf_counter()
        faces = detector.find(pixels)
        taken.append((time.perf_counter() - start) * 1e3)
        found.append(bool(faces))
        middle.append(bool(faces) and covers_middle(faces[0], pixels.shape))
        one_look.append(len(look_once(detector, pixels)) > 0)
    return {
        "photos": len(found),
        "found": float(np.mean(found)),
        "middle": float(np.mean(middle)),
        "one_look": float(np.mean(one_look)),
        "median_ms": float(np.median(taken)),
    }


def landmarks(detector: Detector, tar: Path, table: Path, count: int) -> dict[str, float]:
    with table.open(newline="") as stream:
        points = {
            row["file"]: np.array([float(row[f"{axis}{i}"]) for i in range(5) for axis in "xy"]).reshape(5, 2)
            for row in csv.DictReader(stream)
            if row["x0"] and zlib.crc32(row["file"].encode()) % 2  # it was fitted to the even ones
        }
    eyes, references, one_look, found = [], [], [], []
    for name, pixels in pictures(tar, count, points):
        dlib = np.stack([points[name][2:4].mean(axis=0), points[name][:2].mean(axis=0)])
        distance = np.hypot(*(dlib[1] - dlib[0]))
        rows = look_once(detector, pixels)
        one_look.append(error(rows[0, 5:9].reshape(2, 2), dlib, distance) if len(rows) else np.nan)
        faces = detector.find(pixels)
        found.append(bool(faces))
        if faces:
            eyes.append(error(faces[0].keypoints[:2], dlib, distance))
            references.append(dlib)
    off = np.hypot(*(np.array(references) - np.median(references, axis=0)).T).max(axis=0)
    level = np.hypot(*np.diff(np.median(references, axis=0), axis=0)[0])
    plausible = off < IMPLAUSIBLE * level
    return {
        "crops": len(found),
        "found": float(np.mean(found)),
        "error": float(np.mean(np.array(eyes)[plausible])),
        "p90": float(np.quantile(np.array(eyes)[plausible], 0.9)),
        "implausible": int((~plausible).sum()),
        "error_with_implausible": float(np.mean(eyes)),
        "one_look_found": float(np.mean(np.isfinite(one_look))),
        "one_look_error": float(np.nanmean(np.array(one_look)[found][plausible])),
    }


def error(eyes: np.ndarray, dlib: np.ndarray, distance: float) -> float:
    return float(np.hypot(*(eyes - dlib).T).mean() / distance)


def look_once(detector: Detector, pixels: np.ndarray) -> Rows:
    """What the network says of the whole picture, shrunk into its input."""
    zoom = max(pixels.shape[:2]) / INPUT
    size = max(round(pixels.shape[1] / zoom), 1), max(round(pixels.shape[0] / zoom), 1)
    picture = np.zeros((INPUT, INPUT, 3), np.uint8)
    picture[: size[1], : size[0]] = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    rows = detector.blazeface.look(picture)
    rows[:, 1:] *= zoom
    return rows


def pictures(
    tar: Path, count: int | None, wanted: dict[str, np.ndarray] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pixels of `count` pictures, evenly spread over the archive; of those in `wanted` if given."""
    with tarfile.open(tar) as archive:
        names = sorted(member.name for member in archive if member.name.endswith(".jpg"))
        if wanted is not None:
            names = [name for name in names if Path(name).name in wanted]
        chosen = np.unique(np.linspace(0, len(names) - 1, count or len(names)).astype(int))
        for index in chosen:
            content = archive.extractfile(names[index])
            assert content is not None
            with Image.open(io.BytesIO(content.read())) as image:
                yield Path(names[index]).name, np.asarray(image.convert("RGB"))


def covers_middle(face: Face, shape: tuple[int, ...]) -> bool:
    left, top, right, bottom = face.box
    return left < shape[1] / 2 < right and top < shape[0] / 2 < bottom


if __name__ == "__main__":
    main()
