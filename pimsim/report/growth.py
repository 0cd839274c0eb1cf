"""Figures over the length of the context: what one more token costs, for several attention algorithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pimsim.report.plots import MARKERS, WIDTH
from pimsim.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_growth(curves: Mapping[str, Sequence[tuple[int, Result]]]) -> Figure:
    """Three panels: time, energy and persistent memory of one token over its context.

    Args:
        curves: label -> (context, run of one token with that context); the runs must have a ``memory`` section.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, title in zip(
        panels, ("time of a token (s)", "energy of a token (J)", "persistent memory (B)"), strict=True
    ):
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("context (tokens)")
        axes.spines[["top", "right"]].set_visible(False)
    for number, (label, runs) in enumerate(curves.items()):
        contexts = [context for context, _ in runs]
        figures = [
            [run.time.seconds for _, run in runs],
            [run.energy.joules for _, run in runs],
            [persistent_bytes(run) for _, run in runs],
        ]
        for axes, values in zip(panels, figures, strict=True):
            axes.plot(
                contexts, values, f"-{MARKERS[number % len(MARKERS)]}", color=colormaps["tab10"](number), label=label
            )
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def persistent_bytes(run: Result) -> int:
    """Bytes that must stay for the next token, in all units; 0 where nothing is known."""
    return sum(unit["persistent_bytes"] for unit in (run.memory or {}).values())


__all__ = ["persistent_bytes", "plot_growth"]
