"""Tensors of an expansion in DRAM banks: pieces that are used whole, views of them, and the commands that touch them.

A tensor ``[heads, rows, width]`` is cut along its rows wherever some operation begins or ends, so that a view is always a list
of whole `Piece`s. A piece is a matrix of *dots*, vectors that the MAC units multiply with the global buffer: its rows
(keys, which meet a query), or its columns (values, which meet weights). A tensor that is needed both ways lies there twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
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
    rows: range
    width: int
    row0: int
    """First DRAM row."""
    channel0: int
    spread: int
    """Neighbouring channels, from `channel0` on, that share the groups."""

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
    orientations: dict[Orientation, list[Piece]] = field(default_factory=dict)

    def pieces(self, orientation: Orientation, head: int, rows: range) -> list[Piece]:
        """Pieces of these rows, in order."""
        return [
            piece
            for piece in self.orientations[orientation]
            if piece.head == head and piece.rows.start >= rows.start and piece.rows.stop <= rows.stop
        ]

    def piece_of(self, head: int, row: int) -> Piece:
        """The piece, by rows, that holds a row."""
        return next(p for p in self.orientations["rows"] if p.head == head and row in p.rows)


@dataclass(frozen=True)
class View:
    """Some rows of some heads of a tensor; `flat` ones are heads behind each other, seen as one."""

    tensor: BankTensor
    heads: range
    rows: range
    flat: bool = False

    def part(self, axis: int, start: int, stop: int) -> View | None:
        """Entries along an axis (0: heads, 1: rows); None where that is no view."""
        if axis == 0 and not self.flat:
            return View(self.tensor, self.heads[start:stop], self.rows)
        if axis != 1:
            return None
        if not self.flat:
            return View(self.tensor, self.heads, self.rows[start:stop])
        if start == stop:
            return None
        first, last = start // len(self.rows), (stop - 1) // len(self.rows)
        if first != last:
            return None
        begin = start - first * len(self.rows)
        return View(self.tensor, self.heads[first : first + 1], self.rows[begin : begin + stop - start])


class Banks:
    """Gives DRAM rows to tensors, one piece after the other."""

    def __init__(self, shape: Shape, rows: int, placement: Literal["spread", "channel"] = "spread") -> None:
        """``placement``: pieces over all channels (each head begins at another one), or each in a channel of its own."""
        self.shape, self.rows, self.placement = shape, rows, placement
        self.used = 0
        self.tensors: list[BankTensor] = []

    def place(self, tensor: BankTensor) -> None:
        """Lay out all pieces.

        Raises:
            CapacityExceeded: the banks are full.
        """
        heads, rows, width = tensor.shape
        starts = sorted({0, *(cut for cut in tensor.cuts if 0 < cut < rows), rows})
        self.tensors.append(tensor)
        for orientation in tensor.orientations:
            number = 0
            for head in range(heads):
                for start, stop in pairwise(starts):
                    tensor.orientations[orientation].append(
                        self._piece(tensor.name, orientation, head, range(start, stop), width, number)
                    )
                    number += 1

    def _piece(self, name: str, orientation: Orientation, head: int, rows: range, width: int, number: int) -> Piece:
        channels = self.shape.channels
        alone = self.placement == "channel"
        dots = len(rows) if orientation == "rows" else width
        first = number if alone else number * ceil(dots / self.shape.banks)
        piece = Piece(self.shape, orientation, head, rows, width, self.used, first % channels, 1 if alone else channels)
        self.used += piece.dram_rows
        if self.used > self.rows:
            raise CapacityExceeded(
                f"dram.rows must hold the tensors of the attention algorithm: {name} begins at row {piece.row0} of every "
                f"bank and takes {piece.dram_rows}, not {self.rows}"
            )
        return piece


__all__ = ["BankTensor", "Banks", "Orientation", "Piece", "View"]
