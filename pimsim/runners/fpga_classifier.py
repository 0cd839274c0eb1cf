"""Whole vision networks on a streaming machine: the units for primitives, with weights and image in memory."""

from __future__ import annotations

import time

from pimsim.analysis.baselines import load_baseline
from pimsim.arch.fpga import FpgaArchConfig
from pimsim.config import Loaded
from pimsim.result import Result
from pimsim.runners import RunOptions, fpga_primitives
from pimsim.workload.classifier import ClassifierConfig


def simulate(arch: Loaded[FpgaArchConfig], workload: Loaded[ClassifierConfig], options: RunOptions) -> Result:
    """Time a network call by call, and count what it does.

    Raises:
        ConfigError: the machine has no units for primitives, or its buffer does not hold what must be on the chip at once.
    """
    start = time.perf_counter()
    for name in options.baselines:
        load_baseline(name)  # none of them is about these networks, but a wrong name is told
    if arch.value.fpga.primitives is None:
        raise arch.tree.error(
            f"must be given for {workload.value.name}, whose layers run on units for primitives", ("fpga", "primitives")
        )
    return fpga_primitives.simulate(arch, workload, options, start, workload.value.method().part_of)


def estimate_commands(arch: Loaded[FpgaArchConfig], workload: Loaded[ClassifierConfig]) -> int | None:  # noqa: ARG001
    """None: a DRAM behind the ports is asked call by call."""
    return None


__all__ = ["estimate_commands", "simulate"]
