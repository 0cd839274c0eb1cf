"""Charts as SVG text for the HTML page: axes with ticks, points, lines, stacked areas. Everything named is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from pimsim.report.si import si, significant

COLORS = 9
"""Colours of the style sheet, ``c0`` to ``c8``; the last one is for what is summed up."""


@dataclass(frozen=True)
class Axis:
    """One direction of a chart: from ``low`` to ``high`` (which may be the smaller one), at the pixels ``start`` to ``end``.

    ``names`` are the labels of whole numbers from 0 on, for values that are no numbers.
    """

    low: float
    high: float
    start: float
    end: float
    unit: str = ""
    log: bool = False
    names: Sequence[str] = ()

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        where = math.log(value) if self.log else value
        return self.start + (self.end - self.start) * ((where - low) / (high - low) if high != low else 0.5)

    def ticks(self) -> list[tuple[float, str]]:
        """Values worth a label, and the labels."""
        if self.names:
            return [(float(n), name) for n, name in enumerate(self.names)]
        values = log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)
        return [(value, self.label(value)) for value in values]

    def label(self, value: float) -> str:
        """A value as text."""
        return si(value, self.unit, 2) if self.unit else plain(value)


def plain(value: float) -> str:
    """A number without a unit, short.

    >>> plain(0.25), plain(64.0), plain(1.5e7)
    ('0.25', '64', '1.5e+07')
    """
    return f"{value:g}" if value == 0 or 1e-4 <= abs(value) < 1e6 else f"{value:.3g}"


def linear_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values from low to high.

    >>> linear_ticks(0, 10), linear_ticks(0.13, 0.87)
    ([0.0, 5.0, 10.0], [0.2, 0.4, 0.6, 0.8])
    """
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from low to high; between them 2 and 5 where there are few, and round values in a narrow range.

    >>> log_ticks(0.5, 30), log_ticks(1, 1e6), log_ticks(0.83, 1.04)
    ([0.5, 1.0, 2.0, 5.0, 10.0, 20.0], [1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0, 1000000.0], [0.85, 0.9, 0.95, 1.0])
    """
    if high / low < 4:
        return linear_ticks(low, high, 5)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    values = [float(f"{factor}e{power}") for power in range(first, last + 1) for factor in factors]
    kept = [value for value in values if low * 0.999 <= value <= high * 1.001]
    return kept[:: max(1, len(kept) // 8)]


def spread(values: Sequence[float], *, log: bool, zero: bool = False) -> tuple[float, float]:
    """The range of an axis that shows all values with a little room.

    >>> spread([1, 20], log=False, zero=True), spread([2.0], log=True)
    ((0.0, 21.0), (1.0, 4.0))
    """
    low, high = min(values), max(values)
    if log:
        room = (high / low) ** 0.06 if high > low else 2.0
        return low / room, high * room
    if zero:
        return 0.0, high * 1.05 or 1.0
    room = 0.06 * (high - low) or abs(high) or 1.0
    return low - room, high + room


@dataclass
class Chart:
    """A frame with two axes, and what is drawn into it."""

    title: str
    x: Axis
    y: Axis
    x_title: str = ""
    width: int = 400
    height: int = 250
    parts: list[str] = field(default_factory=list)

    def line(self, points: Sequence[tuple[float, float]], style: str, note: str = "") -> None:
        """A line through points; ``style`` are classes of the style sheet."""
        path = "L".join(f"{self.x.at(x):.1f} {self.y.at(y):.1f}" for x, y in points)
        title = f"<title>{escape(note)}</title>" if note else ""
        self.parts.append(f'<path class="line {style}" d="M{path}">{title}</path>')

    def dot(self, x: float, y: float, style: str, note: str) -> None:
        """A point with a note for the pointer."""
        self.parts.append(
            f'<circle class="{style}" cx="{self.x.at(x):.1f}" cy="{self.y.at(y):.1f}" r="3.5">'
            f"<title>{escape(note)}</title></circle>"
        )

    def area(self, edges: Sequence[float], low: Sequence[float], high: Sequence[float], style: str, note: str) -> None:
        """Steps between ``low`` and ``high`` from each edge to the next one."""
        top, bottom = [], []
        for n, (below, above) in enumerate(zip(low, high, strict=True)):
            left, right = f"{self.x.at(edges[n]):.1f}", f"{self.x.at(edges[n + 1]):.1f}"
            top += [f"{left} {self.y.at(above):.1f}", f"{right} {self.y.at(above):.1f}"]
            bottom += [f"{left} {self.y.at(below):.1f}", f"{right} {self.y.at(below):.1f}"]
        path = "L".join([*top, *reversed(bottom)])
        self.parts.append(f'<path class="area {style}" d="M{path}Z"><title>{escape(note)}</title></path>')

    def text(self, x: float, y: float, words: str) -> None:
        """Words beside a place."""
        self.parts.append(f'<text x="{self.x.at(x) + 6:.1f}" y="{self.y.at(y) + 4:.1f}">{escape(words)}</text>')

    def render(self) -> str:
        """The chart as a figure."""
        x, y = self.x, self.y
        lines = [f'<path d="M{x.start} {y.end}V{y.start}H{x.end}" class="axis"/>']
        for value, label in y.ticks():
            at = y.at(value)
            lines.append(f'<path d="M{x.start} {at:.1f}H{x.end}" class="grid"/>')
            lines.append(f'<text x="{x.start - 5}" y="{at + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        ticks = x.ticks()
        for value, label in ticks:
            short = label if len(label) <= 60 / max(1, len(ticks)) + 6 else f"{label[: 60 // len(ticks) + 5]}…"
            lines.append(f'<path d="M{x.at(value):.1f} {y.start}v4" class="axis"/>')
            lines.append(f'<text x="{x.at(value):.1f}" y="{y.start + 17}" text-anchor="middle">{escape(short)}</text>')
        if self.x_title:
            middle = (x.start + x.end) / 2
            lines.append(f'<text x="{middle}" y="{y.start + 34}" text-anchor="middle">{escape(self.x_title)}</text>')
        return (
            f'<figure><figcaption>{escape(self.title)}</figcaption><svg viewBox="0 0 {self.width} {self.height}" '
            f'role="img" aria-label="{escape(self.title)}">{"".join(lines)}{"".join(self.parts)}</svg></figure>'
        )


def legend(names: Sequence[str], *, lines: bool = False) -> str:
    """What the colours ``c0``, ``c1``, ... stand for."""
    shape = ' class="dash"' if lines else ""
    keys = "".join(
        f'<em><i class="c{min(n, COLORS - 1)}"{shape}></i>{escape(name)}</em>' for n, name in enumerate(names)
    )
    return f'<p class="legend">{keys}</p>'


def factor(value: float) -> str:
    """How many times larger.

    >>> factor(1.9234), factor(12.0)
    ('1.92x', '12.0x')
    """
    return f"{significant(value)}x"


__all__ = ["COLORS", "Axis", "Chart", "factor", "legend", "linear_ticks", "log_ticks", "plain", "spread"]
