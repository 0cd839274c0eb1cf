"""Row passes: nothing is multiplied twice or left out, and every result is read while it is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.mapper.rows import DotProduct, RowPass, _Emitter, compress
from pimsim.program.isa import Item, Repeat, Run, command_column, expand

NONE = (-1, -1, -1)
LOAD = (Run("WR_GB", NONE, count=4, buffer=0, sram=7, sram_step=16),)
Flat = tuple[str, tuple[int, ...], int, int, int, int, int]


@st.composite
def cases(draw: st.DrawFn) -> tuple[RowPass, list[DotProduct], frozenset[int]]:
    columns, length = draw(st.integers(1, 9)), draw(st.integers(1, 20))
    accumulators, has_field = draw(st.integers(1, 4)), draw(st.booleans())
    plan = RowPass(
        columns, accumulators if has_field else 1, draw(st.integers(1, 8)), NONE, 2 if has_field else None, 16
    )
    count, gap = draw(st.integers(1, 40)), draw(st.integers(0, 5))
    first, target, buffer = (draw(st.integers(0, 20)) for _ in range(3))
    products = [DotProduct(first + i * (length + gap), length, target + 128 * i, buffer) for i in range(count)]
    return plan, products, frozenset(draw(st.lists(st.integers(0, 38), max_size=5))) & frozenset(range(count - 1))


def flat(items: Iterable[Item]) -> list[Flat]:
    """Single commands with all their addresses."""
    return [
        (
            run.command,
            run.where,
            row,
            command_column(run, k),
            run.buffer + k if run.buffer >= 0 else -1,
            run.sram + sram + k * run.sram_step if run.sram >= 0 else -1,
            run.sram_channel,
        )
        for run, k, row, sram in expand(tuple(items))
    ]


def depth(items: Sequence[Item]) -> int:
    return sum(depth(item.body) if isinstance(item, Repeat) else 1 for item in items)


@given(cases())
@settings(deadline=None)
def test_compressed_segments_are_exactly_the_flat_runs(case: tuple[RowPass, list[DotProduct], frozenset[int]]) -> None:
    plan, products, splits = case
    runs = [part for part in _Emitter(plan, LOAD, splits).emit(products) if part]
    segments = plan.segments(products, LOAD, splits)
    assert [flat(segment) for segment in segments] == [flat(part) for part in runs]
    assert len(segments) in {len(splits), len(splits) + 1}


@given(cases())
@settings(deadline=None)
def test_each_column_once_and_each_result_once(case: tuple[RowPass, list[DotProduct], frozenset[int]]) -> None:
    plan, products, splits = case
    owner = {p.start + k: (i, p.buffer + k) for i, p in enumerate(products) for k in range(p.columns)}
    done = dict.fromkeys(range(len(products)), 0)
    inside: dict[int, int] = {}  # accumulator -> product whose sum it holds
    read: list[int] = []
    row = -1
    for command, where, at, column, buffer, sram, _ in (
        c for s in plan.segments(products, LOAD, splits) for c in flat(s)
    ):
        if command == "ACT_AB":
            assert row == -1
            row = at
        elif command == "PREab":
            row = -1
        elif command == "MAC_AB":
            assert at == row
            index, expected = owner.pop(at * plan.columns + column)  # a column that is MACed twice is missing here
            assert buffer == expected
            assert inside.setdefault(where[2], index) == index  # nobody else's sum is still inside
            done[index] += 1
        elif command == "RD_MAC":
            index = inside.pop(where[2])
            assert done[index] == products[index].columns
            assert sram == products[index].sram
            read.append(index)
    assert row == -1
    assert owner == {}
    assert inside == {}
    assert read == list(range(len(products)))


@given(cases())
@settings(deadline=None)
def test_a_read_within_a_row_waits_for_the_pipeline(case: tuple[RowPass, list[DotProduct], frozenset[int]]) -> None:
    """Unless the accumulator is needed or the row ends, ``delay`` MACs lie between a sum and its read."""
    plan, products, splits = case
    if plan.accumulators < 4 or any(p.columns < plan.delay for p in products):
        return  # the accumulator may be needed earlier
    since: dict[int, int] = {}
    closed = False
    for command, where, *_ in (c for s in plan.segments(products, LOAD, splits) for c in flat(s)):
        if command == "MAC_AB":
            closed = False
            since = {a: n + 1 for a, n in since.items()} | {where[2]: 0}
        elif command == "PREab":
            closed = True
        elif command == "RD_MAC":
            assert closed or since.pop(where[2]) >= plan.delay


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(-1, 40)), max_size=40))
@settings(deadline=None)
def test_compress_is_exact_for_any_rows(rows: list[tuple[int, int, int]]) -> None:
    runs: list[Run] = []
    for row, reads, sram in rows:
        runs.append(Run("ACT_AB", NONE, row=row))
        runs += [Run("RD_MAC", NONE, sram=sram if sram < 0 else sram + 16 * k, sram_channel=16) for k in range(reads)]
        runs.append(Run("PREab", NONE))
    assert flat(compress(runs)) == flat(runs)


def test_equal_rows_become_a_loop() -> None:
    plan = RowPass(64, 4, 6, NONE, 2, 16)
    (items,) = plan.segments([DotProduct(64 * i, 64, 128 * i) for i in range(400)], LOAD)
    assert depth(items) < 60
    assert any(isinstance(item, Repeat) and item.count > 50 for item in items)
