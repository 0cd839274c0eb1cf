"""Vision transformers whose buffers are planned for a microcontroller."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pimsim.workload.config import AnyWorkload
from pimsim.workload.vit_memory import MemoryPlan, Vit, schedule


class VitConfig(AnyWorkload):
    """One inference of a vision transformer, and which of MCUFormer's savings its schedule has."""

    kind: Literal["vit"] = "vit"
    vit: Vit = Vit()
    patchwise: bool = Field(True, description="one patch of the image is on chip at a time, not the image")
    overwrite: bool = Field(True, description="layers that work token by token write over their input")
    rowwise: bool = Field(True, description="attention goes head by head and row by row")

    def plan(self) -> MemoryPlan:
        """Lives and places of all buffers."""
        return MemoryPlan.of(schedule(self.vit, self.patchwise, self.overwrite, self.rowwise))


__all__ = ["VitConfig"]
