"""Drawing one procedural face in the training frame: layers from the background to the wrinkles.

Coordinates are fractions of the image, x right and y down. The drawing is laid out around keypoints of
its own and moved as a whole to where the frame ("utkface" in `edgeage.frames`) has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeage.frames import FRAMES
from edgeage.train.data.listing import Pixels

Plane = NDArray[np.float32]
Colour = NDArray[np.float64]

_KEYPOINTS = ((0.300, 0.33), (0.680, 0.33), (0.49, 0.55), (0.49, 0.74))
_LEFT_EYE, _RIGHT_EYE, _NOSE, _MOUTH = _KEYPOINTS
_SHIFT_X, _SHIFT_Y = np.subtract(FRAMES["utkface"], _KEYPOINTS).mean(axis=0).tolist()
_MIDDLE = (_LEFT_EYE[0] + _RIGHT_EYE[0]) / 2
_OVERSAMPLING = 2

_SKINS = np.array([[244, 208, 180], [233, 188, 150], [205, 152, 112], [160, 108, 76], [104, 68, 48]]) / 255
_HAIRS = np.array([[26, 22, 20], [62, 40, 28], [112, 74, 44], [170, 128, 76], [142, 66, 36]]) / 255
_IRISES = np.array([[62, 40, 26], [98, 68, 40], [88, 112, 76], [88, 124, 160]]) / 255
_GREY = np.array([0.80, 0.80, 0.79])


@dataclass(frozen=True)
class Person:
    """What stays the same over a person's life; shares are 0..1 unless said."""

    skin: Colour
    hair: Colour
    iris: Colour
    face_width: float  # half width of the face as a fraction of the image
    jaw: float  # exponent of the outline: larger is squarer
    eye_distance: float  # added to the frame's, fraction of the image
    eye_size: float
    eye_tilt: float
    brow: float
    nose: float
    mouth: float
    lips: float
    long_hair: bool
    parting: float  # -1..1
    greys_from: float  # years
    recedes: float
    beard: float
    lines: float  # how strongly age shows


def draw_person(chance: np.random.Generator) -> Person:
    """Draw a person's features; only uniform numbers are used, so a seed means the same everywhere."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(chance.random())

    def mix(palette: NDArray[np.float64]) -> Colour:
        place = chance.random() * (len(palette) - 1)
        low = int(place)
        colour: Colour = palette[low] + (place - low) * (palette[low + 1] - palette[low])
        return colour

    masculine = chance.random() < 0.5
    skin = mix(_SKINS)
    hairs = _HAIRS if skin.mean() > 0.66 else _HAIRS[:2]  # fair and red hair go with fair skin
    return Person(
        skin=skin,
        hair=hairs[int(chance.random() * len(hairs))],
        iris=_IRISES[int(chance.random() * len(_IRISES))],
        face_width=between(0.315, 0.375),
        jaw=between(2.1, 2.8) if masculine else between(1.9, 2.3),
        eye_distance=between(-0.012, 0.012),
        eye_size=between(0.88, 1.15),
        eye_tilt=between(-0.10, 0.06),
        brow=between(0.7, 1.3) * (1.25 if masculine else 0.85),
        nose=between(0.8, 1.25),
        mouth=between(0.85, 1.2),
        lips=between(0.7, 1.1) * (0.9 if masculine else 1.25),
        long_hair=not masculine and chance.random() < 0.8,
        parting=between(-1, 1),
        greys_from=between(38, 55),
        recedes=between(0, 1) if masculine else 0.0,
        beard=between(0.2, 1) if masculine and chance.random() < 0.4 else 0.0,
        lines=between(0.8, 1.2),
    )


class _Canvas:
    """An RGB picture in [0, 1] and soft-edged shapes to lay over it."""

    def __init__(self, side: int) -> None:
        axis = (np.arange(side, dtype=np.float32) + 0.5) / side
        self.x, self.y = np.meshgrid(axis - np.float32(_SHIFT_X), axis - np.float32(_SHIFT_Y))
        self.rgb = np.zeros((side, side, 3), np.float32)
        self.side = side

    def lay(self, mask: Plane, colour: Colour, opacity: float = 1.0) -> None:
        """Cover with a colour where the mask is 1."""
        if area := _area(mask):
            cover = (mask[area] * np.float32(opacity))[..., None]
            self.rgb[area] += cover * (colour.astype(np.float32) - self.rgb[area])

    def darken(self, mask: Plane, amount: float) -> None:
        """A warm shadow: take away the share `amount` of the light, less of the red."""
        if area := _area(mask):
            loss = np.array([0.75 * amount, amount, amount], np.float32)
            self.rgb[area] *= 1 - mask[area][..., None] * loss

    def ellipse(
        self,
        cx: float,
        cy: float,
        rx: float,
        ry: float,
        power: float = 2.0,
        soft: float = 0.0,
        tilt: float = 0.0,
    ) -> Plane:
        """1 inside |dx/rx|^p + |dy/ry|^p < 1, falling to 0 over about a pixel or over `soft`."""
        dx, dy = self.x - cx, self.y - cy
        if tilt:
            dy = dy - tilt * dx
        radius = (np.abs(dx / rx) ** power + np.abs(dy / ry) ** power) ** np.float32(1 / power)
        edge = max(soft, 1.0 / self.side)
        return np.clip((1 - radius) * min(rx, ry) / edge + 0.5, 0, 1).astype(np.float32)

    def glow(self, cx: float, cy: float, rx: float, ry: float) -> Plane:
        """A Gaussian spot."""
        return np.exp(-(((self.x - cx) / rx) ** 2) - ((self.y - cy) / ry) ** 2).astype(np.float32)

    def line(self, xs: tuple[float, float, float], ys: tuple[float, float, float], width: float) -> Plane:
        """A quadratic Bezier stroke through three control points, with a soft edge and faded ends."""
        t = np.linspace(0, 1, 17, dtype=np.float32)[:, None, None]
        weights = ((1 - t) ** 2, 2 * t * (1 - t), t**2)
        px = sum(w * x for w, x in zip(weights, xs, strict=True))
        py = sum(w * y for w, y in zip(weights, ys, strict=True))
        reach = 3 * width
        rows = self._span(min(ys) - reach + _SHIFT_Y, max(ys) + reach + _SHIFT_Y)
        columns = self._span(min(xs) - reach + _SHIFT_X, max(xs) + reach + _SHIFT_X)
        squared = (self.x[rows, columns] - px) ** 2 + (self.y[rows, columns] - py) ** 2
        fade = np.sin(np.pi * (0.12 + 0.76 * t))
        plane = np.zeros_like(self.x)
        plane[rows, columns] = (np.exp(-squared / width**2) * fade).max(axis=0)
        return plane

    def _span(self, start: float, end: float) -> slice:
        return slice(max(0, int(start * self.side)), max(0, int(end * self.side) + 1))

    def pixels(self, image_size: int) -> Pixels:
        factor = self.side // image_size
        small = self.rgb.reshape(image_size, factor, image_size, factor, 3).mean(axis=(1, 3))
        return np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)


def _area(mask: Plane) -> tuple[slice, slice] | None:
    """The rectangle outside of which a mask shows nothing: most shapes are small."""
    shows = mask > 1e-3
    rows, columns = np.flatnonzero(shows.any(axis=1)), np.flatnonzero(shows.any(axis=0))
    if not len(rows):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _ramp(value: float, low: float, high: float) -> float:
    """0 at and below `low`, 1 at and above `high`, smooth between."""
    t = min(1.0, max(0.0, (value - low) / (high - low)))
    return t * t * (3 - 2 * t)


def draw_face(person: Person, age: int, chance: np.random.Generator, image_size: int) -> Pixels:
    """Draw a person at an age in years; `chance` gives what differs from photo to photo.

    Returns uint8 RGB [image_size, image_size, 3].
    """
    canvas = _Canvas(image_size * _OVERSAMPLING)
    child, old = 1 - _ramp(age, 2, 20), _ramp(age, 32, 85)
    backdrop = 0.25 + 0.5 * chance.random(3)
    backdrop = 0.6 * backdrop.mean() + 0.4 * backdrop
    light = float(chance.random() * 2 - 1)
    clothes = 0.15 + 0.6 * chance.random(3)
    smile = float(chance.random())

    canvas.rgb[:] = backdrop
    canvas.rgb *= (1.08 - 0.25 * canvas.y + 0.08 * light * (canvas.x - 0.5))[..., None]
    grey = _ramp(age, person.greys_from, person.greys_from + 28)
    hair = person.hair + grey * (_GREY - person.hair)
    skin = person.skin * (1 - 0.05 * old) + child * np.array([0.02, 0.005, 0.0])

    outline = _head(canvas, person, hair, skin, clothes, child, old)
    _hairline(canvas, person, hair, child, old)
    _beard(canvas, person, hair, outline, age)
    for side, (x, y) in ((-1, _LEFT_EYE), (1, _RIGHT_EYE)):
        _eye(canvas, person, hair, skin, x + side * person.eye_distance / 2, y, side, child, old)
    _nose(canvas, person, skin, child, old)
    _lips(canvas, person, skin, child, old, smile)
    _wrinkles(canvas, person, age, smile)
    shadow = np.clip(0.5 + light * (canvas.x - _MIDDLE) * 1.6, 0, 1).astype(np.float32)
    canvas.darken(shadow, 0.22)
    canvas.rgb *= np.float32(0.92 + 0.16 * chance.random())
    grain = chance.random(canvas.rgb.shape[:2], dtype=np.float32) - 0.5
    canvas.rgb += (0.04 + 0.06 * old * outline)[..., None] * grain[..., None]
    return canvas.pixels(image_size)


def _head(
    canvas: _Canvas, person: Person, hair: Colour, skin: Colour, clothes: Colour, child: float, old: float
) -> Plane:
    """Shoulders, back hair, neck, ears and the face; gives the mask of the face."""
    width = person.face_width * (1 + 0.03 * child + 0.03 * old)
    chin = 0.965 - 0.045 * child + 0.01 * old
    top = 0.02
    canvas.lay(canvas.ellipse(_MIDDLE, 1.16, 0.62, 0.24, 2.4), clothes)
    if person.long_hair:
        canvas.lay(canvas.ellipse(_MIDDLE, 0.55, width + 0.13, 0.62, 2.6, 0.02), hair * 0.8)
    else:
        canvas.lay(canvas.ellipse(_MIDDLE, 0.30, width + 0.055, 0.36, 2.4, 0.02), hair * 0.85)
    canvas.lay(canvas.ellipse(_MIDDLE, 1.0, width * 0.62, 0.20, 3.0), skin * 0.78)
    for side in (-1, 1):
        canvas.lay(canvas.ellipse(_MIDDLE + side * (width + 0.015), 0.46, 0.035, 0.085), skin * 0.86)
    # the lower half narrows to the chin, more so for a child; jowls square it again with age
    power = person.jaw + 0.35 * old - 0.15 * child
    centre = (top + chin) / 2
    narrowing = 1 - (0.20 - 0.08 * child - 0.06 * old) * np.clip((canvas.y - centre) / 0.45, 0, 1) ** 2
    dx = np.abs(canvas.x - _MIDDLE) / (width * narrowing)
    dy = np.abs(canvas.y - centre) / ((chin - top) / 2)
    radius = (dx**power + dy**power) ** (1 / power)
    face: Plane = np.clip((1 - radius) * width * canvas.side + 0.5, 0, 1).astype(np.float32)
    canvas.lay(face, skin)
    canvas.darken((face * np.clip((radius - 0.6) / 0.4, 0, 1) ** 2).astype(np.float32), 0.22)
    for side in (-1, 1):
        cheek = canvas.glow(_MIDDLE + side * 0.20, 0.62, 0.11, 0.09) * face
        canvas.lay(cheek, skin * np.array([1.04, 0.82, 0.78]), 0.25 + 0.30 * child - 0.12 * old)
        # cheekbones show as the face loses its fat
        hollow = canvas.glow(_MIDDLE + side * 0.25, 0.70, 0.06, 0.11) * face
        canvas.darken(hollow, 0.16 * old)
    canvas.lay(canvas.glow(_MIDDLE, 0.17, 0.16, 0.10) * face, np.ones(3), 0.10)
    return face


def _hairline(canvas: _Canvas, person: Person, hair: Colour, child: float, old: float) -> None:
    """Front hair: an arc above the forehead that may recede; strands as soft stripes."""
    height = 0.105 + 0.02 * child - 0.16 * person.recedes * old
    thin = 1 - 0.75 * person.recedes * old
    line = height + 0.10 * person.parting * (canvas.x - _MIDDLE) + 1.1 * (canvas.x - _MIDDLE) ** 2
    sides = np.abs(canvas.x - _MIDDLE) / (person.face_width + 0.055)
    cap = np.clip((line - canvas.y) * canvas.side * 0.35 + 0.5, 0, 1) * np.clip((1.0 - sides) * 40, 0, 1)
    canvas.lay(cap.astype(np.float32), hair, thin)
    temples = np.clip((sides - 0.84) * 14, 0, 1) * np.clip((1.0 - sides) * 40, 0, 1)
    temples = temples * np.clip((0.40 - canvas.y + 0.25 * person.long_hair) * 12, 0, 1)
    canvas.lay(temples.astype(np.float32), hair, 0.9 * thin)
    strands = 0.5 + 0.5 * np.sin((canvas.x + 0.4 * person.parting * canvas.y) * 95)
    canvas.darken((strands * np.maximum(cap, temples)).astype(np.float32), 0.14)


def _beard(canvas: _Canvas, person: Person, hair: Colour, face: Plane, age: int) -> None:
    grown = person.beard * _ramp(age, 17, 26)
    if not grown:
        return
    around = np.clip((canvas.y - 0.66 - 0.5 * (0.12 - np.abs(canvas.x - _MIDDLE)).clip(0)) * 9, 0, 1)
    canvas.lay((around * face).astype(np.float32), hair, 0.65 * grown)
    canvas.lay(canvas.line((0.36, _MIDDLE, 0.62), (0.69, 0.655, 0.69), 0.020), hair, 0.65 * grown)


def _eye(
    canvas: _Canvas,
    person: Person,
    hair: Colour,
    skin: Colour,
    x: float,
    y: float,
    side: int,
    child: float,
    old: float,
) -> None:
    """Socket, white, iris, pupil, light, lids and brow; a child's eyes are larger, age lowers the lid."""
    size = person.eye_size * (1 + 0.22 * child - 0.08 * old)
    wide, high = 0.078 * size, 0.036 * size * (1 + 0.25 * child - 0.25 * old)
    tilt = person.eye_tilt * side - 0.08 * old * -side
    canvas.darken(canvas.glow(x, y - 0.01, 0.11, 0.06), 0.16 + 0.08 * old)
    opening = canvas.ellipse(x, y, wide, high, 1.8, tilt=tilt)
    canvas.lay(opening, np.array([0.96, 0.95, 0.94]) - 0.05 * old)
    iris = canvas.ellipse(x, y - 0.002, 0.033 * size**0.5, 0.033 * size**0.5) * opening
    canvas.lay(iris, person.iris)
    canvas.lay(canvas.ellipse(x, y - 0.002, 0.015, 0.015) * opening, np.array([0.04, 0.03, 0.03]))
    canvas.lay(canvas.ellipse(x + 0.010, y - 0.012, 0.007, 0.007) * opening, np.ones(3), 0.9)
    ends = (x - wide, x, x + wide)
    slope = tilt * wide
    canvas.darken(canvas.line(ends, (y - slope, y - 2 * high, y + slope), 0.011), 0.75)
    canvas.darken(canvas.line(ends, (y - slope, y + 1.9 * high, y + slope), 0.007), 0.25)
    crease = y - high - 0.012 + 0.012 * old
    canvas.darken(canvas.line(ends, (crease + 0.01, crease - 0.03, crease + 0.01), 0.008), 0.18 + 0.25 * old)
    brow = y - 0.085 + 0.012 * old - 0.01 * child
    inner, outer = x - side * 0.085, x + side * 0.105
    colour = hair * 0.8 if skin.mean() > 0.35 else hair * 0.6
    mask = canvas.line(
        (inner, x, outer), (brow + 0.012, brow - 0.030, brow + 0.018 + 0.012 * old), 0.014 * person.brow
    )
    canvas.lay(mask, colour, 0.85 - 0.45 * child - 0.15 * old)


def _nose(canvas: _Canvas, person: Person, skin: Colour, child: float, old: float) -> None:
    size = person.nose * (1 - 0.22 * child + 0.14 * old)
    x, y = _NOSE[0], _NOSE[1] + 0.012 * old
    for side in (-1, 1):
        bridge = canvas.line(
            (x + side * 0.055, x + side * 0.035 * size, x + side * 0.062 * size), (0.36, 0.46, y), 0.022
        )
        canvas.darken(bridge, 0.16)
        nostril = canvas.ellipse(x + side * 0.032 * size, y + 0.032, 0.018 * size, 0.010)
        canvas.darken(nostril, 0.55)
        wing = (x + side * 0.055 * size, x + side * 0.082 * size, x + side * 0.052 * size)
        canvas.darken(canvas.line(wing, (y - 0.02, y + 0.01, y + 0.038), 0.010), 0.32)
    canvas.lay(canvas.glow(x, y - 0.01, 0.030 * size, 0.030), np.ones(3), 0.16)
    canvas.lay(canvas.glow(x, 0.45, 0.016, 0.09), np.ones(3), 0.10)
    canvas.darken(canvas.glow(x, y + 0.055, 0.06 * size, 0.018), 0.18)


def _lips(canvas: _Canvas, person: Person, skin: Colour, child: float, old: float, smile: float) -> None:
    x, y = _MOUTH
    wide = 0.115 * person.mouth * (1 - 0.15 * child + 0.04 * old) * (1 + 0.12 * smile)
    high = 0.030 * person.lips * (1 - 0.45 * old)
    red = skin * np.array([0.92, 0.62, 0.60]) * (1 - 0.06 * old) + 0.05 * np.array([1.0, 0.1, 0.15])
    corner = y - 0.028 * smile + 0.014 * old
    droop = corner - y
    bend = np.clip(np.abs(canvas.x - x) / wide, 0, 1.2) ** 2 * droop
    for offset, thickness, shade in ((-0.55, 0.9, 0.92), (0.75, 1.15, 1.0)):
        dy = (canvas.y - bend - (y + offset * high)) / (high * thickness)
        radius = (np.abs((canvas.x - x) / wide) ** 1.7 + np.abs(dy) ** 2).astype(np.float32)
        canvas.lay(np.clip((1 - radius) * 3, 0, 1), red * shade, 0.9)
    ends = (x - wide, x, x + wide)
    canvas.darken(canvas.line(ends, (corner, 2 * y - corner, corner), 0.009), 0.62)
    canvas.darken(canvas.glow(x, y + 2.6 * high + 0.01, 0.07, 0.016), 0.16)
    canvas.lay(canvas.glow(x, 0.885 - 0.03 * child, 0.07, 0.035), np.ones(3), 0.07)


def _wrinkles(canvas: _Canvas, person: Person, age: int, smile: float) -> None:
    """Forehead lines, crow's feet, bags, folds from nose to mouth, marionette lines; none before 28."""
    folds = person.lines * (0.35 * _ramp(age, 28, 45) + 0.65 * _ramp(age, 42, 78))
    deep = person.lines * _ramp(age, 40, 78)
    if folds <= 0:
        return
    for number, height in enumerate((0.235, 0.190, 0.147)):
        wave = 0.012 * (number - 1) * person.parting
        mask = canvas.line((0.31, _MIDDLE, 0.67), (height + wave, height - 0.028, height - wave), 0.0085)
        canvas.darken(mask, 0.45 * deep)
    for offset in (-0.022, 0.022):
        x = _MIDDLE + offset
        canvas.darken(canvas.line((x, x * 0.9 + _MIDDLE * 0.1, x), (0.25, 0.285, 0.32), 0.008), 0.35 * deep)
    for side, (x, y) in ((-1, _LEFT_EYE), (1, _RIGHT_EYE)):
        for rise in (-0.045, 0.0, 0.045):
            start, end = x + side * 0.092, x + side * 0.155
            middle = (start + end) / 2
            mask = canvas.line((start, middle, end), (y + 0.3 * rise, y + 0.5 * rise, y + rise), 0.0075)
            canvas.darken(mask, 0.5 * folds)
        bag = canvas.line((x - 0.07, x, x + 0.07), (y + 0.045, y + 0.095, y + 0.045), 0.012)
        canvas.darken(bag, 0.36 * folds)
        canvas.darken(canvas.glow(x, y + 0.055, 0.07, 0.020), 0.14 * folds)
        nose_x, mouth_x = _NOSE[0] + side * 0.095, _MOUTH[0] + side * 0.165
        fold = canvas.line(
            (nose_x, mouth_x - side * 0.005, mouth_x), (0.545, 0.60, 0.725 + 0.02 * smile), 0.013
        )
        canvas.darken(fold, 0.5 * folds)
        below = canvas.line(
            (mouth_x - side * 0.025, mouth_x - side * 0.01, mouth_x - side * 0.02), (0.765, 0.81, 0.86), 0.011
        )
        canvas.darken(below, 0.42 * deep)
        jowl = canvas.line((mouth_x + side * 0.10, mouth_x + side * 0.05, mouth_x), (0.80, 0.88, 0.90), 0.016)
        canvas.darken(jowl, 0.28 * deep)
