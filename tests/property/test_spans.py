"""Both engines tell a recorder the same steps, and the steps hold every command of the run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pimsim.arch.system import ArchConfig
from pimsim.config import load_arch, load_workload
from pimsim.machine.fast import FastEngine
from pimsim.machine.reference import ReferenceEngine
from pimsim.mapper.mapping import Mapping
from pimsim.trace.spans import SpanList
from pimsim.workload.models import build_graph

SMALL = {
    "model.layers": 2,
    "model.heads": 2,
    "model.d_model": 64,
    "model.d_ff": 100,
    "model.vocabulary": 40,
}


def build(arch_overrides: dict[str, object], tokens: int) -> tuple[ArchConfig, Mapping]:
    arch = load_arch("pim_gpt", [(path, str(value)) for path, value in arch_overrides.items()]).value
    overrides = {**SMALL, "generate_tokens": tokens, "prompt_tokens": 3, "lm_head": "true"}
    workload = load_workload("gpt2_decode", [(path, str(value)) for path, value in overrides.items()]).value
    return arch, Mapping(workload, build_graph(workload), arch, arch.dram.resolve())


def absolute(recorded: SpanList) -> list[tuple[Any, ...]]:
    """Every step of every unit with ticks from the start of the run, block by block."""
    rows = []
    for number, block in enumerate(recorded.blocks):
        for span in block.spans:
            ticks = [t if t is None else t + block.origin for t in (span.idle, span.ready, span.begin, span.end)]
            rows += [
                (number, unit, ticks, block.layer, block.name, block.ops[span.op].name, *span[6:])
                for unit in span.units
            ]
    return sorted(rows, key=lambda row: (row[0], row[1], row[2][3], row[2][2]))


def record(engine_class: Any, arch: ArchConfig, mapping: Mapping, **options: Any) -> tuple[Any, SpanList, Any]:
    recorded = SpanList()
    engine = engine_class(arch, arch.dram.resolve(), recorder=recorded, **options)
    return engine.run(mapping.program()), recorded, engine.trace


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    channels=st.sampled_from([1, 3, 8]),
    refresh=st.sampled_from([700, 1500, 6825]),
    clock=st.sampled_from([1000, 100, 333.3]),
    dispatch=st.sampled_from(["overlap", "serial"]),
    tokens=st.sampled_from([1, 12]),
)
def test_engines_tell_the_same_steps(channels: int, refresh: int, clock: float, dispatch: str, tokens: int) -> None:
    overrides = {
        "dram.channels": channels,
        "dram.timing.nREFI": refresh,
        "asic.clock_mhz": clock,
        "dispatch": dispatch,
    }
    arch, mapping = build(overrides, tokens)
    totals, slow, _ = record(ReferenceEngine, arch, mapping)
    quick, fast, _ = record(FastEngine, arch, mapping)
    assert absolute(fast) == absolute(slow)
    assert fast.passes == slow.passes == totals.token_ticks
    for one, other in zip(fast.blocks, slow.blocks, strict=True):
        assert (one.frontier, list(one.gains)) == (other.frontier, list(other.gains))
    counted: Counter[str] = Counter()
    for block in fast.blocks:
        for span in block.spans:
            for command, n in (*span.commands, *span.refresh):
                counted[command] += n * len(span.units)
    booked: Counter[str] = Counter()
    for (_, _, command), n in quick.commands.items():
        booked[command] += n
    assert +counted == +booked


def test_steps_of_a_unit_follow_each_other_without_a_gap() -> None:
    arch, mapping = build({"dram.timing.nREFI": 1500}, 6)
    totals, recorded, _ = record(FastEngine, arch, mapping)
    for unit in ("channel0", "channel7", "asic"):
        at = 1 if unit != "asic" else 0
        for block in recorded.blocks:
            for span in block.spans:
                if unit in span.units:
                    assert span.idle + block.origin == at
                    assert span.idle <= span.begin <= span.end
                    at = span.end + block.origin
        assert 0 < at <= totals.ticks + 1


@pytest.mark.parametrize("window", [(0, 500), (5_000, 9_000), (100_000, 100_001), (10**9, 10**9 + 5)])
def test_a_window_holds_the_commands_of_the_whole_trace(window: tuple[int, int]) -> None:
    arch, mapping = build({"dram.timing.nREFI": 1500}, 12)
    _, _, everything = record(FastEngine, arch, mapping, trace=True)
    expected = sorted(row for row in everything if window[0] <= row[0] < window[1])
    totals, _, quick = record(FastEngine, arch, mapping, trace=True, window=window)
    slow_totals, _, slow = record(ReferenceEngine, arch, mapping, trace=True, window=window)
    assert sorted(quick) == sorted(slow) == expected
    assert totals == slow_totals
