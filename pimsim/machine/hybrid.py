"""Units of a hybrid machine beside its channels and its ASIC: the streaming unit and the two directions of the link.

All are in-order units (`pimsim.machine.units`). A kernel takes as long as its region on an idle unit, which the engine of
streaming machines works out beat by beat; a transfer occupies its direction for its bits and arrives a latency later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Any

from pimsim.arch.formats import format_bytes
from pimsim.arch.hybrid import FPGA, LINK_IN, LINK_OUT, HybridConfig, LinkConfig, StreamUnit
from pimsim.errors import ProgramError
from pimsim.machine.fpga.books import RegionTimes
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.units import Unit, UnitClock
from pimsim.program.dataflow import Region
from pimsim.program.isa import Kernel, Transfer

RunRegion = Callable[[Region, Mapping[str, PortTiming]], RegionTimes]


class KernelCosts:
    """Cycles of the fabric that kernels take; equal regions are timed once."""

    def __init__(self, unit: StreamUnit, run_region: RunRegion) -> None:
        self._run, self._timing = run_region, port_timing(unit)
        self._known: dict[Region, int] = {}
        self._of: dict[int, tuple[Region, int]] = {}

    def step(self, items: Sequence[Any]) -> tuple[int, int]:
        """Kernels one after the other; the next step begins when the last one is complete."""
        cycles = sum(self._cycles(_checked(item, Kernel).region) for item in items)
        return cycles, cycles

    def _cycles(self, region: Region) -> int:
        found = self._of.get(id(region))
        if found is None:
            cycles = self._known.get(region)
            if cycles is None:
                names = [*(read.port for read in region.reads), *(write.port for write in region.writes)]
                ports = dict.fromkeys(names, self._timing)
                cycles = self._known[region] = self._run(region, ports).cycles
            found = self._of[id(region)] = (
                region,
                cycles,
            )  # keeps the region alive, so that its identity stays its own
        return found[1]


class LinkCosts:
    """Cycles of the link that transfers take."""

    def __init__(self, link: LinkConfig, element_bits: int) -> None:
        self._link, self._element = link, element_bits

    def step(self, items: Sequence[Any]) -> tuple[int, int]:
        """Each transfer in whole cycles; the last one arrives a latency after it has left."""
        busy = sum(ceil(_checked(item, Transfer).elements * self._element / self._link.width_bits) for item in items)
        return busy, busy + self._link.latency


def _checked(item: Any, kind: type) -> Any:
    if not isinstance(item, kind):
        raise ProgramError(f"a step of this unit must hold a {kind.__name__}, not {type(item).__name__}")
    return item


def port_timing(unit: StreamUnit) -> PortTiming:
    """The ports in fabric cycles: a beat takes ``beat bits / port bits x fabric clock / port clock``."""
    ports = unit.ports
    rate = Fraction(unit.beat_bits, ports.width_bits) * Fraction(repr(unit.clock_mhz)) / Fraction(repr(ports.clock_mhz))
    return PortTiming(rate.numerator, rate.denominator, ports.latency, ports.max_burst, ports.outstanding)


def further_units(arch: HybridConfig, run_region: RunRegion) -> tuple[Unit, ...]:
    """The streaming unit and both directions of the link."""
    fabric, wires = (UnitClock(arch.dram, part.clock_mhz) for part in (arch.fpga, arch.link))
    link = LinkCosts(arch.link, 8 * format_bytes(arch.pim.format))
    return (
        Unit(FPGA, fabric, KernelCosts(arch.fpga, run_region)),
        Unit(LINK_IN, wires, link),
        Unit(LINK_OUT, wires, link),
    )


__all__ = ["KernelCosts", "LinkCosts", "RunRegion", "further_units", "port_timing"]
