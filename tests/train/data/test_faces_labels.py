"""Image and label never drift apart: each test image carries its own age in its pixels."""

from __future__ import annotations

import contextlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeage.errors import EdgeageError
from edgeage.groups import group_of
from edgeage.train.data import Faces, open_source

SIZE = 64


def coloured(age: int, number: int = 0, size: int = 128) -> Image.Image:
    """A flat picture whose green is twice the age and whose red tells it from others of that age."""
    pixels = np.empty((size, size, 3), np.uint8)
    pixels[:] = (number, 2 * age, 7)
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def name_of(age: int, number: int) -> str:
    return f"{age}_{number % 2}_{number % 5}_2017{number:013d}.jpg.chip.jpg"


def assert_labels_match(faces: Faces) -> None:
    assert (faces.images == faces.images[:, :1, :1]).all()
    assert (faces.images[:, 0, 0, 1] == 2 * faces.ages).all()
    assert (faces.images[:, 0, 0, 2] == 7).all()
    assert (faces.groups == group_of(faces.ages)).all()
    named = [int(name.rsplit("/", 1)[-1].split("_")[0]) for name in faces.ids]
    assert named == faces.ages.tolist()


# planted name -> (bytes, reason)
PLANTED = {
    "30_0_0_20170101000000001.jpg": (b"not an image at all", "unreadable"),
    "31_0_0_20170101000000001.jpg": (b"", "unreadable"),
    "32_0_0_20170101000000001.jpg": (png(coloured(32))[:60], "unreadable"),
    "33_0_0_20170101000000001.jpg": (png(coloured(33, size=1)), "smaller than 64 px"),
    "34_0_0_20170101000000001.jpg": (png(coloured(34).resize((128, 90))), "not a square face crop"),
    "35_0_20170101000000001": (png(coloured(35)), "not an image file"),
    "thirty_0_0_20170101000000001.jpg": (png(coloured(36)), "malformed name"),
    "_0_0_20170101000000001.jpg": (png(coloured(37)), "malformed name"),
    "38.jpg": (png(coloured(38)), "malformed name"),
    "121_0_0_20170101000000001.jpg": (png(coloured(39)), "malformed name"),
    "1_0_20170101000000001.jpg": (png(coloured(1)), "malformed name"),
    "Thumbs.db": (b"\0", "not an image file"),
    "40_0_0_20170101000000001.jpg": (png(Image.new("I;16", (128, 128))), "unsupported pixel format I;16"),
}


def good_files() -> dict[str, bytes]:
    return {name_of(age, age): png(coloured(age, age)) for age in range(0, 117, 2)}


def all_files() -> dict[str, bytes]:
    """Good and planted files between each other."""
    both = {**good_files(), **{name: data for name, (data, _) in PLANTED.items()}}
    return dict(sorted(both.items(), key=lambda item: item[0][::-1]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "UTKFace"
    for index, (name, data) in enumerate(all_files().items()):
        path = root / f"part{index % 3}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"UTKFace/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def expected_drops() -> dict[str, int]:
    reasons = [reason for _, reason in PLANTED.values()]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def test_a_folder_with_broken_files_keeps_every_label_at_its_image(folder: Path):
    faces = open_source(f"utkface:{folder}")
    assert_labels_match(faces)
    assert len(faces) == len(good_files())
    assert faces.drops == expected_drops()
    assert faces.identities is None


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_gives_the_same_faces_as_the_folder(folder: Path, tmp_path: Path, mode: str):
    tar = write_tar(tmp_path / "faces.tar", all_files(), mode)
    from_tar, from_folder = open_source(f"utkface:{tar}"), open_source(f"utkface:{folder}")
    assert_labels_match(from_tar)
    assert from_tar.fingerprint == from_folder.fingerprint
    assert from_tar.drops == from_folder.drops


@pytest.mark.parametrize("share", [0.3, 0.5, 0.51, 0.52, 0.8])
def test_a_tar_cut_short_is_refused_or_keeps_labels_right(tmp_path: Path, share: float):
    tar = write_tar(tmp_path / "faces.tar", good_files())
    data = tar.read_bytes()
    tar.write_bytes(data[: int(len(data) * share)])
    with contextlib.suppress(EdgeageError):
        assert_labels_match(open_source(f"utkface:{tar}"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_cut_within_an_image_is_refused(tmp_path: Path, mode: str):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    files = {name_of(20, 1): png(coloured(20)), name_of(30, 2): png(Image.fromarray(noise))}
    tar = write_tar(tmp_path / "faces.tar", files, mode)
    tar.write_bytes(tar.read_bytes()[:20_000])
    with pytest.raises(EdgeageError, match="not a readable tar"):
        open_source(f"utkface:{tar}")


def test_a_limit_is_spread_over_the_ages_and_does_not_depend_on_order(folder: Path):
    few = open_source(f"utkface:{folder}", limit=20)
    assert_labels_match(few)
    assert len(few) + sum(few.drops.values()) >= 20
    # sorted by name the first twenty would be ages 0 to 24 and 100 to 116
    assert few.ages.std() > 15
    assert open_source(f"utkface:{folder}", limit=20).fingerprint == few.fingerprint


def test_areas_are_averaged(tmp_path: Path):
    """A one-pixel checkerboard becomes even grey, at whole and at fractional factors."""
    for side in (128, 200):
        board = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
        path = tmp_path / str(side) / "25_0_0_20170101000000001.png"
        path.parent.mkdir()
        Image.fromarray(board).convert("RGB").save(path)
        images = open_source(f"utkface:{path.parent}").images
        assert abs(int(images.max()) - 128) < 24
        assert abs(int(images.min()) - 128) < 24
        assert abs(images.mean() - 127.5) < 1


def test_the_same_pixels_are_kept_once_and_not_at_all_under_two_ages(tmp_path: Path):
    for name, age in (
        (name_of(40, 1), 40),
        (name_of(40, 2), 40),
        (name_of(50, 3), 50),
        (name_of(51, 4), 50),
        (name_of(60, 5), 60),
    ):
        (tmp_path / name).write_bytes(png(coloured(age)))
    faces = open_source(f"utkface:{tmp_path}")
    assert faces.ages.tolist() == [40, 60]
    assert faces.drops == {"conflicting labels": 2, "duplicate": 1}


def test_transparent_grey_and_rotated_images_are_read_as_shown(tmp_path: Path):
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "20_0_0_20170101000000001.png")
    Image.new("L", (64, 64), 90).save(tmp_path / "21_0_0_20170101000000001.png")
    half = Image.new("RGB", (64, 64), "black")
    half.paste("white", (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half.save(tmp_path / "22_0_0_20170101000000001.png", exif=exif)
    clear, grey, turned = open_source(f"utkface:{tmp_path}").images
    assert (clear == 255).all()
    assert (grey == 90).all()
    assert turned[:32].max() == 0
    assert turned[32:].min() == 255


def test_a_packed_copy_is_used_until_the_source_changes(folder: Path, tmp_path: Path, monkeypatch):
    cache = tmp_path / "cache"
    first = open_source(f"utkface:{folder}", cache_dir=cache)
    assert len(list(cache.iterdir())) == 1

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr("edgeage.train.data.sources.collect", refuse)
        again = open_source(f"utkface:{folder}", cache_dir=cache)
    assert again.fingerprint == first.fingerprint
    assert again.drops == first.drops
    assert_labels_match(again)
    (folder / name_of(77, 5)).write_bytes(png(coloured(77, 5)))
    assert len(open_source(f"utkface:{folder}", cache_dir=cache)) == len(first) + 1
    assert len(list(cache.iterdir())) == 2
    assert open_source(f"utkface:{folder}", 32, cache_dir=cache).image_size == 32


def test_nothing_is_written_without_a_cache_folder(folder: Path, tmp_path: Path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    before = sorted(tmp_path.rglob("*"))
    open_source(f"utkface:{folder}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown source"),
        ("utkface", "unknown source"),
        ("utkfaces:x", "did you mean utkface:"),
        ("utkface:/no/such/place", "no UTKFace folder or tar"),
        ("imdb-wiki:/no/such.mat", "no file"),
        ("csv:/no/such.csv", "no CSV file"),
        ("procedural:0", "no count"),
        ("procedural:ten", "no count"),
        ("procedural:5:x", "no count"),
    ],
)
def test_a_source_that_cannot_be_opened_is_one_line(text: str, says: str):
    with pytest.raises(EdgeageError, match=says) as caught:
        open_source(text)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_a_broken_tar_and_only_broken_images_are_errors(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EdgeageError, match="no usable face in utkface:empty: no images in it"):
        open_source(f"utkface:{tmp_path / 'empty'}")
    (tmp_path / "broken.tar").write_bytes(b"x" * 3000)
    with pytest.raises(EdgeageError, match="not a readable tar"):
        open_source(f"utkface:{tmp_path / 'broken.tar'}")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / name_of(20, 1)).write_bytes(b"no image")
    with pytest.raises(EdgeageError, match="1 unreadable"):
        open_source(f"utkface:{bad}")
    with pytest.raises(EdgeageError, match="leaves nothing"):
        open_source(f"utkface:{bad}", limit=0)


@pytest.mark.needs_faces
def test_the_development_faces(faces_tar: Path):
    faces = open_source(f"utkface:{faces_tar}")
    assert list(faces.group_counts().values()) == [4194, 7047, 4223, 1957, 2010, 2385]
    assert len(faces) == 21_816
    assert faces.drops == {}
    assert [int(name.split("_")[0]) for name in faces.ids] == faces.ages.tolist()
