"""Buffers of a vision network on a machine with one memory for activations, as `pimsim.workload.vit_memory` plans them.

The steps are the operations of the network's graph, one after the other. Weights lie in flash and take no part. Stores, loads
of what was stored, parts and other shapes are the same bytes; functions of single entries write over their operand where
nobody reads it any more. What an operation makes is there beside its operands while it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod

from pimsim.workload.attention import primitives as p
from pimsim.workload.attention.primitives import Primitive
from pimsim.workload.graph import WorkloadGraph
from pimsim.workload.vit_memory import Step

SEEN = (p.Store, p.Arrange, p.Part)
"""Kinds whose result is bytes of their operand, seen in another way."""


def buffer_steps(graph: WorkloadGraph, patchwise: bool, element_bytes: int) -> list[Step]:
    """Steps of one inference, with the buffers that each uses and makes.

    Args:
        graph: Of a network; its source ``image`` is the image, all others are weights.
        patchwise: Lines of the image come when they are loaded, a strip at a time; else all of it is there from the start.
        element_bytes: Of an activation.
    """
    ops = [op for op in graph if isinstance(op, Primitive)]
    return list(_Buffers(ops).steps(patchwise, element_bytes))


class _Buffers:
    """Which buffers hold each value."""

    def __init__(self, ops: list[Primitive]) -> None:
        self._ops = ops
        self._left = Counter(name for op in ops for name in op.inputs)
        """Value -> operations that have yet to read it."""
        self._of: dict[str, tuple[str, ...]] = {}
        self._values: dict[str, list[str]] = {}
        """Buffer -> values that it holds, one after the other or at once."""

    def steps(self, patchwise: bool, element_bytes: int) -> Iterator[Step]:
        for op in self._ops:
            if isinstance(op, p.Source):
                self._hold(op.name, ())
                if op.name == "image" and not patchwise:
                    yield Step(op.name, (), {op.name: op.size}, element_bytes)
                    self._hold(op.name, (op.name,))
                continue
            if isinstance(op, (*SEEN, p.Load)) and not self._of[op.inputs[0]] and op.inputs[0] != "image":
                self._hold(op.name, ())  # weights
                continue
            used = tuple(dict.fromkeys(buffer for name in op.inputs for buffer in self._of[name]))
            self._left.subtract(op.inputs)
            held = self._kept(op)
            makes = {} if held else {op.name: op.size}
            yield Step(op.name, used, makes, element_bytes)
            self._hold(op.name, held or (op.name,))

    def _hold(self, value: str, buffers: tuple[str, ...]) -> None:
        self._of[value] = buffers
        for buffer in buffers:
            self._values.setdefault(buffer, []).append(value)

    def _kept(self, op: Primitive) -> tuple[str, ...]:
        """The buffers of an operand that the result lies in; none if it needs its own."""
        first = self._of[op.inputs[0]] if op.inputs else ()
        seen = isinstance(op, SEEN) or (isinstance(op, p.Load) and bool(first))
        over = isinstance(op, p.Elementwise) and op.size == prod(op.sources[0]) and self._is_free(first)
        return first if seen or over else ()

    def _is_free(self, buffers: tuple[str, ...]) -> bool:
        return all(not self._left[value] for buffer in buffers for value in self._values[buffer])


__all__ = ["buffer_steps"]
