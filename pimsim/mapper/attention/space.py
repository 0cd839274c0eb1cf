"""The SRAM of the ASIC, given out and taken back as results come and go."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field

from pimsim.errors import CapacityExceeded


@dataclass(eq=False)
class Buffer:
    """A place in the SRAM; `tokens` must be waited for before it may be read, `readers` before it may be written again."""

    at: int
    length: int
    free_after: tuple[str, ...] = ()
    """Tokens of those who used the place before."""
    tokens: dict[str, None] = field(default_factory=dict)
    readers: dict[str, None] = field(default_factory=dict)
    uses: int = 0
    """Results that still lie here."""


class Space:
    """Places in units of a column, so that whole columns can be read.

    A place rests as long as possible before it is used again, as its next user must wait for its last readers; ``compact``
    uses the first that fits instead, which leaves fewer gaps.
    """

    def __init__(self, capacity: int, lanes: int, element_bytes: int, *, compact: bool = False) -> None:
        self.compact = compact
        self.capacity, self.lanes, self.element_bytes = capacity, lanes, element_bytes
        self._taken: list[Buffer] = []
        self._past: list[tuple[int, int, tuple[str, ...]]] = []
        """Places given back, (start, stop, tokens of their users), disjoint and in order."""
        self._next = 0
        self.live = 0
        """Elements in use."""
        self.peak = 0
        self.history: list[tuple[str, int]] = []
        """(what was placed or given back, elements in use afterwards)."""

    def begin(self, taken: int, tokens: tuple[str, ...]) -> None:
        """The first ``taken`` elements are somebody else's, and the rest is free once ``tokens`` are there."""
        self._taken.append(Buffer(0, taken))
        self._past.append((taken, self.capacity, tokens))
        self.live = self.peak = taken

    def pending(self) -> dict[str, None]:
        """Tokens of everything that has written or read a place here, as far as it matters to who comes next."""
        found = dict.fromkeys(token for _, _, tokens in self._past for token in tokens)
        for buffer in self._taken:
            found |= dict.fromkeys(buffer.free_after) | buffer.tokens | buffer.readers
        return found

    def take(self, name: str, length: int) -> Buffer:
        """A place for ``length`` elements.

        Raises:
            CapacityExceeded: there is none; the message says what takes most.
        """
        size = max(1, -(-length // self.lanes)) * self.lanes
        at = self._fit(size)
        if at + size > self.capacity:
            free = self.capacity - self.live
            raise CapacityExceeded(
                f"asic.sram_bytes must hold the results of the attention algorithm: {name} takes "
                f"{size * self.element_bytes} bytes where {max(0, free) * self.element_bytes} of "
                f"{self.capacity * self.element_bytes} are free"
            )
        buffer = Buffer(at, size, self._past_users(at, at + size))
        self._taken.append(buffer)
        self._taken.sort(key=lambda each: each.at)
        self._note(name, size)
        return buffer

    def give_back(self, name: str, buffer: Buffer) -> None:
        """Nobody reads it any more, once its tokens and those of its readers are there."""
        self._taken.remove(buffer)
        insort(self._past, (buffer.at, buffer.at + buffer.length, (*buffer.tokens, *buffer.readers)), key=_start)
        self._note(name, -buffer.length)

    def _past_users(self, start: int, stop: int) -> tuple[str, ...]:
        """Tokens of those who used a place before; what lies outside of it keeps them for the next who takes that."""
        first = bisect_right(self._past, start, key=_start)
        if first and self._past[first - 1][1] > start:
            first -= 1
        last = bisect_left(self._past, stop, key=_start)
        met = self._past[first:last]
        rests = [(a, start, past) for a, _, past in met[:1] if a < start]
        rests += [(stop, b, past) for _, b, past in met[-1:] if b > stop]
        self._past[first:last] = rests
        return tuple(dict.fromkeys(token for _, _, past in met for token in past))

    def _fit(self, size: int) -> int:
        """The first gap behind the place that was given out last, then from the beginning; the capacity if there is none."""
        gaps: list[tuple[int, int]] = []
        at = 0
        for buffer in self._taken:
            if buffer.at > at:
                gaps.append((at, buffer.at))
            at = buffer.at + buffer.length
        gaps.append((at, self.capacity))
        behind = [(max(start, self._next), stop) for start, stop in gaps if stop > self._next]
        for start, stop in (*behind, *gaps):
            if stop - start >= size:
                self._next = 0 if self.compact else start + size
                return start
        return self.capacity

    def _note(self, name: str, change: int) -> None:
        self.live += change
        self.peak = max(self.peak, self.live)
        self.history.append((name, self.live))


def _start(entry: tuple[int, int, tuple[str, ...]]) -> int:
    return entry[0]


__all__ = ["Buffer", "Space"]
