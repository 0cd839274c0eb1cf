"""First-order time of a PIM machine: MACs, row switches and refresh, and nothing else."""

from __future__ import annotations

from pimsim.arch.dram import DramSpec
from pimsim.workload.graph import WorkloadGraph


def pass_seconds(graph: WorkloadGraph, spec: DramSpec, multipliers: int, context: int) -> float:
    """A forward pass if every MAC unit always had work: no simulation of such a machine can be faster.

    Column accesses = MACs / (channels x banks x multipliers), one per nCCD; a row switch (nRP + nRCD) for each row of
    columns; refresh takes nRFC out of every nREFI.
    """
    units = spec.channels * spec.banks_per_channel * multipliers
    columns = graph.macs(context) / units
    timing = spec.timing
    ticks = columns * timing["nCCD"] + columns / spec.columns * (timing["nRP"] + timing["nRCD"])
    if spec.refresh_policy != "none":
        ticks /= 1 - timing["nRFC"] / timing["nREFI"]
    return ticks * spec.tick_seconds
