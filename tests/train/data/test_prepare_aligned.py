"""Photos of an IMDB-WIKI set are laid into the frame as the runtime lays them."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from edgeage.frames import FRAMES
from edgeage.runtime.photo.align import align, photo_to_crop
from edgeage.runtime.photo.detect import Detector, Face
from edgeage.runtime.photo.resample import invert
from edgeage.train.data.prepare import FRAME, Options, prepare

SAMPLE = Path(__file__).resolve().parents[3] / "docs" / "samples" / "astronaut.jpg"
Row = tuple[Image.Image, tuple[float, float, float, float]]


@pytest.fixture(scope="module")
def astronaut() -> tuple[Image.Image, Face]:
    with Image.open(SAMPLE) as opened:
        photo = opened.convert("RGB")
    return photo, Detector().find(np.asarray(photo))[0]


def runtime_crop(photo: Image.Image, face: Face, size: int = 64) -> np.ndarray:
    return align(np.asarray(photo), invert(photo_to_crop(face, FRAMES[FRAME], size)), size)


def scene(
    photo: Image.Image, face: Face, scale: float, places: list[tuple[int, int]]
) -> tuple[Image.Image, list]:
    """A grey canvas with the sample's head pasted at some places, and where each face box is then."""
    left, top, right, bottom = face.box
    side = right - left
    cut = photo.crop(
        (int(left - side * 0.6), int(top - side * 0.8), int(right + side * 0.6), int(bottom + side * 0.5))
    )
    head = cut.resize((round(cut.width * scale), round(cut.height * scale)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (900, 700), (120, 120, 120))
    boxes = []
    for x, y in places:
        canvas.paste(head, (x, y))
        box = [x + side * 0.6 * scale, y + side * 0.8 * scale]
        boxes.append((*box, box[0] + side * scale, box[1] + (bottom - top) * scale))
    return canvas, boxes


def write_set(folder: Path, rows: list[Row]) -> str:
    folder.mkdir(parents=True, exist_ok=True)

    def cells(values: list[Any]) -> np.ndarray:
        row = np.empty((1, len(values)), dtype=object)
        for index, value in enumerate(values):
            row[0, index] = value
        return row

    count = len(rows)
    for number, (image, _) in enumerate(rows):
        image.save(folder / f"{number}.png")
    fields = {
        "dob": np.full((1, count), date(1970, 3, 1).toordinal() + 366.0),
        "photo_taken": np.array([[1990 + number for number in range(count)]], dtype=np.uint16),
        "full_path": cells([f"{number}.png" for number in range(count)]),
        "gender": np.zeros((1, count)),
        "face_location": cells([np.array([box], dtype=np.float64) for _, box in rows]),
        "face_score": np.full((1, count), 4.0),
        "second_face_score": np.full((1, count), np.nan),
        "celeb_id": np.arange(count, dtype=np.float64)[None],
    }
    savemat(folder / "imdb.mat", {"imdb": fields})
    return f"imdb-wiki:{folder / 'imdb.mat'}"


def test_faces_at_several_places_and_scales_come_out_as_the_runtime_aligns_them(
    astronaut: tuple[Image.Image, Face], tmp_path: Path
):
    photo, face = astronaut
    expected = runtime_crop(photo, face).astype(float)
    rows: list[Row] = [(photo, face.box)]
    for scale, place in ((0.8, (20, 30)), (2.0, (100, 60))):
        canvas, boxes = scene(photo, face, scale, [place])
        rows.append((canvas, boxes[0]))
    faces = prepare(write_set(tmp_path / "imdb", rows), tmp_path / "store", Options())
    assert faces.drops == {}
    assert faces.genders is not None
    assert faces.genders.tolist() == [1] * len(rows)  # 0 is female there
    unaligned = prepare(write_set(tmp_path / "imdb", rows), tmp_path / "unaligned", Options(align="never"))
    differences = [np.abs(image - expected).mean() for image in np.asarray(faces.images).astype(float)]
    off = np.abs(np.asarray(unaligned.images).astype(float) - expected).mean((1, 2, 3))
    # the detector sees other surroundings and so places the face a little differently
    assert max(differences) < 10
    assert (off > 2 * np.array(differences)).all()


def test_the_face_in_the_box_is_taken_and_what_has_none_is_dropped(
    astronaut: tuple[Image.Image, Face], tmp_path: Path
):
    photo, face = astronaut
    two, boxes = scene(photo, face, 1.0, [(20, 100), (500, 250)])
    two.paste((255, 0, 0), (500, 600, 900, 700))
    small, small_boxes = scene(photo, face, 0.35, [(300, 300)])
    empty = Image.new("RGB", (400, 400), (120, 120, 120))
    rows: list[Row] = [
        (two, boxes[0]),
        (two, boxes[1]),
        (small, small_boxes[0]),
        (empty, (100.0, 100.0, 200.0, 200.0)),
        (photo, (10.0, 300.0, 90.0, 380.0)),
        (photo, (10.0, 300.0, 9000.0, 380.0)),
    ]
    faces = prepare(write_set(tmp_path / "imdb", rows), tmp_path / "store", Options())
    assert faces.ids == ["0.png", "1.png"]
    assert set(faces.drops) == {"smaller than 64 px", "no face detected", "face box outside the image"}
    assert sum(faces.drops.values()) == 4


def test_crops_that_are_not_aligned_are_aligned_on_request(
    astronaut: tuple[Image.Image, Face], tmp_path: Path
):
    photo, face = astronaut
    double, _ = scene(photo, face, 1.0, [(20, 100), (500, 250)])
    lines = ["path,age", "a.png,30", "b.png,30"]
    photo.save(tmp_path / "a.png")
    double.save(tmp_path / "b.png")
    (tmp_path / "faces.csv").write_text("\n".join(lines))
    faces = prepare(f"csv:{tmp_path / 'faces.csv'}", tmp_path / "store", Options(align="always"))
    assert (np.asarray(faces.images)[0] == runtime_crop(photo, face)).all()
    assert faces.drops == {"several faces detected": 1}
