"""Figures of Edge-MoE for `pimsim validate`: which runs they need, and how they are read from the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from pimsim import validate_edge_moe_numbers as numbers
from pimsim.result import Result
from pimsim.run import simulate

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

_RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "image": ("m3vit_cityscapes", ()),
    "serial": ("m3vit_cityscapes", ("arch.fpga.encoder.weight_prefetch=none",)),
    "one_lane": ("m3vit_cityscapes", (f"{_UNIT}parallelism=1",)),
    "token_by_token": ("m3vit_cityscapes", ("arch.fpga.encoder.order=token_by_token",)),
    "attention": ("attention_reordered", ()),
    "tokens_128": ("attention_reordered", ("workload.tokens=128", f"{_UNIT}placement.query=weights")),
    "report": ("attention_reordered", _REPORT),
    "report_layer": ("m3vit_cityscapes", (*_REPORT, "workload.layers=1", "workload.moe=null")),
    "report_patches": (
        "m3vit_cityscapes",
        (*_REPORT, "workload.layers=1", "workload.moe=null", "workload.image.class_token=false"),
    ),
}
"""Run -> workload and overrides."""

Results = Mapping[str, Result]


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
    "m3vit_cityscapes/saving_expert_order": (
        ("token_by_token", "image"),
        lambda r: (r["token_by_token"].time.seconds - r["image"].time.seconds) * 1e3,
    ),
    "m3vit_cityscapes/saving_reordering": (
        ("one_lane", "image"),
        lambda r: (r["one_lane"].time.seconds - r["image"].time.seconds) * 1e3,
    ),
}
"""Workload and figure -> the runs that it needs, and how it is read from them."""

_FIGURES |= {name: ((), partial(_without_runs, find)) for name, find in numbers.FIGURES.items()}

NOTES = {
    "milliseconds": "the board's memory is ideal here; what of the dense path overlaps is not published",
    "joules": "published power times the length of this run",
    "share": "Edge-MoE's breakdown is given in words only; loads count with their layers",
    "saving_expert_order": "published on a baseline without the other five techniques; here with all of them",
    "saving_reordering": "published from an attention of about 65 cycles a pair; here one lane streams a pair in 48",
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


def measure(wanted: Iterable[str]) -> Iterator[tuple[str, Result]]:
    """Run what rows need, one after the other."""
    for run in runs(wanted):
        workload, overrides = _RUNS[run]
        yield run, simulate(_ARCH, workload, overrides=overrides)


def simulated(name: str, results: Results) -> float:
    """The figure of a row."""
    return _FIGURES[name.removeprefix(f"{MACHINE}/")][1](results)


__all__ = ["MACHINE", "NOTES", "measure", "names", "runs", "simulated"]
