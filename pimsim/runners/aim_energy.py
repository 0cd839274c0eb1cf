"""Energy of GDDR6-AiM: by the currents and coefficients that a configuration gives, the rest uncosted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pimsim.analysis.energy import EnergyReport, Memory, dram_energy, energy
from pimsim.arch.aim import AimConfig
from pimsim.arch.dram import DramConfig, DramSpec
from pimsim.arch.system import AsicConfig, EnergyConfig
from pimsim.trace.totals import RunTotals


@dataclass(frozen=True)
class _Costed:
    """A machine all of whose parts are known."""

    has_streaming_unit: ClassVar[bool] = False
    dram: DramConfig
    energy: EnergyConfig
    asic: AsicConfig


def costed(totals: RunTotals, arch: AimConfig, spec: DramSpec) -> EnergyReport:
    """Cost a run; rows count as open all the time, an upper bound of what the background takes."""
    totals.row_open_ticks = totals.ticks * spec.channels
    if arch.energy is None or arch.asic is None:
        return dram_energy(totals, Memory(arch.dram), spec)
    return energy(totals, _Costed(arch.dram, arch.energy, arch.asic), spec)


__all__ = ["costed"]
