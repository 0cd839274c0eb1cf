"""Figures and tables of a comparison of attention algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pimsim.analysis.comparison import FIGURES, Row, growth
from pimsim.report.plots import MARKERS, MUTED, WIDTH
from pimsim.report.si import NONE, si, significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"seconds": "latency", "joules": "energy", "peak_bytes": "peak memory", "interface_bytes": "interface traffic"}
HEAD = ("attention", "arch", "phase", "context", "latency", "energy", "peak memory", "traffic", "error", "note")


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Cells of a table, the head first; a row without figures says why there are none."""
    return [list(HEAD), *(_cells(row) for row in rows)]


def _cells(row: Row) -> list[str]:
    error = "exact" if row.error == 0 else NONE if row.error is None else f"{row.error:.2g}"
    note = row.why or ("checked" if row.checked else "")
    joules = si(row.joules, "J") + (" +" if row.joules and row.uncosted else "")
    figures = (si(row.seconds, "s"), joules, si(row.peak_bytes, "B"), si(row.interface_bytes, "B"), error)
    return [row.attention, row.arch, row.phase, f"{row.context:,}", *figures, note]


def without(rows: Sequence[Row]) -> str:
    """A line that says which parts of which machines are not in the energy, or nothing."""
    parts = dict.fromkeys(f"{row.arch}: {row.uncosted}" for row in rows if row.uncosted)
    return f"+ energy without {'; '.join(parts)}\n" if parts else ""


def growth_table(rows: Sequence[Row]) -> list[list[str]]:
    """How the figures of each algorithm on each machine grow with the context; empty if there are fewer than three contexts.

    A law with the exponent of a power law between the last two contexts, such as ``linear (0.98)``.
    """
    found = [["attention", "arch", "phase", *TITLES.values()]]
    for drawn in _series(rows).values():
        if len(drawn) < 3:
            continue
        cells = []
        for figure in TITLES:
            points = [(row.context, getattr(row, figure)) for row in drawn if getattr(row, figure) is not None]
            law = growth([n for n, _ in points], [value for _, value in points]) if points else None
            none = "zero" if points and not any(value for _, value in points) else NONE
            cells.append(f"{law.law} ({significant(law.exponent, 2)})" if law is not None else none)
        found.append([drawn[0].attention, drawn[0].arch, drawn[0].phase, *cells])
    return found if len(found) > 1 else []


def _series(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.seconds is not None:
            found.setdefault((row.attention, row.arch), []).append(row)
    return {key: sorted(drawn, key=lambda row: row.context) for key, drawn in found.items()}


def plot_comparison(rows: Sequence[Row]) -> Figure:
    """Four panels over the context, a line for each algorithm on each machine; on a single machine, lines differ by phase.

    >>> figure = plot_comparison([Row("flash", "pim_gpt", n, "decode", 1e-6 * n, 1e-6, n, n) for n in (8, 16)])
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['latency (s)', 'energy (J)', 'peak memory (B)', 'interface traffic (B)']
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    series = _series(rows)
    archs = list(dict.fromkeys(arch for _, arch in series))
    styles = archs if len(archs) > 1 else list(dict.fromkeys(row.phase for row in rows))
    names = list(dict.fromkeys(attention for attention, _ in series))
    colors = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, TITLES.items(), strict=True):
        for (attention, arch), drawn in series.items():
            points = [(row.context, getattr(row, key)) for row in drawn if getattr(row, key)]
            style = styles.index(arch if len(archs) > 1 else drawn[0].phase)
            axes.plot(
                [n for n, _ in points],
                [value for _, value in points],
                color=colors[names.index(attention) % len(colors)],
                marker=MARKERS[style % len(MARKERS)],
                linestyle=("-", "--", ":", "-.")[style % 4],
                markersize=4,
                label=f"{attention}, {arch}" if len(archs) > 1 else attention,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("context (keys)")
        axes.set_title(f"{title} ({FIGURES[key]})", fontsize=9, loc="left", color=MUTED)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


__all__ = ["growth_table", "plot_comparison", "table", "without"]
