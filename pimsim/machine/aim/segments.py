"""Programs of segments on GDDR6-AiM: exact, and quick because what was simulated once is remembered.

Between two segments no request is under way. What a segment does then follows from the calendars relative to now, the
modes of the channels, which banks have which rows open, and the refresh if one falls due before its end. All of that is
the key under which its effect is remembered. Rows enter relative to the place of the segment, and rows that it does not
touch as mere labels, so the same segment in another layer finds the same key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pimsim.arch.dram import DramSpec
from pimsim.errors import Deadlock, SimulationError
from pimsim.machine.aim.channel import Issued, State
from pimsim.machine.aim.host import Host, Sink
from pimsim.machine.aim.policy import Policy
from pimsim.program.aim_segments import PlacedSegment, Segment
from pimsim.trace.totals import RunTotals

MEMORY_LIMIT = 20_000
"""Effects and states that are remembered before they are cleared."""

Pattern = tuple[tuple[tuple[int, ...], ...], ...]
"""For each group of channels and each bank: which of the distinct open rows it has open."""


class _Memory(NamedTuple):
    """All channels between two segments, their open rows left out: these are known by their numbers."""

    states: tuple[State, ...]
    pattern: Pattern


@dataclass(frozen=True, eq=False)
class _Effect:
    """What a segment does from one state."""

    clocks: int
    after: int
    """Number of the state that it leaves."""
    rows: tuple[int, ...]
    """Distinct open rows that it leaves: counted from its base, or ``~n`` for the n-th of those before."""
    counts: tuple[Counter[str], ...]
    """Commands of one channel of each group."""
    due: float
    """Clocks from its end to the next refresh; only of those that a refresh fell into."""


class AimProgram:
    """The machine that runs a program; `totals` adds up.

    Args:
        spec: the DRAM, resolved.
        policy: which quirks it has.
        sets: every set of channels that an instruction of the program addresses.
        remember: whether a segment that starts from a known state is looked up rather than simulated.
        log: keep every command; nothing is remembered then.
        sink: told every command, in the order of cycles; nothing is remembered or kept then.
    """

    def __init__(
        self,
        spec: DramSpec,
        policy: Policy,
        sets: Iterable[Sequence[int]],
        *,
        remember: bool = True,
        log: bool = False,
        sink: Sink | None = None,
    ) -> None:
        self._spec, self._remember = spec, remember and not log and sink is None
        self._host = Host(spec, policy, sets, log=log, sink=sink)
        self.groups = self._host.groups
        self.totals = RunTotals()
        self.simulated = 0
        """Segments that were simulated and not looked up."""
        self._numbers: dict[_Memory, int] = {}
        self._memories: list[_Memory] = []
        self._plain: dict[tuple[Segment, int, tuple[int, ...]], _Effect] = {}
        self._refreshed: dict[tuple[Segment, int, tuple[int, ...], float], _Effect] = {}
        self._tally: Counter[tuple[_Effect, str, int]] = Counter()
        self._now, self._due = 0, self._host.channels[0].due
        self._number, self._rows = self._read()
        self._live = True
        """Whether the channels are in the state that is known; after a look-up they are behind."""

    @property
    def logs(self) -> Iterator[tuple[tuple[int, ...], list[Issued]]]:
        """Each group of channels, and the commands of one of them."""
        return ((group, channel.log or []) for group, channel in zip(self.groups, self._host.channels, strict=True))

    def run(
        self, passes: Iterable[Iterable[PlacedSegment]], progress: Callable[[int], None] | None = None
    ) -> RunTotals:
        """Run forward passes one after the other.

        Raises:
            Deadlock: the machine can never answer.
        """
        for number, segments in enumerate(passes):
            if progress:
                progress(number)
            for placed in segments:
                self._run(placed)
            self.totals.token_ticks.append(self._now)
            if not self._remember or len(self._tally) > MEMORY_LIMIT:
                self._summed()
            if max(len(self._plain), len(self._refreshed), len(self._memories)) > MEMORY_LIMIT:
                self._forget()
        return self._summed()

    def _forget(self) -> None:
        """Drop what was remembered; a run of any length needs bounded memory."""
        if not self._live:
            self._write()
            self._live = True
        for table in (self._plain, self._refreshed, self._numbers, self._memories):
            table.clear()
        self._number, self._rows = self._read()

    def _run(self, placed: PlacedSegment) -> None:
        before = self._now
        effect = self._known(placed) if self._remember else None
        if effect is None:
            effect = self._simulate(placed)
        else:
            self._now += effect.clocks
            refreshed = effect.clocks >= self._due - before
            self._due = self._now + effect.due if refreshed else self._due
            self._number = effect.after
            rows = self._rows
            self._rows = tuple(placed.base + row if row >= 0 else rows[~row] for row in effect.rows)
            self._live = False
        self._tally[effect, placed.op, placed.layer] += 1
        totals, took = self.totals, self._now - before
        totals.op_ticks[placed.op] += took
        totals.layer_ticks[placed.layer] += took
        totals.op_count[placed.op] += placed.first
        if placed.segment.wait:
            totals.asic_cycles[placed.op, placed.layer] += placed.segment.cycles
            totals.unit_busy["host"] += took

    def _labels(self, placed: PlacedSegment) -> tuple[int, ...]:
        """Open rows as the segment sees them: counted from its base, or ``~n`` for one that it does not touch."""
        touched, base = placed.segment.rows, placed.base
        return tuple(row - base if row - base in touched else ~n for n, row in enumerate(self._rows))

    def _known(self, placed: PlacedSegment) -> _Effect | None:
        labels, left = self._labels(placed), self._due - self._now
        effect = self._plain.get((placed.segment, self._number, labels))
        if effect is not None and effect.clocks < left:
            return effect
        return self._refreshed.get((placed.segment, self._number, labels, left))

    def _simulate(self, placed: PlacedSegment) -> _Effect:
        """Simulate the segment on the channels, and remember what it did."""
        self.simulated += 1
        if not self._live:
            self._write()
        labels, number, before, due, rows = self._labels(placed), self._number, self._now, self._due, self._rows
        counted = [channel.counts.copy() for channel in self._host.channels]
        self._host.end = before
        if placed.segment.wait:
            self._host.idle(placed.segment.wait)
        else:
            try:
                self._host.run(placed.segment.at(placed.base, placed.column))
            except Deadlock as error:
                raise Deadlock(f"{placed.name or placed.op}: {error}") from error
        self._now, self._due = self._host.end, self._host.channels[0].due
        self._number, self._rows = self._read() if self._remember else (0, ())
        effect = _Effect(
            clocks=self._now - before,
            after=self._number,
            rows=tuple(_encoded(row, placed, rows) for row in self._rows),
            counts=tuple(c.counts - old for c, old in zip(self._host.channels, counted, strict=True)),
            due=self._due - self._now,
        )
        if self._remember:
            if self._now < due:
                self._plain[placed.segment, number, labels] = effect
            else:
                self._refreshed[placed.segment, number, labels, due - before] = effect
        self._live = True
        return effect

    def _read(self) -> tuple[int, tuple[int, ...]]:
        """The number of the state of the channels, and the distinct open rows."""
        channels = self._host.channels
        if any(channel.due != self._due for channel in channels):
            raise SimulationError("all channels must be due for their refresh at the same clock")
        opened = [channel.rows for channel in channels]
        distinct = tuple(dict.fromkeys(row for group in opened for bank in group for row in bank))
        place = {row: n for n, row in enumerate(distinct)}
        pattern = tuple(tuple(tuple(place[row] for row in bank) for bank in group) for group in opened)
        memory = _Memory(tuple(channel.state(self._now) for channel in channels), pattern)
        number = self._numbers.setdefault(memory, len(self._memories))
        if number == len(self._memories):
            self._memories.append(memory)
        return number, distinct

    def _write(self) -> None:
        """Bring the channels to the state that is known."""
        memory, rows = self._memories[self._number], self._rows
        for channel, state, group in zip(self._host.channels, memory.states, memory.pattern, strict=True):
            opened = tuple(tuple(sorted(rows[n] for n in bank)) for bank in group)
            channel.restore(state, opened, self._now, self._due)

    def _summed(self) -> RunTotals:
        totals = self.totals
        totals.ticks = self._now
        for (effect, op, layer), times in self._tally.items():
            for group, counts in zip(self.groups, effect.counts, strict=True):
                for name, count in counts.items():
                    totals.commands[op, layer, name] += times * count * len(group)
        self._tally.clear()
        return totals


def _encoded(row: int, placed: PlacedSegment, before: Sequence[int]) -> int:
    """A row that a segment leaves open, by its place or by that among the rows that were open before."""
    if row - placed.base in placed.segment.rows:
        return row - placed.base
    return ~before.index(row)


__all__ = ["AimProgram"]
