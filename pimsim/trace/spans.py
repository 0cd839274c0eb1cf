"""What units did when, one step at a time: the records that a timeline is drawn from.

A machine that is given a `Recorder` tells it every block as it completes. A `Span` is relative to the tick at which its
block starts (`BlockSpans.origin`), so a machine that recognises what repeats can hand out the same spans again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

Counts = tuple[tuple[str, int], ...]
"""(command, how many of them), sorted by command."""


class Span(NamedTuple):
    """One step of one unit, or of several that do the same at the same time. Ticks are relative to `BlockSpans.origin`."""

    units: tuple[str, ...]
    """Names of the units (``"channel0"``, ``"asic"``)."""
    op: int
    """Index into `BlockSpans.ops`."""
    idle: int
    """First tick that the step before has left over; from here to `begin` the unit waits."""
    ready: int | None
    """Tick at which all operands were there; None for a step that waits for nothing."""
    begin: int
    """First tick in which the step may issue."""
    end: int
    """First tick after the last one that the step uses."""
    reason: str
    """What the last operand came from (``"wait softmax"``); empty for a step that waits for nothing."""
    commands: Counts
    """DRAM commands of the program in this step, of each unit."""
    refresh: Counts
    """Commands that refresh added from `idle` to `end` (negative: made needless), of each unit."""


class OpLike(Protocol):
    """An operation as a timeline names it; `pimsim.program.isa.Op` is one."""

    @property
    def kind(self) -> str:
        """What is computed (``"softmax"``)."""

    @property
    def name(self) -> str:
        """Which one of its layer it is."""


class BlockSpans(NamedTuple):
    """A block that is complete."""

    layer: int
    """Decoder block that it belongs to, or -1."""
    name: str
    ops: Sequence[OpLike]
    origin: int
    """Tick to which `spans` are relative."""
    frontier: int
    """Tick at which everything before the block was complete."""
    gains: Sequence[int]
    """Ticks by which each operation moved the frontier."""
    spans: Sequence[Span]
    """In the order of each unit; units in any order."""


class Recorder(Protocol):
    """Takes what a machine did, in program order."""

    def block(self, block: BlockSpans) -> None:
        """A block is complete."""

    def end_pass(self, tick: int) -> None:
        """A forward pass is complete at ``tick``; the blocks since the last one belong to it."""


class Recorders:
    """Several recorders as one."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders

    def block(self, block: BlockSpans) -> None:
        """Hand a block on."""
        for recorder in self._recorders:
            recorder.block(block)

    def end_pass(self, tick: int) -> None:
        """Hand the end of a pass on."""
        for recorder in self._recorders:
            recorder.end_pass(tick)


class SpanList:
    """A recorder that keeps everything; for short runs."""

    def __init__(self) -> None:
        self.blocks: list[BlockSpans] = []
        self.passes: list[int] = []

    def block(self, block: BlockSpans) -> None:
        """Keep a block."""
        self.blocks.append(block)

    def end_pass(self, tick: int) -> None:
        """Keep the end of a pass."""
        self.passes.append(tick)


__all__ = ["BlockSpans", "Counts", "OpLike", "Recorder", "Recorders", "Span", "SpanList"]
