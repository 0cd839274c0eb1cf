"""Scattered rows overlap, landmarks lie apart, and what is too large for the SRAM is carried out in parts: on a PIM machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.analysis.strict import StrictOracle
from pimsim.arch.dram import DramSpec
from pimsim.config import load_arch
from pimsim.functional.attention_check import AttentionCheck, prepare
from pimsim.machine.fast import FastEngine
from pimsim.machine.reference import ReferenceEngine
from pimsim.mapper.attention.count import count_program
from pimsim.mapper.attention.parts import Rewritten, by_heads, stored_in_parts
from pimsim.mapper.attention.scattered import overlapped
from pimsim.program.isa import Block, Item, Op, Placed, Run, Step, bank_where
from pimsim.run import simulate
from pimsim.runners.pim_attention import lower
from pimsim.runners.pim_check import timed_steps
from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.base import Case, Counts, algorithm
from pimsim.workload.attention.expansion import Expansion

ARCH = load_arch("pim_gpt").value
SPEC = ARCH.dram.resolve()


def access(spec: DramSpec, bank: int, row: int, column: int, count: int, command: str) -> Run:
    where = bank_where(bank, spec.counts) + (-1,) * len(spec.register_files)
    return Run(command, where, row=row, column=column, count=count, sram=0, sram_step=16)


def one_step(items: list[Item]) -> Block:
    idle: tuple[Step, ...] = ()
    channels = ((Step(0, tuple(items)),), *([idle] * (SPEC.channels - 1)))
    return Block("reads", (Op("gather", "reads"),), channels, ())


ROWS = st.lists(
    st.tuples(st.integers(0, 15), st.integers(0, 3), st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=25)
@given(ROWS, st.sampled_from(["RD", "WR"]))
def test_an_order_of_scattered_rows_is_legal_and_complete_and_the_same_in_both_engines(
    places: list[tuple[int, int, int, int]], command: str
) -> None:
    runs = [access(SPEC, *place, command) for place in places]
    items = overlapped(SPEC, runs)
    assert Counter(item for item in items if isinstance(item, Run) and item.command == command) == Counter(runs)
    opened = [item for item in items if isinstance(item, Run) and item.command == "ACT"]
    assert len(opened) == len({(run.where, run.row) for run in runs}), "each row once"
    passes = [[Placed(one_step(items), 0, -1)]]
    oracle = StrictOracle(SPEC)
    traces = []
    for engine in (FastEngine(ARCH, SPEC, trace=True), ReferenceEngine(ARCH, SPEC, trace=True)):
        ticks = engine.run(iter(passes)).ticks
        traces.append((ticks, sorted(engine.trace or [])))
    assert traces[0] == traces[1]
    for row in traces[0][1]:
        oracle(row)


def test_rows_of_other_banks_open_as_soon_as_the_rules_let_them() -> None:
    """The last of n rows opens n - 1 times nRRD, or nFAW for every four, after the first."""
    timing = SPEC.timing

    def ticks(places: list[tuple[int, int]]) -> int:
        items = overlapped(SPEC, [access(SPEC, bank, row, 0, 1, "RD") for bank, row in places])
        return FastEngine(ARCH, SPEC).run(iter([[Placed(one_step(items), 0, -1)]])).ticks

    one = ticks([(0, 0)])
    assert ticks([(bank, 0) for bank in range(4)]) == one + 3 * timing["nRRD"]
    assert ticks([(bank, 0) for bank in range(16)]) == one + max(
        15 * timing["nRRD"], 3 * timing["nFAW"] + 3 * timing["nRRD"]
    )
    assert ticks([(0, row) for row in range(4)]) == one + 3 * timing["nRC"]
    assert ticks([(0, 0)] * 4) == one, "reads of one row fit into the time for which it must stay open"


# ------------------------------------------------------------------------------------------------ landmarks lie apart


@pytest.mark.parametrize("keys", [4, 5, 40, 41])
@pytest.mark.parametrize("machine", ["pim_gpt", "edge_moe_zcu102"])
def test_landmark_decode_with_shared_keys(machine: str, keys: int) -> None:
    """Before and behind the end of a block, the first and the tenth."""
    sizes = [
        "algorithm=landmark",
        "parameters={block: 4, retrieved: 2}",
        f"keys={keys}",
        "heads=4",
        "kv_heads=2",
        "d_head=16",
    ]
    engines = []
    for engine in ("fast", "reference"):
        overrides = [f"workload.{size}" for size in sizes]
        result = simulate(machine, "attention_decode", overrides=overrides, engine=engine, check_tokens=1)
        assert result.functional is not None
        assert result.functional["passed"], result.functional["message"]
        assert result.counts is not None
        assert result.counts["equal"]
        assert result.counts["gathered"] == 2 * 4 * min(2, (keys - 1) // 5) * 4 * 16
        engines.append(result.time.cycles)
    assert engines[0] == engines[1]


def test_landmarks_are_multiplied_sixteen_at_a_time() -> None:
    """They lie in rows of their own, so that all banks of a channel have one."""
    case = Case(phase="decode", queries=1, keys=198, d_head=16)
    inputs = prepare(algorithm("landmark", {"block": 4}), case, 0, "bfloat16", None)
    lowering, _ = lower(ARCH, SPEC, inputs.ops, inputs.indices())
    [keys] = [tensor for tensor in lowering.banks.tensors if tensor.apart]
    apart, others, block = keys.rows_of_pieces()
    assert apart == range(4, 195, 5)
    assert others == tuple(row for row in range(195) if row % 5 != 4)
    assert block == range(195, 198)
    assert keys.orientations["rows"][0].groups == 3
    assert sorted([*apart, *others, *block]) == list(range(198))


# ----------------------------------------------------------------------------------------- what is too large at once

SMALL: list[tuple[str, dict[str, Any], Case, int]] = [
    ("landmark", {"block": 10}, Case(phase="decode", queries=1, keys=100, d_head=32, heads=4, kv_heads=2), 12_000),
    (
        "kv_drop",
        {"budget": 32, "window": 8, "piece": 10},
        Case(phase="decode", queries=1, keys=33, d_head=16, heads=4),
        6_000,
    ),
    (
        "kv_drop",
        {"budget": 64, "window": 2, "score": "draft"},
        Case(phase="decode", queries=1, keys=65, d_head=32, heads=2),
        8_000,
    ),
    ("topk", {"k": 32}, Case(phase="decode", queries=1, keys=64, d_head=32, heads=4, kv_heads=2), 8_000),
]


@pytest.mark.parametrize(("name", "parameters", "case", "sram"), SMALL)
def test_a_share_of_the_heads_at_a_time_computes_and_counts_the_same(
    name: str, parameters: dict[str, Any], case: Case, sram: int
) -> None:
    arch = load_arch("pim_gpt", [("asic.sram_bytes", str(sram))]).value
    inputs = prepare(algorithm(name, parameters), case, 0, "bfloat16", None)
    lowering, block = lower(arch, SPEC, inputs.ops, inputs.indices())
    assert lowering.rewritten.shares, "the SRAM must be too small for all heads"
    assert lowering.space.peak * 2 <= sram
    program, decided = [Placed(block, 0, -1)], lowering.rewritten.shared(inputs.decided)
    check = AttentionCheck(
        arch, SPEC, inputs, lowering.values, lowering.constants, lowering.banks.used, lowering.ops, decided
    )
    found = check.run(program, timed_steps(arch, SPEC, [program]))
    assert found["message"] is None
    counts, closed = count_program(block, lowering), inputs.method.counts(case, inputs.decided)
    assert {f.name: getattr(counts, f.name) for f in fields(Counts)} == {
        f.name: getattr(closed, f.name) for f in fields(Counts)
    }


def test_what_mixes_heads_is_not_cut() -> None:
    b = Expansion({"x": (4, 3, 8), "y": (4, 3, 8)})
    b.store(b.join_heads(b.load(b["x"])))
    assert by_heads(_ops(b), 2) is None
    b = Expansion({"x": (4, 3, 8)})
    b.store(b.reduce("sum", b.load(b["x"]), axis=0))
    assert by_heads(_ops(b), 2) is None
    b = Expansion({"x": (4, 3, 8)})
    b.store(b.apply("relu", b.load(b["x"])), name="output")
    assert by_heads(_ops(b), 3) is None
    shared = by_heads(_ops(b), 2)
    assert shared is not None
    assert [op.name for op in shared.ops] == [
        "x", "x/share0", "load.1/share0", "elementwise.1/share0", "x/share1", "load.1/share1", "elementwise.1/share1",
        "elementwise.1", "output",
    ]  # fmt: skip
    assert shared.shares["load.1/share1"] == ("load.1", range(2, 4))


def test_parts_are_stored_where_they_belong() -> None:
    b = Expansion({"x": (2, 6, 8)})
    x = b.load(b["x"])
    heads = [b.join([b.rows(b.head(x, h), 0, 2), b.rows(b.head(x, h), 2, 6)]) for h in range(2)]
    b.keep(b.store(b.join(heads, axis=0), name="output"), name="kept")
    found = stored_in_parts(Rewritten(_ops(b)))
    assert [(w.whole, w.heads, w.rows) for w in found.windows.values()] == [
        ("output", range(h, h + 1), rows) for h in range(2) for rows in (range(2), range(2, 6))
    ]
    assert sum(op.writes() for op in found.ops) == 2 * 6 * 8
    assert {op.name for op in found.ops if isinstance(op, prim.Join)} == {"join.1", "join.2", "output"}


def test_a_result_that_is_read_again_is_stored_at_once() -> None:
    b = Expansion({"x": (1, 6, 8)})
    parts = [b.load(b["x"], 0, 2), b.load(b["x"], 2, 6)]
    b.store(b.load(b.store(b.join(parts))), name="output")
    assert not stored_in_parts(Rewritten(_ops(b))).windows


def _ops(b: Expansion) -> list[prim.Primitive]:
    return [op for op in b.graph() if isinstance(op, prim.Primitive)]
