"""A microcontroller, of which only the memory for activations matters: buffers are planned for it, nothing is timed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pimsim.arch.system import AnyArch
from pimsim.model import PositiveInt


class McuConfig(AnyArch):
    """A microcontroller with one memory for activations; weights lie in flash and take no part."""

    kind: Literal["mcu"] = "mcu"
    sram_bytes: PositiveInt = Field(description="memory for activations")


__all__ = ["McuConfig"]
