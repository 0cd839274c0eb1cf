"""Units beside the channels: in order, one step after the other, each with a clock of its own.

The controller ASIC is one; a machine may have further ones, such as a streaming unit and links. What a step costs is all
that tells them apart: cycles until the unit can begin its next step, and cycles until this one is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from pimsim.arch.dram import DramConfig


class UnitClock:
    """Exact conversion between memory ticks and edges of another clock (edge n is computed from n, never by adding a period)."""

    def __init__(self, dram: DramConfig, clock_mhz: float) -> None:
        tick_ps = Fraction(str(dram.tck_ps)) / dram.ticks_per_clock
        ratio = Fraction(str(clock_mhz)) * tick_ps / 10**6
        self.cycles, self.ticks = ratio.numerator, ratio.denominator

    def edge(self, tick: int) -> int:
        """First edge at or after a memory tick."""
        return -(-tick * self.cycles // self.ticks)

    def tick(self, edge: int) -> int:
        """First memory tick at or after an edge."""
        return -(-edge * self.ticks // self.cycles)


class Costs(Protocol):
    """What the steps of a unit cost."""

    def step(self, items: Sequence[Any]) -> tuple[int, int]:
        """(cycles until the next step may start, cycles until this one is complete)."""


@dataclass(frozen=True)
class Unit:
    """A unit as both engines know it."""

    name: str
    clock: UnitClock
    costs: Costs


__all__ = ["Costs", "Unit", "UnitClock"]
