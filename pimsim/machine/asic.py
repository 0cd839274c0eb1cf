"""The controller ASIC in time: an in-order vector unit with its own clock."""

from __future__ import annotations

from collections.abc import Sequence

from pimsim.arch.functions import FunctionCost, cost
from pimsim.arch.system import ArchConfig, AsicConfig
from pimsim.machine.units import Unit, UnitClock
from pimsim.program.isa import Compute


class AsicClock(UnitClock):
    """The clock of a machine's ASIC."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(arch.dram, arch.asic.clock_mhz)


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

    def step(self, items: Sequence[Compute]) -> tuple[int, int]:
        """(cycles until the next step may start, cycles until this one is complete) of calls that depend on each other."""
        start = busy = 0
        for compute in items:
            call = self.call(compute)
            busy = start + call.busy
            start += call.latency
        return busy, start


def asic_unit(arch: ArchConfig) -> Unit:
    """The ASIC as a unit."""
    return Unit("asic", AsicClock(arch), AsicCosts(arch.asic))
