"""The mapping of a decoder that fits the machine and the workload."""

from __future__ import annotations

from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.mapper.mapping import Mapping
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph
from pimsim.workload.models import build_graph, softmax_graph


def mapping_for(workload: WorkloadConfig, graph: WorkloadGraph, arch: ArchConfig, spec: DramSpec) -> Mapping:
    """The mapping of a decoder onto a machine with PIM channels, of whichever kind.

    Raises:
        MappingError: the machine cannot run the workload, or a memory is too small.
    """
    if arch.has_streaming_unit:
        if workload.together > 1:
            from pimsim.mapper.hybrid_group import HybridGroupMapping

            return HybridGroupMapping(workload, graph, arch, spec)
        from pimsim.mapper.hybrid import HybridMapping  # a machine without a streaming unit does without

        return HybridMapping(workload, graph, arch, spec)
    if workload.together > 1:
        from pimsim.mapper.group import GroupMapping

        return GroupMapping(workload, graph, arch, spec)
    return Mapping(workload, graph, arch, spec)


def graph_for(workload: WorkloadConfig, arch: ArchConfig) -> WorkloadGraph:
    """The operations of a decoder as a machine carries them out: a streaming unit has a schedule of its own for single_pass.

    Raises:
        WorkloadError: as `build_graph`.
    """
    if arch.has_streaming_unit and workload.attention == "single_pass":
        from pimsim.arch.hybrid import HybridConfig
        from pimsim.mapper.placement import place

        graph = softmax_graph(workload)
        assert isinstance(arch, HybridConfig)
        if place(workload, graph, arch, arch.dram.resolve())[0]["attention"] == "fpga":
            return graph
    return build_graph(workload)


__all__ = ["graph_for", "mapping_for"]
