"""What approximations lose on a text against what they save on machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from pimsim.report.plots import MARKERS, MUTED, WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CostLike(Protocol):
    """What one token's attention takes on a machine; None where it does not run."""

    @property
    def seconds(self) -> float | None: ...

    @property
    def joules(self) -> float | None: ...


class JudgedLike(Protocol):
    """An algorithm on a text and on machines."""

    @property
    def attention(self) -> str: ...

    @property
    def perplexity(self) -> float: ...

    @property
    def costs(self) -> Mapping[str, CostLike]: ...

    @property
    def linear(self) -> Mapping[str, CostLike]: ...


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other one beats in both coordinates, by the first coordinate.

    >>> front([(1.0, 5.0), (2.0, 3.0), (3.0, 4.0), (2.0, 3.0)])
    [0, 1]
    """
    found: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if not found or points[i][1] < points[found[-1]][1]:
            found.append(i)
    return found


def plot_quality(rows: Sequence[JudgedLike]) -> Figure:
    """Two panels, time and energy of one token's attention against perplexity; a line joins what nothing else beats.

    Where rows know what linear layers cost on a machine, that is added.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    archs = list(rows[0].costs)
    colors = colormaps["tab20"].colors  # type: ignore[attr-defined]
    also = ", and linear layers where they run" if rows[0].linear else ""
    titles = {"seconds": f"time of attention{also} (s)", "joules": f"energy of attention{also} (J)"}
    for axes, (key, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for number, arch in enumerate(archs):
            counted = any(row.linear and getattr(row.linear[arch], key) is not None for row in rows)
            every = [(_total(row, arch, key, counted), row.perplexity, i) for i, row in enumerate(rows)]
            drawn = [(x, y, i) for x, y, i in every if x is not None]
            best = front([(x, y) for x, y, _ in drawn])
            axes.plot([drawn[i][0] for i in best], [drawn[i][1] for i in best], color=MUTED, linewidth=1, zorder=1)
            for x, y, i in drawn:
                axes.scatter(x, y, color=colors[i % 20], marker=MARKERS[number % len(MARKERS)], zorder=2)
        axes.set_xscale("log")
        axes.set_xlabel(title)
        axes.set_ylabel("perplexity")
    handles = [Line2D([], [], color=colors[i % 20], marker="o", linestyle="") for i in range(len(rows))]
    handles += [Line2D([], [], color=MUTED, marker=MARKERS[n % len(MARKERS)], linestyle="") for n in range(len(archs))]
    figure.legend(handles, [*(row.attention for row in rows), *archs], loc="outside lower center", ncols=3, fontsize=7)
    return figure


def _total(row: JudgedLike, arch: str, key: str, counted: bool) -> float | None:
    """Of attention and, where they are ``counted`` for the machine, of linear layers; None where one of them does not run."""
    attention: float | None = getattr(row.costs[arch], key)
    if not counted:
        return attention
    linear: float | None = getattr(row.linear[arch], key)
    return None if attention is None or linear is None else attention + linear


__all__ = ["front", "plot_quality"]
