"""Amounts spread over time, in a bounded number of equal bins."""

from __future__ import annotations

from collections.abc import Iterator

LIMIT = 4096
"""Bins of a series, if nothing else is said."""


class Bins:
    """A series over ``first <= tick < last``; amounts outside are dropped, amounts across the border in part.

    It has ``limit`` bins at most: when time grows beyond them, pairs are merged and bins become twice as wide.
    """

    def __init__(self, first: int, last: int | None, limit: int = LIMIT) -> None:
        self.first, self.last, self.limit = first, last, limit
        self.width = 1 if last is None else max(1, -(-(last - first) // limit))
        self.values: list[float] = []

    def add(self, begin: int, end: int, amount: float) -> None:
        """Spread ``amount`` evenly over ``begin <= tick < end`` (all at ``begin`` if that is empty)."""
        length = max(1, end - begin)
        start = max(begin, self.first) - self.first
        stop = (begin + length if self.last is None else min(begin + length, self.last)) - self.first
        if stop <= start:
            return
        while stop > self.width * self.limit:
            self._merge()
        low, high = start // self.width, (stop - 1) // self.width
        if high >= len(self.values):
            self.values += [0.0] * (high + 1 - len(self.values))
        if low == high:
            self.values[low] += amount * (stop - start) / length
            return
        rate = amount / length
        self.values[low] += rate * ((low + 1) * self.width - start)
        for index in range(low + 1, high):
            self.values[index] += rate * self.width
        self.values[high] += rate * (stop - high * self.width)

    def rates(self, end: int) -> Iterator[tuple[int, float]]:
        """(first tick of a bin, its amount per tick) for all bins before ``end``; the last bin may be shorter."""
        stop = end if self.last is None else min(end, self.last)
        for index in range(-(-max(0, stop - self.first) // self.width)):
            begin = self.first + index * self.width
            value = self.values[index] if index < len(self.values) else 0.0
            yield begin, value / (min(begin + self.width, stop) - begin)

    def _merge(self) -> None:
        values = self.values if len(self.values) % 2 == 0 else [*self.values, 0.0]
        self.values = [a + b for a, b in zip(values[::2], values[1::2], strict=True)]
        self.width *= 2


__all__ = ["LIMIT", "Bins"]
