"""The fast controller: requests by bank, and from one tick at which something may happen to the next.

The requests of a bank want the same command, or hold one another back, so a bank has one candidate. When a candidate
may issue only moves to later ticks as others issue (`Calendar`), so what was found out once is a lower bound, and only
candidates whose bound has come are asked again. The decisions are those of `plain.PlainController`; the tests hold the two
together command by command.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pimsim.machine.calendar import Plan
from pimsim.machine.controller.policy import Bank, Policy, Where
from pimsim.machine.controller.queues import NEVER, Entry, Queues
from pimsim.traffic.stream import Request


class _BankQueue:
    """Requests of one bank in one queue, oldest first, and their next command."""

    __slots__ = ("bound", "command", "entries", "entry", "is_column", "plan", "stale")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.stale = True
        self.bound = 0
        self.command = ""
        self.is_column = False
        self.entry: Entry
        self.plan: Plan


class FastController(Queues):
    """One channel of a controller, from event to event; the arguments are those of `Queues`."""

    def __init__(self, policy: Policy, source: Iterator[Request], **options: Any) -> None:
        self._of_bank: tuple[dict[Bank, _BankQueue], dict[Bank, _BankQueue]] = ({}, {})
        self._wake = 0
        super().__init__(policy, source, **options)

    def next_tick(self, tick: int) -> int:
        """The next tick at which a command may become legal, a request enter, a refresh be due or patience end.

        After a command that is the next tick (`Queues.retry`), as the queue that is served may change.
        """
        wake = min(self._wake, self.retry, self.latch_at())
        queue, limit = self.active(), self.policy.age_limit
        if queue and limit is not None and not self.policy.oldest_only and tick - queue[0].entered < limit:
            wake = min(wake, queue[0].entered + limit)
        return max(wake, tick + 1)

    def select(self, tick: int) -> tuple[str, Where, Entry | None] | None:
        """As the plain controller; also notes when to look again if nothing is legal."""
        self._wake = NEVER
        found = self._maintain(tick) if self.latched else None
        if found is None:
            first = self.exclusive(tick)
            found = self._serve_next(tick) if first is None else self._serve_first(first, tick)
        if found is None and self.policy.closed_page:
            found = self._close_idle(tick)
        return found

    def _is_legal(self, plan: Plan, tick: int) -> bool:
        earliest = self.calendar.earliest(plan)
        if earliest > tick:
            self._wake = min(self._wake, earliest)
            return False
        return True

    def _maintain(self, tick: int) -> tuple[str, Where, Entry | None] | None:
        for node in self.policy.nodes:
            if node in self.latched:
                command = self.maintenance(node)
                legal = self.legal_from(node, command)
                if legal <= tick:
                    return command, node.where, None
                self._wake = min(self._wake, legal)
        return None

    def _serve_first(self, entry: Entry, tick: int) -> tuple[str, Where, Entry | None] | None:
        if self.latched and self.is_latched(entry.bank):
            return None
        command, where = self.needed(entry), self.policy.where(entry.bank)
        return (command, where, entry) if self._is_legal(self.plan(command, where), tick) else None

    def _serve_next(self, tick: int) -> tuple[str, Where, Entry | None] | None:
        best: _BankQueue | None = None
        wake, earliest = self._wake, self.calendar.earliest
        for bank, queue in self._of_bank[self.writing].items():
            if self.latched and self.is_latched(bank):
                continue
            if queue.stale:
                self._refresh_candidate(bank, queue)
            if queue.bound <= tick:
                queue.bound = earliest(queue.plan)
            if queue.bound > tick:
                wake = min(wake, queue.bound)
            elif best is None or (queue.is_column, -queue.entry.number) > (best.is_column, -best.entry.number):
                best = queue
        self._wake = wake
        return None if best is None else (best.command, best.plan.where, best.entry)

    def _refresh_candidate(self, bank: Bank, queue: _BankQueue) -> None:
        row = self.banks.open_rows.get(bank)
        entry = queue.entries[0]
        if row is not None:
            entry = next((each for each in queue.entries if each.row == row), entry)
        queue.entry, queue.command = entry, self.needed(entry)
        queue.is_column = queue.command in self.policy.column
        queue.plan = self.plan(queue.command, self.policy.where(bank))
        queue.stale, queue.bound = False, 0

    def _close_idle(self, tick: int) -> tuple[str, Where, Entry | None] | None:
        for bank, row in sorted(self.banks.open_rows.items()):
            if self.latched and self.is_latched(bank):
                continue
            queues = [queues[bank] for queues in self._of_bank if bank in queues]
            if any(entry.row == row for queue in queues for entry in queue.entries):
                continue
            where = self.policy.where(bank)
            if self._is_legal(self.plan(self.policy.precharge, where), tick):
                return self.policy.precharge, where, None
        return None

    # -- what has changed -----------------------------------------------------------------------------------------

    def entered(self, entry: Entry) -> None:
        """The bank of a new entry may have a better candidate."""
        queue = self._of_bank[entry.write].get(entry.bank)
        if queue is None:
            queue = self._of_bank[entry.write][entry.bank] = _BankQueue()
        queue.entries.append(entry)
        queue.stale = True

    def left(self, entry: Entry) -> None:
        """The bank of an entry that has left has another candidate, or none."""
        queues = self._of_bank[entry.write]
        queue = queues[entry.bank]
        queue.entries.remove(entry)
        queue.stale = True
        if not queue.entries:
            del queues[entry.bank]

    def changed(self, bank: Bank) -> None:
        """Requests of the bank want another command."""
        for queues in self._of_bank:
            if bank in queues:
                queues[bank].stale = True


__all__ = ["FastController"]
