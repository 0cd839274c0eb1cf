"""Reads and writes of scattered rows in one channel, in an order that keeps its banks at work.

A channel carries commands out in the order of the program, one after the other. What lies in one DRAM row is therefore reached
while that is open once, and rows of different banks overlap: while one is read, the next are being opened and those before
closed. The order follows from the gaps in the DRAM's own rules; when each command issues is the machine's matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from pimsim.arch.dram import DramSpec
from pimsim.program.isa import Item, Run, Where


@dataclass(frozen=True, slots=True)
class _Visit:
    """A row of a bank, opened once for all that is read or written there."""

    where: Where
    row: int
    runs: list[Run]


def overlapped(spec: DramSpec, runs: Iterable[Run]) -> list[Item]:
    """These reads or writes of one channel, each of columns of one row, with the commands that open and close the rows.

    Only the order is changed: of accesses to one DRAM row, the first that is named comes first.
    """
    visits: dict[tuple[Where, int], _Visit] = {}
    for run in runs:
        visits.setdefault((run.where, run.row), _Visit(run.where, run.row, [])).runs.append(run)
    if not visits:
        return []
    column = next(iter(visits.values())).runs[0].command
    order = _Order(spec, column)
    for visit in _taking_turns(visits.values()):
        order.add(visit)
    return order.finished()


def _taking_turns(visits: Iterable[_Visit]) -> list[_Visit]:
    """Those of each bank spread evenly, so that a bank with many rows is at work from the beginning to the end."""
    of_bank: dict[Where, list[_Visit]] = {}
    for visit in visits:
        of_bank.setdefault(visit.where, []).append(visit)
    placed = [
        ((2 * number + 1) / len(queue), turn, visit)
        for turn, queue in enumerate(of_bank.values())
        for number, visit in enumerate(queue)
    ]
    return [visit for *_, visit in sorted(placed, key=lambda each: each[:2])]


@dataclass(slots=True)
class _Open:
    """A row that is open, and from when its columns can be reached, later from when it can be closed."""

    visit: _Visit
    opened: int
    ready: int


class _Order:
    """Commands in the order in which they could issue if nothing but the gaps between them mattered."""

    def __init__(self, spec: DramSpec, column: str) -> None:
        elsewhere = tuple(level for level in ("channel", *spec.levels) if level != spec.levels[-1])
        everywhere = (*elsewhere, spec.levels[-1])
        self._activates = _gap(spec, "ACT", "ACT", elsewhere)
        self._four_activates = _gap(spec, "ACT", "ACT", everywhere, window=4)
        self._to_column = _gap(spec, "ACT", column, everywhere)
        self._columns = _gap(spec, column, column, elsewhere)
        self._to_close = _gap(spec, "ACT", "PREpb", everywhere)
        self._column_to_close = _gap(spec, column, "PREpb", everywhere)
        self._to_open = _gap(spec, "PREpb", "ACT", everywhere)
        self._clock = 0
        self._opened: deque[int] = deque([-spec.refresh_interval] * 4, maxlen=4)
        """When the last four rows were opened."""
        self._closed: dict[Where, int] = {}
        """Bank -> when it can be opened again."""
        self._waiting: deque[_Open] = deque()
        self._used: deque[_Open] = deque()
        self._items: list[Item] = []

    def add(self, visit: _Visit) -> None:
        """Open a row, and do before that whatever can be done before."""
        while any(each.visit.where == visit.where for each in (*self._waiting, *self._used)):
            self._next()
        while True:
            at = max(
                self._clock,
                self._opened[-1] + self._activates,
                self._opened[0] + self._four_activates,
                self._closed.get(visit.where, 0),
            )
            if not (self._used and self._used[0].ready <= at) and not (self._waiting and self._waiting[0].ready < at):
                break
            self._next()
        self._items.append(Run("ACT", visit.where, row=visit.row))
        self._opened.append(at)
        self._clock = at + 1
        self._waiting.append(_Open(visit, at, at + self._to_column))

    def finished(self) -> list[Item]:
        """All commands, every row closed."""
        while self._waiting or self._used:
            self._next()
        return self._items

    def _next(self) -> None:
        """Reach the columns of the row that has been open longest, or close the one that was used first: what is ready sooner."""
        if self._used and (not self._waiting or self._used[0].ready <= max(self._clock, self._waiting[0].ready)):
            done = self._used.popleft()
            at = max(self._clock, done.ready)
            self._items.append(Run("PREpb", done.visit.where))
            self._closed[done.visit.where] = at + self._to_open
            self._clock = at + 1
            return
        now = self._waiting.popleft()
        at = max(self._clock, now.ready)
        self._items += now.visit.runs
        last = at + (sum(run.count for run in now.visit.runs) - 1) * self._columns
        now.ready = max(now.opened + self._to_close, last + self._column_to_close)
        self._used.append(now)
        self._clock = last + 1


def _gap(spec: DramSpec, before: str, after: str, levels: tuple[str, ...], window: int = 1) -> int:
    """The largest gap in ticks that a rule at these levels asks for; 1 where none does."""
    asked = (
        rule.gap
        for rule in spec.rules
        if rule.level in levels and before in rule.prev and after in rule.next and rule.window == window
    )
    return max(asked, default=1)


__all__ = ["overlapped"]
