"""When may a command issue: the timing rules of one DRAM channel as a calendar of past commands.

The calendar knows no clock and no bank state. `Calendar.earliest` is a pure question, `Calendar.record` the only
change.

Each pair (command, address) is compiled once into a `Plan`: a flat list of history slots to read and of slots to
write. A slot holds the last tick at which one command name addressed one node (or the last few, for rules with a
window). Because the scope of a command name is fixed, every rule reads one kind of slot for each (previous name, next
name):

* the node is looked up no deeper than the previous command addresses: an all-bank command is recorded once, at its own
  scope, and consulted from below;
* with a window of one, the latest of many nodes below is the latest at their common ancestor, so an all-bank command
  reads one slot at its own scope instead of one for each bank.

Ticks must be recorded in non-decreasing order.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import TypeVar

from pimsim.arch.dram import Command, DramSpec, Rule
from pimsim.errors import SimulationError, UnknownName

NEVER = -(1 << 60)
"""Tick of a command that was never issued: no gap reaches from here to tick 0."""

Where = tuple[int, ...]
Group = tuple[int, int, int]
"""(kind, number of the previous command's name, field): slots that differ only in the node. Field -1 is the channel."""

_NODE, _SIBLING = 0, 1
_Key = TypeVar("_Key")

Snapshot = tuple[tuple[tuple[int, int], ...], tuple[tuple[int, tuple[int, ...]], ...]]


class Plan:
    """One command at one address, compiled to slots. Made by `Calendar.plan`; belongs to that calendar."""

    __slots__ = ("bus", "checks", "command", "deep_checks", "deep_pushes", "name", "pushes", "texts", "ticks", "where")

    def __init__(self, command: Command, where: Where, bus: int) -> None:
        self.command = command
        self.name = command.name
        self.where = where
        """One entry for each of `DramSpec.address_fields`; -1 where the command does not address the field."""
        self.ticks = command.ticks
        self.bus = bus
        self.checks: tuple[tuple[int, int], ...] = ()
        self.deep_checks: tuple[tuple[deque[int], int, int], ...] = ()
        self.texts: tuple[str, ...] = ()
        self.pushes: tuple[int, ...] = ()
        self.deep_pushes: tuple[deque[int], ...] = ()

    def __repr__(self) -> str:
        return f"Plan({self.name!r}, {self.where!r})"


class Calendar:
    """Timing state of one channel under the rules of `spec`.

    >>> from pimsim.arch.dram import Command, DramSpec, Rule
    >>> act = Command("ACT", "bank", "open", "closed", "none", "command", 1, None, 0, False)
    >>> spec = DramSpec(
    ...     name="tiny", tck_ps=1000.0, ticks_per_clock=1, channels=1, levels=("bank",), counts=(4,), register_files={},
    ...     rows=8, columns=8, burst_bytes=32, timing={"nRC": 9, "nRRD": 3}, commands={"ACT": act},
    ...     rules=(Rule("bank", ("ACT",), ("ACT",), 9, 1, False, "nRC"),
    ...            Rule("channel", ("ACT",), ("ACT",), 3, 1, False, "nRRD")),
    ...     refresh_policy="none", refresh_interval=0)
    >>> calendar = Calendar(spec)
    >>> calendar.record(calendar.plan("ACT", (0,)), 1)
    >>> calendar.binding(calendar.plan("ACT", (0,))), calendar.binding(calendar.plan("ACT", (1,)))
    ((10, 'nRC'), (4, 'nRRD'))
    """

    def __init__(self, spec: DramSpec) -> None:
        self.spec = spec
        self.horizon: int = max([rule.gap for rule in spec.rules] + [c.ticks for c in spec.commands.values()])
        """Largest number of ticks by which any command can delay another."""
        self._names = {name: number for number, name in enumerate(spec.commands)}
        self._field = {"channel": -1} | {name: number for number, name in enumerate(spec.address_fields)}
        self._field_counts = spec.counts + tuple(spec.register_files.values())
        self._plans: dict[tuple[str, Where], Plan] = {}
        self._last: list[int] = []
        self._reach: list[int] = []
        self._keys: list[int] = []
        self._slot_of: dict[int, int] = {}
        self._deep: dict[int, deque[int]] = {}
        self._deep_reach: dict[int, tuple[int, ...]] = {}
        self._windows: dict[Group, dict[int, int]] = {}
        for rule in spec.rules:
            for prev, next_ in itertools.product(rule.prev, rule.next):
                self._declare(rule, prev, next_)
        self._bus = {bus: number for number, bus in enumerate(sorted({c.bus for c in spec.commands.values()}))}
        self._base = self._number_groups()
        for number in self._bus.values():
            self._slot(number, 0)

    # --- questions and changes: the hot path ---

    def earliest(self, plan: Plan) -> int:
        """Earliest tick at which every timing rule and the command bus allow `plan`; 0 if nothing holds it back."""
        tick = 0
        last = self._last
        for slot, gap in plan.checks:
            allowed = last[slot] + gap
            if allowed > tick:  # noqa: PLR1730 (max() takes twice the time)
                tick = allowed
        for history, index, gap in plan.deep_checks:
            allowed = history[index] + gap
            if allowed > tick:  # noqa: PLR1730 (max() takes twice the time)
                tick = allowed
        return tick

    def binding(self, plan: Plan) -> tuple[int, str]:
        """`earliest` and the text of the rule that binds: as written in the YAML, ``"bus"``, or ``""`` for none.

        Of several that bind at the same tick, the bus comes first, then window-one rules in the order of the file.
        """
        allowed = [self._last[slot] + gap for slot, gap in plan.checks]
        allowed += [history[index] + gap for history, index, gap in plan.deep_checks]
        tick, text = 0, ""
        for value, name in zip(allowed, plan.texts, strict=True):
            if value > tick:
                tick, text = value, name
        return tick, text

    def record(self, plan: Plan, tick: int) -> None:
        """Note that `plan` issues at `tick`, which must not lie before an earlier record."""
        last = self._last
        for slot in plan.pushes:
            last[slot] = tick
        for history in plan.deep_pushes:
            history.appendleft(tick)
        last[plan.bus] = tick + plan.ticks

    def record_run(self, plan: Plan, first: int, interval: int, count: int) -> None:
        """The same as `count` calls of `record` at `first`, `first + interval`, ...; nothing for a count of zero."""
        if count <= 0:
            return
        final = first + (count - 1) * interval
        last = self._last
        for slot in plan.pushes:
            last[slot] = final
        for history in plan.deep_pushes:
            kept = min(count, history.maxlen or 0)
            history.extendleft(
                range(final - (kept - 1) * interval, final + 1, interval) if interval else [final] * kept
            )
        last[plan.bus] = final + plan.ticks

    def self_interval(self, plan: Plan) -> int | None:
        """Steady gap in ticks between back-to-back issues of the same plan, or None if a longer window can bind."""
        interval = plan.ticks
        written = set(plan.pushes)
        for slot, gap in plan.checks:
            if slot in written and gap > interval:
                interval = gap
        own = {id(history) for history in plan.deep_pushes}
        for history, index, gap in plan.deep_checks:
            if id(history) in own and gap > (index + 1) * interval:
                return None
        return interval

    # --- state relative to now ---

    def snapshot(self, now: int) -> Snapshot:
        """The state relative to tick `now`, in a canonical, hashable form.

        What can no longer delay a command at ``now + 1`` or later is left out, so equal snapshots mean equal answers
        from then on, whatever the absolute tick is.
        """
        bound = now + 1
        shallow = [
            (key, tick - now)
            for key, tick, reach in zip(self._keys, self._last, self._reach, strict=True)
            if tick + reach > bound
        ]
        shallow.sort()
        deep = []
        for key, reaches in self._deep_reach.items():
            kept = tuple(t - now for t, reach in zip(self._deep[key], reaches, strict=True) if t + reach > bound)
            if kept:
                deep.append((key, kept))
        deep.sort()
        return tuple(shallow), tuple(deep)

    def restore(self, state: Snapshot, now: int) -> None:
        """Bring back a `snapshot` with `now` as its new origin; answers after `now` are those of the original."""
        shallow, deep = state
        self._last[:] = [NEVER] * len(self._last)
        for history in self._deep.values():
            history.extend([NEVER] * len(history))
        for key, tick in shallow:
            self._last[self._slot_of[key] if key in self._slot_of else self._slot(key, self._reach_of(key))] = (
                tick + now
            )
        for key, ticks in deep:
            history = self._deep[key] if key in self._deep else self._history(key)
            history.extendleft(tick + now for tick in reversed(ticks))

    # --- compiling rules into slots ---

    def plan(self, command: str, where: Where) -> Plan:
        """The compiled form of `command` at `where`, which has one entry for each of `DramSpec.address_fields`.

        An entry of -1 at or above the scope of the command means every node there (same-bank commands); entries below
        the scope, and registers of a file that the command does not address, are ignored.

        Raises:
            UnknownName: the DRAM has no such command.
            SimulationError: `where` has the wrong length or an entry is out of range.
        """
        plan = self._plans.get((command, where))
        if plan is None:
            if command not in self.spec.commands:
                raise UnknownName("DRAM command", command, self.spec.commands)
            self._check_range(command, where)
            plan = self._compile(self.spec.commands[command], self._normal(self.spec.commands[command], where))
            self._plans[command, where] = plan
        return plan

    def _check_range(self, command: str, where: Where) -> None:
        fields = self.spec.address_fields
        if len(where) != len(fields):
            raise SimulationError(
                f"address of {command} must have {len(fields)} entries ({', '.join(fields)}), not {where}"
            )
        for name, index, count in zip(fields, where, self._field_counts, strict=True):
            if not -1 <= index < count:
                raise SimulationError(f"{name} of {command} must be -1 or lie in 0..{count - 1}, not {index}")

    def _normal(self, command: Command, where: Where) -> Where:
        scope = self._field[command.scope]
        own = self._field[command.register_file] if command.register_file else None
        return tuple(index if field <= scope or field == own else -1 for field, index in enumerate(where))

    def _scope(self, name: str, field: int) -> int:
        """How deep `name` is known along the path to `field`: its scope, or the register file itself."""
        return field if field >= len(self.spec.levels) else self._field[self.spec.commands[name].scope]

    def _group(self, rule: Rule, prev: str, next_: str) -> Group | None:
        """The slots that `rule` reads for this pair of names; None if it can never bind."""
        level = self._field[rule.level]
        scope = self._scope(prev, level)
        number = self._names[prev]
        if level >= len(self.spec.levels) and not self._address_file(rule.level, prev, next_):
            return None
        if rule.gap <= 0 or (rule.sibling and (level < 0 or self._field_counts[level] < 2)):
            return None
        if rule.sibling and scope >= level:
            return (_SIBLING, number, level)
        # A command that addresses all the nodes of the level addresses a sibling of each, too.
        field = min(level, scope)
        if rule.window == 1:
            field = min(field, self._scope(next_, level))
        return (_NODE, number, self._collapse(field))

    def _collapse(self, field: int) -> int:
        """The outermost level with the same nodes: a level that counts one is its parent."""
        while 0 <= field < len(self.spec.levels) and self._field_counts[field] == 1:
            field -= 1
        return field

    def _address_file(self, register_file: str, *names: str) -> bool:
        """Whether all the commands address a register of this file."""
        return all(self.spec.commands[name].register_file == register_file for name in names)

    def _declare(self, rule: Rule, prev: str, next_: str) -> None:
        group = self._group(rule, prev, next_)
        if group is not None:
            windows = self._windows.setdefault(group, {})
            windows[rule.window] = max(rule.gap, windows.get(rule.window, 0))

    def _number_groups(self) -> dict[Group, int]:
        """First slot key of each group. Keys depend on the spec alone, never on the order in which slots are made."""
        base, key = {}, len(self._bus)
        for group in sorted(self._windows):
            base[group] = key
            key += sum(1 for _ in self._nodes((-1,) * len(self._field_counts), group[2]))
        return base

    def _nodes(self, where: Where, field: int) -> Iterator[Where]:
        """Every node at `field` that `where` addresses, as its path from the channel."""
        path = range(field + 1) if field < len(self.spec.levels) else range(field, field + 1)
        return itertools.product(*(range(self._field_counts[f]) if where[f] < 0 else (where[f],) for f in path))

    def _node_keys(self, group: Group, where: Where) -> Iterator[int]:
        """Keys of the nodes of `group` that `where` addresses."""
        field = group[2]
        path = range(field + 1) if field < len(self.spec.levels) else range(field, field + 1)
        for node in self._nodes(where, field):
            key = 0
            for f, index in zip(path, node, strict=True):
                key = key * self._field_counts[f] + index
            yield self._base[group] + key

    def _sibling_keys(self, group: Group, where: Where) -> Iterator[int]:
        """Keys of the nodes that have a sibling which `where` addresses."""
        count = self._field_counts[group[2]]
        addressed = set(self._node_keys(group, where))
        for family in sorted({(key - self._base[group]) // count for key in addressed}):
            keys = range(self._base[group] + family * count, self._base[group] + (family + 1) * count)
            yield from (key for key in keys if addressed.intersection(keys) - {key})

    def _compile(self, command: Command, where: Where) -> Plan:
        plan = Plan(command, where, self._bus[command.bus])
        checks: dict[int, tuple[int, str]] = {plan.bus: (0, "bus")}
        deep: dict[tuple[int, int], tuple[int, str]] = {}
        for rule in self.spec.rules:
            if command.name not in rule.next:
                continue
            for prev in rule.prev:
                group = self._group(rule, prev, command.name)
                if group is None:
                    continue
                for key in self._node_keys(group, where):
                    if rule.window == 1:
                        self._merge(checks, self._slot(key, self._windows[group][1]), rule)
                    else:
                        self._merge(deep, (key, rule.window), rule)
        plan.checks = tuple((slot, gap) for slot, (gap, _) in checks.items())
        plan.deep_checks = tuple((self._history(key), window - 1, gap) for (key, window), (gap, _) in deep.items())
        plan.texts = tuple(text for _, text in (*checks.values(), *deep.values()))
        self._compile_pushes(plan)
        return plan

    @staticmethod
    def _merge(table: dict[_Key, tuple[int, str]], key: _Key, rule: Rule) -> None:
        if key not in table or rule.gap > table[key][0]:
            table[key] = (rule.gap, rule.text)

    def _compile_pushes(self, plan: Plan) -> None:
        pushes: list[int] = []
        deep: list[deque[int]] = []
        for group, windows in self._windows.items():
            if group[1] != self._names[plan.name]:
                continue
            keys = self._sibling_keys(group, plan.where) if group[0] == _SIBLING else self._node_keys(group, plan.where)
            for key in keys:
                if 1 in windows:
                    pushes.append(self._slot(key, windows[1]))
                if max(windows) > 1:
                    deep.append(self._history(key))
        plan.pushes, plan.deep_pushes = tuple(pushes), tuple(deep)

    def _slot(self, key: int, reach: int) -> int:
        """Number of the window-one slot with this key; made if it does not exist."""
        slot = self._slot_of.get(key)
        if slot is None:
            slot = self._slot_of[key] = len(self._last)
            self._last.append(NEVER)
            self._reach.append(reach)
            self._keys.append(key)
        return slot

    def _group_of(self, key: int) -> Group:
        """Group that a key belongs to."""
        return max((base, group) for group, base in self._base.items() if base <= key)[1]

    def _reach_of(self, key: int) -> int:
        return self._windows[self._group_of(key)].get(1, 0)

    def _history(self, key: int) -> deque[int]:
        """The last ticks (latest first) of the node with this key; made if it does not exist."""
        history = self._deep.get(key)
        if history is None:
            windows = {w: gap for w, gap in self._windows[self._group_of(key)].items() if w > 1}
            depth = max(windows)
            history = self._deep[key] = deque([NEVER] * depth, maxlen=depth)
            # The k-th latest tick matters for every window from k on: later commands only push it further back.
            self._deep_reach[key] = tuple(max(gap for w, gap in windows.items() if w >= k) for k in range(1, depth + 1))
        return history
