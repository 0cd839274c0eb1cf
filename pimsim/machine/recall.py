"""A channel that remembers: what a segment does from a state is computed once and looked up ever after.

The state of a channel *relative to the last tick that is used up* decides everything that follows until the next
refresh is
due: an entry of the calendar that is older than the largest gap that mentions it is left out, and rows do not
matter, only
whether they are open. `Recall` numbers these states. `Recall.run` gives the `Outcome` of a segment from a state with a
refresh due after so many ticks; it is exact because it is put together only from what `ChannelCore` did, command by
command,
for each (command, state) that occurs:

* a run of equal commands repeats at a fixed interval once the histories of its own rules are its own
(`Calendar.self_interval`);
* a loop whose body ends in the state in which it began takes the same time in every further pass;
* a refresh interrupts a segment at the first command that would issue at or after the due time: what lies before it and
  after it are again segments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pimsim.arch.dram import DramSpec
from pimsim.machine.calendar import Snapshot
from pimsim.machine.channel import BUSY, ChannelCore, Opened, Target
from pimsim.machine.segment import Node, Segments
from pimsim.program.isa import bank_where

Log = tuple[Any, ...]
"""Issue ticks of an outcome: see `Recall.ticks`."""

State = tuple[Snapshot, tuple[Target, ...], tuple[Target, ...]]
"""(calendar, commands whose rows are open, commands whose rows a refresh displaced)."""

NO_GUARD = -1


class Outcome:
    """What a segment does to a channel, relative to the tick at which it starts.

    Attributes:
        last: ticks by which `ChannelCore.base` advances.
        guard: tick of the last command that a refresh would hold back, `NO_GUARD` if there is none.
        next: number of the state afterwards.
        spent: where the ticks went (`ChannelCore.spent`).
        open_ticks: ticks with a row open.
        refreshes: refresh intervals that were used up.
        refresh_commands: commands that refresh added.
        hits: bit mask of channels -> how many times they did this.
    """

    __slots__ = ("guard", "hits", "last", "log", "next", "open_ticks", "refresh_commands", "refreshes", "spent")

    def __init__(
        self,
        last: int,
        guard: int,
        next_state: int,
        spent: dict[str, int],
        open_ticks: int,
        refreshes: int = 0,
        refresh_commands: dict[str, int] | None = None,
        log: Log = (),
    ) -> None:
        self.last, self.guard, self.next = last, guard, next_state
        self.spent, self.open_ticks = spent, open_ticks
        self.refreshes, self.refresh_commands = refreshes, refresh_commands or {}
        self.log = log
        self.hits: Counter[int] = Counter()


class _Chain:
    """Outcomes one after the other, added up."""

    __slots__ = ("guard", "keep_log", "last", "log", "open_ticks", "refresh_commands", "refreshes", "spent", "state")

    def __init__(self, state: int, keep_log: bool) -> None:
        self.state, self.keep_log = state, keep_log
        self.last = self.open_ticks = self.refreshes = 0
        self.guard = NO_GUARD
        self.spent: dict[str, int] = {}
        self.refresh_commands: dict[str, int] = {}
        self.log: list[Any] = []

    def add(self, outcome: Outcome, times: int = 1) -> None:
        """Append an outcome ``times`` times; more than once only if it ends in the state in which it begins."""
        if outcome.guard != NO_GUARD:
            self.guard = self.last + (times - 1) * outcome.last + outcome.guard
        if self.keep_log:
            self.log.append(("at", self.last, times, outcome.last, outcome.log))
        self.last += times * outcome.last
        self.open_ticks += times * outcome.open_ticks
        self.refreshes += times * outcome.refreshes
        _add(self.spent, outcome.spent, times)
        if outcome.refresh_commands:
            _add(self.refresh_commands, outcome.refresh_commands, times)
        self.state = outcome.next

    def outcome(self) -> Outcome:
        """The sum as one outcome."""
        return Outcome(
            self.last,
            self.guard,
            self.state,
            self.spent,
            self.open_ticks,
            self.refreshes,
            self.refresh_commands,
            tuple(self.log),
        )


def _add(total: dict[str, int], part: dict[str, int], times: int) -> None:
    for key, n in part.items():
        total[key] = total.get(key, 0) + times * n


class Recall:
    """States, segments and outcomes of the channels of one DRAM."""

    def __init__(self, spec: DramSpec, keep_log: bool = False) -> None:
        self.core = ChannelCore(spec)
        self.spec = spec
        self.interval = spec.refresh_interval
        self.first_due = self.core.due
        self.keep_log = keep_log
        self.segments = Segments()
        self.learned = 0
        """Outcomes that are remembered, about."""
        self._number: dict[State, int] = {}
        self._states: list[State] = []
        self._ages: dict[tuple[int, int], int] = {}
        self._refreshes: dict[tuple[int, int], Outcome] = {}
        self.horizon = self.core.calendar.horizon + 1
        """Ticks after which nothing that was issued can delay anything."""
        self.initial = self._state_number(self._snapshot())

    # -- questions ------------------------------------------------------------------------------------------------

    def run(self, node: Node, state: int, to_refresh: int) -> Outcome:
        """The outcome of ``node`` from ``state`` with a refresh due after ``to_refresh`` ticks."""
        plain = node.plain.get(state)
        if plain is None:
            plain = node.plain[state] = self._plain(node, state)
            self.learned += 1
        if plain.guard < to_refresh:
            return plain
        key = (state, to_refresh)
        found = node.refreshed.get(key)
        if found is None:
            found = node.refreshed[key] = self._refreshed(node, state, to_refresh)
            self.learned += 1
        return found

    def age(self, state: int, ticks: int) -> int:
        """The state after ``ticks`` in which nothing issues."""
        ticks = min(ticks, self.horizon)
        key = (state, ticks)
        found = self._ages.get(key)
        if found is None:
            self._load(state)
            self.core.base = ticks
            found = self._ages[key] = self._state_number(self._snapshot())
        return found

    def refresh(self, state: int, to_refresh: int) -> Outcome:
        """A refresh that falls due ``to_refresh`` ticks from now (at most `horizon`) while the channel has nothing else to do.

        Its ticks are left to the caller to book: the channel would have waited anyway.
        """
        key = (state, to_refresh)
        found = self._refreshes.get(key)
        if found is None:
            self._load(state, due=to_refresh)
            self.core.refresh("")
            self.core.spent.clear()
            found = self._refreshes[key] = self._outcome(NO_GUARD, [], refreshes=1)
        return found

    def is_open(self, state: int) -> bool:
        """Whether any row is open in ``state``."""
        return bool(self._states[state][1])

    def outcomes(self) -> Iterator[Outcome]:
        """Every outcome that was handed out."""
        yield from self._refreshes.values()
        for node in self.segments:
            yield from node.plain.values()
            yield from node.refreshed.values()

    def forget(self) -> None:
        """Drop all segments and what they did; the states stay."""
        self.segments.clear()
        self.learned = 0

    # -- learning -------------------------------------------------------------------------------------------------

    def _plain(self, node: Node, state: int) -> Outcome:
        """From ``state`` as if no refresh were ever due."""
        never = ChannelCore.NEVER
        if node.kind == "run":
            return self._plain_run(node, state)
        chain = _Chain(state, self.keep_log)
        if node.kind == "seq":
            for child in node.children:
                chain.add(self.run(child, chain.state, never))
            return chain.outcome()
        assert node.body is not None
        left = node.count
        while left:
            outcome = self.run(node.body, chain.state, never)
            times = left if outcome.next == chain.state else 1
            chain.add(outcome, times)
            left -= times
        return chain.outcome()

    def _plain_run(self, node: Node, state: int) -> Outcome:
        core = self.core
        self._load(state)
        if node.sweep:
            return self._one_by_one(node)
        target = core.target(node.command, node.where)
        settled = self._settled(target)
        interval = core.calendar.self_interval(target.plan)
        if interval is None or target.opens or target.closes or node.count <= settled:
            return self._one_by_one(node)
        log: list[Any] = []
        for _ in range(settled):
            tick = self._issue(target, log)
        left = node.count - settled
        core.calendar.record_run(target.plan, tick + interval, interval, left)
        if interval > 1:
            core.spent[self._self_reason(target)] += left * (interval - 1)
        core.spent[BUSY if target.computes else target.command] += left
        if core.opened:
            core.open_ticks += left * interval
        log.append(("run", tick + interval, interval, left))
        core.base = tick + left * interval
        return self._outcome(NO_GUARD if target.precharge else core.base, log)

    def _self_reason(self, target: Target) -> str:
        """The rule that spaces equal commands: what binds right after one was issued."""
        return self.core.calendar.binding(target.plan)[1]

    def _one_by_one(self, node: Node) -> Outcome:
        log: list[Any] = []
        guard = NO_GUARD
        for k in range(node.count):
            where = bank_where(k, self.spec.counts) + node.where[len(self.spec.counts) :] if node.sweep else node.where
            target = self.core.target(node.command, where)
            self._issue(target, log)
            if not target.precharge:
                guard = self.core.base
        return self._outcome(guard, log)

    def _issue(self, target: Target, log: list[Any]) -> int:
        """Issue one command on the core and note its tick, and those of what came with it."""
        core = self.core
        core.log = [] if self.keep_log else None
        tick = core.issue(target)
        if core.log is not None:
            extras = core.log if tick is None else core.log[:-1]
            log += [("extra", at, command, where) for at, command, where, _, _ in extras]
            log.append(("skip",) if tick is None else ("run", tick, 0, 1))
        return core.base

    def _refreshed(self, node: Node, state: int, to_refresh: int) -> Outcome:
        """From ``state`` with a refresh inside."""
        if node.kind == "run":
            return self._refreshed_run(node, state, to_refresh)
        chain = _Chain(state, self.keep_log)
        if node.kind == "seq":
            for child in node.children:
                chain.add(self.run(child, chain.state, self._left(chain, to_refresh)))
            return chain.outcome()
        assert node.body is not None
        left = node.count
        while left:
            start, due = chain.state, self._left(chain, to_refresh)
            outcome = self.run(node.body, start, due)
            times = 1
            if outcome.next == start and not outcome.refreshes and outcome.last:
                # passes whose last command that a refresh could hold back lies before the due time
                times = min(left, -(-(due - outcome.guard) // outcome.last)) if outcome.guard != NO_GUARD else left
            chain.add(outcome, times)
            left -= times
        return chain.outcome()

    def _refreshed_run(self, node: Node, state: int, to_refresh: int) -> Outcome:
        if node.sweep or node.count == 1:
            self._load(state, due=to_refresh)
            outcome = self._one_by_one(node)
            outcome.refreshes = (self.core.due - to_refresh) // self.interval
            return outcome
        chain = _Chain(state, self.keep_log)
        left = node.count
        while left:
            due = self._left(chain, to_refresh)
            times = self._before(node, chain.state, due, left) or 1
            chain.add(self.run(self.segments.run(node.command, node.where, times), chain.state, due))
            left -= times
        return chain.outcome()

    def _before(self, node: Node, state: int, due: int, most: int) -> int:
        """How many commands of a run, at most ``most``, issue before the refresh is due."""
        target = self.core.target(node.command, node.where)
        interval = self.core.calendar.self_interval(target.plan)
        steady = self._settled(target)  # from this command on, they follow at the interval
        if interval is not None and steady < most and not (target.opens or target.closes):
            guard = self._guard(node, state, steady)
            if guard < due:
                return min(most, steady + (due - 1 - guard) // interval)
            most = steady
        while most and self._guard(node, state, most) >= due:
            most -= 1
        return most

    def _guard(self, node: Node, state: int, count: int) -> int:
        """Tick of the last of ``count`` commands of a run, as if no refresh were ever due."""
        part = self.segments.run(node.command, node.where, count)
        plain = part.plain.get(state)
        if plain is None:
            plain = part.plain[state] = self._plain(part, state)
        guard: int = plain.guard
        return guard

    @staticmethod
    def _settled(target: Target) -> int:
        """Commands of a run after which the histories of its own rules hold nothing but itself."""
        return 1 + max((history.maxlen or 0 for history in target.plan.deep_pushes), default=0)

    def _left(self, chain: _Chain, to_refresh: int) -> int:
        return to_refresh - chain.last + chain.refreshes * self.interval

    # -- states ---------------------------------------------------------------------------------------------------

    def _load(self, state: int, due: int = ChannelCore.NEVER) -> None:
        core = self.core
        calendar, opened, displaced = self._states[state]
        core.calendar.restore(calendar, 0)
        core.opened = [Opened(target, -1) for target in opened]
        core.displaced = [Opened(target, -1) for target in displaced]
        core.base, core.due, core.open_ticks = 0, due, 0
        core.spent, core.refresh_commands = Counter(), Counter()
        core.log = [] if self.keep_log else None

    def _snapshot(self) -> State:
        core = self.core
        return (
            core.calendar.snapshot(core.base),
            tuple(o.target for o in core.opened),
            tuple(o.target for o in core.displaced),
        )

    def _state_number(self, state: State) -> int:
        number = self._number.get(state)
        if number is None:
            number = self._number[state] = len(self._states)
            self._states.append(state)
        return number

    def _outcome(self, guard: int, log: list[Any], refreshes: int = 0) -> Outcome:
        core = self.core
        if self.keep_log and not log and core.log:
            log = [("extra", tick, command, where) for tick, command, where, _, _ in core.log]
        return Outcome(
            core.base,
            guard,
            self._state_number(self._snapshot()),
            dict(core.spent),
            core.open_ticks,
            refreshes,
            dict(core.refresh_commands),
            tuple(log),
        )


def ticks(log: Log, base: int) -> Iterator[tuple[int, str, tuple[int, ...]] | None]:
    """The commands of an outcome, in order.

    Yields:
        ``(tick, "", ())`` for a command of the program, ``None`` for one that was dropped, and ``(tick, command, address)``
        for one that refresh added.
    """
    for entry in log:
        match entry:
            case ("at", offset, times, period, inner):
                for i in range(times):
                    yield from ticks(inner, base + offset + i * period)
            case ("run", first, interval, count):
                for i in range(count):
                    yield base + first + i * interval, "", ()
            case ("extra", tick, command, where):
                yield base + tick, command, where
            case ("skip",):
                yield None
