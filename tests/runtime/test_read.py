"""Reading: every kind of picture arrives as upright 8-bit sRGB, and what is none is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from edgeage.errors import EdgeageError
from edgeage.runtime.photo import read
from edgeage.runtime.photo.read import read_photo


@pytest.fixture
def colours() -> np.ndarray:
    """A smooth picture without any symmetry, uint8 [24, 32, 3]."""
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([x * 7, y * 9, (x + y) * 4], axis=-1).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_rgb_is_taken_as_it_is_and_the_file_is_left_alone(tmp_path: Path, colours: np.ndarray) -> None:
    path = save(tmp_path / "a.b.png", Image.fromarray(colours))
    before = path.read_bytes(), path.stat().st_mtime_ns
    photo = read_photo(path)
    assert np.array_equal(photo.pixels, colours)
    assert (photo.name, photo.notes) == ("a.b", ())
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, colours: np.ndarray, orientation: int) -> None:
    stored = {
        1: colours,
        2: colours[:, ::-1],
        3: colours[::-1, ::-1],
        4: colours[::-1],
        5: colours.transpose(1, 0, 2),
        6: np.rot90(colours, 1),
        7: colours[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(colours, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "r.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    photo = read_photo(path)
    assert np.array_equal(photo.pixels, colours)
    assert bool(photo.notes) == (orientation > 1)


def test_grey_palette_bilevel(tmp_path: Path, colours: np.ndarray) -> None:
    grey = Image.fromarray(colours).convert("L")
    for mode in ("L", "P", "1", "LA"):
        photo = read_photo(save(tmp_path / f"{mode}.png", grey.convert(mode)))
        assert photo.pixels.shape == (24, 32, 3)
        assert np.array_equal(photo.pixels[..., 0], photo.pixels[..., 2])
        if mode != "1":
            assert np.abs(photo.pixels[..., 0].astype(int) - np.asarray(grey)).max() <= 4


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(tmp_path: Path, colours: np.ndarray, mode: str) -> None:
    image = Image.fromarray(colours).convert(mode)
    alpha = np.full(colours.shape[:2], 255, np.uint8)
    alpha[:, :10], alpha[:, 10:12] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    photo = read_photo(save(tmp_path / "a.png", image))
    opaque = np.asarray(Image.fromarray(colours).convert(mode[:-1]).convert("RGB"))
    assert np.all(photo.pixels[:, :10] == 255)
    assert np.array_equal(photo.pixels[:, 12:], opaque[:, 12:])
    assert "transparency: laid over white" in photo.notes


def test_transparent_palette_and_key_colour(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 0)
    for source in (image, image.convert("RGB")):
        key = 0 if source.mode == "P" else (10, 20, 30)
        photo = read_photo(save(tmp_path / f"{source.mode}.png", source, transparency=key))
        assert photo.pixels[0, 0].tolist() == [255, 255, 255]
        assert photo.pixels[1, 1].tolist() == [200, 100, 50]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    photo = read_photo(save(tmp_path / f"c.{suffix}", image))
    red = photo.pixels[8, 8].astype(int)
    assert red[0] > 200
    assert red[1:].max() < 60
    assert any("CMYK" in note for note in photo.notes)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 32 * 24).reshape(24, 32).astype(np.uint16)
    photo = read_photo(save(tmp_path / f"g.{suffix}", Image.fromarray(values)))
    assert np.abs(photo.pixels[..., 1].astype(float) - values / 257).max() <= 0.51
    assert any("16 bits" in note for note in photo.notes)


def test_16_bit_rgb_png(tmp_path: Path, colours: np.ndarray) -> None:
    """Written by hand: Pillow does not write 16-bit colour."""
    wide = (colours.astype(np.uint16) * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 32, 24, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    (tmp_path / "w.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert np.array_equal(read_photo(tmp_path / "w.png").pixels, colours)


def profile_with_swapped_colours() -> bytes:
    """An sRGB profile whose red and blue primaries changed places: it visibly does something."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", data, 128)[0]
    tags = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    data[red : red + 4], data[blue : blue + 4] = data[blue : blue + 4], data[red : red + 4]
    return bytes(data).replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))


def test_colour_profile_is_converted(tmp_path: Path, colours: np.ndarray) -> None:
    profile = profile_with_swapped_colours()
    photo = read_photo(save(tmp_path / "p.png", Image.fromarray(colours), icc_profile=profile))
    assert np.abs(photo.pixels[..., ::-1].astype(int) - colours).max() <= 4
    assert "colour profile: converted to sRGB" in photo.notes


def test_srgb_and_broken_profiles_leave_the_pixels(tmp_path: Path, colours: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile, notes in (("s", srgb, 0), ("b", b"no profile at all", 1)):
        photo = read_photo(save(tmp_path / f"{name}.png", Image.fromarray(colours), icc_profile=profile))
        assert np.array_equal(photo.pixels, colours)
        assert len(photo.notes) == notes


def test_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = save(tmp_path / "m.gif", frames[0], save_all=True, append_images=frames[1:])
    photo = read_photo(path)
    assert photo.pixels[4, 4].tolist() == [255, 0, 0]
    assert "2 frames: the first is used" in photo.notes


def test_pictures_and_arrays_from_memory(colours: np.ndarray) -> None:
    assert np.array_equal(read_photo(colours).pixels, colours)
    assert np.array_equal(read_photo(Image.fromarray(colours)).pixels, colours)
    assert np.array_equal(read_photo(colours.astype(np.uint16) * 257).pixels, colours)
    assert read_photo(colours[..., 0]).pixels.shape == (24, 32, 3)
    with pytest.raises(EdgeageError, match="uint8 or uint16"):
        read_photo(colours / 255)
    with pytest.raises(EdgeageError, match=r"\[H, W, 3\]"):
        read_photo(colours[..., :2])
    with pytest.raises(EdgeageError, match="empty"):
        read_photo(colours[:0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jpg", b"", "not a picture"),
        ("poem.jpg", b"Roses are red\n" * 99, "not a picture"),
        ("phone.heic", b"\0\0\0\x18ftypheic" + b"\0" * 99, "convert it to JPEG"),
        ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EdgeageError, match=said) as caught:
        read_photo(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_float_picture(tmp_path: Path) -> None:
    with pytest.raises(EdgeageError, match="No such file"):
        read_photo(tmp_path / "gone.jpg")
    with pytest.raises(EdgeageError, match="cannot read the photo"):
        read_photo(tmp_path)
    path = save(tmp_path / "f.tif", Image.fromarray(np.zeros((4, 4), np.float32)))
    with pytest.raises(EdgeageError, match="mode F"):
        read_photo(path)


def test_truncated_jpeg(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jpg").write_bytes(sample.read_bytes()[:20_000])
    with pytest.raises(EdgeageError, match="damaged"):
        read_photo(tmp_path / "t.jpg")


@pytest.mark.parametrize("side", [9_500, 30_000])
def test_huge_pictures_are_refused_before_decoding(tmp_path: Path, side: int) -> None:
    """A one-bit PNG of a few kilobytes; the larger one is beyond Pillow's own bomb limit."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = b"IHDR" + header
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + data + struct.pack(">I", zlib.crc32(data))
    (tmp_path / "bomb.png").write_bytes(start + struct.pack(">I", 1 << 20) + b"IDAT")
    with pytest.raises(EdgeageError, match=r"limit is 80|more than 178 megapixels"):
        read_photo(tmp_path / "bomb.png")


def test_limits(monkeypatch: pytest.MonkeyPatch, sample: Path) -> None:
    with pytest.raises(EdgeageError, match=r"512x512.*--max-megapixels"):
        read_photo(sample, max_megapixels=0.2)
    assert read_photo(sample, max_megapixels=0.27).pixels.shape == (512, 512, 3)
    with pytest.raises(EdgeageError, match="limit"):
        read_photo(np.zeros((40, 40, 3), np.uint8), max_megapixels=0.001)
    for limit in (0, -1, 179, float("nan")):
        with pytest.raises(EdgeageError, match="goes from 0"):
            read_photo(sample, max_megapixels=limit)
    monkeypatch.setattr(read, "_MAX_BYTES", 1000)
    with pytest.raises(EdgeageError, match="MiB"):
        read_photo(sample)


@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]), st.data())
def test_damaged_files_read_or_are_refused(kind: str, data: st.DataObject) -> None:
    """Never any other exception, never a warning."""
    stream = io.BytesIO()
    Image.fromarray(np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)).save(stream, kind)
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    try:
        image = read._open(bytes(content), "it")
        read._check_size(image.size, "it", 80)
        pixels = read._convert(image, "it", "it").pixels
    except EdgeageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
