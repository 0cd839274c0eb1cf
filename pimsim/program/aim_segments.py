"""Programs of GDDR6-AiM: segments of instructions that end with one that the host waits for.

Between two segments no request is under way, so a segment that starts from the same state of the channels does the same
again, at whatever clock it starts and whichever rows it works on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from pimsim.program.aim_isr import Instruction


@dataclass(frozen=True, eq=False)
class Segment:
    """Instructions whose rows count from the base of wherever the segment is placed, or time of the host alone.

    Segments are told apart by identity: one that is placed again is the same object.
    """

    instructions: tuple[Instruction, ...] = ()
    """The last one blocks."""
    wait: int = 0
    """Clocks in which the host computes and sends nothing; only without instructions."""
    cycles: int = 0
    """Cycles of its own clock in which the host is busy meanwhile."""

    @cached_property
    def rows(self) -> frozenset[int]:
        """Rows, counted from the base, that it opens."""
        return frozenset(instruction.row for instruction in self.instructions if instruction.row >= 0)

    def at(self, base: int, column: int = 0) -> list[Instruction]:
        """The instructions with the rows of a place, and the column that WR_ABK writes there."""
        placed = [i._replace(row=i.row + base) if i.row >= 0 else i for i in self.instructions]
        return [i._replace(column=column) if i.name == "WR_ABK" else i for i in placed] if column else placed


class PlacedSegment(NamedTuple):
    """A segment, where it works, and what for."""

    segment: Segment
    base: int
    """Row that its rows count from."""
    op: str
    layer: int
    first: bool
    """Whether an operation begins with it."""
    name: str = ""
    """Name of the operation in the graph."""
    column: int = 0
    """Column that WR_ABK writes; it makes no difference to when."""


class Transfer(NamedTuple):
    """What the host sends with an instruction, or takes from it: elements of one of its vectors."""

    instruction: str
    vector: str
    """``input``, ``bias`` or ``column``, or ``output`` for what it takes."""
    elements: tuple[tuple[int, ...], ...]
    """For each channel, or once for all: a number for each lane of the buffer (``WR_GB``), for each bank (``WR_BIAS``,
    ``RD_MAC``), or for each lane of each bank (``WR_ABK``). `NOTHING` sends a zero and takes nothing."""


NOTHING = -1

__all__ = ["NOTHING", "PlacedSegment", "Segment", "Transfer"]
