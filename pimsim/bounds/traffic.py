"""Bytes that a processor without PIM would move: the closed form that interface traffic is compared with."""

from __future__ import annotations

from collections.abc import Iterable

from pimsim.workload.graph import WorkloadGraph


def bytes_without_pim(graph: WorkloadGraph, passes: int, element_bytes: int) -> int:
    """Weights and KV cache read, and the cache written, in forward passes with contexts 1 to ``passes``.

    Vectors stay in the processor, so they do not count. Cache reads grow linearly with the context, hence the closed form.
    """
    reads, writes = graph.cache_traffic(1)
    return element_bytes * (passes * (graph.weights() + writes) + reads * passes * (passes + 1) // 2)


def bytes_of_groups(graph: WorkloadGraph, contexts: Iterable[tuple[int, ...]], element_bytes: int) -> int:
    """The same for passes of several tokens each: weights are read once for all tokens of a pass, caches for each."""
    elements = 0
    for group in contexts:
        elements += graph.weights() + sum(sum(graph.cache_traffic(context)) for context in group)
    return element_bytes * elements
