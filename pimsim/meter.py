"""Time and energy of a program while it is made: each forward pass as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pimsim.analysis.energy import energy
from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.machine.fast import FastEngine
from pimsim.program.isa import Placed


class Reading(NamedTuple):
    """Simulated time and energy from the beginning of the program to the end of a pass."""

    seconds: float
    joules: float


class Meter:
    """Times passes one after the other on one machine, which goes on where the last pass left it.

    Attributes:
        readings: one for each pass so far.
        uncosted: what the joules leave out, because a coefficient is unknown.
    """

    def __init__(self, arch: ArchConfig, spec: DramSpec) -> None:
        self._arch, self._spec = arch, spec
        self._engine = FastEngine(arch, spec)
        self.readings: list[Reading] = []
        self.uncosted: list[str] = []

    def add(self, blocks: Sequence[Placed]) -> None:
        """Time one more forward pass."""
        totals = self._engine.run([blocks])
        report = energy(totals, self._arch, self._spec)
        self.uncosted = report.uncosted
        self.readings.append(Reading(self._spec.seconds(totals.ticks), report.joules))


__all__ = ["Meter", "Reading"]
