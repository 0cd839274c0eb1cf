"""What a lowering knows of the result of a primitive: where it is, who wrote it, what of it can differ from zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

from pimsim.mapper.attention.banks import View
from pimsim.mapper.attention.space import Buffer
from pimsim.workload.attention.primitives import Band

Nested: TypeAlias = "int | Sequence[Nested]"
"""Integers in nested lists."""


@dataclass
class Value:
    """A result: on chip (`buffer`), in memory (`view`), or both."""

    shape: tuple[int, ...]
    buffer: Buffer | None = None
    offset: int = 0
    view: View | None = None
    tokens: dict[str, None] = field(default_factory=dict)
    """Of what wrote the banks."""
    load: str = ""
    """The load that brought it where it is used, if it stayed in the banks for that."""
    band: Band | None = None
    """Entries of each row that may differ from zero."""
    made_of: tuple[str, ...] = ()
    """Results in memory that it puts together in name only: nobody in the program reads it."""

    @property
    def at(self) -> int:
        """First SRAM element."""
        assert self.buffer is not None
        return self.buffer.at + self.offset

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)


@dataclass
class WeightsValue(Value):
    """What `Exponentiate` leaves: weights in `buffer`, and the state's new head and the factor of the old values."""

    head: Value | None = None
    factor: Value | None = None


def three(shape: Sequence[int]) -> tuple[int, int, int]:
    """Heads, rows, width: axes that are missing have one entry, heads take up what is more."""
    padded = (1,) * (3 - len(shape)) + tuple(shape)
    return prod(padded[:-2]), padded[-2], padded[-1]


def flat(nested: Nested) -> Iterator[int]:
    """All integers, in order."""
    if isinstance(nested, int):
        yield nested
        return
    for each in nested:
        yield from flat(each)


__all__ = ["Nested", "Value", "WeightsValue", "flat", "three"]
