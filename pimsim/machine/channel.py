"""One DRAM channel, one command at a time: legality, bank state, refresh, stall accounting.

`ChannelCore` is the common ground of both engines: the reference engine calls `issue` for every command, the fast
engine
calls it once for each situation that it has not seen before. Issue is in order, one command per tick.

Refresh (`all_bank`): when the next command would issue at or after the due time, an all-bank precharge (if rows are open)
and the refresh go first, each at its earliest legal tick at or after the due time. Rows that the program still holds
open are
activated again when a command needs them. A precharge is never held back by a refresh, and one whose banks the
refresh has
already closed is dropped. A channel that waits for operands refreshes while it waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pimsim.arch.dram import DramSpec
from pimsim.errors import SimulationError
from pimsim.machine.calendar import Calendar, Plan
from pimsim.program.isa import Where


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A command at an address, compiled: what the calendar needs and what it does to rows."""

    command: str
    where: Where
    plan: Plan
    opens: bool
    closes: bool
    precharge: bool
    needs_open: bool
    computes: bool
    """An in-bank MAC: the useful work of a PIM channel."""
    latency: int


@dataclass(slots=True, eq=False)
class Opened:
    """Rows that the program opened with one command, for restoring them after a refresh."""

    target: Target
    row: int


LogEntry = tuple[int, str, Where, int, int]
"""(tick, command, address, row, column)."""

BUSY = "busy"


class ChannelCore:
    """State of one channel and the only way to change it.

    Attributes:
        base: last tick that is used up; the next command issues at ``base + 1`` or later.
        due: tick at which the next refresh is due (`NEVER` without refresh).
        spent: where the ticks up to ``base`` went: `BUSY` for MAC slots, a command name for other slots, the name of
        a timing
            value or of a wait for gaps. The values always add up to ``base``.
        refresh_commands: commands that refresh added (refreshes, precharges, activates of restored rows), less the
        precharges
            of the program that it made needless.
    """

    NEVER = 1 << 62

    def __init__(self, spec: DramSpec) -> None:
        self.spec = spec
        self.calendar = Calendar(spec)
        self.base = 0
        self.interval = spec.refresh_interval
        self.due = spec.refresh_interval if spec.refresh_policy == "all_bank" else self.NEVER
        self.opened: list[Opened] = []
        self.displaced: list[Opened] = []
        self.spent: Counter[str] = Counter()
        self.refresh_commands: Counter[str] = Counter()
        self.open_ticks = 0
        self.log: list[LogEntry] | None = None
        self.sink: Callable[[LogEntry], object] | None = None
        """Told every command, in the order of issue."""
        self._targets: dict[tuple[str, Where], Target] = {}
        self._refresh = self._refresh_targets() if self.due != self.NEVER else []

    def target(self, command: str, where: Where) -> Target:
        """The compiled form of a command at an address (cached)."""
        key = (command, where)
        found = self._targets.get(key)
        if found is None:
            facts = self.spec.commands[command]
            found = self._targets[key] = Target(
                command,
                where,
                self.calendar.plan(command, where),
                opens=facts.effect == "open",
                closes=facts.effect == "close",
                precharge=facts.effect == "close" and facts.needs != "open",
                needs_open=facts.needs == "open",
                computes=facts.needs == "open" and facts.data == "none",
                latency=facts.latency,
            )
        return found

    def issue(self, target: Target, row: int = -1, column: int = -1) -> int | None:
        """Issue a command at its earliest legal tick after `base`; refresh and restored rows go first where due.

        Returns:
            the tick, or None for a precharge of banks that a refresh has already closed.
        """
        if target.precharge and self._already_closed(target):
            self.refresh_commands[target.command] -= 1
            return None
        while True:
            restored = self.displaced[0] if target.needs_open and self.displaced else None
            now = restored.target if restored else target
            tick = self.calendar.earliest(now.plan)
            if tick <= self.base:
                tick = self.base + 1
            if tick >= self.due and not now.precharge:
                self.refresh("refresh")
                continue
            if restored:
                self._put(now, tick, restored.row, -1)
                self.displaced.pop(0)
                self.refresh_commands[now.command] += 1
                self.opened.append(restored)
                continue
            self._put(now, tick, row, column)
            if target.opens:
                self.opened.append(Opened(target, row))
            elif target.closes:
                self._close(target)
            return tick

    def wait(self, until: int, reason: str) -> None:
        """Let time pass so that the next command issues at ``until`` or later; refreshes that fall due happen meanwhile."""
        if until - 1 <= self.base:
            return
        while self.due < until:
            self.refresh(reason)
        if until - 1 > self.base:
            self._spend(reason, until - 1 - self.base)
            self.base = until - 1

    def refresh(self, reason: str) -> None:
        """Precharge what is open and refresh, each at its earliest legal tick at or after the due time.

        The ticks up to the refresh command are booked on ``reason``.
        """
        start, held = self.base, self.opened
        self.displaced += held
        self.opened = []
        for precharge, refresh in self._refresh:
            if any(overlap(precharge.where, opened.target.where) for opened in held):
                self._maintain(precharge)
            self._maintain(refresh)
        self.spent[reason] += self.base - start
        if held:
            self.open_ticks += self.base - start
        self.due += self.interval

    # -- inside ---------------------------------------------------------------------------------------------------

    def _put(self, target: Target, tick: int, row: int, column: int) -> None:
        gap = tick - self.base - 1
        if gap > 0:
            self._spend(self.calendar.binding(target.plan)[1], gap)
        self._spend(BUSY if target.computes else target.command, 1)
        self.calendar.record(target.plan, tick)
        self.base = tick
        self._note((tick, target.command, target.where, row, column))

    def _note(self, entry: LogEntry) -> None:
        if self.log is not None:
            self.log.append(entry)
        if self.sink is not None:
            self.sink(entry)

    def _spend(self, reason: str, ticks: int) -> None:
        self.spent[reason] += ticks
        if self.opened:
            self.open_ticks += ticks

    def _maintain(self, target: Target) -> None:
        tick = max(self.calendar.earliest(target.plan), self.base + 1, self.due)
        self.calendar.record(target.plan, tick)
        self.base = tick
        self.refresh_commands[target.command] += 1
        self._note((tick, target.command, target.where, -1, -1))

    def _already_closed(self, target: Target) -> bool:
        covered = [o for o in self.displaced if covers(target.where, o.target.where)]
        if not covered:
            return False
        self.displaced = [o for o in self.displaced if o not in covered]
        return not any(covers(target.where, o.target.where) for o in self.opened)

    def _close(self, target: Target) -> None:
        self.opened = [o for o in self.opened if not covers(target.where, o.target.where)]

    def _refresh_targets(self) -> list[tuple[Target, Target]]:
        """(precharge-all, refresh) for every node that one refresh command covers."""
        spec = self.spec
        refresh = next((c for c in spec.commands.values() if c.refresh), None)
        precharge = next(
            (
                c
                for c in spec.commands.values()
                if refresh and c.effect == "close" and c.scope == refresh.scope and c.needs != "open"
            ),
            None,
        )
        if refresh is None or precharge is None:
            raise SimulationError(
                f"{spec.name}: refresh policy 'all_bank' needs a refresh command and a precharge of the same scope"
            )
        depth = 0 if refresh.scope == "channel" else spec.levels.index(refresh.scope) + 1
        nodes: list[Where] = [()]
        for count in spec.counts[:depth]:
            nodes = [(*node, i) for node in nodes for i in range(count)]
        width = len(spec.address_fields)
        padded = [node + (-1,) * (width - len(node)) for node in nodes]
        return [(self.target(precharge.name, node), self.target(refresh.name, node)) for node in padded]


def covers(outer: Where, inner: Where) -> bool:
    """Whether everything that ``inner`` addresses is also addressed by ``outer``."""
    return all(o in (-1, i) for o, i in zip(outer, inner, strict=True))


def overlap(one: Where, other: Where) -> bool:
    """Whether two addresses have a node in common."""
    return all(a in (-1, b) or b == -1 for a, b in zip(one, other, strict=True))
