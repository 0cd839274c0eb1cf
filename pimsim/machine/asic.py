"""The controller ASIC in time: an in-order vector unit with its own clock."""

from __future__ import annotations

from fractions import Fraction

from pimsim.arch.functions import FunctionCost, cost
from pimsim.arch.system import ArchConfig, AsicConfig
from pimsim.program.isa import Compute


class AsicClock:
    """Exact conversion between memory ticks and ASIC clock edges (edge n is computed from n, never by adding a period)."""

    def __init__(self, arch: ArchConfig) -> None:
        tick_ps = Fraction(str(arch.dram.tck_ps)) / arch.dram.ticks_per_clock
        ratio = Fraction(str(arch.asic.clock_mhz)) * tick_ps / 10**6
        self.cycles, self.ticks = ratio.numerator, ratio.denominator

    def edge(self, tick: int) -> int:
        """First ASIC clock edge at or after a memory tick."""
        return -(-tick * self.cycles // self.ticks)

    def tick(self, edge: int) -> int:
        """First memory tick at or after an ASIC clock edge."""
        return -(-edge * self.ticks // self.cycles)


class AsicCosts:
    """What steps of the ASIC cost, in ASIC cycles; calls that were priced before are looked up."""

    def __init__(self, asic: AsicConfig) -> None:
        self._asic = asic
        self._known: dict[tuple[str, int], FunctionCost] = {}

    def call(self, compute: Compute) -> FunctionCost:
        """Cost of one call."""
        key = (compute.function, compute.length)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = cost(compute.function, compute.length, self._asic)
        return found

    def step(self, computes: tuple[Compute, ...]) -> tuple[int, int]:
        """(cycles until the next step may start, cycles until this one is complete) of calls that depend on each other."""
        start = busy = 0
        for compute in computes:
            call = self.call(compute)
            busy = start + call.busy
            start += call.latency
        return busy, start
