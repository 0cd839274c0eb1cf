"""The program on numbers equals the float64 reference, whatever the shapes: models and machines that divide nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from pimsim.arch.formats import format_bytes
from pimsim.arch.system import ArchConfig
from pimsim.config import load_arch, load_workload
from pimsim.errors import CapacityExceeded
from pimsim.program.verify import verify
from pimsim.runners.pim_check import PimCheck
from pimsim.session import Session
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.models import build_graph
from pimsim.workload.reference import Reference, random_weights

EXACT = {"exp_taylor_terms": 12, "reciprocal_newton_steps": 5, "rsqrt_newton_steps": 4}
"""An ASIC whose functions are exact to float32."""
GATED: dict[str, Any] = {"norm": "rmsnorm", "gated": "true", "position": "rope", "biases": "[]"}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": GATED,
    "gptj": {"parallel_residual": "true", "position": "rope", "rope_convention": "interleaved"},
}
PROPERTY = settings(deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def machines(draw: st.DrawFn, number_format: str, accumulators: tuple[str, ...] = ("null",)) -> ArchConfig:
    banks, registers = draw(st.sampled_from([(4, 4), (2, 4), (3, 2), (1, 5), (2, 3)])), draw(st.sampled_from([1, 4]))
    fields = {
        "pim.format": number_format,
        "dram.channels": draw(st.integers(1, 5)),
        "dram.levels.bankgroup": banks[0],
        "dram.levels.bank": banks[1],
        "dram.columns": draw(st.sampled_from([4, 7, 64])),
        "dram.register_files.accumulator": registers,
        "pim.accumulators": registers,
        "pim.global_buffer_bytes": 32 * draw(st.sampled_from([5, 11, 64])),
        "asic.sram_bytes": draw(st.sampled_from([1200, 1600, 2400])) * format_bytes(number_format),
        "dispatch": draw(st.sampled_from(["overlap", "serial"])),
        "pim.accumulator": draw(st.sampled_from(accumulators)),
        "pim.adder_tree": draw(st.sampled_from(["true", "false"])),
    }
    fields |= {f"asic.functions.{name}": value for name, value in EXACT.items()}
    return load_arch("pim_gpt", [(path, str(value)) for path, value in fields.items()]).value


@st.composite
def workloads(draw: st.DrawFn) -> WorkloadConfig:
    family, heads, d_head = draw(st.sampled_from(list(FAMILIES))), draw(st.integers(1, 4)), draw(st.integers(8, 40))
    if family != "gpt2":
        d_head -= d_head % 2  # pairs are rotated
    model = {
        "layers": draw(st.integers(1, 2)),
        "heads": heads,
        "d_head": d_head,
        "d_model": draw(st.integers(9, 75)),
        "activation": draw(st.sampled_from(["gelu_tanh", "gelu_erf", "relu", "silu"])),
        "d_ff": 2 * draw(st.integers(8, 60)) + 1,
        "vocabulary": 2 * draw(st.integers(10, 150)) + 1,
        "context": 64,
    } | FAMILIES[family]
    if family == "llama":
        model["kv_heads"] = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    fields = {f"model.{name}": value for name, value in model.items()} | {
        "family": family,
        "prompt_tokens": draw(st.integers(2, 5)),
        "generate_tokens": draw(st.integers(1, 30)),
        "lm_head": "true",
        "embeddings": "true",
    }
    return load_workload("gpt2_decode", [(path, str(value)) for path, value in fields.items()]).value


@settings(PROPERTY, max_examples=25)
@given(machines("float32"), workloads())
def test_the_program_computes_what_the_reference_computes(arch: ArchConfig, workload: WorkloadConfig) -> None:
    graph = build_graph(workload)
    weights = random_weights(graph, scale=0.2)
    try:
        session = Session(workload, arch, weights)
    except CapacityExceeded:
        assume(False)
    reference, mapping = Reference(graph, workload, weights), session.mapping
    lanes, buffer = mapping.shape.lanes, mapping.shape.buffer // mapping.shape.lanes
    for position in range(session.capacity):
        token = 7 * position % workload.model.vocabulary
        exact, found = reference.step(token, position)["final.lm_head"], session.step(token)
        assert session.argmax == int(np.argmax(found))
        error = float(np.max(np.abs(found - exact)) / np.max(np.abs(exact)))
        note(f"position {position}: {error}")
        assert error < 1e-5
    verify(mapping.forward_pass(session.capacity), mapping.spec, session.executor.sram.size, buffer, lanes=lanes)


@pytest.mark.parametrize("number_format", ["bfloat16", "float16", "int8", "fixed16_8", "fixed16_6_wrap"])
@settings(PROPERTY, max_examples=6)
@given(data=st.data())
def test_every_operation_is_within_the_error_of_its_roundings(number_format: str, data: st.DataObject) -> None:
    """The bounds are derived in `pimsim.functional.check`, which also compares with the machine's issue order."""
    accumulators = ("float32", "bfloat16") if number_format.endswith("float16") else ("int32",)
    arch, workload = data.draw(machines(number_format, accumulators)), data.draw(workloads())
    try:
        check = PimCheck(arch, workload, tokens=12)
    except CapacityExceeded:
        assume(False)
    assert check.run()["message"] is None


def test_the_feed_forward_waits_for_the_space_of_the_scores() -> None:
    """Channels without outputs of the projection come to it early, and it does not read what attention writes."""
    machine = {"pim.format": "float16", "dram.channels": 5, "dram.levels.bankgroup": 1, "dram.levels.bank": 5}
    machine |= {"pim.global_buffer_bytes": 352, "asic.sram_bytes": 4800}
    machine |= {f"asic.functions.{name}": value for name, value in EXACT.items()}
    model = {"layers": 1, "heads": 4, "d_head": 36, "d_model": 9, "d_ff": 49, "vocabulary": 21, "context": 64}
    fields = {f"model.{name}": value for name, value in (model | FAMILIES["gptj"]).items()}
    fields |= {"family": "gptj", "prompt_tokens": 3, "generate_tokens": 6, "lm_head": "true", "embeddings": "true"}
    arch = load_arch("pim_gpt", [(path, str(value)) for path, value in machine.items()]).value
    workload = load_workload("gpt2_decode", [(path, str(value)) for path, value in fields.items()]).value
    assert PimCheck(arch, workload, tokens=8).run()["message"] is None


@pytest.mark.parametrize("dispatch", ["overlap", "serial"])
def test_a_context_of_many_rows_of_values(dispatch: str) -> None:
    """Partial sums take turns in two buffers, so a fourth one waits for a sum; 32 tokens to a row."""
    machine = {"pim.format": "float32", "dram.columns": 4, "dram.channels": 1, "dispatch": dispatch}
    model = {"layers": 1, "heads": 2, "d_head": 9, "d_model": 18, "d_ff": 17, "vocabulary": 21, "context": 150}
    fields = {f"model.{name}": value for name, value in model.items()}
    fields |= {"prompt_tokens": 1, "generate_tokens": 140, "lm_head": "true", "embeddings": "true"}
    arch = load_arch("pim_gpt", [(path, str(value)) for path, value in machine.items()]).value
    workload = load_workload("gpt2_decode", [(path, str(value)) for path, value in fields.items()]).value
    assert PimCheck(arch, workload, tokens=140).run()["message"] is None


def test_banks_that_do_not_divide_a_column_have_their_own_space() -> None:
    """13 outputs are 18 results of six banks, more than two columns of eight."""
    machine = {"pim.format": "float32", "dram.channels": 1, "dram.levels.bankgroup": 3, "dram.levels.bank": 2}
    machine |= {"dram.columns": 4, "pim.global_buffer_bytes": 160}
    model = {"layers": 1, "heads": 1, "d_head": 8, "d_model": 13, "d_ff": 81, "vocabulary": 21, "context": 64}
    fields = {f"model.{name}": value for name, value in model.items()}
    fields |= {"prompt_tokens": 2, "generate_tokens": 1, "lm_head": "true", "embeddings": "true"}
    arch = load_arch("pim_gpt", [(path, str(value)) for path, value in machine.items()]).value
    workload = load_workload("gpt2_decode", [(path, str(value)) for path, value in fields.items()]).value
    assert PimCheck(arch, workload, tokens=2).run()["message"] is None
