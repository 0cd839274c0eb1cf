"""Tensors of an expansion in DRAM banks: pieces that are used whole, views of them, and the commands that touch them.

A tensor ``[heads, rows, width]`` is cut along its rows wherever some operation begins or ends, so that a view is always a list
of whole `Piece`s. A piece is a matrix of *dots*, vectors that the MAC units multiply with the global buffer: its rows
(keys, which meet a query), or its columns (values, which meet weights). A tensor that is needed both ways lies there twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, product
from math import ceil
from typing import Literal

from pimsim.errors import CapacityExceeded
from pimsim.mapper.layout import Place, Shape

Orientation = Literal["rows", "columns"]


@dataclass(frozen=True)
class Piece:
    """Rows of one head as dots: group g of ``banks`` dots belongs to the g-th channel from `channel0`, round and round."""

    shape: Shape
    orientation: Orientation
    head: int
    rows: range | tuple[int, ...]
    """Which rows, ascending."""
    width: int
    row0: int
    """First DRAM row."""
    channel0: int
    spread: int
    """Neighbouring channels, from `channel0` on, that share the groups."""

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {row: number for number, row in enumerate(self.rows)}

    def number_of(self, row: int) -> int:
        """Which of its rows a row of the tensor is; -1 if it lies in another piece."""
        if isinstance(self.rows, range):
            return self.rows.index(row) if row in self.rows else -1
        return self._numbers.get(row, -1)

    @property
    def dots(self) -> int:
        """Vectors."""
        return len(self.rows) if self.orientation == "rows" else self.width

    @property
    def inner(self) -> int:
        """Elements of a vector."""
        return self.width if self.orientation == "rows" else len(self.rows)

    @cached_property
    def chunks(self) -> tuple[range, ...]:
        """Elements of a vector that meet the global buffer together."""
        step = self.shape.buffer
        return tuple(range(i, min(i + step, self.inner)) for i in range(0, self.inner, step))

    @property
    def lead(self) -> int:
        """Dots at its beginning that are nobody's, where rows begin inside a group."""
        return 0

    def meets_with(self, other: Piece) -> bool:
        """Whether vectors that meet this piece and another one are in the global buffer together."""
        return self == other

    @property
    def groups(self) -> int:
        """Groups of dots."""
        return ceil(self.dots / self.shape.banks)

    def columns(self, chunk: int) -> int:
        """Columns of a dot in a chunk."""
        return ceil(len(self.chunks[chunk]) / self.shape.lanes)

    @cached_property
    def chunk_starts(self) -> tuple[int, ...]:
        """First column of each chunk, counted from `row0`; the last entry is where the piece ends."""
        slots, starts = ceil(self.groups / self.spread), [0]
        for chunk in range(len(self.chunks)):
            rows = ceil(slots * self.columns(chunk) / self.shape.columns)
            starts.append(starts[-1] + rows * self.shape.columns)
        return tuple(starts)

    @property
    def dram_rows(self) -> int:
        """DRAM rows of every bank of its channels."""
        return self.chunk_starts[-1] // self.shape.columns

    def owner(self, group: int) -> int:
        """Channel of a group."""
        return (self.channel0 + group % self.spread) % self.shape.channels

    def column(self, group: int, chunk: int) -> int:
        """First column of a group's dots in a chunk, counted from DRAM row 0."""
        return self.row0 * self.shape.columns + self.chunk_starts[chunk] + group // self.spread * self.columns(chunk)

    def dots_of(self, group: int) -> int:
        """Dots of a group: those of all banks, or what is left."""
        return min(self.shape.banks, self.dots - group * self.shape.banks)

    def place(self, dot: int, element: int) -> Place:
        """Where an element of a dot lies."""
        group, bank = divmod(dot, self.shape.banks)
        chunk, inner = divmod(element, self.shape.buffer)
        column = self.column(group, chunk) + inner // self.shape.lanes
        row, column = divmod(column, self.shape.columns)
        return Place(self.owner(group), bank, row, column, inner % self.shape.lanes)


@dataclass
class BankTensor:
    """A tensor with its pieces, in the orientations that somebody needs."""

    name: str
    shape: tuple[int, int, int]
    """Heads, rows, width."""
    cuts: set[int] = field(default_factory=set)
    """Rows at which pieces begin, besides the first."""
    apart: set[range] = field(default_factory=set)
    """Rows at equal distances that are used together, and so lie in pieces of their own."""
    orientations: dict[Orientation, list[Piece]] = field(default_factory=dict)

    @property
    def grows(self) -> bool:
        """Whether views may end where no piece does."""
        return False

    def lead(self, orientation: Orientation, rows: range) -> int:  # noqa: ARG002
        """Rows before the first one that a product meets together with it, and that are nobody's."""
        return 0

    def pieces(self, orientation: Orientation, head: int, rows: range) -> list[Piece]:
        """Pieces of these rows, in order."""
        return [
            piece
            for piece in self.orientations[orientation]
            if piece.head == head and piece.rows[0] in rows and piece.rows[-1] in rows
        ]

    def piece_of(self, head: int, row: int, orientation: Orientation = "rows") -> Piece:
        """The piece that holds a row."""
        return next(p for p in self.orientations[orientation] if p.head == head and p.number_of(row) >= 0)

    def rows_of_pieces(self) -> list[range | tuple[int, ...]]:
        """The rows of each piece of a head: what lies between two cuts, less what lies apart; each non-empty."""
        rows = self.shape[1]
        starts = sorted({0, *(cut for cut in self.cuts if 0 < cut < rows), rows})
        found: list[range | tuple[int, ...]] = []
        for start, stop in pairwise(starts):
            left = range(start, stop)
            here = [each for each in sorted(self.apart, key=lambda r: r.start) if each[0] >= start and each[-1] < stop]
            taken = {row for each in here for row in each}
            found += here
            if len(taken) < len(left):
                found.append(tuple(row for row in left if row not in taken) if taken else left)
        return found


@dataclass(frozen=True)
class View:
    """Some rows of some heads of a tensor; `flat` ones are heads behind each other, seen as one."""

    tensor: BankTensor
    heads: range
    rows: range
    flat: bool = False

    def place_of(self, row: int) -> int:
        """Which of its rows a row of the tensor is."""
        return self.rows.index(row)

    def part(self, axis: int, start: int, stop: int, step: int = 1) -> View | None:
        """Entries along an axis (0: heads, 1: rows); None where that is no view."""
        if axis == 0 and not self.flat:
            return View(self.tensor, self.heads[start:stop], self.rows)
        if axis != 1:
            return None
        if step != 1 and (self.flat or self.tensor.grows):
            return None
        if not self.flat:
            return View(self.tensor, self.heads, self.rows[start:stop:step])
        if start == stop:
            return None
        first, last = start // len(self.rows), (stop - 1) // len(self.rows)
        if first != last:
            return None
        begin = start - first * len(self.rows)
        return View(self.tensor, self.heads[first : first + 1], self.rows[begin : begin + stop - start])


class Banks:
    """Gives DRAM rows to tensors, one piece after the other."""

    def __init__(self, shape: Shape, rows: int, shares: int | None = None) -> None:
        """Pieces over all channels (each head begins at another one); with ``shares``, each whole in one channel.

        The pieces of all heads behind each other are then cut into so many equal shares, as `Lean` cuts tiles, and the
        shares are dealt to the channels in turn.
        """
        self.shape, self.rows, self.shares = shape, rows, shares
        self.used = 0
        self.tensors: list[BankTensor] = []

    def place(self, tensor: BankTensor) -> None:
        """Lay out all pieces.

        Raises:
            CapacityExceeded: the banks are full.
        """
        heads, _, width = tensor.shape
        rows_of_pieces = tensor.rows_of_pieces()
        self.tensors.append(tensor)
        for orientation in tensor.orientations:
            count = heads * len(rows_of_pieces)
            for number, (head, rows_of_piece) in enumerate(product(range(heads), rows_of_pieces)):
                dots = len(rows_of_piece) if orientation == "rows" else width
                first, spread = number * ceil(dots / self.shape.banks), self.shape.channels
                if self.shares is not None:
                    first, spread = share_of(number, count, self.shares), 1
                piece = Piece(
                    self.shape, orientation, head, rows_of_piece, width, self.used, first % self.shape.channels, spread
                )
                self.used += piece.dram_rows
                if self.used > self.rows:
                    raise CapacityExceeded(
                        f"dram.rows must hold the tensors of the attention algorithm: {tensor.name} begins at row "
                        f"{piece.row0} of every bank and takes {piece.dram_rows}, not {self.rows}"
                    )
                tensor.orientations[orientation].append(piece)


def share_of(number: int, count: int, shares: int) -> int:
    """The share that a piece belongs to: the first ones are larger by one where they do not come out even.

    >>> [share_of(number, 10, 4) for number in range(10)]
    [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    """
    most = -(-count // shares)
    full = count - (most - 1) * shares
    if number < full * most:
        return number // most
    return full + (number - full * most) // (most - 1)


__all__ = ["BankTensor", "Banks", "Orientation", "Piece", "View", "share_of"]
