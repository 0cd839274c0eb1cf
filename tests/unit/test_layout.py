"""Layouts give every element a place of its own, within the rows that they claim; shapes divide nothing."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.mapper.layout import KeyLayout, Place, Shape, TableLayout, ValueLayout, WeightLayout

SMALL = st.integers(1, 7)
SHAPES = st.builds(
    lambda channels, banks, columns, lanes, k: Shape(channels, banks, columns, lanes, buffer=k * lanes),
    SMALL, SMALL, SMALL, SMALL, SMALL,
)  # fmt: skip
ROW0 = st.integers(0, 5)
fast = settings(deadline=None, max_examples=60)


def assert_injective(shape: Shape, places: Iterable[Place], row0: int, rows: int) -> None:
    """Every place is used once and exists."""
    found = list(places)
    assert len(set(found)) == len(found)
    for place in found:
        assert 0 <= place.channel < shape.channels
        assert 0 <= place.bank < shape.banks
        assert row0 <= place.row < row0 + rows
        assert 0 <= place.column < shape.columns
        assert 0 <= place.lane < shape.lanes
    if found:
        assert max(place.row for place in found) == row0 + rows - 1  # no row is claimed in vain


@given(SHAPES, st.integers(1, 30), st.integers(1, 30), ROW0)
@fast
def test_weights(shape: Shape, d_in: int, d_out: int, row0: int) -> None:
    layout = WeightLayout(shape, d_in, d_out, row0)
    assert_injective(shape, (layout.place(i, o) for i in range(d_in) for o in range(d_out)), row0, layout.rows)
    assert sum(layout.chunks) == d_in
    assert sum(layout.slots(c) for c in range(shape.channels)) == layout.groups
    for chunk, length in enumerate(layout.chunks):
        assert length <= shape.buffer
        assert layout.place(chunk * shape.buffer, 0).row == layout.chunk_row(chunk)


@given(SHAPES, st.integers(1, 30), st.integers(1, 30), ROW0)
@fast
def test_weights_of_an_output_follow_each_other_in_one_bank(shape: Shape, d_in: int, d_out: int, row0: int) -> None:
    layout = WeightLayout(shape, d_in, d_out, row0)
    for o in range(d_out):
        places = [layout.place(i, o) for i in range(d_in)]
        assert len({(p.channel, p.bank) for p in places}) == 1
        for i, (a, b) in enumerate(pairwise(places), start=1):
            if i % shape.buffer:
                step = (b.row - a.row) * shape.columns + b.column - a.column
                assert step * shape.lanes + b.lane - a.lane == 1


@given(SHAPES, SMALL, st.integers(1, 9), st.integers(1, 40), ROW0)
@fast
def test_keys(shape: Shape, heads: int, d_head: int, tokens: int, row0: int) -> None:
    if d_head > shape.buffer:  # the mapper refuses it
        return
    layout = KeyLayout(shape, heads, d_head, tokens, row0)
    everything = (layout.place(t, h, j) for t in range(tokens) for h in range(heads) for j in range(d_head))
    assert_injective(shape, everything, row0, layout.rows)
    assert [h for chunk in layout.chunks for h in chunk] == list(range(heads))
    for context in range(1, tokens + 1):
        used = {(layout.place(t, 0, 0).channel, t // layout.tokens_per_slot) for t in range(context)}
        assert [layout.slots(c, context) for c in range(shape.channels)] == [
            sum(1 for channel, _ in used if channel == c) for c in range(shape.channels)
        ]


@given(SHAPES, SMALL, st.integers(1, 9), st.integers(1, 40), ROW0)
@fast
def test_values(shape: Shape, heads: int, d_head: int, tokens: int, row0: int) -> None:
    layout = ValueLayout(shape, heads, d_head, tokens, row0)
    everything = (layout.place(t, h, j) for t in range(tokens) for h in range(heads) for j in range(d_head))
    assert_injective(shape, everything, row0, layout.rows)
    dealt = [g for c in range(shape.channels) for g in layout.channel_groups(c)]
    assert dealt == list(range(layout.groups))
    sizes = [len(layout.channel_groups(c)) for c in range(shape.channels)]
    assert max(sizes) - min(sizes) <= 1
    assert layout.chunk_tokens <= min(shape.row, shape.buffer)


@given(SHAPES, st.integers(1, 40), st.integers(1, 30), ROW0)
@fast
def test_tables(shape: Shape, entries: int, width: int, row0: int) -> None:
    layout = TableLayout(shape, entries, width, row0)
    assert_injective(shape, (layout.place(e, j) for e in range(entries) for j in range(width)), row0, layout.rows)


def test_gpt2_projection_by_hand() -> None:
    """768 x 2304 on 8 channels of 16 banks, 64 columns of 16: 144 groups, 18 slots of 48 columns = 13.5 rows."""
    layout = WeightLayout(Shape(8, 16, 64, 16, 1024), 768, 2304, 100)
    assert (layout.groups, layout.slots(0), layout.columns_per_output(0), layout.rows) == (144, 18, 48, 14)
    assert layout.place(0, 0) == Place(0, 0, 100, 0, 0)
    assert layout.place(17, 16 * 8 + 3) == Place(0, 3, 100, 49, 1)
    assert layout.place(767, 2303) == Place(7, 15, 113, 31, 15)
