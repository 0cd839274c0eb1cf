"""Whole vision networks on PIM machines: weights in the banks, feature maps in the SRAM of the ASIC."""

from __future__ import annotations

from pimsim.arch.system import ArchConfig
from pimsim.config import Loaded
from pimsim.result import Result
from pimsim.runners import RunOptions, pim_attention
from pimsim.workload.classifier import ClassifierConfig


def simulate(arch: Loaded[ArchConfig], workload: Loaded[ClassifierConfig], options: RunOptions) -> Result:
    """Time a network command by command, and count what it does.

    Raises:
        CapacityExceeded: the SRAM does not hold a feature map and what it is computed from.
    """
    return pim_attention.simulate(arch, workload, options)


def estimate_commands(arch: Loaded[ArchConfig], workload: Loaded[ClassifierConfig]) -> int:
    """DRAM commands of the program, exactly; refreshes come on top."""
    return pim_attention.estimate_commands(arch, workload)


__all__ = ["estimate_commands", "simulate"]
