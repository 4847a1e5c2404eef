"""Bundles: folder and zip read the same; damage of any kind is one clear error."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from edgeage.errors import EdgeageError
from edgeage.runtime import bundle as bundle_module
from edgeage.runtime.bundle import default_bundle, open_bundle

ENCODER = "engines/encoder.onnx"


def pack(folder: Path, target: Path, prefix: str = "", compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", compression) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, prefix + path.relative_to(folder).as_posix())
    return target


@pytest.mark.parametrize("prefix", ["", "tiny.agebundle/"])
def test_zip_reads_as_the_folder(bundle_path: Path, tmp_path: Path, prefix: str) -> None:
    folder, packed = open_bundle(bundle_path), open_bundle(pack(bundle_path, tmp_path / "t.zip", prefix))
    packed.verify()
    assert packed.manifest == folder.manifest
    assert packed.sizes() == folder.sizes()
    assert all(packed.read(name) == folder.read(name) for name in folder.manifest.files)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("missing", "lacks engines/encoder.onnx"),
        ("foreign", "holds engines/poem.txt"),
        ("changed", "was changed"),
    ],
)
def test_damage_is_told(bundle_path: Path, tmp_path: Path, damage: str, said: str, zipped: bool) -> None:
    file = bundle_path / ENCODER
    if damage == "missing":
        file.unlink()
    elif damage == "foreign":
        (bundle_path / "engines" / "poem.txt").write_text("roses")
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    path = pack(bundle_path, tmp_path / "t.zip") if zipped else bundle_path
    with pytest.raises(EdgeageError, match=said):
        open_bundle(path).verify()


def test_a_changed_file_is_refused_on_use(bundle_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    (bundle_path / ENCODER).write_bytes(b"other")
    with pytest.raises(EdgeageError, match="was changed"):
        bundle.read(ENCODER)
    (bundle_path / ENCODER).unlink()
    with pytest.raises(EdgeageError, match="lacks"):
        bundle.read(ENCODER)
    with pytest.raises(EdgeageError, match="has no file"):
        bundle.read("../secret")


def test_links_out_of_the_bundle_are_refused(bundle_path: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    (bundle_path / ENCODER).rename(outside)
    os.symlink(outside, bundle_path / ENCODER)
    with pytest.raises(EdgeageError, match="leads out"):
        open_bundle(bundle_path).verify()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_zip_paths_out_of_the_bundle_are_refused(bundle_path: Path, tmp_path: Path, name: str) -> None:
    packed = pack(bundle_path, tmp_path / "t.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, "x")
    with pytest.raises(EdgeageError, match="out of the bundle"):
        open_bundle(packed)


def test_damaged_zip(bundle_path: Path, tmp_path: Path) -> None:
    packed = pack(bundle_path, tmp_path / "t.zip", compression=zipfile.ZIP_STORED)
    content = packed.read_bytes()
    start = content.index(b"tiny", 200)
    packed.write_bytes(content[:start] + b"TINY" + content[start + 4 :])
    with pytest.raises(EdgeageError, match=r"damaged|changed|not JSON"):
        open_bundle(packed).verify()
    packed.write_bytes(content[: len(content) // 2])
    with pytest.raises(EdgeageError, match="neither a bundle folder nor"):
        open_bundle(packed)


def test_huge_files_are_refused_unread(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_FILE_BYTES", 10_000)
    with pytest.raises(EdgeageError, match="more than the"):
        open_bundle(bundle_path).verify()


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(EdgeageError, match="no bundle at"):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(EdgeageError, match="has no manifest"):
        open_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(EdgeageError, match="not JSON"):
        open_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "other"}')
    with pytest.raises(EdgeageError, match="no schema"):
        open_bundle(tmp_path)


def test_default_bundle(bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGE_BUNDLE", str(bundle_path))
    assert open_bundle().path == bundle_path
    monkeypatch.setenv("EDGEAGE_BUNDLE", str(tmp_path / "gone"))
    with pytest.raises(EdgeageError, match="no bundle at"):
        open_bundle()
    monkeypatch.delenv("EDGEAGE_BUNDLE")
    monkeypatch.setattr(bundle_module, "SHIPPED", Path("models") / "absent.agebundle")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgeageError, match="EDGEAGE_BUNDLE"):
        default_bundle()
    target = tmp_path / "models" / "absent.agebundle"
    target.parent.mkdir()
    bundle_path.rename(target)
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert default_bundle() == target
