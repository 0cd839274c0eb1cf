"""Attention products on a streaming accelerator."""

from __future__ import annotations

import time
from dataclasses import replace

from pimsim.analysis.baselines import load_baseline
from pimsim.analysis.resources import resources
from pimsim.arch.fpga import FpgaArchConfig
from pimsim.config import Loaded
from pimsim.mapper.fpga.attention import Shape, naive_query_key
from pimsim.mapper.fpga.encoder import attention_regions, pipelines
from pimsim.program.dataflow import Call
from pimsim.result import Result
from pimsim.runners import RunOptions
from pimsim.runners.streaming import port_timing, run_calls
from pimsim.workload.attention_only import AttentionConfig


def simulate(arch: Loaded[FpgaArchConfig], workload: Loaded[AttentionConfig], options: RunOptions) -> Result:
    """Time the attention products, call after call, beat by beat."""
    start = time.perf_counter()
    for name in options.baselines:
        load_baseline(name)  # none of them is about attention alone, but a wrong name is told
    calls = _calls(arch, workload)
    functional = None
    if options.check_tokens:
        from pimsim.runners.fpga_check import check_attention  # numpy is only needed here

        functional = check_attention(arch.value.fpga, arch.value.name, workload.value, calls, _shape(arch, workload))
    needs = resources(arch.value.fpga, workload.value.heads, None)
    return replace(run_calls(arch, workload, calls, options, start, needs), functional=functional)


def estimate_commands(_arch: Loaded[FpgaArchConfig], _workload: Loaded[AttentionConfig]) -> None:
    """A streaming machine records no DRAM commands."""
    return


def _calls(arch: Loaded[FpgaArchConfig], workload: Loaded[AttentionConfig]) -> list[Call]:
    unit, work = arch.value.fpga.attention, workload.value
    shape = _shape(arch, workload)
    if work.schedule == "naive":
        region = naive_query_key(shape, pipelines(unit), unit.placement)
        return [Call("query_key", "attention_scores", 0, region)]
    scores, values = attention_regions(unit, shape)
    return [
        Call("query_key", "attention_scores", 0, scores),
        Call("weighted_values", "attention_values", 0, values, (0,)),
    ]


def _shape(arch: Loaded[FpgaArchConfig], workload: Loaded[AttentionConfig]) -> Shape:
    unit, work = arch.value.fpga.attention, workload.value
    words = arch.value.fpga.beat_bits // arch.value.fpga.word_bits
    if work.d_head % words:
        raise workload.tree.error(
            f"must be a multiple of the words of a beat of {arch.value.name}, which are {words}, not {work.d_head}",
            ("d_head",),
        )
    if unit.parallelism > work.tokens:
        raise arch.tree.error(
            f"must be at most the tokens of {work.name}, which are {work.tokens}, not {unit.parallelism}",
            ("fpga", "attention", "parallelism"),
        )
    return Shape(work.tokens, work.heads * work.d_head // words, unit.parallelism, work.heads, words)


__all__ = ["estimate_commands", "port_timing", "simulate"]
