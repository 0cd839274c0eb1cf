"""Where the numbers of a streaming program lie: words of the memory behind the ports, or of the buffer on the chip.

A `Place` is a strided window of one of the two. A `Work` says what a call computes: an operation, from where, to where. It is
carried out by the functional back end and has no time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

Space = Literal["memory", "chip"]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """``shape`` elements of a space, the first at word ``start``, ``strides`` words from one to the next along each axis."""

    space: Space
    start: int
    shape: Shape
    strides: Shape

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    def part(self, axis: int, start: int, stop: int, step: int = 1) -> Place:
        """Entries ``start`` to ``stop`` along an axis, every ``step``-th.

        >>> dense("chip", 0, (4, 8)).part(-2, 1, 3)
        Place(space='chip', start=8, shape=(2, 8), strides=(8, 1))
        """
        axis %= len(self.shape)
        shape = (*self.shape[:axis], len(range(start, stop, step)), *self.shape[axis + 1 :])
        strides = (*self.strides[:axis], step * self.strides[axis], *self.strides[axis + 1 :])
        return replace(self, start=self.start + start * self.strides[axis], shape=shape, strides=strides)

    def permute(self, order: Shape) -> Place:
        """The axes in another order."""
        return replace(
            self, shape=tuple(self.shape[axis] for axis in order), strides=tuple(self.strides[axis] for axis in order)
        )

    def reshape(self, shape: Shape) -> Place | None:
        """The same elements with other axes, or None if no window has them in that order.

        >>> dense("chip", 0, (4, 6)).reshape((2, 2, 6))
        Place(space='chip', start=0, shape=(2, 2, 6), strides=(12, 6, 1))
        >>> dense("chip", 0, (4, 6)).permute((1, 0)).reshape((24,)) is None
        True
        """
        runs: list[
            tuple[int, int]
        ] = []  # (entries, words from one to the next), neighbours that follow each other joined
        for size, step in zip(self.shape, self.strides, strict=True):
            if size != 1:
                joins = runs and runs[-1][1] == size * step
                runs[-1:] = [(runs[-1][0] * size, step)] if joins else [*runs[-1:], (size, step)]
        strides: list[int] = []
        left, step = runs.pop() if runs else (1, 1)
        for size in reversed(shape):
            if left == 1 and size != 1:
                left, step = runs.pop()
            if left % size:
                return None
            strides.append(step if size != 1 else 1)
            left, step = left // size, step * size
        return replace(self, shape=shape, strides=tuple(reversed(strides)))


def dense(space: Space, start: int, shape: Shape) -> Place:
    """Elements behind each other, the last axis fastest."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return Place(space, start, shape, tuple(reversed(strides)))


@dataclass(frozen=True, slots=True)
class Work:
    """What a call computes: ``op`` of what lies at ``operands`` goes to ``results``; several places hold one value in parts.

    An operand that is a work itself streams in while the call runs, and lies nowhere.
    """

    op: Any
    operands: tuple[tuple[Place, ...] | Work, ...]
    results: tuple[Place, ...]


__all__ = ["Place", "Shape", "Space", "Work", "dense"]
