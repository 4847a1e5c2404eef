"""Age the faces of a clip: track, encode, generate, blend, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.runtime.aged import Clock
from edgeage.runtime.photo.compose import Layer, compose
from edgeage.runtime.plan import Plan
from edgeage.runtime.session import Session, nearest_group
from edgeage.runtime.video.clip import Clip
from edgeage.runtime.video.sink import Sink
from edgeage.runtime.video.track import Track, Tracker


@dataclass
class AgedClip:
    """What `age_clip` did.

    Attributes:
        frames, with_face: how many, and those in which a face was aged.
        tracks: own group of each face, in the order in which they came.
        timings: milliseconds per stage, of all frames together.
    """

    frames: int = 0
    with_face: int = 0
    tracks: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)


def age_clip(
    session: Session,
    clip: Clip,
    plan: Plan,
    sinks: Mapping[str, Sink],
    progress: Callable[[], None] = lambda: None,
) -> AgedClip:
    """Age a clip to each group of `plan.targets`, into the sink of its name.

    A face's place is smoothed by a one-euro filter, its latent by an exponential mean, and its own group,
    unless given, is searched on its first frame and kept. `progress` is called after every frame.
    Raises EdgeageError if no frame shows a face that can be aged, or something cannot be read or written.
    """
    names = session.profile.groups
    tracker = Tracker(session.detector(), all_faces=plan.all_faces)
    done, clock, before = AgedClip(), Clock(), None
    for frame in clip.frames():
        seconds = 1 / clip.rate if before is None else max(frame.seconds - before, 1e-3)
        before = frame.seconds
        with clock("detect"):
            tracks = [track for track in tracker.update(frame.pixels, seconds) if track.weight > 0]
        new = [track for track in tracks if track.source is None]
        layers = [_layer(session, plan, track, frame.pixels, seconds, clock) for track in tracks]
        done.tracks += [names[track.source] for track in new if track.source is not None]
        for name, target in plan.targets.items():
            with clock("blend"):
                aged = compose(frame.pixels, layers, target, plan.mode, plan.strength)
            sinks[name].write(frame, aged)
        done.frames += 1
        done.with_face += bool(layers)
        progress()
    if not done.with_face:
        raise EdgeageError(
            f"no face to age in the {done.frames} frames of {clip.path}; use a clip in which a face is "
            "upright, turned to the camera and at least 20 pixels wide"
        )
    done.timings = clock.milliseconds
    return done


def _layer(
    session: Session, plan: Plan, track: Track, pixels: NDArray[np.uint8], seconds: float, clock: Clock
) -> Layer:
    """A track's face as it is generated of its smoothed latent; of its last one while it is not seen."""
    with clock("align"):
        way, crop = session.align(pixels, track.face)
    if track.seen:
        with clock("encode"):
            z = session.encode(crop)
        if track.source is None:
            track.source = (
                plan.source if plan.source is not None else nearest_group(session.generate(z), crop)
            )
        with clock("refine"):
            z = session.refine(z, [track.source], crop[None], plan.refinement).z
        track.z = track.latent(z, seconds)
    assert track.z is not None  # a track is seen in its first frame
    assert track.source is not None
    with clock("generate"):
        generated = session.generate(track.z)
    with clock("blend"):
        return session.layer(generated, track.source, way, pixels.shape, track.weight)
