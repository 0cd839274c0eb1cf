"""Published figures against this simulator: one row for each figure, model and machine.

The published side is data (``arch_configs/published/``); the simulated side runs the shipped configurations as a
user would.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal

from pimsim import catalog, validate_edge_moe
from pimsim.arch.formats import format_bytes
from pimsim.bounds import pim
from pimsim.config import load_arch, load_workload
from pimsim.errors import UnknownName
from pimsim.model import Model
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.validate_aim import AIM_ROWS, measure_aim
from pimsim.validate_counts import COUNTS
from pimsim.workload.models import build_graph
from pimsim.yamlio import load_tree
from pimsim.yamlio import validate as validated

Status = Literal["exact", "within", "explained", "open", "failed"]

BASELINES = ("t4", "xeon_6154")
ARITHMETIC = ("layernorm", "softmax", "gelu", "residual", "bias", "partial_sum")
"""Operations that are not vector-matrix products and not transfers of the KV cache."""

BOUND_CONTEXT = 512


class Figure(Model):
    """A published figure: a range (equal ends for a single value) and where it comes from."""

    low: float
    high: float
    within: float = 0.0
    """Relative distance from the range that still counts as within."""
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


NOTES = {
    "speedup_t4": "the paper measured its T4 with an unnamed software stack; this is a roofline-plus-overhead model",
    "speedup_xeon_6154": "the paper's CPU stack and precision are unknown; this is a roofline-plus-overhead model",
    "energy": "the paper's power measurement is unknown; the model charges the device's TDP while it is busy",
    "interface_reduction": "each 32-byte burst counts; a value element is written with a masked burst of its own",
    "first_order_ratio": "excess: writing the vector buffer, reading results, KV writes, latency of LayerNorm",
}
"""Why a figure may differ, by the start of its name."""


@dataclass(frozen=True)
class _Case:
    """One simulation that figures are read from."""

    workload: str
    variant: str
    arch: str = "pim_gpt"
    overrides: tuple[str, ...] = ()


VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "": ("pim_gpt", ()),
    "v1": ("pim_gpt_v1", ()),
    "100mhz": ("pim_gpt", ("arch.asic.clock_mhz=100",)),
    "16ch": ("pim_gpt", ("arch.dram.channels=16",)),
    "serial": ("pim_gpt", ("arch.dispatch=serial",)),
}
_SERIAL = "gpt3_xl_decode"
"""The model for which the paper gives the share of arithmetic."""


def validate(names: Sequence[str] = (), progress: Callable[[int, int], None] | None = None) -> list[Row]:
    """Compare the figures whose name contains or matches one of ``names`` (all if there are none).

    A name is ``<machine>/<workload>/<figure>``, such as ``pim_gpt/gpt2_decode/row_hit_rate``, or
    ``aim_gddr6/<variant>/cases_exact``.

    Raises:
        UnknownName: no figure matches a name.
    """
    selected = _select(names)
    aim = [name for name in selected if name in AIM_ROWS]
    counted = [name for name in selected if name in COUNTS]
    wanted = [name for name in selected if name not in AIM_ROWS and name not in COUNTS]
    cases = [case for case in _cases() if any(_needs(name, case) for name in wanted)]
    measured: dict[tuple[str, str], dict[str, float]] = {}
    streaming = [name for name in wanted if name.startswith(f"{validate_edge_moe.MACHINE}/")]
    total = len(cases) + len(validate_edge_moe.runs(streaming))
    for done, (case, figures) in enumerate(_measure_all(cases)):
        measured[case.workload, case.variant] = figures
        if progress:
            progress(done + 1, total)
    results: dict[str, Result] = {}
    for run, result in validate_edge_moe.measure(streaming):
        results[run] = result
        if progress:
            progress(len(cases) + len(results), total)
    published = {machine: load_published(machine) for machine in ("pim_gpt", validate_edge_moe.MACHINE)}
    return [
        _row(name, validate_edge_moe.simulated(name, results), published, validate_edge_moe.NOTES)
        if name in streaming
        else _row(name, _simulated(name, measured), published, NOTES)
        for name in wanted
    ] + [
        *(_aim_row(name) for name in aim),
        *(_count_row(name) for name in counted),
    ]


def load_published(machine: str = "pim_gpt") -> Published:
    """The published figures of a machine."""
    return validated(load_tree(catalog.folder("arch") / "published" / f"{machine}.yaml"), Published)


def figure_names() -> list[str]:
    """Every row, in order."""
    per_model = (
        "row_hit_rate", "interface_reduction", "first_order_ratio", "slowdown_asic_100mhz", "speedup_16_channels",
        "speedup_t4", "speedup_xeon_6154", "energy_t4_v1", "energy_xeon_6154_v1", "energy_t4_v2", "energy_xeon_6154_v2",
        "energy_v2_over_v1",
    )  # fmt: skip
    rows = [f"pim_gpt/{w}/{figure}" for w in _workloads() for figure in per_model]
    rows += [
        f"pim_gpt/{_SERIAL}/non_vmm_share",
        f"pim_gpt/{_SERIAL}/decoder_weights_gpt3_xl",
        f"pim_gpt/{_SERIAL}/operations_per_weight_gpt3_xl",
        "pim_gpt/gpt2_xl_decode/decoder_weights_gpt2_xl",
        *AIM_ROWS,
    ]
    return [*rows, *validate_edge_moe.names(), *COUNTS]


def _workloads() -> list[str]:
    order = ("small", "medium", "large", "xl")
    return ["gpt2_decode", *[f"gpt2_{s}_decode" for s in order[1:]], *[f"gpt3_{s}_decode" for s in order]]


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


def _cases() -> Iterator[_Case]:
    for workload in _workloads():
        for variant, (arch, overrides) in VARIANTS.items():
            if variant != "serial" or workload == _SERIAL:
                yield _Case(workload, variant, arch, overrides)


def _needs(name: str, case: _Case) -> bool:
    """Whether a row is read from a simulation."""
    _, workload, figure = name.split("/")
    if workload != case.workload:
        return False
    variants = {
        "slowdown_asic_100mhz": ("", "100mhz"),
        "speedup_16_channels": ("", "16ch"),
        "energy_t4_v1": ("v1",),
        "energy_xeon_6154_v1": ("v1",),
        "energy_v2_over_v1": ("", "v1"),
        "non_vmm_share": ("serial",),
    }
    static = figure.startswith(("decoder_weights", "operations_per_weight"))
    return not static and case.variant in variants.get(figure, ("",))


def _measure_all(cases: Sequence[_Case]) -> Iterator[tuple[_Case, dict[str, float]]]:
    workers = min(os.cpu_count() or 1, len(cases))
    if workers <= 1:
        yield from ((case, _measure(case)) for case in cases)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from zip(cases, pool.map(_measure, cases), strict=True)


def _measure(case: _Case) -> dict[str, float]:
    """The plain figures of one simulation."""
    result = simulate(case.arch, case.workload, overrides=case.overrides, baselines=BASELINES)
    figures: dict[str, float] = {
        "seconds": result.time.seconds,
        "joules": result.energy.joules,
        "row_hit_rate": (result.dram and result.dram.row_hit_rate) or 0.0,
        "interface_reduction": (result.interface and result.interface.reduction) or 0.0,
        "non_vmm_share": sum(result.ops[kind].share for kind in ARITHMETIC if kind in result.ops),
    }
    for name, baseline in result.baselines.items():
        figures[f"speedup_{name}"] = baseline.speedup or 0.0
        figures[f"energy_{name}"] = baseline.energy_ratio or 0.0
    arch, workload = load_arch(case.arch), load_workload(case.workload)
    multipliers = arch.value.dram.burst_bytes // format_bytes(arch.value.pim.format)  # one column feeds all of them
    bound = pim.pass_seconds(build_graph(workload.value), arch.value.dram.resolve(), multipliers, BOUND_CONTEXT)
    own = result.pass_seconds[BOUND_CONTEXT - 1] - result.pass_seconds[BOUND_CONTEXT - 2]
    return figures | {"first_order_ratio": own / bound}


def _row(name: str, simulated: float, published: Mapping[str, Published], notes: Mapping[str, str]) -> Row:
    machine, _, key = name.split("/")
    figure = published[machine].figures[key]
    deviation = _deviation(simulated, figure)
    return Row(
        name=name,
        published=_text(figure),
        source=figure.source,
        trust=figure.source.partition(":")[0],
        simulated=simulated,
        deviation=deviation,
        status=_status(deviation, figure, key, notes),
        note=next((note for start, note in notes.items() if key.startswith(start)), ""),
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


def _count_row(name: str) -> Row:
    """A whole number that must be met."""
    row = COUNTS[name]()
    found = row.count()
    return Row(
        name=name,
        published=f"{row.published}",
        source=row.source,
        trust=row.source.partition(":")[0],
        simulated=float(found),
        deviation=found / row.published - 1,
        status="exact" if found == row.published else "failed",
        note=row.note,
    )


def _simulated(name: str, measured: dict[tuple[str, str], dict[str, float]]) -> float:
    _, workload, key = name.split("/")

    def figure(name: str, variant: str = "") -> float:
        return measured[workload, variant][name]

    match key:
        case "slowdown_asic_100mhz":
            return figure("seconds", "100mhz") / figure("seconds") - 1
        case "speedup_16_channels":
            return figure("seconds") / figure("seconds", "16ch")
        case "energy_v2_over_v1":
            return figure("joules") / figure("joules", "v1")
        case "non_vmm_share":
            return figure(key, "serial")
        case "decoder_weights_gpt2_xl" | "decoder_weights_gpt3_xl":
            return round(build_graph(load_workload(workload).value).weights() / 2**20, 1)
        case "operations_per_weight_gpt3_xl":
            return _operations_per_weight(workload)
        case _ if key.startswith("energy_"):
            baseline, version = key.removeprefix("energy_").rsplit("_", 1)
            return figure(f"energy_{baseline}", "v1" if version == "v1" else "")
        case _:
            return figure(key)


def _operations_per_weight(workload: str) -> float:
    """Operations (two per MAC) per decoder weight, the mean over the run."""
    loaded = load_workload(workload).value
    graph = build_graph(loaded)
    passes = loaded.prompt_tokens + loaded.generate_tokens - 1
    macs = (graph.macs(1) + graph.macs(passes)) / 2
    return 2 * macs / graph.weights()


def _deviation(value: float, figure: Figure) -> float:
    if value < figure.low:
        return value / figure.low - 1 if figure.low else value
    if value > figure.high:
        return value / figure.high - 1 if figure.high else value
    return 0.0


def _status(deviation: float, figure: Figure, key: str, notes: Mapping[str, str]) -> Status:
    if deviation == 0:
        return "exact" if figure.low == figure.high else "within"
    if abs(deviation) <= figure.within:
        return "within"
    return "explained" if any(key.startswith(start) for start in notes) else "open"


def _text(figure: Figure) -> str:
    return f"{figure.low:g}" if figure.low == figure.high else f"{figure.low:g} - {figure.high:g}"


def summary(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows have each status."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    return counts
