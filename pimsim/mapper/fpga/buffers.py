"""The memory behind the ports and the buffer on the chip: where tensors lie, and who must wait for whom because of it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from pimsim.errors import CapacityExceeded
from pimsim.program.places import Place, Shape, dense


@dataclass
class Memory:
    """Words behind the ports. Rows begin with a beat; tensors follow each other and are spread over the ports in turn."""

    words_per_beat: int
    ports: tuple[str, ...]
    size: int = 0
    starts: list[int] = field(default_factory=list)
    """First word of each tensor, ascending."""

    def place(self, shape: Shape, rows: int) -> Place:
        """Room for a tensor whose second last axis may grow to ``rows`` entries."""
        *outer, have, width = (1, 1, *shape)[-max(2, len(shape)) :]
        pitch = -(-width // self.words_per_beat) * self.words_per_beat
        capacity = (*outer, max(rows, have), pitch)
        full = dense("memory", self.size, capacity)
        self.starts.append(self.size)
        self.size += max(1, full.size)
        place = full.part(-2, 0, have).part(-1, 0, width)
        axes = slice(len(place.shape) - len(shape), None)
        return Place("memory", place.start, place.shape[axes], place.strides[axes])

    def port(self, place: Place) -> str:
        """The port of the tensor that a place is part of."""
        return self.ports[(bisect_right(self.starts, place.start) - 1) % len(self.ports)]


@dataclass
class _Block:
    """Words of the buffer, and the calls that must be complete before they may be written again."""

    start: int
    size: int
    calls: tuple[int, ...] = ()


@dataclass
class Buffer:
    """Words on the chip, given and taken back.

    What was taken back rests until something of the same size has been given, so that two of a kind take turns (ping and
    pong) and the next tile can come while this one is used; if room is short, it is used at once.
    """

    capacity: int
    free: list[_Block] = field(default_factory=list)
    resting: dict[int, list[_Block]] = field(default_factory=dict)
    high: int = 0
    """Words that have been in use."""

    def __post_init__(self) -> None:
        self.free = [_Block(0, self.capacity)]

    def give(self, size: int, what: str, live: int) -> tuple[int, tuple[int, ...]]:
        """First word of ``size`` words, and the calls to wait for.

        Raises:
            CapacityExceeded: so many words are nowhere free; ``live`` words are in use.
        """
        rest = self.resting.get(size, [])
        block = rest.pop(0) if len(rest) > 1 else self._cut(size)
        if block is None and rest:
            block = rest.pop(0)
        if block is None:
            self._wake()
            block = self._cut(size)
        if block is None:
            raise CapacityExceeded(
                f"fpga.primitives.buffer_words must be at least {live + size}, as {what} needs {size} words beside the {live} "
                f"that are in use, not {self.capacity}"
                if live + size > self.capacity
                else f"fpga.primitives.buffer_words must have {size} words in a row for {what}, not {self.capacity} in pieces"
            )
        self.high = max(self.high, block.start + size)
        return block.start, block.calls

    def take_back(self, start: int, size: int, calls: tuple[int, ...]) -> None:
        """Words that nobody reads once these calls are complete."""
        self.resting.setdefault(size, []).append(_Block(start, size, calls))

    def _cut(self, size: int) -> _Block | None:
        for block in self.free:
            if block.size >= size:
                found = _Block(block.start, size, block.calls)
                block.start += size
                block.size -= size
                if not block.size:
                    self.free.remove(block)
                return found
        return None

    def _wake(self) -> None:
        """Join all that rests with what is free."""
        blocks = sorted([*self.free, *(b for rest in self.resting.values() for b in rest)], key=lambda b: b.start)
        self.resting.clear()
        self.free = []
        for block in blocks:
            last = self.free[-1] if self.free else None
            if last is not None and last.start + last.size == block.start:
                last.size += block.size
                last.calls = tuple(sorted({*last.calls, *block.calls}))
            else:
                self.free.append(block)


__all__ = ["Buffer", "Memory"]
