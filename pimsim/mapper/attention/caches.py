"""A decoder's growing caches as tensors of an attention algorithm: pieces of any rows, in the decoder's own layouts.

A cache lies where `KeyLayout` and `ValueLayout` put it, whatever the context, so pieces are made for the rows that an operation
asks for. Rows that begin inside a group of banks, or inside a column, begin with the group or the column: the first ``lead`` dots
or elements of such a piece are nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pimsim.mapper.attention.banks import BankTensor, Orientation, Piece
from pimsim.mapper.layout import KeyLayout, Place, Shape, ValueLayout


@dataclass(frozen=True)
class RowsPiece(Piece):
    """Tokens of one head as dots, in a `KeyLayout`; `rows` begin with a group of banks."""

    layout: KeyLayout | None = None
    first: int = 0
    """First token that is asked for."""

    @classmethod
    def of(cls, layout: KeyLayout, head: int, rows: range) -> RowsPiece:
        """The piece of these tokens."""
        banks = layout.shape.banks
        start = rows.start - rows.start % banks
        return cls(
            layout.shape,
            "rows",
            head,
            range(start, rows.stop),
            layout.d_head,
            layout.row0,
            0,
            layout.shape.channels,
            layout,
            rows.start,
        )

    @property
    def lead(self) -> int:
        """Dots before the first that is asked for."""
        return self.first - self.rows[0]

    def _group(self, group: int) -> int:
        return self.rows[0] // self.shape.banks + group

    def owner(self, group: int) -> int:
        """Channel of a group."""
        return self._group(group) % self.shape.channels

    def column(self, group: int, chunk: int) -> int:  # noqa: ARG002
        """First column of a group's dots, counted from DRAM row 0."""
        assert self.layout is not None
        place = self.layout.place(self._group(group) * self.shape.banks, self.head, 0)
        return place.row * self.shape.columns + place.column

    def place(self, dot: int, element: int) -> Place:
        """Where an element of a dot lies."""
        assert self.layout is not None
        return self.layout.place(self.rows[0] + dot, self.head, element)

    def meets_with(self, other: Piece) -> bool:
        """Heads whose keys lie side by side meet their queries while a row is open."""
        if not isinstance(other, RowsPiece) or (self.layout, self.rows) != (other.layout, other.rows):
            return False
        assert self.layout is not None
        per_chunk = self.layout.heads_per_chunk
        return self.head // per_chunk == other.head // per_chunk


@dataclass(frozen=True)
class ColumnsPiece(Piece):
    """Elements of one head as dots over tokens, in a `ValueLayout`; `rows` begin with a column."""

    layout: ValueLayout | None = None

    @classmethod
    def of(cls, layout: ValueLayout, head: int, rows: range) -> ColumnsPiece:
        """The piece of these tokens."""
        start = rows.start - rows.start % layout.shape.lanes
        return cls(
            layout.shape,
            "columns",
            head,
            range(start, rows.stop),
            layout.d_head,
            layout.row0,
            0,
            layout.shape.channels,
            layout,
        )

    @property
    def chunks(self) -> tuple[range, ...]:
        """Tokens, counted from the first, of each row of the layout."""
        assert self.layout is not None
        first, stop, whole = self.rows[0], self.rows[-1] + 1, self.layout.chunk_tokens
        borders = [first, *range((first // whole + 1) * whole, stop, whole), stop]
        return tuple(range(a - first, b - first) for a, b in pairwise(borders))

    def owner(self, group: int) -> int:
        """Channel of a group."""
        return self.place(group * self.shape.banks, 0).channel

    def column(self, group: int, chunk: int) -> int:
        """First column of a group's dots in a chunk, counted from DRAM row 0."""
        place = self.place(group * self.shape.banks, self.chunks[chunk].start)
        return place.row * self.shape.columns + place.column

    def place(self, dot: int, element: int) -> Place:
        """Where an element of a dot lies."""
        assert self.layout is not None
        return self.layout.place(self.rows[0] + element, self.head, dot)


class CacheTensor(BankTensor):
    """A cache of keys or of values, in the layouts that somebody needs; `shape` has room for the whole run."""

    def __init__(self, name: str, shape: Shape, heads: int, tokens: int, d_head: int) -> None:
        super().__init__(name, (heads, tokens, d_head))
        self._machine = shape
        self.layouts: dict[Orientation, KeyLayout | ValueLayout] = {}

    @property
    def grows(self) -> bool:
        """Views end where the context does."""
        return True

    def lay_out(self, orientations: set[Orientation], row: int, group: int) -> int:
        """Give it DRAM rows from ``row`` on, ``group`` query heads sharing a head; returns the row behind them."""
        heads, tokens, d_head = self.shape
        for orientation in sorted(orientations, reverse=True):
            layout: KeyLayout | ValueLayout = (
                KeyLayout(self._machine, heads, d_head, tokens, row, group)
                if orientation == "rows"
                else ValueLayout(self._machine, heads, d_head, tokens, row)
            )
            self.layouts[orientation] = layout
            row += layout.rows
        return row

    def pieces(self, orientation: Orientation, head: int, rows: range) -> list[Piece]:
        """One piece of exactly these rows, and of what stands before them in its group or column."""
        layout = self.layouts[orientation]
        if not rows:
            return []
        if isinstance(layout, KeyLayout):
            return [RowsPiece.of(layout, head, rows)]
        return [ColumnsPiece.of(layout, head, rows)]

    def piece_of(self, head: int, row: int, orientation: Orientation = "rows") -> Piece:  # noqa: ARG002
        """All tokens by rows."""
        layout = self.layouts["rows"]
        assert isinstance(layout, KeyLayout)
        return RowsPiece.of(layout, head, range(self.shape[1]))

    def lead(self, orientation: Orientation, rows: range) -> int:
        """Rows before the first one that share its group of banks, or its column."""
        return rows.start % (self._machine.banks if orientation == "rows" else self._machine.lanes)


def room_for_queries(layout: KeyLayout) -> int:
    """Elements that the global buffer must hold for the queries that share the keys of a head."""
    return layout.group * layout.columns_per_head * layout.shape.lanes


__all__ = ["CacheTensor", "ColumnsPiece", "RowsPiece", "room_for_queries"]
