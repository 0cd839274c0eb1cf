"""Utilisation and stalls over time: what the units of a machine did, in a bounded number of equal bins.

A `Recorder` that adds up instead of keeping: memory and the size of the result do not grow with the run. Of a step of a
DRAM channel the slots in which the MAC units work are told apart from the rest, which is transfers and row timings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pimsim.trace.bins import Bins
from pimsim.trace.spans import BlockSpans, Span

BINS = 128
"""Bins of an activity at most; at least half of them are used in a run that is long enough."""

BUSY, OTHER, IDLE = "busy", "transfers and row timings", "idle"

KNOWN_LIMIT = 4096
"""Sums of blocks to remember."""


class _Block(NamedTuple):
    """The spans of a block, and what they add up to."""

    spans: Sequence[Span]
    sums: Sequence[tuple[str, str, int]]
    """(group, what its units did, ticks summed over them)."""
    first: int
    last: int


@dataclass(frozen=True)
class GroupActivity:
    """Units of one sort."""

    units: int
    shares: dict[str, tuple[float, ...]]
    """What they did (``busy``, ``wait softmax``, ...) -> share of the time of all units in each bin; the shares add up to 1."""


@dataclass(frozen=True)
class Activity:
    """What a machine did over time."""

    bin_seconds: float
    """Length of a bin; the last one may be shorter."""
    groups: dict[str, GroupActivity]
    """``channel``, ``asic``: units whose names differ in a number only; the most numerous first."""


class ActivityRecorder:
    """A recorder of activity.

    Args:
        computing: DRAM commands in whose slot MAC units work.
        bins: bins at most.
    """

    def __init__(self, computing: Container[str], bins: int = BINS) -> None:
        self._computing, self._limit = computing, bins
        self._bins: dict[tuple[str, str], Bins] = {}
        self._width = 1
        """Ticks of the widest of them."""
        self._units: dict[str, set[str]] = {}
        self._group_of: dict[Sequence[str], str] = {}
        self._known: dict[int, _Block] = {}
        """Identity of spans -> what is known of them: machines hand out the same spans again."""
        self._here = 0
        """Bin, counted in `_width`, in which the blocks of `_pending` lie."""
        self._pending: dict[int, tuple[_Block, int]] = {}
        """Identity of spans -> their block and how often it occurred."""

    def block(self, block: BlockSpans) -> None:
        """Add a block: as a whole where it lies in one bin, step by step elsewhere."""
        if not block.spans:
            return
        known = self._known.get(id(block.spans)) or self._learn(block.spans)
        begin, end = block.origin + known.first, block.origin + known.last
        here = begin // self._width
        if here == (end - 1) // self._width:
            if here != self._here:
                self._flush()  # which may make bins wider
                self._here = begin // self._width
            self._pending[id(block.spans)] = known, self._pending.get(id(block.spans), (known, 0))[1] + 1
            return
        self._flush()
        for span in block.spans:
            for group, label, ticks, first, last in self._pieces(span):
                self._add(group, label, block.origin + first, block.origin + last, ticks)

    def end_pass(self, tick: int) -> None:
        """Passes are of no interest here."""

    def activity(self, ticks: int, tick_seconds: float) -> Activity:
        """The activity of a run of so many ticks."""
        self._flush()
        width = self._width
        count = -(-ticks // width)
        shares: dict[str, dict[str, list[float]]] = {group: {} for group in self._units}
        for (group, label), bins in self._bins.items():
            shares[group][label] = self._rates(bins, width, count, ticks, len(self._units[group]))
        for labels in shares.values():
            labels[IDLE] = [max(0.0, 1 - sum(column)) for column in zip(*labels.values(), strict=True)]
        return Activity(
            width * tick_seconds,
            {
                group: GroupActivity(len(self._units[group]), {label: tuple(row) for label, row in labels.items()})
                for group, labels in sorted(shares.items(), key=lambda item: -len(self._units[item[0]]))
            },
        )

    # -- inside ---------------------------------------------------------------------------------------------------

    def _rates(self, bins: Bins, width: int, count: int, ticks: int, units: int) -> list[float]:
        """Shares of ``count`` bins of ``width`` ticks each, which is a power of two times the bins' own width."""
        step = width // bins.width
        values = bins.values[: count * step] + [0.0] * (count * step - len(bins.values))
        amounts = [sum(values[n * step : (n + 1) * step]) for n in range(count)]
        return [amount / (units * (min(ticks, (n + 1) * width) - n * width)) for n, amount in enumerate(amounts)]

    def _add(self, group: str, label: str, begin: int, end: int, amount: int) -> None:
        bins = self._bins.get((group, label))
        if bins is None:
            bins = self._bins[group, label] = Bins(0, None, self._limit)
        bins.add(begin, end, amount)
        self._width = max(self._width, bins.width)

    def _flush(self) -> None:
        """Add the blocks that wait to be added, all at once."""
        sums: Counter[tuple[str, str]] = Counter()
        for known, times in self._pending.values():
            for group, label, ticks in known.sums:
                sums[group, label] += times * ticks
        self._pending.clear()
        begin, end = self._here * self._width, (self._here + 1) * self._width
        for (group, label), ticks in sums.items():
            self._add(group, label, begin, end, ticks)

    def _learn(self, spans: Sequence[Span]) -> _Block:
        sums: Counter[tuple[str, str]] = Counter()
        first, last = spans[0].idle, spans[0].end
        for span in spans:
            for group, label, ticks, begin, end in self._pieces(span):
                sums[group, label] += ticks
                first, last = min(first, begin), max(last, end)
        if len(self._known) >= KNOWN_LIMIT:
            self._flush()
            self._known.clear()
        flat = [(group, label, ticks) for (group, label), ticks in sums.items()]
        found = self._known[id(spans)] = _Block(spans, flat, first, last)
        return found

    def _pieces(self, span: Span) -> list[tuple[str, str, int, int, int]]:
        """(group, what its units did, ticks summed over them, first tick, tick after the last one)."""
        group, units = self._group(span.units), len(span.units)
        length = span.end - span.begin
        busy = sum(n for command, n in span.commands if command in self._computing) if span.commands else length
        pieces = [
            (group, span.reason, units * (span.begin - span.idle), span.idle, span.begin),
            (group, BUSY, units * busy, span.begin, span.end),
            (group, OTHER, units * (length - busy), span.begin, span.end),
        ]
        return [piece for piece in pieces if piece[2]]

    def _group(self, units: Sequence[str]) -> str:
        name = self._group_of.get(units)
        if name is None:
            name = self._group_of[units] = units[0].rstrip("0123456789")
            self._units.setdefault(name, set()).update(units)
        return name


__all__ = ["BINS", "BUSY", "IDLE", "OTHER", "Activity", "ActivityRecorder", "GroupActivity"]
