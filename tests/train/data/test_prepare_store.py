"""Stores: the same data as in memory, whoever prepared them and however often they were interrupted."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from edgeage.cli import cli
from edgeage.commands.prepare import command
from edgeage.errors import EdgeageError
from edgeage.train.batches import Sampler
from edgeage.train.data import Faces, open_source
from edgeage.train.data import prepare as prepare_module
from edgeage.train.data.prepare import Options, prepare
from edgeage.train.data.store import ShardedImages, open_store, verify_store
from edgeage.train.evaluation.metrics import sharpness
from edgeage.train.recipes.schema import Recipe

SIZE = 16
SMALL = Options(image_size=SIZE, shard_size=7)


def write_image(path: Path, number: int, size: int = 32) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty good UTKFace images in all groups, and one or two of everything that can be wrong."""
    where = tmp_path_factory.mktemp("source") / "faces"
    where.mkdir()

    def name(age: int | str, number: int) -> Path:
        return where / f"{age}_{number % 2}_{number % 5}_2017010900000{number:04d}.jpg"

    for number in range(30):
        write_image(name((5, 25, 35, 45, 55, 65)[number % 6], number), number)
    content = name(5, 0).read_bytes()
    name(40, 100).write_bytes(b"")
    name(40, 101).write_bytes(b"no image at all")
    name(40, 102).write_bytes(content[: len(content) // 2])
    write_image(name(40, 103), 103, size=1)
    write_image(name(40, 104), 104, size=SIZE - 1)
    Image.new("1", (9000, 9000)).save(name(40, 105), "PNG")
    name(5, 106).write_bytes(content)  # the same picture and age again
    for number in (107, 108):  # the same picture, two ages
        write_image(name(20 + number % 2, number), 200)
    write_image(name(-3, 109), 109)
    write_image(where / "holiday.jpg", 110)
    (where / "notes.txt").write_text("text")
    return where


DROPS = {
    "conflicting labels": 2,
    "duplicate": 1,
    "malformed name": 2,
    "not an image file": 1,
    f"smaller than {SIZE} px": 2,
    "too large": 1,
    "unreadable": 3,
}


def contents(store: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(store.iterdir())}


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "store"
    prepare(f"utkface:{folder}", path, SMALL)
    return path


def test_a_store_is_the_data_in_memory_with_the_same_fingerprint(folder: Path, store: Path):
    inside = open_source(f"utkface:{folder}", SIZE)
    stored = open_source(f"store:{store}", SIZE)
    assert stored.drops == inside.drops == DROPS
    assert stored.fingerprint == stored.measure() == inside.fingerprint
    assert (stored.ids, stored.source) == (inside.ids, inside.source)
    for name in ("images", "ages", "groups", "genders", "races"):
        assert (np.asarray(getattr(stored, name)) == getattr(inside, name)).all()
    assert stored.identities is None
    assert isinstance(stored.images, ShardedImages)


def test_a_kill_at_any_moment_and_another_run_give_the_same_bytes(
    folder: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The run dies before each single write, and halfway through each array."""

    class Killed(BaseException):
        pass

    kills = 0
    for moment in range(100):
        left = [moment]

        def dying(write: Callable[..., None], left: list[int] = left) -> Callable[..., None]:
            def step(path: Path, value: Any) -> None:
                if not left[0]:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.with_name(f".{path.name}.tmp").write_bytes(b"half")
                    raise Killed
                left[0] -= 1
                write(path, value)

            return step

        out = tmp_path / str(moment)
        with monkeypatch.context() as patch:
            patch.setattr(prepare_module, "write_json", dying(prepare_module.write_json))
            patch.setattr(prepare_module, "_write_array", dying(prepare_module._write_array))
            try:
                prepare(f"utkface:{folder}", out, SMALL)
                break
            except Killed:
                kills += 1
        with pytest.raises(EdgeageError, match=r"is not finished|holds no store"):
            open_store(out)
        prepare(f"utkface:{folder}", out, SMALL)
        assert contents(out) == contents(store)
    assert kills > 10


def test_a_second_run_skips_what_is_finished(folder: Path, store: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "store"
    prepare(f"utkface:{folder}", out, SMALL)
    (out / "index.json").unlink()
    (out / "shard-00002.json").unlink()
    seen: list[int] = []
    monkeypatch.setattr(
        prepare_module, "_write_shard", spy(prepare_module._write_shard, lambda *a: seen.append(len(a[2])))
    )
    prepare(f"utkface:{folder}", out, SMALL)
    assert seen == [7]
    assert contents(out) == contents(store)
    monkeypatch.setattr(prepare_module, "_write_shards", None)  # calling it would fail
    prepare(f"utkface:{folder}", out, SMALL)


def spy(function: Callable[..., Any], note: Callable[..., Any]) -> Callable[..., Any]:
    def both(*arguments: Any) -> Any:
        note(*arguments)
        return function(*arguments)

    return both


def test_two_workers_write_the_same_bytes(folder: Path, store: Path, tmp_path: Path):
    one = replace(SMALL, shard_size=40)
    prepare(f"utkface:{folder}", tmp_path / "one", one)
    prepare(f"utkface:{folder}", tmp_path / "two", replace(one, workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert open_store(tmp_path / "two").fingerprint == open_store(store).fingerprint


def test_workers_end_when_their_parent_is_killed(tmp_path: Path):
    script = (
        "import os, signal\n"
        "from edgeage.train.data.prepare import _pool\n"
        "if __name__ == '__main__':\n"
        "    with _pool(2) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "parent.py").write_text(script)
    arguments = [sys.executable, tmp_path / "parent.py"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert parent.wait() == -signal.SIGKILL
        # workers hold the other end of this pipe: it is at its end when the last of them is gone
        ended, _, _ = select.select([parent.stdout], [], [], 60)
        if not ended:
            os.kill(worker, signal.SIGKILL)
        assert ended


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (replace(SMALL, image_size=24), "image_size was 16, is 24"),
        (replace(SMALL, align="always"), "aligned was False, is True"),
        (replace(SMALL, limit=9), "records was 39, is 9"),
        (replace(SMALL, shard_size=8), "shard_size was 7, is 8"),
    ],
)
def test_changed_options_are_refused_with_the_difference(
    folder: Path, store: Path, options: Options, says: str
):
    before = contents(store)
    with pytest.raises(EdgeageError, match=says) as caught:
        prepare(f"utkface:{folder}", store, options)
    assert "\n" not in str(caught.value)
    assert contents(store) == before


def test_a_changed_source_and_a_foreign_folder_are_refused(tmp_path: Path):
    source = tmp_path / "faces"
    source.mkdir()
    image = source / "20_0_0_20170109000000001.jpg"
    write_image(image, 1)
    prepare(f"utkface:{source}", tmp_path / "store", SMALL)
    write_image(image, 2, size=33)
    (source / ".letter.tmp").write_text("of the user")
    with pytest.raises(EdgeageError, match="files or labels are not the same"):
        prepare(f"utkface:{source}", tmp_path / "store", SMALL)
    with pytest.raises(EdgeageError, match="not empty and holds no store"):
        prepare(f"utkface:{source}", source, SMALL)
    assert (source / ".letter.tmp").read_text() == "of the user"
    (source / ".letter.tmp").unlink()
    with pytest.raises(EdgeageError, match="needs no preparation"):
        prepare("procedural:9", tmp_path / "other", SMALL)
    image.write_bytes(b"broken")
    with pytest.raises(EdgeageError, match="no usable face in utkface:faces: 1 unreadable"):
        prepare(f"utkface:{source}", tmp_path / "other", SMALL)


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    folder: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(path: Path, array: np.ndarray) -> None:
        if path.name == "shard-00001.npy":
            raise OSError(28, "No space left on device")
        write(path, array)

    write = prepare_module._write_array
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_write_array", full)
        with pytest.raises(EdgeageError, match="No space left on device; what is there stays"):
            prepare(f"utkface:{folder}", tmp_path / "store", SMALL)
    prepare(f"utkface:{folder}", tmp_path / "store", SMALL)
    assert contents(tmp_path / "store") == contents(store)


def test_images_on_disk_index_like_an_array(store: Path):
    images = open_store(store).images
    array = np.asarray(images)
    assert (images.shape, images.dtype, images.ndim, len(images)) == (array.shape, array.dtype, 4, 30)
    some = np.array([29, 0, 7, 7, -1])
    rows = (3, -1, slice(5, 25, 3), slice(None), some, array[:, 0, 0, 0] > 99, [2, 1], some[:0])
    parts = (np.s_[:, 2:5, 1:9], np.s_[3, 2:5], (some, slice(4), slice(None), slice(1)))
    for which in (*rows, *parts):
        assert (images[which] == array[which]).all()
        assert images[which].shape == array[which].shape
    assert (np.asarray(images.view(some).view(np.array([1, 2]))) == array[some][1:3]).all()
    for wrong in (30, (some, some)):
        with pytest.raises(IndexError):
            images[wrong]
    assert (sharpness(images) == sharpness(array)).all()


def test_splits_of_a_store_read_no_pixels(store: Path, monkeypatch: pytest.MonkeyPatch):
    faces = open_store(store)
    whole = Faces.of(np.asarray(faces.images), faces.ages, faces.ids, None, {}, "in memory")
    with monkeypatch.context() as patch:
        patch.setattr(ShardedImages, "_read", None)  # reading would fail
        parts = faces.split(1, (0.6, 0.4))
    for part, other in zip(parts, whole.split(1, (0.6, 0.4)), strict=True):
        assert part.fingerprint == other.fingerprint
        assert part.genders is not None


def test_the_sampler_draws_the_same_batches_from_disk(store: Path):
    faces = open_store(store)
    batches = []
    for images in (faces.images, np.asarray(faces.images)):
        sampler = Sampler(images, faces.groups, None, None, 6, torch.device("cpu"))
        batches.append(sampler.draw(8, 0.5, np.random.default_rng(3)))
        assert sampler.images[:4].shape == (4, SIZE, SIZE, 3)
    assert torch.equal(batches[0].images, batches[1].images)


def test_limit_and_image_size_of_a_store(store: Path):
    few = open_source(f"store:{store}", SIZE, limit=5)
    assert len(few) == 5
    assert set(few.ids) < set(open_store(store).ids)
    with pytest.raises(EdgeageError, match=r"of 16 px, but 64 px are wanted; .*--image-size 64"):
        open_source(f"store:{store}")
    with pytest.raises(EdgeageError, match="holds no store"):
        open_source("store:/no/such/folder")


@pytest.mark.parametrize("name", ["shard-00001.npy", "shard-00001.json", "rows.npy"])
def test_one_flipped_bit_is_found(folder: Path, store: Path, tmp_path: Path, name: str):
    prepare(f"utkface:{folder}", tmp_path / "store", SMALL)
    assert len(verify_store(tmp_path / "store")) == 30
    file = tmp_path / "store" / name
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    with pytest.raises(EdgeageError, match=f"damaged .{name} has SHA-256"):
        verify_store(tmp_path / "store")


def test_a_shard_that_is_cut_short_is_found_at_once(folder: Path, tmp_path: Path):
    prepare(f"utkface:{folder}", tmp_path / "store", SMALL)
    file = tmp_path / "store" / "shard-00000.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(EdgeageError, match=r"damaged \(shard-00000.npy"):
        open_store(tmp_path / "store")


def test_the_command_reports_and_warns(folder: Path, tmp_path: Path):
    run = CliRunner().invoke
    where = ["--image-size", str(SIZE), "--out", str(tmp_path / "store"), "--json"]
    result = run(command, [f"utkface:{folder}", *where])
    report = json.loads(result.stdout)
    assert report["dropped"] == DROPS
    assert (report["faces"], result.stderr) == (30, "")
    young = tmp_path / "young"
    young.mkdir()
    for number in range(90):
        write_image(young / f"{number % 50}_0_0_2017010900000{number:04d}.jpg", number)
    result = run(command, [f"utkface:{young}", *where[:2], "--out", str(tmp_path / "few"), "--quiet"])
    assert "WARNING: no face in 50-59, 60+: training will refuse this store" in result.stderr
    assert "90 faces of 16 px" in result.stdout
    verified = run(command, ["--verify", str(tmp_path / "few")])
    assert "verified" in verified.stdout
    with pytest.raises(EdgeageError, match="every age group needs at least 1"):
        Recipe(name="x", profile="edge", stages=()).split(open_store(tmp_path / "few"))
    assert "prepare" in run(cli, ["--help"]).stdout
    for arguments in ([], ["--verify", "a", "--out", "b"], [f"utkface:{young}"]):
        assert isinstance(run(command, arguments).exception, EdgeageError)


@pytest.mark.needs_faces
def test_real_faces_have_the_fingerprint_of_memory(faces_tar: Path, tmp_path: Path):
    source = f"utkface:{faces_tar}"
    stored = prepare(source, tmp_path / "store", Options(limit=150, shard_size=64))
    assert stored.fingerprint == open_source(source, limit=150).fingerprint
