"""Figures of Edge-MoE for `pimsim validate`: which runs they need, and how they are read from the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from pimsim.analysis.baselines import IMAGE_BASELINES
from pimsim.config import load_arch, load_workload, split_overrides
from pimsim.result import Result
from pimsim.run import simulate_loaded
from pimsim.runners import RunOptions
from pimsim.validation import edge_moe_numbers as numbers

MACHINE = "edge_moe"
_ARCH = "edge_moe_zcu102"
_UNIT = "arch.fpga.attention."

_REPORT = (
    *(
        "arch.fpga.ports.width_bits=256",
        "arch.fpga.ports.latency=10",
        f"{_UNIT}load_depth=10",
        f"{_UNIT}product_depth=6",
    ),
    *(
        f"{_UNIT}statistics_depth=59",
        f"{_UNIT}statistics_interval=1",
        f"{_UNIT}weighted_depth=11",
        f"{_UNIT}store_depth=8",
    ),
    "arch.fpga.encoder.normalize_depth=50",
)
"""The machine of the schedule report: one beat per cycle at the port, pipelines at 100 MHz; the report does not give the
depth of the scaling in a LayerNorm, which is about its reciprocal of 49 cycles."""

Results = Mapping[str, Result]

ABLATION: tuple[tuple[str, str], ...] = (
    ("baseline", ""),
    ("expert_order", "arch.fpga.encoder.order=token_by_token"),
    ("single_pass_softmax", f"{_UNIT}softmax=three_pass"),
    ("gelu_table", "arch.fpga.encoder.gelu=direct"),
    ("unified_linear", "arch.fpga.encoder.linear_units=separate"),
    ("reordering", f"{_UNIT}schedule=naive"),
)
"""The techniques in the order in which the ablation adds them, and the setting that takes each away from the shipped machine."""

_ABLATION_RUNS = {
    f"ablation_{number}_{name}": ("m3vit_cityscapes", tuple(setting for _, setting in ABLATION[number + 1 :]))
    for number, (name, _) in enumerate(ABLATION[:-1])
}

_RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "image": ("m3vit_cityscapes", ()),
    "serial": ("m3vit_cityscapes", ("arch.fpga.encoder.weight_prefetch=none",)),
    "attention": ("attention_reordered", ()),
    "tokens_128": ("attention_reordered", ("workload.tokens=128", f"{_UNIT}placement.query=weights")),
    **_ABLATION_RUNS,
    "report": ("attention_reordered", _REPORT),
    "report_layer": ("m3vit_cityscapes", (*_REPORT, "workload.layers=1", "workload.moe=null")),
    "report_patches": (
        "m3vit_cityscapes",
        (*_REPORT, "workload.layers=1", "workload.moe=null", "workload.image.class_token=false"),
    ),
}
"""Run -> workload and overrides."""


def _work(result: Result, unit: str) -> int:
    """Cycles in which a unit starts iterations or waits for its interval."""
    return round(result.units[unit].busy_seconds * result.time.clock_hz)


def _beats(result: Result, port: str) -> int:
    assert result.ports is not None
    return result.ports[port].bytes_read // 32


def _cycles(result: Result, op: str) -> int:
    """Cycles of one operation of a kind."""
    return round(result.ops[op].seconds * result.time.clock_hz / result.ops[op].count)


def _without_runs(find: Callable[[], float], _results: Results) -> float:
    return find()


def _share(result: Result, starts: tuple[str, ...]) -> float:
    return sum(op.share for name, op in result.ops.items() if name.startswith(starts))


def _energy_ratio(result: Result, baseline: str) -> float:
    return result.baselines[baseline].energy_ratio or 0.0


def _step(number: int) -> str:
    """The run of a row of the ablation, from 0; the last is the shipped machine."""
    return list(_ABLATION_RUNS)[number] if number < len(_ABLATION_RUNS) else "image"


def _milliseconds(run: str) -> Callable[[Results], float]:
    return lambda results: results[run].time.seconds * 1e3


def _saving(before: str, after: str) -> Callable[[Results], float]:
    return lambda results: (results[before].time.seconds - results[after].time.seconds) * 1e3


_PRODUCTS = ("attention_scores", "attention_values")
_LINEAR = ("qkv", "output", "ffn", "moe")

_FIGURES: dict[str, tuple[tuple[str, ...], Callable[[Results], float]]] = {
    "attention_reordered/steps_129": (("attention",), lambda r: _beats(r["attention"], "inout3") / 24),
    "attention_reordered/iterations_query_key": (
        ("attention",),
        lambda r: _work(r["attention"], "attention.query_key"),
    ),
    "attention_reordered/iterations_weighted_values": (
        ("attention",),
        lambda r: _work(r["attention"], "attention.weighted_values"),
    ),
    "attention_reordered/iterations_statistics": (("report",), lambda r: _work(r["report"], "softmax")),
    "attention_reordered/steps_128": (("tokens_128",), lambda r: _beats(r["tokens_128"], "inout3") / 24),
    "attention_reordered/token_loads_128": (
        ("tokens_128",),
        lambda r: (_beats(r["tokens_128"], "inout3") + _beats(r["tokens_128"], "weights")) / 24,
    ),
    "attention_reordered/cycles_query_key": (("report",), lambda r: _cycles(r["report"], "attention_scores")),
    "attention_reordered/cycles_weighted_values": (("report",), lambda r: _cycles(r["report"], "attention_values")),
    "m3vit_cityscapes/cycles_layernorm": (("report_layer",), lambda r: _cycles(r["report_layer"], "layernorm")),
    "m3vit_cityscapes/cycles_patch_embedding": (
        ("report_patches",),
        lambda r: round(r["report_patches"].ops["patch_embedding"].seconds * r["report_patches"].time.clock_hz),
    ),
    "m3vit_cityscapes/milliseconds": (("image",), lambda r: r["image"].time.seconds * 1e3),
    "m3vit_cityscapes/milliseconds_serial": (("serial",), lambda r: r["serial"].time.seconds * 1e3),
    "m3vit_cityscapes/joules": (("image",), lambda r: r["image"].energy.joules),
    "m3vit_cityscapes/joules_serial": (("serial",), lambda r: r["serial"].energy.joules),
    "m3vit_cityscapes/share_attention_products": (("image",), lambda r: _share(r["image"], _PRODUCTS)),
    "m3vit_cityscapes/share_linear": (("image",), lambda r: _share(r["image"], _LINEAR)),
    "m3vit_cityscapes/watts": (("image",), lambda r: r["image"].energy.average_watts or 0.0),
    "m3vit_cityscapes/energy_ratio_a6000": (("image",), lambda r: _energy_ratio(r["image"], "a6000")),
    "m3vit_cityscapes/energy_ratio_xeon_6226r": (("image",), lambda r: _energy_ratio(r["image"], "xeon_6226r")),
    **{
        f"m3vit_cityscapes/ablation_{number}_{name}": ((_step(number),), _milliseconds(_step(number)))
        for number, (name, _) in enumerate(ABLATION)
    },
    **{
        f"m3vit_cityscapes/saving_{ABLATION[number][0]}": (
            (_step(number - 1), _step(number)),
            _saving(_step(number - 1), _step(number)),
        )
        for number in range(1, len(ABLATION))
    },
}
"""Workload and figure -> the runs that it needs, and how it is read from them."""

_FIGURES |= {name: ((), partial(_without_runs, find)) for name, find in numbers.FIGURES.items()}

NOTES = {
    "milliseconds": "the board's memory is ideal here; what of the dense path overlaps is not published",
    "joules": "published power times the length of this run",
    "share": "Edge-MoE's breakdown is given in words only; loads count with their layers",
    "watts": "static power is fitted to it",
    "energy_ratio": "the baseline's published joules over this run's, which take as long as milliseconds",
    "ablation_5": "see milliseconds",
    "ablation": "the units that the techniques replaced are not described; see docs/fpga.md for what stands for each",
    "saving_expert_order": "here a slow expert hides part of the fetch of its weights; the paper has no details",
    "saving_single_pass_softmax": "three passes with units that are not pipelined; what the authors had is not described",
    "saving_gelu": "two units that are not pipelined; their number is fitted",
    "saving_unified_linear": "eight units as large as fit the device, 64 multipliers each; the paper's save as if all had 19",
    "saving_reordering": "published from an attention of about 65 cycles a pair; here a naive one streams a pair in 48",
}
"""Why a figure may differ, by the start of its name."""

NOTES |= numbers.NOTES


def names() -> list[str]:
    """Every row, in order."""
    return [f"{MACHINE}/{figure}" for figure in _FIGURES]


def runs(wanted: Iterable[str]) -> list[str]:
    """The runs that rows need."""
    needed = {run for name in wanted for run in _FIGURES[name.removeprefix(f"{MACHINE}/")][0]}
    return [run for run in _RUNS if run in needed]


_KNOWN: dict[tuple[str, str, bool], Result] = {}
"""What was run in this process, by the content of machine and workload, and whether it was compared with baselines."""


def measure(wanted: Iterable[str]) -> Iterator[tuple[str, Result]]:
    """Run what rows need, one after the other; what this process has run already is not run again."""
    for run in runs(wanted):
        workload, overrides = _RUNS[run]
        options = split_overrides(overrides)
        machine, work = load_arch(_ARCH, options["arch"]), load_workload(workload, options["workload"])
        key = (machine.hash, work.hash, run == "image")
        if key not in _KNOWN:
            _KNOWN[key] = simulate_loaded(machine, work, RunOptions(baselines=IMAGE_BASELINES if key[2] else ()))
        yield run, _KNOWN[key]


def simulated(name: str, results: Results) -> float:
    """The figure of a row."""
    return _FIGURES[name.removeprefix(f"{MACHINE}/")][1](results)


__all__ = ["MACHINE", "NOTES", "measure", "names", "runs", "simulated"]
