"""Figures of attention algorithms for `pimsim validate`: what their publications count, and how costs grow on machines.

Counts are those of the closed forms where only sizes matter, and of simulated programs where a machine runs the case
quickly; tests hold the two equal for every algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial

from pimsim.analysis.comparison import Row
from pimsim.compare import compare, load_archs, parse_entry
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.workload.attention.base import Case, algorithm
from pimsim.workload.attention.fox import Fox
from pimsim.workload.attention.lean import default_columns, partition

MACHINE = "attention"

GROWTH_MACHINES = {
    "edge_moe_zcu102": ("fpga.primitives.buffer_words", "8388608"),
    "pim_gpt": ("asic.sram_bytes", "33554432"),
}
"""Machine -> override: both have 32 MiB on chip, or few prompts would fit."""

TOKEN = {
    "vanilla": "vanilla",
    "single_pass": "single_pass:block=256",
    "topk": "topk:k=64",
    "linear": "linear",
    "aaren": "aaren@update",
    "cmab": "cmab@update",
}
"""Algorithm -> how one token of it is asked for."""

PROMPT = {"flash": "flash:block_rows=64:block_columns=64@prefill", "linear": "linear:chunk=64@prefill"}
_CONTEXTS = {"token": [4096, 16384], "prompt": [512, 1024]}


def _nodes(tokens: int) -> float:
    return algorithm("tca", {}).counts(Case(phase="query", queries=1, keys=tokens, d_head=4)).scores


def _multilevel(causal: bool) -> float:
    return algorithm("fma", {}).counts(Case(queries=4096, keys=4096, d_head=4, causal=causal)).scores


def _unfused_words(tokens: int) -> float:
    return algorithm("vanilla").counts(Case(queries=tokens, keys=tokens, d_head=64, causal=False)).moved


def _fused_words(tokens: int) -> float:
    kind = algorithm("flash", {"version": 1, "on_chip_words": 51_200})
    return kind.counts(Case(queries=tokens, keys=tokens, d_head=64, causal=False)).moved


def _run(machine: str, *settings: str) -> Result:
    options = [setting if setting.startswith("arch.") else f"workload.{setting}" for setting in settings]
    return simulate(machine, "attention_heads", overrides=options)


def _counted(result: Result, *names: str) -> float:
    assert result.counts is not None
    assert result.counts["equal"], "the program counts other than the closed forms"
    return float(sum(result.counts[name] for name in names))


@cache
def _flash() -> Result:
    """1,024 tokens of width 64 on the streaming machine, with 51,200 words on chip."""
    parameters = "parameters={version: 1, on_chip_words: 51200}"
    sizes = ("phase=prefill", "queries=1024", "keys=1024", "heads=1", "d_head=64", "causal=false")
    return _run("edge_moe_zcu102", "algorithm=flash", parameters, *sizes)


@cache
def _cmab(phase: str, keys: int = 100, blocks: int = 1) -> Result:
    """One token, or one output, of the block with the published sizes on PIM channels; a megabyte holds all of it."""
    sizes = ("queries=1", f"keys={keys}", "heads=4", "d_head=16", "causal=false", f"parameters={{blocks: {blocks}}}")
    machine = ("arch.dram.refresh.policy=none", "arch.pim.format=float32", "arch.asic.sram_bytes=1048576")
    return _run("pim_gpt", "algorithm=cmab", f"phase={phase}", *sizes, *machine)


def _cmab_bytes(blocks: int) -> float:
    return 4 * _counted(_cmab("update", blocks=blocks), "persistent")


def _cmab_flat() -> float:
    """Time of a token after a million others, over that after a hundred."""
    return _cmab("update", keys=1_000_000).time.seconds / _cmab("update").time.seconds


def _cmab_six_refreshes() -> float:
    return 6 * _counted(_cmab("query"), "macs")


def _largest_share(heads: int, tiles: int, workers: int) -> float:
    """Tiles of the worker that has most."""
    load = [0] * workers
    for worker, _, first, stop in partition(heads, tiles, workers):
        load[worker] += stop - first
    return max(load)


def _kept(gate: float) -> float:
    """Share of tiles that adaptive computation pruning keeps of 16,384 tokens at a constant forget gate."""
    case = Case(queries=16_384, keys=16_384, d_head=1)
    kind = algorithm("fox", {"gate": gate})
    assert isinstance(kind, Fox)
    start = kind.decide(case, kind.sample(case))["start"]
    return float(kind.tiles(case, start) / kind.tiles(case, 0 * start))


def _threshold() -> float:
    kind = algorithm("fox", {})
    assert isinstance(kind, Fox)
    return float(kind.delta(Case(queries=16_384, keys=16_384, d_head=1)))


def _memory_layer(count: str) -> float:
    counts = algorithm("memory_layer").counts(Case(phase="decode", queries=1, keys=1, d_head=64, heads=8))
    return float(getattr(counts, count))


@cache
def _grown(machine: str, kind: str, name: str) -> tuple[Row, Row]:
    """One algorithm at two contexts."""
    entry, heads = (TOKEN[name], 4) if kind == "token" else (PROMPT[name], 1)
    archs = load_archs([machine], [GROWTH_MACHINES[machine]])
    few, many = compare([parse_entry(entry)], archs, _CONTEXTS[kind], "attention_heads", [("heads", str(heads))])
    return few, many


def _exponent(machine: str, kind: str, name: str, figure: str) -> float:
    """The power of the context with which a cost grows between the two."""
    few, many = _grown(machine, kind, name)
    return math.log(getattr(many, figure) / getattr(few, figure)) / math.log(many.context / few.context)


FIGURES: dict[str, Callable[[], float]] = {
    **{f"tca/nodes_{tokens}": partial(_nodes, tokens) for tokens in (256, 512, 1024)},
    "fma/scores_causal": partial(_multilevel, True),
    "fma/scores_both_ways": partial(_multilevel, False),
    "flash/words_1024": lambda: _counted(_flash(), "reads", "writes"),
    "flash/exps_1024": lambda: _counted(_flash(), "exps"),
    "flash/words_4096": partial(_fused_words, 4096),
    "flash/unfused_words_1024": partial(_unfused_words, 1024),
    "flash/unfused_words_4096": partial(_unfused_words, 4096),
    "lean/keys_of_a_tile_width_128": partial(default_columns, 128),
    "lean/largest_share_of_onnxruntime": partial(_largest_share, 1, 3, 2),
    "lean/largest_share_2x5_tiles_4_workers": partial(_largest_share, 2, 5, 4),
    "fox/log_threshold": _threshold,
    **{f"fox/tiles_kept_gate_{gate}": partial(_kept, gate) for gate in (0.003, 0.01, 0.1)},
    "cmab/macs_per_token": lambda: _counted(_cmab("update"), "macs"),
    "cmab/exps_per_token": lambda: _counted(_cmab("update"), "exps"),
    "cmab/state_bytes": partial(_cmab_bytes, 1),
    "cmab/macs_per_token_six_blocks": lambda: _counted(_cmab("update", blocks=6), "macs"),
    "cmab/state_bytes_six_blocks": partial(_cmab_bytes, 6),
    "cmab/macs_per_output": lambda: _counted(_cmab("query"), "macs"),
    "cmab/macs_per_output_six_blocks": _cmab_six_refreshes,
    "cmab/time_of_a_token_1000000_over_100": _cmab_flat,
    **{f"memory_layer/{count}": partial(_memory_layer, count) for count in ("macs", "gathered", "persistent")},
    **{
        f"growth/{machine}_{name}_{what}": partial(_exponent, machine, "token", name, figure)
        for machine in GROWTH_MACHINES
        for name in TOKEN
        for what, figure in (("time", "seconds"), ("memory", "peak_bytes"))
    },
    "growth/edge_moe_zcu102_flash_prompt_time": partial(_exponent, "edge_moe_zcu102", "prompt", "flash", "seconds"),
    **{
        f"growth/{machine}_linear_prompt_time": partial(_exponent, machine, "prompt", "linear", "seconds")
        for machine in GROWTH_MACHINES
    },
}
"""Figure -> how it is found."""

NOTES = {
    "pim_gpt_topk_time": "scores are cheap in the banks; gathering 64 values takes as long at any context",
}
"""Why a figure may differ, by the start of its name."""


__all__ = ["FIGURES", "MACHINE", "NOTES"]
