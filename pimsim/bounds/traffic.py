"""Bytes that a processor without PIM would move: the closed form that interface traffic is compared with."""

from __future__ import annotations

from pimsim.workload.graph import WorkloadGraph


def bytes_without_pim(graph: WorkloadGraph, passes: int, element_bytes: int) -> int:
    """Weights and KV cache read, and the cache written, in forward passes with contexts 1 to ``passes``.

    Vectors stay in the processor, so they do not count. Cache reads grow linearly with the context, hence the closed form.
    """
    reads, writes = graph.cache_traffic(1)
    return element_bytes * (passes * (graph.weights() + writes) + reads * passes * (passes + 1) // 2)
