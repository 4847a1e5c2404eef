"""Clips in, aged clips out: folders of frames and, where PyAV is installed, files with sound."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeage import cli
from edgeage.errors import EdgeageError
from edgeage.runtime.photo.resample import resample
from edgeage.runtime.video.clip import FolderClip, open_clip

FRAMES = 6


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], built_bundle: Path, tmp_path: Path):
    """`edgeage video ... --groups 60+,30-39 --from 30-39` into tmp_path/out."""

    def run_video(*arguments: object) -> tuple[int, str, str]:
        words = ["video", *arguments, "--out", tmp_path / "out", "--bundle", built_bundle]
        words += ["--engine", "onnxruntime", "--groups", "60+,30-39", "--from", "30-39"]
        with pytest.raises(SystemExit) as caught:
            cli.main([str(word) for word in words])
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return run_video


def frames(portrait: np.ndarray) -> list[np.ndarray]:
    ways = [np.array([[1.0, 0, 60 + 2 * i], [0, 1, 20.0]]) for i in range(FRAMES)]
    return [np.ascontiguousarray(resample(portrait, way, (320, 240))) for way in ways]


@pytest.fixture
def folder(portrait: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "clip.d"
    path.mkdir()
    for number, frame in enumerate(frames(portrait), start=8):  # 8 ... 13: by number, not by letter
        Image.fromarray(frame).save(path / f"f{number}.png")
    (path / "notes.txt").write_text("no frame")
    return path


@pytest.fixture
def file(portrait: np.ndarray, tmp_path: Path) -> Path:
    """H.264 in MP4 with half a second of a tone."""
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=12, options={"crf": "10"})
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        sound = container.add_stream("aac", rate=48000)
        tone = (np.sin(np.arange(24000) / 20) * 8000).astype(np.int16)[None]
        for index, pixels in enumerate(frames(portrait)):
            shown = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            shown.pts, shown.time_base = index, Fraction(1, 12)
            container.mux(video.encode(shown))
        for start in range(0, tone.shape[1], 1000):
            heard = av.AudioFrame.from_ndarray(tone[:, start : start + 1000], format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 48000, start, Fraction(1, 48000)
            container.mux(sound.encode(heard))
        container.mux(video.encode())
        container.mux(sound.encode())
    return path


def test_a_folder_becomes_folders(run, folder: Path, tmp_path: Path, portrait: np.ndarray) -> None:
    code, out, _ = run(folder)
    assert code == 0
    assert f"{FRAMES} frames, a face aged in {FRAMES}" in out
    for group, changed in (("60+", True), ("30-39", False)):
        made = tmp_path / "out" / f"clip.d-{group}"
        assert sorted(path.name for path in made.iterdir()) == sorted(f"f{n}.png" for n in range(8, 14))
        first = np.asarray(Image.open(made / "f8.png"))
        assert (not np.array_equal(first, frames(portrait)[0])) == changed  # own group: unchanged
    with Image.open(tmp_path / "out" / "clip.d-60+" / "f8.png") as picture:
        assert any("aged to 60+" in str(value) for value in picture.info.values())
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    code, _, err = run(folder)
    assert code == 2
    assert "is there already" in err
    assert run(folder, "--force")[0] == 0


def test_a_file_becomes_files_with_its_sound(run, file: Path, tmp_path: Path, portrait: np.ndarray) -> None:
    import av

    code, out, _ = run(file, "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["frames"], facts["with_face"], facts["own_groups"]) == (FRAMES, FRAMES, ["30-39"])
    assert facts["warnings"] == []

    def packets(path: str) -> list[bytes]:
        with av.open(path) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.dts is not None]

    for group, path in facts["files"].items():
        with av.open(path) as container:
            assert group in container.metadata["comment"]
            decoded = list(container.decode(video=0))
        assert [round(float(frame.time) * 12) for frame in decoded] == list(range(FRAMES))
        assert packets(path) == packets(str(file))
        seen = np.array([frame.to_ndarray(format="rgb24") for frame in decoded]).astype(int)
        difference = np.abs(seen - np.array(frames(portrait)))
        assert difference[:, :, -40:].mean() < 4  # beyond the face: the codec's loss alone
        face = difference[:, 70:130, 135:185].mean()
        assert face > 12 if group == "60+" else face < 6


def test_bad_clips(run, tmp_path: Path, folder: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "poem.mp4").write_text("roses are red")
    (tmp_path / "empty").mkdir()
    dark = tmp_path / "dark"
    dark.mkdir()
    Image.new("RGB", (80, 60)).save(dark / "1.png")
    for arguments, said in (
        ([tmp_path / "poem.mp4"], "not a video that can be read"),
        ([tmp_path / "gone.mp4"], "not a video that can be read"),
        ([tmp_path / "empty"], "no frame in"),
        ([dark], "no face to age in the 1 frames"),
        ([folder, "--rate", "0"], "the frame rate is 0"),
        ([tmp_path / "poem.mp4", "--rate", "25"], "has its own"),
        ([folder, "--max-megapixels", "0.05"], "--max-megapixels"),
        ([folder, "--watermark"], "leave out"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert said in err
        left = tmp_path / "out"
        assert not left.exists() or not list(left.iterdir())


def test_without_pyav_files_are_refused_and_folders_are_not(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(EdgeageError, match=r"edgeage\[video\]"):
        open_clip(tmp_path / "clip.mp4")
    clip = open_clip(folder, 50)
    assert isinstance(clip, FolderClip)
    assert clip.count == FRAMES
    assert [(frame.name, frame.seconds) for frame in clip.frames()][:3] == [
        ("f8.png", 0.0),
        ("f9.png", 0.02),
        ("f10.png", 0.04),
    ]
