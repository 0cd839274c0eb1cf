"""Attention algorithms on the streaming machine: counts, numbers, engines, orders, refusals, and mutants that are caught."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import pytest

from pimsim.config import load_arch
from pimsim.errors import CapacityExceeded, ConfigError, InputError, UnsupportedOp
from pimsim.functional.primitive_check import check
from pimsim.machine.fpga.fast import run_region as fast
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.reference import run_region as reference
from pimsim.machine.fpga.schedule import canonical, run_program
from pimsim.mapper.fpga.expansion import lower
from pimsim.mapper.fpga.passes import PASSES
from pimsim.program.dataflow import verify_calls
from pimsim.program.places import Work
from pimsim.program.streaming import StreamProgram
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.runners.fpga_primitives import counts_of, stream_units
from pimsim.workload.attention.base import Algorithm, Case, algorithm
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Arrange, Primitive
from tests.attention.test_witnesses import CASES, CAUSAL, IMAGES, NOT_CAUSAL, NOT_SHARED, SQUARE

PORTS = PortTiming(2, 1, 64, 16, 16)
MACHINE = stream_units(load_arch("edge_moe_zcu102").value)
PAIRS = [
    (name, number, phase)
    for name, variants in CASES.items()
    for number in range(len(variants))
    for phase in algorithm(name).phases
]


WHOLE_BEATS = {"memory_caching"}
"""Algorithms that see several rows in memory as one, which needs rows of whole beats."""


def small(name: str, phase: str, values: dict[str, Any]) -> Case:
    keys = 9 if name in IMAGES else 8 if name in {"bigbird", "fma"} else 11
    queries = 1 if phase == "decode" else keys if name in SQUARE else 5
    heads = 2
    return Case(
        phase=phase,
        queries=queries,
        keys=keys,
        d_head=(8 if name in WHOLE_BEATS else 5) * values.get("bits", 1),
        heads=heads * (1 if name in NOT_SHARED else 2),
        kv_heads=heads,
        causal=name in CAUSAL or name not in NOT_CAUSAL,
    )


@cache
def lowered(name: str, number: int, phase: str) -> tuple[Algorithm, Case, Any, StreamProgram]:
    values = CASES[name][number]
    kind = algorithm(name, values)
    case = small(name, phase, values)
    decided = kind.decide(case, kind.sample(case, 1))
    return kind, case, decided, lower(kind.expand(case, decided), MACHINE)


def checked(name: str, number: int, phase: str, program: StreamProgram | None = None) -> dict[str, Any]:
    kind, case, decided, own = lowered(name, number, phase)
    program = program or own
    times = run_program(program.calls, PORTS, fast)
    return check(program, list(zip(times.starts, times.ends, strict=True)), kind, case, 1, decided)


@pytest.mark.parametrize(("name", "number", "phase"), PAIRS)
def test_simulated_counts_are_the_closed_forms(name: str, number: int, phase: str) -> None:
    kind, case, decided, program = lowered(name, number, phase)
    verify_calls(program.calls)
    closed = kind.counts(case, decided)
    assert counts_of(program) == {key: getattr(closed, key) for key in counts_of(program)}


@pytest.mark.parametrize(("name", "number", "phase"), PAIRS)
def test_programs_compute_their_algorithm_in_both_orders(name: str, number: int, phase: str) -> None:
    found = checked(name, number, phase)
    assert found["message"] is None
    assert found["compared"] > 0
    assert found["max_rel_error"] <= found["tolerance"] < 1e-3


@pytest.mark.parametrize(("name", "number", "phase"), [pair for pair in PAIRS if pair[1] == 0])
def test_engines_agree_on_every_call(name: str, number: int, phase: str) -> None:
    calls = lowered(name, number, phase)[3].calls
    one, other = (run_program(calls, PORTS, engine) for engine in (fast, reference))
    assert (one.starts, one.ends, one.regions) == (other.starts, other.ends, other.regions)


def test_every_kind_of_primitive_is_lowered() -> None:
    kinds = {kind.KIND for kind in _subclasses(Primitive) if kind.KIND}
    moves = {"source", "load", "store", "append", "keep", "part"}
    assert kinds == set(PASSES) | moves


def _subclasses(kind: type[Primitive]) -> set[type[Primitive]]:
    return {kind}.union(*(_subclasses(below) for below in kind.__subclasses__()))


# ------------------------------------------------------------------------------------------------------------ mutants


def mutated(name: str, kind: str, change: Any) -> StreamProgram:
    """The program of ``name`` with the first call of a kind changed."""
    program = lowered(name, 0, "prefill")[3]
    calls = list(program.calls)
    at = next(i for i, call in enumerate(calls) if call.op == kind and call.work is not None)
    calls[at] = change(calls[at])
    return replace(program, calls=calls)


def _swapped(call: Any) -> Any:
    one, other, *rest = call.work.operands
    return replace(call, work=Work(call.work.op, (other, one, *rest), call.work.results))


def _next_word(call: Any) -> Any:
    (place,), *rest = call.work.operands
    return replace(call, work=Work(call.work.op, ((replace(place, start=place.start + 1),), *rest), call.work.results))


def _other_scale(call: Any) -> Any:
    return replace(call, work=replace(call.work, op=replace(call.work.op, scale=call.work.op.scale * (1 + 1e-5))))


MUTANTS = {
    "operands of a score": ("clustered", "scores", _swapped, ValueError),
    "address of a load": ("vanilla", "load", _next_word, None),
    "address of a softmax": ("vanilla", "softmax", _next_word, None),
    "scale of a score": ("vanilla", "scores", _other_scale, None),
    "states that are merged": ("flash", "exponentiate", _next_word, None),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_changed_program_is_caught(mutant: str) -> None:
    name, kind, change, error = MUTANTS[mutant]
    program = mutated(name, kind, change)
    if error is not None:
        with pytest.raises(error):
            checked(name, 0, "prefill", program)
    else:
        assert checked(name, 0, "prefill", program)["message"] is not None


@pytest.mark.parametrize("name", ["single_pass", "flash", "topk", "cascaded_group"])
def test_a_call_that_does_not_wait_is_caught(name: str) -> None:
    program = lowered(name, 0, "prefill")[3]
    kinds = {call.op for call in program.calls if call.work is not None and call.after}
    caught = 0
    for kind in sorted(kinds):
        at = next(i for i, call in enumerate(program.calls) if call.op == kind and call.work is not None and call.after)
        if not program.calls[at].region.reads and not program.calls[at].region.writes:
            calls = list(program.calls)
            calls[at] = replace(calls[at], after=())
            message = checked(name, 0, "prefill", replace(program, calls=calls))["message"]
            caught += message is not None and "in the machine's order" in message
    assert caught


# ------------------------------------------------------------------------------------------------- runs and refusals


def run(*overrides: str, arch: str = "edge_moe_zcu102", check_tokens: int = 0, engine: str = "fast") -> Result:
    return simulate(
        arch, "attention_reordered", overrides=overrides, check_tokens=check_tokens, engine=engine  # type: ignore[arg-type]
    )  # fmt: skip


FLASH = (
    "workload.algorithm=flash", "workload.tokens=40", "workload.causal=true",
    "workload.parameters.block_rows=16", "workload.parameters.block_columns=16",
)  # fmt: skip


def test_a_run_has_counts_memory_and_a_check() -> None:
    result = run(*FLASH, check_tokens=1)
    case = Case(queries=40, keys=40, d_head=64, heads=3)
    closed = algorithm("flash", {"block_rows": 16, "block_columns": 16}).counts(case)
    assert result.counts is not None
    assert result.counts["equal"]
    assert {name: result.counts[name] for name in asdict(closed)} == asdict(closed)
    assert result.functional is not None
    assert result.functional["passed"]
    assert result.memory is not None
    buffer = result.memory["buffer"]
    assert 4 * 3 * 40 * 64 < buffer["peak_bytes"] <= buffer["capacity_bytes"]
    assert max(size for _, size in buffer["over_time"]) == buffer["peak_bytes"]
    assert result.memory["memory"]["persistent_bytes"] == 4 * closed.persistent
    assert result.to_json()["counts"] == result.counts


def test_both_engines_give_the_same_run() -> None:
    one, other = (run(*FLASH, engine=engine) for engine in ("fast", "reference"))
    assert (one.time, one.units, one.ports, one.memory) == (other.time, other.units, other.ports, other.memory)


def test_streaming_an_update_costs_the_same_at_any_context() -> None:
    update = ("workload.algorithm=cmab", "workload.phase=update", "workload.queries=1", "workload.causal=false")
    few, many = (run(*update, f"workload.keys={keys}") for keys in (100, 1_000_000))
    assert (few.time, few.energy, few.counts, few.memory) == (many.time, many.energy, many.counts, many.memory)


CMAB = ("workload.algorithm=cmab", "workload.tokens=null", "workload.heads=4", "workload.d_head=16", "workload.causal=false",
        "workload.parameters={blocks: 1}")  # fmt: skip


def test_the_constant_memory_block_has_its_published_counts_on_the_machine() -> None:
    update = run(*CMAB, "workload.phase=update", "workload.queries=1", "workload.keys=100")
    assert update.counts is not None
    assert update.memory is not None
    assert (update.counts["macs"], update.counts["exps"]) == (24_576, 2_048)
    assert update.memory["buffer"]["persistent_bytes"] == 34_816
    refresh = [
        run(*CMAB, "workload.phase=query", "workload.queries=128", f"workload.keys={keys}").counts or {}
        for keys in (1_000, 1_000_000)
    ]
    assert [counts["macs"] for counts in refresh] == [25_690_112] * 2


def test_flash_moves_what_the_paper_says() -> None:
    flash = ("workload.algorithm=flash", "workload.parameters={version: 1}", "workload.heads=1", "workload.tokens=1024")
    counts = run(*flash, "workload.causal=false").counts or {}
    assert counts["reads"] + counts["writes"] == 1_335_296
    naive = ("workload.algorithm=vanilla", *flash[2:], "arch.fpga.primitives.fixed_schedules=false")
    with pytest.raises(ConfigError, match=r"fpga\.primitives\.buffer_words: must be at least "):
        run(*naive, "workload.causal=false")  # 2^20 scores do not fit the chip


def test_parts_of_an_output_do_not_wait_on_the_chip_for_the_others() -> None:
    local = ("workload.algorithm=longformer", "workload.causal=true", "workload.parameters={side: 8, block: 8}")
    few, many = (run(*local, f"workload.tokens={tokens}").memory or {} for tokens in (64, 256))
    assert few["buffer"]["peak_bytes"] == many["buffer"]["peak_bytes"]
    assert 4 * few["memory"]["peak_bytes"] == many["memory"]["peak_bytes"]


def test_regions_that_differ_in_addresses_alone_are_timed_once() -> None:
    calls = lowered("single_pass", 1, "prefill")[3].calls
    scores = [call.region for call in calls if call.op == "scores"]
    assert scores[0] != scores[1]
    assert canonical(scores[0]) == canonical(scores[1])
    assert fast(scores[0], dict.fromkeys(MACHINE.ports, PORTS)) == fast(scores[1], dict.fromkeys(MACHINE.ports, PORTS))


def test_data_dependent_programs_say_where_their_decisions_come_from() -> None:
    fox = ("workload.algorithm=fox", "workload.tokens=20", "workload.causal=true", "workload.seed=7")
    assert (run(*fox).counts or {})["decisions"] == "distribution: fox.sample, seed 7"
    assert (run(*FLASH).counts or {})["decisions"] is None


def test_decisions_come_from_a_file_if_one_is_given(tmp_path: Any) -> None:
    from pimsim.workload.attention import decisions

    kind, case = algorithm("fox"), Case(queries=20, keys=20, d_head=64, heads=3)
    file = tmp_path / "decisions.json"
    decisions.draw(kind, case, 3).save(file)
    fox = ("workload.algorithm=fox", "workload.causal=true", f"workload.decisions={file}")
    result = run(*fox, "workload.tokens=20", "workload.seed=3", check_tokens=1)
    assert result.counts["decisions"] == f"file {file} (distribution: fox.sample, seed 3)"
    assert result.functional is not None
    assert result.functional["passed"]
    with pytest.raises(ConfigError, match=r"decisions: must be a recording of fox with the parameters and sizes of"):
        run(*fox, "workload.tokens=21")


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        (
            "arch.fpga.primitives=null",
            ConfigError,
            "--set workload.algorithm=flash: algorithm: must be one of reordered, vanilla on edge_moe_zcu102, which has",
        ),
        (
            "arch.fpga.primitives.buffer_words=2000",
            ConfigError,
            "--set arch.fpga.primitives.buffer_words=2000: fpga.primitives.buffer_words: must be at least ",
        ),
        (
            "arch.fpga.primitives.ports=[inout9]",
            ConfigError,
            "--set arch.fpga.primitives.ports=[inout9]: fpga.primitives.ports.0: must be one of inout1, inout2, inout3, inout4, "
            "weights, not 'inout9'; did you mean 'inout4'?",
        ),
        ("arch.fpga.primitives.units.multiply_accumulate.lanes=0", ConfigError, "--set arch.fpga.primitives.units.multiply"),
        ("workload.phase=update", ConfigError, "--set workload.phase=update: phase: phase of attention flash must be one of"),
    ],
)  # fmt: skip
def test_what_does_not_run_says_why(override: str, error: type[InputError], message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        run(*FLASH, override)


def test_chunks_of_an_update_are_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"cmab_stream\.yaml:\d+:\d+: chunk: must be left out on edge_moe_zcu102, where a state takes up all 16 queries "
        r"together, not 1$",
    ):
        simulate("edge_moe_zcu102", "cmab_stream")
    assert simulate("edge_moe_zcu102", "cmab_stream", overrides=["workload.chunk=null"]).counts is not None


def test_a_missing_unit_is_named() -> None:
    units = "arch.fpga.primitives.units={multiply_accumulate: {lanes: 8, depth: 3}, move: {lanes: 8, depth: 3}}"
    with pytest.raises(
        UnsupportedOp,
        match=r"^attention flash does not run on edge_moe_zcu102: fpga\.primitives\.units of edge_moe_zcu102 must have compare "
        r"for exponentiate\.1 \(exponentiate\), not only multiply_accumulate, move$",
    ):
        run(*FLASH, units)


def test_rows_that_cannot_be_seen_as_blocks_are_refused() -> None:
    b = Expansion({"table": (2, 11, 8)})
    b.store(b.load(b.add(Arrange, b.rows(b["table"], 0, 10), to=(10, 2, 8))))
    with pytest.raises(UnsupportedOp, match=r"^arrange\.1 \(arrange\) must keep rows in memory at equal distances, as"):
        lower(b.graph(), MACHINE)


def test_a_buffer_in_pieces_is_told_apart_from_one_that_is_too_small() -> None:
    from pimsim.mapper.fpga.buffers import Buffer

    buffer = Buffer(30)
    first, *_ = (buffer.give(10, "x", 0)[0] for _ in range(3))
    buffer.take_back(first, 10, ())
    buffer.take_back(20, 10, ())
    with pytest.raises(
        CapacityExceeded, match=r"^fpga\.primitives\.buffer_words must have 15 words in a row for y, not 30"
    ):
        buffer.give(15, "y", 10)
    with pytest.raises(
        CapacityExceeded, match=r"^fpga\.primitives\.buffer_words must be at least 40, as y needs 30 words"
    ):
        buffer.give(30, "y", 10)
