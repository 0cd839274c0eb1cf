"""Figures of PIM-GPT for `pimsim validate`: which runs they need, what runs share, and how figures are read from them.

Energy is a fold over counters, so machines that differ in their energy coefficients alone share a run, as do workloads
that ask for the same work. What was measured is kept for the life of the process, by the content of what it was measured of.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from pimsim.analysis.baselines import compare, load_baseline
from pimsim.analysis.energy import energy
from pimsim.arch.formats import format_bytes
from pimsim.bounds import pim
from pimsim.config import load_arch, load_workload, split_overrides
from pimsim.runners import RunOptions
from pimsim.runners.pim_decoder import run
from pimsim.workload.models import build_graph

MACHINE = "pim_gpt"
BASELINES = ("t4", "xeon_6154")
ARITHMETIC = ("layernorm", "softmax", "gelu", "residual", "bias", "partial_sum")
"""Operations that are not vector-matrix products and not transfers of the KV cache."""

BOUND_CONTEXT = 512

PER_MODEL = (
    "row_hit_rate", "interface_reduction", "first_order_ratio", "slowdown_asic_100mhz", "speedup_16_channels",
    "speedup_t4", "speedup_xeon_6154", "energy_t4_v1", "energy_xeon_6154_v1", "energy_t4_v2", "energy_xeon_6154_v2",
    "energy_v2_over_v1",
)  # fmt: skip
SERIAL = "gpt3_xl_decode"
"""The model for which the paper gives the share of arithmetic."""

VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "": ("pim_gpt", ()),
    "v1": ("pim_gpt_v1", ()),
    "100mhz": ("pim_gpt", ("arch.asic.clock_mhz=100",)),
    "16ch": ("pim_gpt", ("arch.dram.channels=16",)),
    "serial": ("pim_gpt", ("arch.dispatch=serial",)),
}

NOTES = {
    "speedup_t4": "the paper measured its T4 with an unnamed software stack; this is a roofline-plus-overhead model",
    "speedup_xeon_6154": "the paper's CPU stack and precision are unknown; this is a roofline-plus-overhead model",
    "energy": "the paper's power measurement is unknown; the model charges the device's TDP while it is busy",
    "interface_reduction": "each 32-byte burst counts; a value element is written with a masked burst of its own",
    "first_order_ratio": "excess: writing the vector buffer, reading results, KV writes, latency of LayerNorm",
}
"""Why a figure may differ, by the start of its name."""


class Case(NamedTuple):
    """One machine with one model, from which figures are read."""

    workload: str
    variant: str


Measured = Mapping[Case, Mapping[str, float]]
"""Case -> plain figures."""


class Run(NamedTuple):
    """A simulation, and all that is read from it."""

    workload: str
    variants: tuple[str, ...]
    """Machines that differ in energy alone; the first one is simulated."""
    cases: tuple[Case, ...]
    key: tuple[str, ...]
    """All that the figures follow from."""


_KNOWN: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
"""What was measured in this process: key of a run -> variant -> figures."""


def workloads() -> list[str]:
    """The eight models of the paper."""
    order = ("small", "medium", "large", "xl")
    return ["gpt2_decode", *[f"gpt2_{s}_decode" for s in order[1:]], *[f"gpt3_{s}_decode" for s in order]]


def names() -> list[str]:
    """Every row, in order."""
    rows = [f"{MACHINE}/{workload}/{figure}" for workload in workloads() for figure in PER_MODEL]
    return [
        *rows,
        f"{MACHINE}/{SERIAL}/non_vmm_share",
        f"{MACHINE}/{SERIAL}/decoder_weights_gpt3_xl",
        f"{MACHINE}/{SERIAL}/operations_per_weight_gpt3_xl",
        f"{MACHINE}/gpt2_xl_decode/decoder_weights_gpt2_xl",
    ]


def runs(wanted: Sequence[str]) -> list[Run]:
    """The simulations that rows need; rows of one model and of its like share them."""
    needed = {case for name in wanted for case in _needs(name)}
    archs = {variant: _arch(variant).content for variant in VARIANTS if any(case.variant == variant for case in needed)}
    timed = {variant: _timed(content) for variant, content in archs.items()}
    found: dict[tuple[str, str], list[Case]] = {}
    for workload in workloads():
        for case in (Case(workload, variant) for variant in archs):
            if case in needed:
                found.setdefault((_work(workload), timed[case.variant]), []).append(case)
    alike = {each: tuple(v for v in archs if timed[v] == each) for each in timed.values()}
    return [
        Run(
            cases[0].workload,
            alike[machine],
            tuple(cases),
            (work, *(json.dumps(archs[variant], sort_keys=True) for variant in alike[machine])),
        )
        for (work, machine), cases in found.items()
    ]


def measure(needed: Sequence[Run]) -> Iterator[dict[Case, dict[str, float]]]:
    """Simulate, a run on each processor at a time; what this process knows already is not simulated again."""
    fresh = _measure_all([each for each in needed if each.key not in _KNOWN])
    for each in needed:
        if each.key not in _KNOWN:
            _KNOWN[each.key] = next(fresh)
        yield {case: _KNOWN[each.key][case.variant] for case in each.cases}


def simulated(name: str, measured: Measured) -> float:
    """The figure of a row."""
    _, workload, key = name.split("/")

    def figure(name: str, variant: str = "") -> float:
        return measured[Case(workload, variant)][name]

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


def _needs(name: str) -> list[Case]:
    """What a row is read from."""
    _, workload, figure = name.split("/")
    variants = {
        "slowdown_asic_100mhz": ("", "100mhz"),
        "speedup_16_channels": ("", "16ch"),
        "energy_t4_v1": ("v1",),
        "energy_xeon_6154_v1": ("v1",),
        "energy_v2_over_v1": ("", "v1"),
        "non_vmm_share": ("serial",),
    }
    static = figure.startswith(("decoder_weights", "operations_per_weight"))
    return [] if static else [Case(workload, variant) for variant in variants.get(figure, ("",))]


def _arch(variant: str) -> Any:
    arch, overrides = VARIANTS[variant]
    return load_arch(arch, split_overrides(overrides)["arch"])


def _timed(content: Mapping[str, Any]) -> str:
    """What of a machine decides what is done when, and how much of it."""
    return json.dumps({key: value for key, value in content.items() if key not in ("name", "energy")}, sort_keys=True)


def _work(workload: str) -> str:
    """What of a workload decides what is done: not its name nor, without embeddings, the length of a table of positions."""
    content = json.loads(json.dumps(load_workload(workload).content))
    del content["name"]
    if not content["embeddings"]:
        del content["model"]["context"]
    return json.dumps(content, sort_keys=True)


def _measure_all(fresh: Sequence[Run]) -> Iterator[dict[str, dict[str, float]]]:
    workers = min(os.cpu_count() or 1, len(fresh))
    if workers <= 1:
        yield from map(_measure, fresh)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_measure, fresh)


def _measure(each: Run) -> dict[str, dict[str, float]]:
    """The plain figures of one simulation, charged as each of its machines charges."""
    arch, workload = _arch(each.variants[0]), load_workload(each.workload)
    result, _, totals = run(arch, workload, RunOptions())
    spec = arch.value.dram.resolve()
    multipliers = arch.value.dram.burst_bytes // format_bytes(arch.value.pim.format)  # one column feeds all of them
    bound = pim.pass_seconds(build_graph(workload.value), spec, multipliers, BOUND_CONTEXT)
    own = result.pass_seconds[BOUND_CONTEXT - 1] - result.pass_seconds[BOUND_CONTEXT - 2]
    shared = {
        "seconds": result.time.seconds,
        "row_hit_rate": (result.dram and result.dram.row_hit_rate) or 0.0,
        "interface_reduction": (result.interface and result.interface.reduction) or 0.0,
        "non_vmm_share": sum(result.ops[kind].share for kind in ARITHMETIC if kind in result.ops),
        "first_order_ratio": own / bound,
    }
    figures = {}
    for variant in each.variants:
        joules = energy(totals, _arch(variant).value, spec).joules
        figures[variant] = {**shared, "joules": joules}
        for name in BASELINES:
            found = compare(load_baseline(name), workload.value, result.time.seconds, joules)
            figures[variant][f"speedup_{name}"] = found.speedup or 0.0
            figures[variant][f"energy_{name}"] = found.energy_ratio or 0.0
    return figures


def _operations_per_weight(workload: str) -> float:
    """Operations (two per MAC) per decoder weight, the mean over the run."""
    loaded = load_workload(workload).value
    graph = build_graph(loaded)
    passes = loaded.prompt_tokens + loaded.generate_tokens - 1
    macs = (graph.macs(1) + graph.macs(passes)) / 2
    return 2 * macs / graph.weights()


__all__ = ["MACHINE", "NOTES", "Case", "Measured", "Run", "measure", "names", "runs", "simulated"]
