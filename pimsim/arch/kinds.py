"""Kinds of architecture: what a file's ``kind`` may be, and the model that it must then fit."""

from __future__ import annotations

from pimsim.arch.system import AnyArch
from pimsim.registry import Lazy

ARCH_KINDS: Lazy[type[AnyArch]] = Lazy(
    {
        "pim": "pimsim.arch.system:ArchConfig",
        "aim": "pimsim.arch.aim:AimConfig",
        "fpga": "pimsim.arch.fpga:FpgaArchConfig",
        "memory": "pimsim.arch.memory:MemoryConfig",
        "hybrid": "pimsim.arch.hybrid:HybridConfig",
        "mcu": "pimsim.arch.mcu:McuConfig",
    }
)
"""Kind -> model. A file without ``kind`` is of the first one."""


__all__ = ["ARCH_KINDS"]
