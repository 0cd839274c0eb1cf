"""The least SRAM that an expansion can do with, however its results are placed: a program that needs more is refused at once."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from pimsim.errors import CapacityExceeded
from pimsim.workload.attention import primitives as p
from pimsim.workload.attention.primitives import Primitive

APART = (p.Product, p.Depthwise, p.Patches)
"""Kinds whose first operand is computed on chip and lies there beside the result."""


def check_least(ops: Iterable[Primitive], capacity: int, element_bytes: int) -> None:
    """Whether each operation by itself fits ``capacity`` elements, with what it is computed from.

    Raises:
        CapacityExceeded: one does not; the message names it and the bytes that it needs.
    """
    for op in ops:
        if not isinstance(op, APART):
            continue
        needed = (op.size + prod(op.sources[0])) * element_bytes
        if needed > capacity * element_bytes:
            raise CapacityExceeded(
                f"asic.sram_bytes must be at least {needed}, as {op.name} ({op.KIND}) makes {op.shape} of {op.sources[0]} "
                f"there, not {capacity * element_bytes}"
            )


__all__ = ["check_least"]
