"""The part of the page about a sweep: what matters most, each axis by itself, the Pareto front, every point.

An axis is looked at with everything else held: points that differ in nothing but this axis are compared with each other.
Columns that always change together (a ``zip`` of the sweep file, derived values) are one axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from pimsim.report.si import count
from pimsim.report.svg import COLORS, Axis, Chart, factor, legend, plain, spread

Row = Sequence[Any]

UNITS = {"seconds": "s", "seconds_per_token": "s", "joules": "J", "joules_per_token": "J", "average_watts": "W"}
"""Unit of a figure; others have none."""

FIGURES = ("seconds", "joules", "seconds_per_token", "joules_per_token", "average_watts", "row_hit_rate", "commands")
"""Columns of the table that are shown at first, beside axes and objectives."""

LARGEST = 1e100
"""Figures beyond this, or below one over it, are not drawn: no machine of ours has them."""

MAX_LINES = 400
"""Matched points that a plot shows one by one; beyond them only the mean."""

MAX_ERRORS = 8
"""Errors of failed points that are told apart."""


@dataclass(frozen=True)
class SweepPage:
    """A sweep: its name, the columns and rows of its table, which columns were varied, and its manifest."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Row]
    axes: Sequence[str]
    manifest: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    """A figure that the plots are about."""

    name: str
    unit: str
    sign: int
    """1 if small is good, -1 if large is."""


@dataclass(frozen=True)
class Dimension:
    """An axis, with the columns that change with it."""

    path: str
    companions: tuple[str, ...]
    values: tuple[Any, ...]
    """In their order."""

    @property
    def label(self) -> str:
        """The path and what goes with it."""
        short = ", ".join(path.rpartition(".")[2] for path in self.companions)
        return self.path + (f" (with {short})" if short else "")


class Table:
    """The finished points of a sweep by the name of their columns."""

    def __init__(self, page: SweepPage) -> None:
        self._index = {name: n for n, name in enumerate(page.columns)}
        status = self._index.get("status")
        self.rows = [row for row in page.rows if status is None or row[status] == "ok"]
        self.failed = [row for row in page.rows if status is not None and row[status] != "ok"]
        self.axes = [path for path in page.axes if path in self._index]
        self.goals = self._goals(page)
        self.dimensions = self._dimensions()

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def value(self, row: Row, name: str) -> Any:
        """A cell."""
        return row[self._index[name]]

    def matched(self, dimension: Dimension, goal: Goal) -> list[dict[Any, float]]:
        """Value of the axis -> figure, for points that are equal in all other axes; only where there are two or more."""
        mine = {dimension.path, *dimension.companions}
        others = [path for path in self.axes if path not in mine]
        groups: dict[tuple[str, ...], dict[Any, float]] = {}
        for row in self.rows:
            figure = self.value(row, goal.name)
            if is_figure(figure):
                key = tuple(repr(self.value(row, path)) for path in others)
                groups.setdefault(key, {})[self.value(row, dimension.path)] = float(figure)
        return [group for group in groups.values() if len(group) > 1]

    def setting(self, row: Row) -> str:
        """What is special about a point, in a line."""
        return ", ".join(f"{d.path.rpartition('.')[2]} {self.value(row, d.path)}" for d in self.dimensions)

    def _goals(self, page: SweepPage) -> list[Goal]:
        told = [
            Goal(
                str(entry["name"]), UNITS.get(str(entry.get("value")), ""), -1 if entry.get("goal") == "maximize" else 1
            )
            for entry in page.manifest.get("objectives") or ()
            if entry["name"] in self._index
        ]
        return told or [Goal(name, UNITS[name], 1) for name in ("seconds", "joules") if name in self._index]

    def _dimensions(self) -> list[Dimension]:
        """Axes with more than one value; those that change together are one."""
        found: dict[tuple[int, ...], list[str]] = {}
        for path in self.axes:
            numbers: dict[str, int] = {}
            pattern = tuple(numbers.setdefault(repr(self.value(row, path)), len(numbers)) for row in self.rows)
            if len(numbers) > 1:
                found.setdefault(pattern, []).append(path)
        return [
            Dimension(
                path, tuple(rest), tuple(in_order({repr(v): v for v in (self.value(r, path) for r in self.rows)}))
            )
            for path, *rest in found.values()
        ]


def is_number(value: Any) -> bool:
    """Whether an axis can place a value by its size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def is_figure(value: Any) -> bool:
    """Whether a figure can be drawn on a logarithmic axis."""
    return is_number(value) and value > 1 / LARGEST


def in_order(values: Mapping[str, Any]) -> list[Any]:
    """Numbers by size, anything else as it comes."""
    found = list(values.values())
    numbers = all(is_number(value) for value in found)
    return sorted(found) if numbers else found


def render_sweep(page: SweepPage, table: str) -> str:
    """The section; ``table`` is that of all points."""
    found = Table(page)
    parts = [
        f"<h2>{escape(page.name)}</h2>",
        _summary(page, found),
        _ranking(found),
        *(_sensitivity(found, goal) for goal in found.goals),
        _pareto(found),
        _failures(found),
        "<h3>All points</h3>",
        table,
    ]
    return "<section>" + "\n".join(part for part in parts if part) + "</section>"


def shown_columns(page: SweepPage) -> list[str]:
    """Columns of the table that are seen before one asks for all: what was varied and the most important figures."""
    goals = [str(entry["name"]) for entry in page.manifest.get("objectives") or ()]
    wanted = {"point", *page.axes, *goals, *FIGURES, *(["pareto"] if goals else [])}
    if any(name == "error" and any(row[n] is not None for row in page.rows) for n, name in enumerate(page.columns)):
        wanted |= {"status", "error"}
    return [name for name in page.columns if name in wanted]


def _summary(page: SweepPage, table: Table) -> str:
    about = page.manifest
    planned = about.get("points")
    facts = [
        ("about", str(about.get("description") or "")),
        ("architecture", "" if "arch" in table.axes else str(about.get("arch") or "")),
        ("workload", "" if "workload" in table.axes else str(about.get("workload") or "")),
        ("points", f"{len(page.rows):,}" + (f" of {planned:,}" if isinstance(planned, int) else "")),
        ("failed", f"{len(table.failed):,}"),
        *((d.label, ", ".join(str(value) for value in d.values[:12])) for d in table.dimensions),
        *((f"least {g.name}" if g.sign > 0 else f"most {g.name}", _best(table, g)) for g in table.goals),
        ("pimsim", str((about.get("manifest") or {}).get("version") or "")),
    ]
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts if v) + "</dl>"


def _best(table: Table, goal: Goal) -> str:
    rows = [row for row in table.rows if is_figure(table.value(row, goal.name))]
    if not rows:
        return ""
    row = min(rows, key=lambda row: goal.sign * table.value(row, goal.name))
    value = Axis(0, 1, 0, 1, goal.unit).label(table.value(row, goal.name))
    return f"{value} with {table.setting(row)}"


def mean_range(groups: Sequence[Mapping[Any, float]]) -> float:
    """Largest over smallest figure of matched points, as a geometric mean."""
    return math.exp(sum(math.log(max(g.values()) / min(g.values())) for g in groups) / len(groups)) if groups else 1.0


def _ranking(table: Table) -> str:
    """Bars: by how much each axis changes each figure, everything else held."""
    blocks = []
    for number, goal in enumerate(table.goals):
        ranges = [(d, mean_range(table.matched(d, goal))) for d in table.dimensions]
        ranges = sorted(((d, r) for d, r in ranges if r > 1), key=lambda pair: -pair[1])
        top = math.log(ranges[0][1]) if ranges else 0
        bars = "".join(
            f'<div class="bar"><b>{escape(d.label)}</b><span><i class="c{number % COLORS}" '
            f'style="width:{100 * math.log(r) / top:.1f}%"></i></span><small>{factor(r)}</small></div>'
            for d, r in ranges
        )
        blocks += [f"<h4>{escape(goal.name)}</h4>{bars}"] if bars else []
    if not blocks:
        return ""
    note = "Largest over smallest value along an axis with all other axes held, geometric mean; bars are logarithmic."
    return f'<h3>What matters most</h3><p class="note">{note}</p><div class="plot wide-names">{"".join(blocks)}</div>'


def _sensitivity(table: Table, goal: Goal) -> str:
    charts = [_sensitivity_chart(table, d, goal) for d in table.dimensions]
    if not any(charts):
        return ""
    note = "Relative to the first value of the axis. Thin: points that differ in nothing else. Thick: their geometric mean."
    title = f"<h3>{escape(goal.name)} along each axis</h3>"
    return f'{title}<p class="note">{note}</p><div class="plots">{"".join(charts)}</div>'


def _sensitivity_chart(table: Table, dimension: Dimension, goal: Goal) -> str:
    values = dimension.values
    first = values[0]
    groups = [group for group in table.matched(dimension, goal) if first in group]
    if not groups:
        return ""
    ratios = [{value: figure / group[first] for value, figure in group.items()} for group in groups]
    x, at = _value_axis(values)
    means = [
        (at[value], math.exp(sum(math.log(r[value]) for r in ratios if value in r) / sum(value in r for r in ratios)))
        for value in values
        if any(value in r for r in ratios)
    ]
    everything = [y for r in ratios for y in r.values()]
    low, high = spread(everything, log=True)
    chart = Chart(dimension.label, x, Axis(low, high, 200, 16, log=True), dimension.path.rpartition(".")[2])
    for r in ratios[:MAX_LINES]:
        chart.line([(at[value], r[value]) for value in values if value in r], "thin")
    chart.line(means, "thick")
    for place, y in means:
        chart.dot(place, y, "mark", f"{factor(y)} of {plain_value(first)}")
    return chart.render()


def _value_axis(values: Sequence[Any]) -> tuple[Axis, dict[Any, float]]:
    """The axis of an axis of a sweep, and where each value stands."""
    numbers = all(is_number(value) for value in values)
    if numbers and len(values) > 8:
        log = min(values) > 0 and max(values) / min(values) >= 8
        low, high = spread([float(value) for value in values], log=log)
        return Axis(low, high, 52, 385, log=log), {value: float(value) for value in values}
    names = [plain_value(value) for value in values]
    return Axis(-0.3, len(values) - 0.7, 52, 385, names=names), {value: float(n) for n, value in enumerate(values)}


def plain_value(value: Any) -> str:
    """A value of an axis as text."""
    return plain(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _pareto(table: Table) -> str:
    """The first two figures against each other, with a front for each workload: they do not compete."""
    if len(table.goals) < 2:
        return ""
    first, second = table.goals[:2]
    points = [
        (float(table.value(row, first.name)), float(table.value(row, second.name)), row)
        for row in table.rows
        if all(is_figure(table.value(row, goal.name)) for goal in (first, second))
    ]
    if not points:
        return ""
    group = next((d for d in table.dimensions if d.path == "workload" and len(d.values) < COLORS), None)
    names = [str(value) for value in group.values] if group else ["all points"]
    x_low, x_high = spread([x for x, _, _ in points], log=True)
    y_low, y_high = spread([y for _, y, _ in points], log=True)
    chart = Chart(
        f"{second.name} against {first.name}",
        Axis(x_low, x_high, 70, 740, first.unit, log=True),
        Axis(y_low, y_high, 320, 16, second.unit, log=True),
        first.name,
        width=760,
        height=370,
    )
    for number, name in enumerate(names):
        mine = [p for p in points if group is None or str(table.value(p[2], group.path)) == name]
        best = front([(x, y) for x, y, _ in mine], first.sign, second.sign)
        chart.line(sorted(best), f"front c{number}")
        for x, y, row in mine:
            note = f"{first.name} {chart.x.label(x)}, {second.name} {chart.y.label(y)}: {table.setting(row)}"
            chart.dot(x, y, f"c{number}{' front' if (x, y) in best else ''}", note)
    wanted = " and ".join(f"{'small' if g.sign > 0 else 'large'} {g.name}" for g in (first, second))
    note = f"Filled and joined: no other point{' of its colour' if group else ''} is better in both ({wanted})."
    key = legend(names) if group else ""
    return f'<h3>Pareto front</h3><p class="note">{escape(note)}</p>{key}<div class="broad">{chart.render()}</div>'


def front(points: Sequence[tuple[float, float]], first: int = 1, second: int = 1) -> set[tuple[float, float]]:
    """Points that no other one beats in both coordinates; a sign of -1 says that large is good.

    >>> sorted(front([(1, 5), (2, 3), (3, 4), (4, 1)]))
    [(1, 5), (2, 3), (4, 1)]
    >>> sorted(front([(1, 5), (2, 3)], 1, -1))
    [(1, 5)]
    """
    best: set[tuple[float, float]] = set()
    lowest = math.inf
    for x, y in sorted(set(points), key=lambda point: (first * point[0], second * point[1])):
        if second * y < lowest:
            best.add((x, y))
            lowest = second * y
    return best


def _failures(table: Table) -> str:
    if not table.failed or "error" not in table:
        return ""
    errors: dict[str, int] = {}
    for row in table.failed:
        text = str(table.value(row, "error"))
        errors[text] = errors.get(text, 0) + 1
    lines = "".join(f"<li>{count(n)}: {escape(text[:300])}</li>" for text, n in list(errors.items())[:MAX_ERRORS])
    more = f"<li>and {len(errors) - MAX_ERRORS} more</li>" if len(errors) > MAX_ERRORS else ""
    return f"<h3>Failed points</h3><ul>{lines}{more}</ul>"


__all__ = ["SweepPage", "front", "in_order", "mean_range", "render_sweep", "shown_columns"]
