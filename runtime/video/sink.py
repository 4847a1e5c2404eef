"""Write aged frames: into a folder, lossless, or into a video file with the clip's own sound.

Both take their name only when they are whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError, OutputError
from edgeage.runtime.photo.sheets import png
from edgeage.runtime.provenance.marking import Provenance
from edgeage.runtime.video.clip import Clip, FileClip, Frame, require_av

_TICKS = 90_000  # per second, as MPEG counts
_QUALITY = "16"  # x264's constant rate factor: no loss that is seen


class Sink(Protocol):
    """Attributes:
    path: where the result will be.
    notes: what the user should know, one line each.
    """

    path: Path
    notes: list[str]

    def write(self, frame: Frame, pixels: NDArray[np.uint8]) -> None:
        """One aged frame; OutputError if it cannot be written."""

    def finish(self) -> None:
        """Give the result its name."""

    def discard(self) -> None:
        """Leave nothing, also after `finish` failed; does nothing after it succeeded."""


def open_sink(
    clip: Clip, out: Path, group: str, provenance: Provenance | None, *, force: bool = False
) -> Sink:
    """For frames `out`/NAME-GROUP/, for a file `out`/NAME-GROUP.mp4 (.mkv of .mkv).

    `provenance` labels every frame, or the file as a whole (its comment); None, which must be said, labels
    none.

    Raises OutputError if it is there already and `force` is not set, or `out` cannot be written to.
    """
    name = f"{clip.path.resolve().stem if clip.path.is_file() else clip.path.resolve().name}-{group}"
    suffix = "" if not isinstance(clip, FileClip) else ".mkv" if clip.path.suffix == ".mkv" else ".mp4"
    path = out / f"{name}{suffix}"
    if path.exists() and not force:
        raise OutputError(f"{path} is there already; choose another --out or pass --force")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if isinstance(clip, FileClip):
            return FileSink(clip, path, group, provenance)
        return FolderSink(path, group, provenance)
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror}") from None


class FolderSink:
    """PNG frames under their own names."""

    def __init__(self, path: Path, group: str, provenance: Provenance | None) -> None:
        self.path, self._group, self._provenance = path, group, provenance
        self.notes: list[str] = []
        self._temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir()

    def write(self, frame: Frame, pixels: NDArray[np.uint8]) -> None:
        marks = self._provenance
        content = marks.mark_file(png(marks.mark_pixels(pixels)), self._group) if marks else png(pixels)
        try:
            (self._temporary / f"{Path(frame.name).stem}.png").write_bytes(content)
        except OSError as error:
            raise OutputError(f"cannot write to {self.path}: {error.strerror}") from None

    def finish(self) -> None:
        try:
            if self.path.is_dir():
                shutil.rmtree(self.path)
            os.replace(self._temporary, self.path)
        except OSError as error:
            raise OutputError(f"cannot write to {self.path}: {error.strerror}") from None

    def discard(self) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)


class FileSink:
    """H.264 (MPEG-4 where x264 is not built in), the sound copied packet by packet."""

    def __init__(self, clip: FileClip, path: Path, group: str, provenance: Provenance | None) -> None:
        self._av = av = require_av()
        self.path, self._clip, self._provenance = path, clip, provenance
        self.notes: list[str] = []
        self._temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        kind = "matroska" if path.suffix == ".mkv" else "mp4"
        self._container = av.open(str(self._temporary), "w", format=kind)
        self._codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        if provenance:
            self._container.metadata["comment"] = provenance.claim.for_group(group).label
        options = {"crf": _QUALITY} if self._codec == "libx264" else {"q:v": "2"}
        rate = Fraction(clip.rate).limit_denominator(1001)
        self._stream = self._container.add_stream(self._codec, rate=rate, options=options)
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream.pix_fmt = "yuv420p"
        self._size: tuple[int, int] | None = None
        self._last = -1
        self._sound: Iterator[Any] = iter(())
        self._waiting: Any = None
        if clip.has_audio:
            self._open_sound()

    def _open_sound(self) -> None:
        self._source = self._clip.opened()
        stream = self._source.streams.audio[0]
        try:
            copy = self._container.add_stream_from_template(stream)
        except (ValueError, self._av.error.FFmpegError):
            self.notes.append(
                f"without its sound: {stream.codec_context.name} cannot go into {self.path.name}"
            )
            return

        def packets() -> Iterator[Any]:
            for packet in self._source.demux(stream):
                if packet.dts is not None:
                    packet.stream = copy
                    yield packet

        self._sound = packets()

    def write(self, frame: Frame, pixels: NDArray[np.uint8]) -> None:
        height, width = (length // 2 * 2 for length in pixels.shape[:2])  # colour has half the pixels
        if self._size is None:
            self._stream.width, self._stream.height = width, height
            self._size = (width, height)
            if (height, width) != pixels.shape[:2]:
                self.notes.append(f"an odd row or column is cut off: {width}x{height}")
        if self._size != (width, height):
            raise EdgeageError(f"{self._clip.path} changes its size on the way; convert it first")
        if self._provenance:
            pixels = self._provenance.mark_pixels(pixels)
        shown = self._av.VideoFrame.from_ndarray(
            np.ascontiguousarray(pixels[:height, :width]), format="rgb24"
        )
        self._last = max(round(frame.seconds * _TICKS), self._last + 1)
        shown.pts, shown.time_base = self._last, Fraction(1, _TICKS)
        self._guarded(lambda: self._mux(shown, frame.seconds))

    def _mux(self, shown: Any, seconds: float) -> None:
        self._sound_until(seconds)
        self._container.mux(self._stream.encode(shown))

    def _sound_until(self, seconds: float) -> None:
        """The sound that belongs before this time."""
        while True:
            packet = self._waiting or next(self._sound, None)
            self._waiting = packet
            if packet is None or float(packet.dts * packet.time_base) > seconds:
                return
            self._container.mux(packet)
            self._waiting = None

    def finish(self) -> None:
        def end() -> None:
            if self._size is not None:
                self._container.mux(self._stream.encode())
            self._sound_until(float("inf"))
            self._container.close()
            os.replace(self._temporary, self.path)

        self._guarded(end)

    def _guarded(self, do: Any) -> None:
        try:
            do()
        except (OSError, self._av.error.FFmpegError) as error:
            raise OutputError(f"cannot write to {self.path}: {error.strerror}") from None

    def discard(self) -> None:
        self._temporary.unlink(missing_ok=True)
