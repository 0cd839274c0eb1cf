"""Mapped GPT programs: both engines agree on every command, and the oracle and the verifier find nothing.

Models and machines are small and odd: buffers that force chunks, an SRAM that forces several passes of heads, few channels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pimsim.analysis.legality import check_trace
from pimsim.arch.system import ArchConfig
from pimsim.config import load_arch, load_workload
from pimsim.errors import CapacityExceeded
from pimsim.machine.fast import FastEngine
from pimsim.machine.reference import ReferenceEngine
from pimsim.mapper.mapping import Mapping
from pimsim.program.verify import verify
from pimsim.trace.csvio import make_command
from pimsim.trace.totals import RunTotals
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.models import build_graph


@st.composite
def machines(draw: st.DrawFn) -> ArchConfig:
    accumulators = draw(st.sampled_from([1, 2, 4]))
    overrides = {
        "dram.channels": draw(st.sampled_from([1, 2, 3, 8])),
        "dram.columns": draw(st.sampled_from([4, 16, 64])),
        "dram.register_files.accumulator": accumulators,
        "pim.accumulators": accumulators,
        "pim.global_buffer_bytes": draw(st.sampled_from([128, 256, 2048])),
        "dram.timing.nREFI": draw(st.sampled_from([700, 1500, 6825])),
        "asic.clock_mhz": draw(st.sampled_from([1000, 100, 333.3])),
        "asic.sram_bytes": draw(st.sampled_from([2400, 4096, 131072])),
        "asic.function_units": draw(st.sampled_from(["pipelined", "shared"])),
        "dispatch": draw(st.sampled_from(["overlap", "serial"])),
    }
    return load_arch("pim_gpt", [(path, str(value)) for path, value in overrides.items()]).value


@st.composite
def workloads(draw: st.DrawFn) -> WorkloadConfig:
    heads, d_head = draw(st.sampled_from([1, 2, 3, 4])), draw(st.sampled_from([8, 16, 24, 32]))
    overrides = {
        "model.layers": draw(st.sampled_from([1, 2])),
        "model.heads": heads,
        "model.d_model": heads * d_head,
        "model.d_ff": draw(st.sampled_from([16, 100, 256])),
        "model.vocabulary": draw(st.sampled_from([40, 300])),
        "prompt_tokens": draw(st.sampled_from([1, 17, 60])),
        "generate_tokens": draw(st.sampled_from([1, 3, 20])),
        "lm_head": draw(st.sampled_from(["true", "false"])),
        "embeddings": draw(st.sampled_from(["true", "false"])),
    }
    if draw(st.booleans()):
        overrides |= {
            "model.kv_heads": draw(st.sampled_from([n for n in (1, 2, 3, 4) if heads % n == 0])),
            "model.norm": "rmsnorm",
            "model.gated": "true",
            "model.activation": draw(st.sampled_from(["silu", "gelu_tanh"])),
            "model.position": draw(st.sampled_from(["rope", "learned"])),
            "model.biases": draw(st.sampled_from(["[]", "[attention]", "[lm_head, feed_forward]"])),
            "model.parallel_residual": draw(st.sampled_from(["true", "false"])),
        }
    return load_workload("gpt2_decode", [(path, str(value)) for path, value in overrides.items()]).value


def trace_of(engine: Any, mapping: Mapping) -> tuple[RunTotals, list[Any]]:
    totals = engine.run(mapping.program())
    return totals, sorted(engine.trace, key=lambda row: (row[0], row[1]))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(machines(), workloads())
def test_mapped_programs_agree(arch: ArchConfig, workload: WorkloadConfig) -> None:
    spec = arch.dram.resolve()
    try:
        mapping = Mapping(workload, build_graph(workload), arch, spec)
    except CapacityExceeded:
        return
    sram, buffer = arch.asic.sram_bytes // 2, arch.pim.global_buffer_bytes // spec.burst_bytes
    for blocks in mapping.program():
        verify(blocks, spec, sram, buffer, lanes=spec.burst_bytes // 2)
    slow, expected = trace_of(ReferenceEngine(arch, spec, trace=True), mapping)
    fast, found = trace_of(FastEngine(arch, spec, trace=True), mapping)
    assert found == expected
    quick = FastEngine(arch, spec).run(mapping.program())
    for field in dataclasses.fields(RunTotals):
        assert getattr(fast, field.name) == getattr(slow, field.name), field.name
        assert getattr(quick, field.name) == getattr(slow, field.name), field.name
    rows = [
        make_command(spec, tick, name, channel, where, row, column) for tick, channel, name, where, row, column in found
    ]
    assert check_trace(spec, rows) == []


@pytest.mark.parametrize("dispatch", ["overlap", "serial"])
def test_blocks_that_are_derived_equal_blocks_that_are_lowered(dispatch: str) -> None:
    """Attention at each context, in sequence, is what a mapping makes that has not seen the contexts before."""
    arch = load_arch("pim_gpt", [("dispatch", dispatch)]).value
    workload = load_workload("gpt2_decode", [("generate_tokens", "1100")]).value
    spec, graph = arch.dram.resolve(), build_graph(workload)
    one = Mapping(workload, graph, arch, spec)
    for context in [*range(1, 40), *range(1020, 1030)]:
        fresh = Mapping(workload, graph, arch, spec)
        for own, other in zip(one.forward_pass(context), fresh.forward_pass(context), strict=True):
            assert own.block.streams == other.block.streams
            assert own.block.carried == other.block.carried
