"""Published figures against this simulator: one row for each figure, model and machine.

The published side is data (``arch_configs/published/``); the simulated side runs the shipped configurations as a
user would. Figures that share a run share it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pimsim import catalog
from pimsim.errors import UnknownName
from pimsim.model import Model
from pimsim.result import Result
from pimsim.validation import attention, dram, edge_moe, energy, pim_gpt
from pimsim.validation.aim import AIM_ROWS, measure_aim
from pimsim.yamlio import load_tree
from pimsim.yamlio import validate as validated

Status = Literal["exact", "within", "explained", "open", "failed"]

ROUNDING = 1e-14
"""Relative distance that only the rounding of a float makes."""

_ALONE = (dram, energy, attention)
"""Machines whose figures are found one by one."""

_FOUND = {f"{each.MACHINE}/{name}": find for each in _ALONE for name, find in each.FIGURES.items()}

_NOTES: dict[str, Mapping[str, str]] = {
    pim_gpt.MACHINE: pim_gpt.NOTES,
    edge_moe.MACHINE: edge_moe.NOTES,
    **{each.MACHINE: each.NOTES for each in _ALONE},
}
"""Machine -> why a figure may differ, by the start of its name."""


class Figure(Model):
    """A published figure: a range (equal ends for a single value) and where it comes from."""

    low: float
    high: float
    within: float = 0.0
    """Relative distance from the range that still counts as within."""
    required: bool = False
    """Whether a figure that is not within is a failure."""
    source: str


class Published(Model):
    """A file of published figures."""

    description: str
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Row:
    """One comparison."""

    name: str
    published: str
    source: str
    trust: str
    simulated: float
    deviation: float
    """Relative distance of the simulated value from the published range; 0 inside it."""
    status: Status
    note: str


def validate(names: Sequence[str] = (), progress: Callable[[int, int], None] | None = None) -> list[Row]:
    """Compare the figures whose name contains or matches one of ``names`` (all if there are none).

    A name is ``<machine>/<workload>/<figure>``, such as ``pim_gpt/gpt2_decode/row_hit_rate``, or
    ``aim_gddr6/<variant>/cases_exact``.

    Raises:
        UnknownName: no figure matches a name.
    """
    wanted = _select(names)
    figures = {name: _FOUND[name]() for name in wanted if name in _FOUND}
    figures |= _from_runs([name for name in wanted if name not in AIM_ROWS and name not in _FOUND], progress)
    published = {machine: load_published(machine) for machine in _NOTES}
    return [_aim_row(name) if name in AIM_ROWS else _row(name, figures[name], published) for name in wanted]


def _from_runs(wanted: Sequence[str], progress: Callable[[int, int], None] | None) -> dict[str, float]:
    """Figures that are read from runs of whole models, which are told as they are done."""
    models = [name for name in wanted if name.startswith(f"{pim_gpt.MACHINE}/")]
    images = [name for name in wanted if name.startswith(f"{edge_moe.MACHINE}/")]
    model_runs = pim_gpt.runs(models)
    total = len(model_runs) + len(edge_moe.runs(images))
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    measured: dict[pim_gpt.Case, Mapping[str, float]] = {}
    for found in pim_gpt.measure(model_runs):
        measured |= found
        tell()
    results: dict[str, Result] = {}
    for run, result in edge_moe.measure(images):
        results[run] = result
        tell()
    return {name: pim_gpt.simulated(name, measured) for name in models} | {
        name: edge_moe.simulated(name, results) for name in images
    }


def load_published(machine: str = pim_gpt.MACHINE) -> Published:
    """The published figures of a machine."""
    return validated(load_tree(catalog.folder("arch") / "published" / f"{machine}.yaml"), Published)


def figure_names() -> list[str]:
    """Every row, in order."""
    return [*pim_gpt.names(), *AIM_ROWS, *edge_moe.names(), *_FOUND]


def _select(names: Sequence[str]) -> list[str]:
    every = figure_names()
    if not names:
        return every
    chosen: dict[str, None] = {}
    for name in names:
        found = [row for row in every if name in row or fnmatch.fnmatch(row, name)]
        if not found:
            parts = {part for row in every for part in row.split("/")}
            raise UnknownName("figure", name, parts)
        chosen |= dict.fromkeys(found)
    return [row for row in every if row in chosen]


def _row(name: str, simulated: float, published: Mapping[str, Published]) -> Row:
    machine, _, path = name.partition("/")
    figures = published[machine].figures
    key = path.rpartition("/")[2]
    figure = figures.get(path) or figures[key]  # of one model, or the same for all
    deviation = _deviation(simulated, figure)
    return Row(
        name=name,
        published=_text(figure),
        source=figure.source,
        trust=figure.source.partition(":")[0],
        simulated=simulated,
        deviation=deviation,
        status=_status(deviation, figure, key, _NOTES[machine]),
        note=next((note for start, note in _NOTES[machine].items() if key.startswith(start)), ""),
    )


def _aim_row(name: str) -> Row:
    """How many cases of a reference simulator are met exactly; anything else than all is a failure."""
    score = measure_aim(name)
    deviation = score.exact / score.cases - 1
    return Row(
        name=name,
        published=f"{score.cases}",
        source=score.source,
        trust=score.source.partition(":")[0],
        simulated=float(score.exact),
        deviation=deviation,
        status="exact" if not deviation else "failed",
        note="; ".join(score.wrong[:3]),
    )


def _deviation(value: float, figure: Figure) -> float:
    if value < figure.low:
        return value / figure.low - 1 if figure.low else value
    if value > figure.high:
        return value / figure.high - 1 if figure.high else value
    return 0.0


def _status(deviation: float, figure: Figure, key: str, notes: Mapping[str, str]) -> Status:
    if abs(deviation) <= ROUNDING:
        return "exact" if figure.low == figure.high else "within"
    if abs(deviation) <= figure.within:
        return "within"
    if figure.required:
        return "failed"
    return "explained" if any(key.startswith(start) for start in notes) else "open"


def _text(figure: Figure) -> str:
    low, high = (f"{end:.0f}" if end == round(end) else f"{end:.6g}" for end in (figure.low, figure.high))
    return low if low == high else f"{low} - {high}"


def summary(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows have each status."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    return counts
