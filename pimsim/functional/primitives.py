"""Carries a streaming program of attention primitives out on numbers: words of the memory and of the buffer, call by call.

Each call reads the words at its operands' places, applies the meaning of its primitive, and writes the words at the places of
its results, rounded to the format of the words. In the machine's order a call reads when it starts and writes when it ends, so a
call that does not wait for what it reads, or overwrites what another still reads, gives other numbers than in program order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from pimsim.program.dataflow import Call
from pimsim.program.places import Place, Work
from pimsim.workload.attention.primitives import Primitive, Weights

Array = npt.NDArray[Any]

INDEX = {"gather": 1, "pick": 1}
"""Kind of primitive -> its operand that is a whole number, which words hold exactly up to 2^24."""


class Units(Protocol):
    """What numbers a machine has, and what its units make of them."""

    @property
    def dtype(self) -> npt.DTypeLike:
        """Type of the arrays that hold words."""

    def given(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Tensors as words."""

    def opened(self, name: str, value: Any) -> Any:
        """Words of an operation as numbers."""

    def closed(self, value: Any) -> Any:
        """Numbers that words hold, as words."""

    def compute(self, op: Primitive, operands: Sequence[Any]) -> Any:
        """The result of a primitive, words from words."""


@dataclass(frozen=True)
class FloatUnits:
    """Every result is that of the primitive's meaning, rounded to the format of the words."""

    dtype: npt.DTypeLike = np.float32

    def given(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Tensors in the format of the words."""
        return {name: values.astype(self.dtype) for name, values in tensors.items()}

    def opened(self, _name: str, value: Any) -> Any:
        """The words themselves."""
        return value

    def closed(self, value: Any) -> Any:
        """The numbers themselves."""
        return value

    def compute(self, op: Primitive, operands: Sequence[Any]) -> Any:
        """What the primitive means."""
        return op.meaning(*operands)


@dataclass(frozen=True)
class Step:
    """What a call computed, what it read and what it left."""

    op: Primitive
    operands: tuple[Any, ...]
    stored: Any


class StreamMemory:
    """The words of the memory and of the buffer."""

    def __init__(self, memory_words: int, buffer_words: int, units: Units) -> None:
        """Unused words are not a number, so that nothing can be read that was never written."""
        self.units = units
        self.words = {
            "memory": np.full(memory_words, np.nan, units.dtype),
            "chip": np.full(max(1, buffer_words), np.nan, units.dtype),
        }

    def window(self, place: Place) -> Array:
        """The words of a place; writing to it writes to them."""
        words = self.words[place.space]
        if not place.size:
            return np.zeros(place.shape, words.dtype)
        last = place.start + sum((size - 1) * step for size, step in zip(place.shape, place.strides, strict=True))
        assert 0 <= place.start <= last < len(words), place
        step = words.itemsize
        return as_strided(words[place.start :], place.shape, tuple(step * stride for stride in place.strides))

    def read(self, places: Sequence[Place]) -> Any:
        """A copy of a value: an array, or the parts of weights."""
        arrays = [self.window(place).copy() for place in places]
        if len(arrays) == 1:
            return arrays[0]
        head, *factor, weights = arrays
        return Weights(head, factor[0] if factor else None, weights)

    def write(self, places: Sequence[Place], value: Any) -> None:
        """Put a value down, rounded to the format of the words."""
        parts = [part for part in value if part is not None] if isinstance(value, Weights) else [value]
        for place, part in zip(places, parts, strict=True):
            self.window(place)[...] = part

    def compute(self, work: Work) -> tuple[tuple[Any, ...], Any]:
        """(operands, result) of a call as things lie now."""
        op: Primitive = work.op
        operands = [self.compute(each)[1] if isinstance(each, Work) else self.read(each) for each in work.operands]
        position = INDEX.get(op.KIND)
        if position is not None:
            index = operands[position]  # of words that were never written, the first row serves as well as any
            operands[position] = np.where(np.isfinite(index), index, 0).astype(np.int64)
        return tuple(operands), self.units.compute(op, operands)


def execute(calls: Sequence[Call], memory: StreamMemory, observe: Callable[[Step], None] | None = None) -> None:
    """Carry out a program in its order; ``observe`` is told every call that computes something."""
    for call in calls:
        if call.work is not None:
            operands, found = memory.compute(call.work)
            memory.write(call.work.results, found)
            if observe is not None:
                observe(Step(call.work.op, operands, memory.read(call.work.results)))


def execute_changed(
    calls: Sequence[Call], memory: StreamMemory, change: Callable[[Primitive, tuple[Any, ...], Any], Any]
) -> None:
    """Carry out a program whose every result is changed before it is put down."""
    for call in calls:
        if call.work is not None:
            operands, found = memory.compute(call.work)
            memory.write(call.work.results, change(call.work.op, operands, found))


def execute_in_time(calls: Sequence[Call], memory: StreamMemory, times: Sequence[tuple[int, int]]) -> None:
    """Carry out a program in the machine's order; ``times``: (start, end) of every call."""
    moments = [(end, 0, number) for number, (_, end) in enumerate(times)]
    moments += [(start, 1, number) for number, (start, _) in enumerate(times)]
    pending: dict[int, Any] = {}
    for _, begins, number in sorted(moments):
        work = calls[number].work
        if work is None:
            continue
        if begins:
            pending[number] = memory.compute(work)[1]
        else:
            memory.write(work.results, pending.pop(number))


def results_of(
    memory: StreamMemory, results: Mapping[str, Sequence[Place]], assembled: Sequence[Primitive]
) -> dict[str, Any]:
    """Values of a finished program by operation, those included that only put stored results side by side."""
    found = {name: memory.read(places) for name, places in results.items() if places}
    for op in assembled:
        found[op.name] = op.meaning(*(found[name] for name in op.inputs))
    return found


__all__ = ["FloatUnits", "Step", "StreamMemory", "Units", "execute", "execute_changed", "execute_in_time", "results_of"]
