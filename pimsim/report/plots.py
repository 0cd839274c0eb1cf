"""Figures of a run. matplotlib is loaded when a figure is drawn, not before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pimsim.errors import InputError
from pimsim.report.si import percent, si
from pimsim.result import Result
from pimsim.trace.activity import BUSY, IDLE, Activity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TIME, ENERGY, MUTED = "#2f6f9f", "#c8702a", "#666666"
"""Colours of time, of energy and of text beside the data."""

SMALLEST = 0.005
"""Bars below this share are summed up as one."""

MARKERS = "osD^vP*X"
"""Shapes of points, so that they differ in print, too."""

MAX_REASONS = 7
"""Waits that are named in a figure; the rest is summed up."""

WIDTH = 9.0
"""Width of a figure in inches."""

Bar = tuple[str, float]
"""Label and value."""


@dataclass(frozen=True)
class Panel:
    """Bars of one figure part: values in ``unit``."""

    bars: Sequence[Bar]
    unit: str
    color: str
    title: str


@dataclass(frozen=True)
class BandwidthPoint:
    """An attention schedule at one parallelism."""

    schedule: str
    parallelism: int
    tokens_per_step: float
    cycles: int


def plot_breakdown(result: Result) -> Figure:
    """Two panels: time by operation and energy by component."""
    times = [(name, op.seconds) for name, op in result.ops.items() if op.seconds > 0]
    joules = list(result.energy.by_component.items())
    left = Panel(times, "s", TIME, f"time, {si(result.time.seconds, 's')} in all")
    figure = _panels(left, Panel(joules, "J", ENERGY, _energy_title(result)))
    tokens = result.tokens
    _title(figure, result, f"{si(tokens.seconds_per_token, 's')} per token" if tokens else "whole run")
    return figure


def plot_energy(result: Result) -> Figure:
    """Two panels: energy by component and energy by operation."""
    components = list(result.energy.by_component.items())
    ops = list(result.energy.by_op.items())
    left = Panel(components, "J", ENERGY, _energy_title(result))
    figure = _panels(left, Panel(ops, "J", ENERGY, "by operation"))
    _title(figure, result, f"{si(result.energy.average_watts, 'W')} on average")
    return figure


def plot_timeline(result: Result) -> Figure:
    """What the units did over time, or, where no activity was recorded, where the time of the run went on each of them.

    Over time (``simulate(..., activity=True)``): one panel for each sort of units, a stack of shares of their time. Else: one
    bar a unit, busy first, then the longest waits.
    """
    return _units_in_all(result) if result.activity is None else _units_over_time(result, result.activity)


def _units_over_time(result: Result, activity: Activity) -> Figure:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    groups = activity.groups
    sums: dict[str, float] = {}
    for group in groups.values():
        for label, shares in group.shares.items():
            sums[label] = sums.get(label, 0.0) + sum(shares)
    order = sorted((label for label in sums if label != IDLE), key=lambda label: (label != BUSY, -sums[label]))
    named = [label for label in order if sums[label] > 0][: MAX_REASONS + 1]
    colors = [TIME, *(colormaps["tab20"](2 * i + 1) for i in range(1, len(named)))]
    scale, unit = _time_scale(result.time.seconds)
    figure = Figure(figsize=(WIDTH, 1.0 + 1.7 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, group) in zip(panels, groups.items(), strict=True):
        bins = len(next(iter(group.shares.values())))
        edges = [min(n * activity.bin_seconds, result.time.seconds) * scale for n in range(bins + 1)]
        below = [0.0] * bins
        for label, color in zip(named, colors, strict=True):
            above = [low + 100 * share for low, share in zip(below, group.shares.get(label, [0.0] * bins), strict=True)]
            axes.stairs(above, edges, baseline=below, fill=True, color=color, label=label.replace("_", " "))
            below = above
        axes.set_ylim(0, 100)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylabel(f"{group.units} x {name} (%)" if group.units > 1 else f"{name} (%)", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel(f"time ({unit})")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    _title(figure, result, si(result.time.seconds, "s"))
    return figure


def _time_scale(seconds: float) -> tuple[float, str]:
    """Factor and unit that make a time readable."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return factor, unit
    return 1e9, "ns"


def _units_in_all(result: Result) -> Figure:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    units = list(result.units.items())
    sums: dict[str, float] = {}
    for _, unit in units:
        for reason, seconds in unit.stalls.items():
            sums[reason] = sums.get(reason, 0.0) + seconds
    named = [reason for reason, _ in sorted(sums.items(), key=lambda item: -item[1])[:MAX_REASONS]]
    total = result.time.seconds or 1.0
    figure = Figure(figsize=(WIDTH, 1.6 + 0.3 * len(units)), layout="constrained")
    axes = figure.subplots()
    labels = [name for name, _ in units]
    left = [0.0] * len(units)
    rows: list[tuple[str, list[float]]] = [("busy", [unit.busy_seconds for _, unit in units])]
    rows += [(reason, [unit.stalls.get(reason, 0.0) for _, unit in units]) for reason in named]
    rest = [sum(s for reason, s in unit.stalls.items() if reason not in named) for _, unit in units]
    rows += [("other", rest)] if any(rest) else []
    colors = [TIME, *(colormaps["tab20"](2 * i + 1) for i in range(1, len(rows)))]
    for (label, spent), color in zip(rows, colors, strict=True):
        shares = [100 * value / total for value in spent]
        axes.barh(labels, shares, left=left, label=label.replace("_", " "), color=color, height=0.7)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the run (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    _title(figure, result, si(result.time.seconds, "s"))
    return figure


def plot_roofline(result: Result) -> Figure:
    """Achieved FLOP/s of each operation over its intensity, under the roofs of the banks and of the data pins.

    Raises:
        InputError: no roofline is known of this machine.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    roofs = result.roofline
    if roofs is None:
        raise InputError(f"plot_roofline must have a result with a roofline; that of {result.arch.name} has none")
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    knees = [roofs.peak_flop_s / roofs.bank_bytes_s, roofs.peak_flop_s / roofs.pin_bytes_s]
    points = [(kind, op.flop / op.bytes, op.flop / op.seconds) for kind, op in roofs.ops.items() if op.seconds]
    left, right = min([*knees, *(x for _, x, _ in points)]) / 8, max(knees) * 4
    for bandwidth, style, name in ((roofs.bank_bytes_s, "-", "banks"), (roofs.pin_bytes_s, "--", "data pins")):
        knee = roofs.peak_flop_s / bandwidth
        label = f"{name}, {si(bandwidth, 'B/s')}"
        axes.plot([left, knee, right], [left * bandwidth, *2 * [roofs.peak_flop_s]], style, color=MUTED, label=label)
    for number, (kind, intensity, rate) in enumerate(sorted(points, key=lambda point: -point[2])):
        label = f"{kind.replace('_', ' ')}, {si(rate, 'FLOP/s')}"
        axes.plot(intensity, rate, MARKERS[number % len(MARKERS)], color=colormaps["tab10"](number % 10), label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP per byte of weights, keys and values")
    axes.set_ylabel("FLOP/s")
    axes.set_xlim(left, right)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    _title(figure, result, f"peak {si(roofs.peak_flop_s, 'FLOP/s')}")
    return figure


def plot_bandwidth(points: Sequence[BandwidthPoint]) -> Figure:
    """Two panels over the parallelism of an attention schedule: tokens read per step, and cycles.

    >>> figure = plot_bandwidth([BandwidthPoint("naive", 1, 1.0, 8), BandwidthPoint("naive", 2, 2.0, 8)])
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['tokens read per step', 'cycles']
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    schedules = list(dict.fromkeys(point.schedule for point in points))
    for axes, title in zip(figure.subplots(1, 2), ("tokens read per step", "cycles"), strict=True):
        for schedule, marker, color in zip(schedules, MARKERS, (TIME, ENERGY), strict=False):
            drawn = sorted((p for p in points if p.schedule == schedule), key=lambda p: p.parallelism)
            lanes = [p.parallelism for p in drawn]
            values = [p.cycles if title == "cycles" else p.tokens_per_step for p in drawn]
            axes.plot(lanes, values, marker=marker, color=color, label=schedule)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xlabel("parallelism")
        axes.set_title(title, fontsize=9, loc="left", color=MUTED)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


def _energy_title(result: Result) -> str:
    missing = ", ".join(dict.fromkeys(text.split(":")[0] for text in result.energy.uncosted))
    return f"energy, {si(result.energy.joules, 'J')} in all" + (f"\n(without {missing})" if missing else "")


def _panels(*panels: Panel) -> Figure:
    """Panels side by side, bars equally thick."""
    from matplotlib.figure import Figure

    rows = max(3, *(len(_fold(panel.bars)) for panel in panels))
    figure = Figure(figsize=(WIDTH, 1.2 + 0.28 * rows), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        _draw(axes, panel, rows)
    return figure


def _title(figure: Figure, result: Result, figures: str) -> None:
    figure.suptitle(f"{result.workload.name} on {result.arch.name}: {figures}", fontsize=11)


def _fold(bars: Sequence[Bar]) -> list[Bar]:
    """Bars in falling order; those below `SMALLEST` of the sum as one, zeros left out."""
    total = sum(value for _, value in bars)
    large = sorted((bar for bar in bars if bar[1] >= SMALLEST * total and bar[1] > 0), key=lambda bar: -bar[1])
    small = [bar for bar in bars if 0 < bar[1] < SMALLEST * total]
    return [*large, *([(f"{len(small)} more", sum(value for _, value in small))] if len(small) > 1 else small)]


def _draw(axes: Axes, panel: Panel, rows: int) -> None:
    """Horizontal bars, each labelled with its value and share, in an axis with room for ``rows`` of them."""
    folded = _fold(panel.bars)
    total = sum(value for _, value in folded) or 1.0
    labels = [label.replace("_", " ") for label, _ in folded]
    values = [value for _, value in folded]
    drawn = axes.barh(labels, values, color=panel.color, height=0.7)
    notes = [f"{si(value, panel.unit)}  {percent(value / total)}" for value in values]
    axes.bar_label(drawn, notes, padding=4, fontsize=8, color=MUTED)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_title(panel.title, fontsize=9, loc="left", color=MUTED)
    axes.set_xlim(0, 1.5 * max(values, default=1.0))
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.set_xticks([])


__all__ = ["BandwidthPoint", "plot_bandwidth", "plot_breakdown", "plot_energy", "plot_roofline", "plot_timeline"]
