"""Clips: a folder of frames, or a video file through PyAV, read frame by frame."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.photo.read import MAX_MEGAPIXELS, read_photo

_PICTURES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm"])


@dataclass(frozen=True)
class Frame:
    """Attributes:
    pixels: uint8 RGB [H, W, 3], upright.
    seconds: since the clip's start.
    name: of its file in a folder; "" in a video file.
    """

    pixels: NDArray[np.uint8]
    seconds: float
    name: str


class Clip(Protocol):
    """Attributes:
    path: of the folder or file.
    count: number of frames, 0 if it is not known before they are read.
    rate: frames per second.
    """

    path: Path
    count: int
    rate: float

    def frames(self) -> Iterator[Frame]: ...


def open_clip(path: Path, rate: float | None = None, max_megapixels: float = MAX_MEGAPIXELS) -> Clip:
    """A folder of frames, in the order of the numbers in their names, or a video file.

    `rate`: frames a second of a folder, 25 unless given; a file has a rate of its own.

    Raises EdgeageError if it is neither, or a file and the package av is not installed.
    """
    if path.is_dir():
        return FolderClip(path, 25.0 if rate is None else rate, max_megapixels)
    if rate is not None:
        raise EdgeageError("a frame rate is for a folder of frames; a video file has its own")
    return FileClip(path, max_megapixels)


class FolderClip:
    """Every picture of a folder is a frame."""

    def __init__(self, path: Path, rate: float, max_megapixels: float) -> None:
        if not rate > 0:
            raise EdgeageError(f"the frame rate is {rate:g}; it is more than 0")
        files = (file for file in path.iterdir() if file.suffix.lower() in _PICTURES)
        self._files = sorted((file for file in files if not file.name.startswith(".")), key=_numbers_in_order)
        if not self._files:
            raise EdgeageError(f"no frame in {path}; frames end in {', '.join(sorted(_PICTURES))}")
        self.path, self.count, self.rate = path, len(self._files), rate
        self._max_megapixels = max_megapixels

    def frames(self) -> Iterator[Frame]:
        for index, file in enumerate(self._files):
            yield Frame(read_photo(file, self._max_megapixels).pixels, index / self.rate, file.name)


def _numbers_in_order(file: Path) -> list[tuple[int, str]]:
    """frame9 before frame10."""
    parts = re.split(r"(\d+)", file.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


class FileClip:
    """A video file's first video stream."""

    def __init__(self, path: Path, max_megapixels: float) -> None:
        av = require_av()
        self.path, self._av = path, av
        with self.opened() as container:
            if not container.streams.video:
                raise EdgeageError(f"{path} has no video in it")
            stream = container.streams.video[0]
            megapixels = stream.width * stream.height / 1e6
            if megapixels > max_megapixels:
                raise EdgeageError(
                    f"{path} has frames of {megapixels:.1f} megapixels; the limit is {max_megapixels:g}; "
                    "make it smaller first, or raise the limit with --max-megapixels"
                )
            self.count = int(stream.frames)
            self.rate = float(stream.average_rate or 25)
            self.has_audio = bool(container.streams.audio)

    def opened(self) -> Any:
        """A new container over the file; EdgeageError if it is no video."""
        try:
            return self._av.open(str(self.path))
        except (self._av.error.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise EdgeageError(f"{self.path} is not a video that can be read: {reason}") from None

    def frames(self) -> Iterator[Frame]:
        with self.opened() as container:
            try:
                for number, frame in enumerate(container.decode(video=0)):
                    pixels = frame.to_ndarray(format="rgb24")
                    upright = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
                    seconds = number / self.rate if frame.time is None else float(frame.time)
                    yield Frame(upright, seconds, "")
            except self._av.error.FFmpegError as error:
                raise EdgeageError(f"{self.path} is damaged: {error.strerror}") from None


def require_av() -> Any:
    """The package av; EdgeageError with the command that adds it if it is not there."""
    try:
        return importlib.import_module("av")
    except ImportError:
        raise EdgeageError(
            'video files need PyAV; add it with: pip install "edgeage[video]", or give a folder of frames'
        ) from None
