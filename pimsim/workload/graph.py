"""The operations of one forward pass as a directed acyclic graph (the only importer of networkx)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

import networkx as nx

from pimsim.errors import WorkloadError
from pimsim.workload.ops import Linear, OpNode


class WorkloadGraph:
    """Operations and who reads whose result. Names are ``h<layer>.<op>`` inside decoder blocks."""

    def __init__(self, ops: Iterable[OpNode]) -> None:
        """Raises: WorkloadError, if a name occurs twice, an input is unknown or the graph has a cycle."""
        self._graph = nx.DiGraph()
        for op in ops:
            if op.name in self._graph:
                raise WorkloadError(f"operation names must be unique, not {op.name!r} twice")
            self._graph.add_node(op.name, op=op)
            for source in op.inputs:
                if source not in self._graph:
                    raise WorkloadError(f"inputs of {op.name!r} must be operations before it, not {source!r}")
                self._graph.add_edge(source, op.name)
        if not nx.is_directed_acyclic_graph(self._graph):
            raise WorkloadError("operations must form a graph without cycles")

    def __iter__(self) -> Iterator[OpNode]:
        """Operations in a topological order that keeps the order in which they were given."""
        order = {name: i for i, name in enumerate(self._graph)}
        for name in nx.lexicographical_topological_sort(self._graph, key=order.__getitem__):
            yield self._graph.nodes[name]["op"]

    def __getitem__(self, name: str) -> OpNode:
        op: OpNode = self._graph.nodes[name]["op"]
        return op

    def consumers(self, name: str) -> list[OpNode]:
        """Operations that read the result of ``name``."""
        return [self._graph.nodes[n]["op"] for n in self._graph.successors(name)]

    def layers(self) -> dict[int, list[OpNode]]:
        """Operations by decoder block, in topological order; -1: what comes before the blocks, -2: what comes after."""
        found: dict[int, list[OpNode]] = {}
        for op in self:
            found.setdefault(layer_of(op.name), []).append(op)
        return found

    def macs(self, context: int) -> int:
        """Multiply-accumulates of one forward pass."""
        return sum(op.macs(context) for op in self)

    def weights(self) -> int:
        """Matrix elements that one forward pass reads."""
        return sum(op.weights() for op in self)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every constant, in the order of the operations; a tied matrix has an entry of its own."""
        return {name: shape for op in self for name, shape in op.tensors().items()}

    def tied(self) -> dict[str, str]:
        """Name of each matrix that is the transpose of a table -> name of the table."""
        return {op.weight_name: op.tied for op in self if isinstance(op, Linear) and op.tied}

    def parameters(self) -> int:
        """Elements of all constants, embeddings, norms and biases included; tied matrices count once."""
        tied = self.tied()
        return sum(prod(shape) for name, shape in self.tensors().items() if name not in tied)

    def cache_traffic(self, context: int) -> tuple[int, int]:
        """KV-cache elements that one forward pass (reads, writes)."""
        return sum(op.cache_reads(context) for op in self), sum(op.cache_writes() for op in self)


def layer_of(name: str) -> int:
    """Decoder block of an operation name.

    >>> layer_of("h3.ln_1"), layer_of("embed"), layer_of("final.lm_head")
    (3, -1, -2)
    """
    head = name.partition(".")[0]
    if head[0] == "h" and head[1:].isdigit():
        return int(head[1:])
    return -2 if head == "final" else -1
