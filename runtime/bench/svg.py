"""Plots as inline SVG, coloured by the page's own style: they follow light and dark.

A picture made by a plotting library has fixed colours, and text that is too small on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 14, 38

Point = tuple[float, float]


class Axis:
    """A range of values, linear or logarithmic."""

    def __init__(self, low: float, high: float, label: str, *, log: bool = False) -> None:
        if log:
            low = max(low, 1e-12)
            high = max(high, low * 1.2)
        elif high <= low:
            high = low + (abs(low) or 1.0)
        self.low, self.high, self.label, self.log = low, high, label, log

    def place(self, value: float) -> float:
        """0..1; values outside lie on the border."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0)

    def ticks(self) -> list[float]:
        if not self.log:
            return _linear(self.low, self.high)
        for steps in ((1,), (1, 3), (1, 2, 5)):
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [
                step * 10.0**d for d in decades for step in steps if self.low <= step * 10.0**d <= self.high
            ]
            if len(found) >= 3:
                return found if len(found) <= 8 else found[:: -(-len(found) // 8)]
        return _linear(self.low, self.high)


class Plot:
    """Marks between two axes; every text is escaped."""

    def __init__(self, title: str, x: Axis, y: Axis) -> None:
        self._title, self._x, self._y = title, x, y
        self._marks: list[str] = []

    def line(self, points: Sequence[Point], kind: str = "a", *, dashed: bool = False) -> None:
        if points:
            way = "L".join(f"{x:.1f} {y:.1f}" for x, y in map(self._at, points))
            dash = " dash" if dashed else ""
            self._marks.append(f'<path class="line {kind}{dash}" d="M{way}"/>')

    def area(self, lower: Sequence[Point], upper: Sequence[Point], kind: str = "a") -> None:
        if lower:
            way = "L".join(f"{x:.1f} {y:.1f}" for x, y in map(self._at, [*lower, *reversed(upper)]))
            self._marks.append(f'<path class="area {kind}" d="M{way}Z"/>')

    def bars(self, edges: Sequence[float], heights: Sequence[float], kind: str = "a") -> None:
        """A bar between each two edges; one that is not empty is never too small to be seen."""
        _, floor = self._at((edges[0], self._y.low))
        for left, right, height in zip(edges, edges[1:], heights, strict=False):
            if height > 0:
                x0, y = self._at((left, height))
                x1, _ = self._at((right, height))
                y = min(y, floor - 2)
                width = max(x1 - x0 - 0.5, 0.8)
                self._marks.append(
                    f'<rect class="bar {kind}" x="{x0:.1f}" y="{y:.1f}" '
                    f'width="{width:.1f}" height="{floor - y:.1f}"/>'
                )

    def spans(self, columns: Sequence[tuple[float, float, float]], kind: str = "a") -> None:
        """Vertical strokes (x, lowest, highest)."""
        way = "".join(
            "M{:.1f} {:.1f}V{:.1f}".format(*self._at((x, low)), self._at((x, high))[1] - 0.5)
            for x, low, high in columns
        )
        self._marks.append(f'<path class="span {kind}" d="{way}"/>')

    def dot(self, point: Point, label: str = "", kind: str = "a", *, hollow: bool = False) -> None:
        x, y = self._at(point)
        self._marks.append(
            f'<circle class="dot {kind}{" hollow" * hollow}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        )
        if label:
            near_end = x > WIDTH - _RIGHT - 90
            anchor, shift = ("end", -7) if near_end else ("start", 7)
            self._marks.append(
                f'<text class="note" x="{x + shift:.1f}" y="{max(y - 6, 10):.1f}" text-anchor="{anchor}">'
                f"{escape(label)}</text>"
            )

    def specks(self, points: Sequence[Point]) -> None:
        """Small dots, for so few values that each is seen."""
        for x, y in map(self._at, points):
            self._marks.append(f'<circle class="speck" cx="{x:.1f}" cy="{y:.1f}" r="1.8"/>')

    def across(self, y: float, low: float, high: float, label: str, kind: str = "b") -> None:
        """A horizontal interval with a dot's worth of text."""
        x0, height = self._at((low, y))
        x1, _ = self._at((high, y))
        self._marks.append(
            f'<path class="line {kind} thick" d="M{x0:.1f} {height:.1f}H{max(x1, x0 + 2):.1f}"/>'
        )
        anchor, at = ("end", x0 - 6) if x0 > WIDTH / 2 else ("start", x1 + 6)
        where = f'x="{at:.1f}" y="{height - 4:.1f}" text-anchor="{anchor}"'
        self._marks.append(f'<text class="note" {where}>{escape(label)}</text>')

    def upright(self, x: float, label: str, kind: str = "b") -> None:
        at, _ = self._at((x, self._y.low))
        self._marks.append(f'<path class="line {kind} dash" d="M{at:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
        self._marks.append(
            f'<text class="note" x="{at - 4:.1f}" y="{_TOP + 9}" text-anchor="end">{escape(label)}</text>'
        )

    def level(self, y: float, label: str, kind: str = "b") -> None:
        _, at = self._at((self._x.low, y))
        self._marks.append(f'<path class="line {kind} dash" d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}"/>')
        self._marks.append(f'<text class="note" x="{_LEFT + 4}" y="{at - 4:.1f}">{escape(label)}</text>')

    def band(self, low: float, high: float, label: str) -> None:
        """A shaded stretch of the x axis."""
        x0, _ = self._at((low, self._y.low))
        x1, _ = self._at((high, self._y.low))
        self._marks.insert(
            0,
            f'<rect class="shade" x="{x0:.1f}" y="{_TOP}" width="{max(x1 - x0, 1):.1f}" '
            f'height="{HEIGHT - _BOTTOM - _TOP}"><title>{escape(label)}</title></rect>',
        )

    def svg(self) -> str:
        grid = []
        for tick in self._x.ticks():
            x, _ = self._at((tick, self._y.low))
            grid.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
            where = f'x="{x:.1f}" y="{HEIGHT - _BOTTOM + 14}" text-anchor="middle"'
            grid.append(f'<text class="tick" {where}>{_number(tick)}</text>')
        for tick in self._y.ticks():
            _, y = self._at((self._x.low, tick))
            grid.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
            grid.append(
                f'<text class="tick" x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
            )
        title = escape(self._title)
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>'
            f"{''.join(grid)}{''.join(self._marks)}"
            f'<text class="axis" x="{(WIDTH + _LEFT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
            f"{escape(self._x.label)}</text>"
            f'<text class="axis" x="{_LEFT}" y="10">{escape(self._y.label)}</text></svg>'
        )

    def _at(self, point: Point) -> Point:
        x = _LEFT + self._x.place(point[0]) * (WIDTH - _LEFT - _RIGHT)
        return x, HEIGHT - _BOTTOM - self._y.place(point[1]) * (HEIGHT - _TOP - _BOTTOM)


def _linear(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten: 4 to 8 of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    if value and abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.10g}" if abs(value) < 10000 else f"{value / 1000:.10g}k"
