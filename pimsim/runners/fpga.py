"""Attention products on a streaming accelerator."""

from __future__ import annotations

import time
from dataclasses import replace

from pimsim.analysis.baselines import load_baseline
from pimsim.analysis.resources import resources
from pimsim.arch.fpga import FpgaArchConfig
from pimsim.config import Loaded
from pimsim.mapper.fpga.attention import PASSES
from pimsim.mapper.fpga.encoder import attention_regions
from pimsim.mapper.fpga.schedules import Schedule, Shape
from pimsim.program.dataflow import Call
from pimsim.result import Result
from pimsim.runners import RunOptions, fpga_primitives, streaming
from pimsim.runners.streaming import port_timing, run_calls
from pimsim.workload.attention.base import discover
from pimsim.workload.attention_only import AttentionConfig


def simulate(arch: Loaded[FpgaArchConfig], workload: Loaded[AttentionConfig], options: RunOptions) -> Result:
    """Time the attention products, call after call, beat by beat."""
    start = time.perf_counter()
    for name in options.baselines:
        load_baseline(name)  # none of them is about attention alone, but a wrong name is told
    if not runs_fixed(arch.value, workload.value):
        return fpga_primitives.simulate(arch, workload, options, start)
    calls = _calls(arch, workload)
    functional = None
    if options.check_tokens:
        from pimsim.runners.fpga_check import check_attention  # numpy is only needed here

        functional = check_attention(
            arch.value.fpga,
            arch.value.name,
            workload.value,
            calls,
            _shape(arch, workload),
            _schedule(workload.value),
        )
    needs = resources(arch.value.fpga, workload.value.heads, None)
    return replace(run_calls(arch, workload, calls, options, start, needs), functional=functional)


def estimate_commands(arch: Loaded[FpgaArchConfig], workload: Loaded[AttentionConfig]) -> int | None:
    """DRAM commands of the run, about; None if no DRAM is behind the ports, or the algorithm runs on other units."""
    if not runs_fixed(arch.value, workload.value):
        return None
    return streaming.estimate_commands(arch.value.fpga, _calls(arch, workload))


SCHEDULES: dict[str, Schedule] = {"reordered": "reordered", "vanilla": "naive"}
"""Algorithm -> schedule of the attention unit: queries in skewed lanes, or one row that meets a key in each lane."""


def attention_algorithms() -> tuple[str, ...]:
    """Attention algorithms that run here: all, on units for primitives."""
    return tuple(discover().names())


def runs_fixed(arch: FpgaArchConfig, work: AttentionConfig) -> bool:
    """Whether a workload runs on the units of fpga.attention: if the algorithm is theirs, and the case fits or must fit."""
    other = arch.fpga.primitives
    if other is None or work.algorithm not in SCHEDULES:
        return other is None
    case = work.case()
    square = case.phase == "prefill" and not case.causal and case.queries == case.keys and case.groups == case.heads
    return other.fixed_schedules and square


def _calls(arch: Loaded[FpgaArchConfig], workload: Loaded[AttentionConfig]) -> list[Call]:
    _check_unit(arch, workload)
    shape = _shape(arch, workload)
    regions = attention_regions(arch.value.fpga.attention, shape, _schedule(workload.value))
    calls = [Call("query_key", "attention_scores", 0, regions.scores)]
    for which, region in zip(PASSES, regions.softmax, strict=False):
        calls.append(Call(f"softmax_{which}", "softmax", 0, region, (len(calls) - 1,)))
    return [*calls, Call("weighted_values", "attention_values", 0, regions.values, (len(calls) - 1,))]


def _shape(arch: Loaded[FpgaArchConfig], workload: Loaded[AttentionConfig]) -> Shape:
    unit, work = arch.value.fpga.attention, workload.value
    words = arch.value.fpga.beat_bits // arch.value.fpga.word_bits
    tokens = work.case().keys
    if work.d_head % words:
        raise workload.tree.error(
            f"must be a multiple of the words of a beat of {arch.value.name}, which are {words}, not {work.d_head}",
            ("d_head",),
        )
    if unit.parallelism > tokens:
        raise arch.tree.error(
            f"must be at most the tokens of {work.name}, which are {tokens}, not {unit.parallelism}",
            ("fpga", "attention", "parallelism"),
        )
    return Shape(tokens, work.heads * work.d_head // words, unit.parallelism, work.heads, words)


def _schedule(work: AttentionConfig) -> Schedule:
    return SCHEDULES[work.algorithm] if work.parameters.get("reorder", True) else "naive"


def _check_unit(arch: Loaded[FpgaArchConfig], workload: Loaded[AttentionConfig]) -> None:
    """The unit has two schedules of one problem: every token attends to every token."""
    work, name, error = workload.value, arch.value.name, workload.tree.error
    if work.algorithm not in SCHEDULES:
        raise error(
            f"must be one of {', '.join(SCHEDULES)} on {name}, which has no section fpga.primitives for others, not "
            f"{work.algorithm!r}",
            ("algorithm",),
        )
    lanes = work.parameters.get("lanes", arch.value.fpga.attention.parallelism)
    if lanes != arch.value.fpga.attention.parallelism:
        raise error(
            f"must be fpga.attention.parallelism of {name}, {arch.value.fpga.attention.parallelism}, not {lanes}",
            ("parameters", "lanes"),
        )
    if work.phase != "prefill":
        raise error(f"must be prefill on {name}, not {work.phase}", ("phase",))
    if work.decisions is not None:
        raise error(f"must be left out on {name}, where data decide nothing", ("decisions",))
    case = work.case()
    if case.causal:
        raise error(f"must be false on {name}, whose attention unit has no mask", ("causal",))
    if case.groups != case.heads:
        raise error(f"must be the heads, {case.heads}, on {name}, not {case.groups}", ("kv_heads",))
    if case.queries != case.keys:
        raise error(f"must be the keys, {case.keys}, on {name}, not {case.queries}", ("queries",))
    if case.keys > MAX_TOKENS:
        raise error(f"must be at most {MAX_TOKENS:,} on {name}, not {case.keys:,}", ("keys",))


MAX_TOKENS = 100_000
"""Beyond it a run would take hours."""

__all__ = ["attention_algorithms", "estimate_commands", "port_timing", "runs_fixed", "simulate"]
