"""Follow faces from frame to frame, steadily."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeage.runtime.photo.detect import Detector, Face
from edgeage.runtime.photo.quality import quality
from edgeage.runtime.video.smooth import Mean, OneEuro

_SEARCH_SECONDS = 1.0  # how often all of the frame is searched for new faces
_FADE_SECONDS = 0.25  # a face that comes or goes is blended in and out

# In Hz, and in Hz per face width and second. Chosen on the sample photo with noise, moved along known paths
# at 25 frames a second: a still face's jitter falls to a third, one that crosses 1.5 of its widths in a
# second lags by 0.3 % of a width.
_CUTOFF, _SPEED = 0.7, 60.0
_LATENT_SECONDS = 0.3  # longer than a blink, shorter than a change of expression


class Track:
    """One face over time.

    Attributes:
        face: where it is, smoothed.
        weight: 0..1, how much of it is blended in.
        seen: whether it is in this frame; else `face` is where it was.
        latent: the filter of its z.
        z: [1, latent_size], smoothed, of the last frame in which it was seen.
        source: index of its own age group, once decided.
    """

    def __init__(self, face: Face) -> None:
        self.face, self.weight, self.seen = face, 0.0, True
        self.latent = Mean(_LATENT_SECONDS)
        self.z: NDArray[np.float32] | None = None
        self.source: int | None = None
        self._filter = OneEuro(_CUTOFF, _SPEED)
        self._width = face.size  # the unit, fixed so that it adds no jitter of its own
        self._filter(self._points(face), 1.0)

    def update(self, face: Face | None, seconds: float) -> None:
        """`face`: as found in this frame, None if it was not; `seconds` since the frame before."""
        self.seen = face is not None
        step = seconds / _FADE_SECONDS
        self.weight = float(np.clip(self.weight + (step if self.seen else -step), 0, 1))
        if face is not None:
            points = self._filter(self._points(face), seconds) * self._width
            low, high = points[6], points[7]
            box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
            self.face = replace(face, box=box, keypoints=points[:6])

    def _points(self, face: Face) -> NDArray[np.float64]:
        points: NDArray[np.float64] = np.vstack([face.keypoints, np.reshape(face.box, (2, 2))]) / self._width
        return points


class Tracker:
    """The faces of a clip: the largest one, or all of them."""

    def __init__(self, detector: Detector, *, all_faces: bool) -> None:
        self._detector, self._all_faces = detector, all_faces
        self._since_search, self._started = np.inf, False
        self.tracks: list[Track] = []

    def update(self, frame: NDArray[np.uint8], seconds: float) -> list[Track]:
        """The tracks that are to be seen in a frame, uint8 [H, W, 3], `seconds` after the one before."""
        for track in self.tracks:
            found = self._good(self._detector.follow(frame, [track.face]), frame)
            track.update(found[0] if found else None, seconds)
        self.tracks = [track for track in self.tracks if track.weight > 0 or track.seen]
        self._since_search += seconds
        if self._since_search >= _SEARCH_SECONDS and (self._all_faces or not self.tracks):
            self._since_search = 0.0
            self._add(self._good(self._detector.find(frame, all_faces=self._all_faces), frame), seconds)
        return self.tracks

    def _add(self, faces: list[Face], seconds: float) -> None:
        """New tracks of those faces that none follows."""
        known = [track.face for track in self.tracks]
        new = [face for face in faces if not any(_near(face, other) for other in known)]
        for face in new if self._all_faces else new[:1]:
            track = Track(face)
            # What is there from the start of the clip is there at once.
            track.weight = min(seconds / _FADE_SECONDS, 1.0) if self._started else 1.0
            self.tracks.append(track)
        self._started = True

    def _good(self, faces: list[Face], frame: NDArray[np.uint8]) -> list[Face]:
        return [face for face in faces if quality(face, frame.shape).score > 0]


def _near(face: Face, other: Face) -> bool:
    """Whether two boxes are of one face: their centres lie nearer than half a width."""
    a, b = (np.reshape(one.box, (2, 2)).mean(axis=0) for one in (face, other))
    return float(np.hypot(*(a - b))) < max(face.size, other.size) / 2
