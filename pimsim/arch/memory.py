"""A machine that is a memory behind a controller."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pimsim.arch.controller import ControllerConfig
from pimsim.arch.dram import DramConfig
from pimsim.arch.system import AnyArch
from pimsim.model import Documented, NonNegativeFloat


class MemoryEnergyConfig(Documented):
    """What the currents of the DRAM do not say. ``null`` means unknown and is listed as uncosted."""

    interface_pj_per_bit: NonNegativeFloat | None = Field(None, description="energy per bit on the data pins")


class MemoryConfig(AnyArch):
    """A memory behind a controller, which runs streams of plain requests."""

    kind: Literal["memory"] = "memory"
    dram: DramConfig
    controller: ControllerConfig = ControllerConfig()
    energy: MemoryEnergyConfig = MemoryEnergyConfig()


__all__ = ["MemoryConfig", "MemoryEnergyConfig"]
