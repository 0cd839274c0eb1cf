"""Kinds of architecture: what a file's ``kind`` may be, and the model that it must then fit."""

from __future__ import annotations

from pimsim.arch.aim import AimConfig
from pimsim.arch.fpga import FpgaArchConfig
from pimsim.arch.hybrid import HybridConfig
from pimsim.arch.mcu import McuConfig
from pimsim.arch.memory import MemoryConfig
from pimsim.arch.system import AnyArch, ArchConfig

ARCH_KINDS: dict[str, type[AnyArch]] = {
    "pim": ArchConfig,
    "aim": AimConfig,
    "fpga": FpgaArchConfig,
    "memory": MemoryConfig,
    "hybrid": HybridConfig,
    "mcu": McuConfig,
}
"""Kind -> model. A file without ``kind`` is of the first one."""


__all__ = ["ARCH_KINDS"]
