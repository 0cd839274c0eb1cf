"""The fast engine: every command at its exact tick, without visiting each one.

Streams are in order and wait only for tokens, so a block can be evaluated in the order of its dependencies: each unit
carries its own time, and a token is the time at which it is signalled. Nothing has to be decided between units, so no
event queue is needed. What a channel does in a step comes from `Recall`; channels that run the same stream from the same
state are evaluated once. The reference engine (`pimsim.machine.reference`) does the same work one command at a time, and
the property tests hold the two together tick by tick.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.machine.asic import AsicClock, AsicCosts
from pimsim.machine.books import Books
from pimsim.machine.recall import Outcome, Recall, ticks
from pimsim.machine.segment import Node
from pimsim.program.isa import Block, Placed, Step, Where, command_column, command_where, expand
from pimsim.trace.totals import RunTotals

TraceRow = tuple[int, int, str, Where, int, int]
"""(tick, channel, command, address, row, column)."""

MEMORY_LIMIT = 300_000
"""Outcomes to remember before the memory is cleared; keeps a run of any length in bounded memory."""


class _Group:
    """Channels that are in the same state and do the same."""

    __slots__ = ("base", "due", "mask", "members", "state")

    def __init__(self, state: int, base: int, due: int) -> None:
        self.state, self.base, self.due = state, base, due
        self.members: list[int] = []
        self.mask = 0


class _Compiled:
    """A block ready for evaluation."""

    __slots__ = ("block", "channels_of", "clear", "kinds", "steps")

    def __init__(self, block: Block, recall: Recall, costs: AsicCosts) -> None:
        self.block = block
        variant: dict[int, int] = {}
        self.channels_of: list[list[int]] = []
        for channel, stream in enumerate(block.channels):
            number = variant.setdefault(id(stream), len(variant))
            if number == len(self.channels_of):
                self.channels_of.append([])
            self.channels_of[number].append(channel)
        self.kinds = {token: block.ops[step.op].kind for stream in block.streams for step in stream for token in step.signals}
        self.clear = dict.fromkeys(self.kinds, 0)
        self.steps: list[tuple[int, int, Node | None, tuple[str, ...], tuple[str, ...], int, int, Step]] = []
        for stream, position in block.order:
            step = block.streams[stream][position]
            if stream == len(block.channels):
                busy, latency = costs.step(step.items)  # type: ignore[arg-type]
                self.steps.append((-1, step.op, None, step.waits, step.signals, busy, latency, step))
            elif self.channels_of[variant[id(block.channels[stream])]][0] == stream:
                node = recall.segments.node(step.items)  # type: ignore[arg-type]
                final = recall.spec.commands[_last_command(step)].latency
                self.steps.append(
                    (variant[id(block.channels[stream])], step.op, node, step.waits, step.signals, 0, final, step)
                )


class FastEngine:
    """Evaluates a program; `run` may be called once."""

    def __init__(self, arch: ArchConfig, spec: DramSpec, *, trace: bool = False) -> None:
        self.arch, self.spec = arch, spec
        self.recall = Recall(spec, keep_log=trace)
        self.books = Books()
        self.clock = AsicClock(arch)
        self.costs = AsicCosts(arch.asic)
        self.trace: list[TraceRow] | None = [] if trace else None
        channels = spec.channels
        self._state = [self.recall.initial] * channels
        self._base = [0] * channels
        self._due = [self.recall.first_due] * channels
        self._waits: Counter[tuple[int, str]] = Counter()
        self._wait_open = 0
        self._extra_open = 0
        self._asic_free = 0
        self._asic_cycles: Counter[tuple[str, int]] = Counter()
        self._asic_waits: Counter[str] = Counter()
        self._tokens: dict[str, int] = {}
        self._kinds: dict[str, str] = {}
        self._compiled: dict[int, _Compiled] = {}
        self._opened_rows: list[dict[Where, int]] = [{} for _ in range(channels)]
        self._spent: list[Counter[str]] = [Counter() for _ in range(channels)]

    def run(self, passes: Iterable[Iterable[Placed]]) -> RunTotals:
        """Run all forward passes and return the totals."""
        for placed_blocks in passes:
            for placed in placed_blocks:
                self._block(placed)
            self.books.pass_done()
            if len(self._compiled) > 64:
                self._tidy()
        return self._close()

    # -- one block ------------------------------------------------------------------------------------------------

    def _block(self, placed: Placed) -> None:
        compiled = self._compiled.get(id(placed.block))
        if compiled is None:
            compiled = self._compiled[id(placed.block)] = _Compiled(placed.block, self.recall, self.costs)
        tokens = self._tokens
        tokens.update(compiled.clear)
        self._kinds.update(compiled.kinds)
        groups = [self._groups(channels) for channels in compiled.channels_of]
        ends = [0] * len(placed.block.ops)
        recall_run = self.recall.run
        for variant, op, node, waits, signals, busy, latency, step in compiled.steps:
            ready, reason = 0, ""
            for token in waits:
                time = tokens.get(token, 0)
                if time > ready:
                    ready, reason = time, token
            if node is None:
                end = self._compute(op, placed, ready, reason, busy, latency)
            else:
                end = 0
                for group in groups[variant]:
                    if ready - 1 > group.base:
                        self._wait(group, ready, reason, placed.layer)
                    outcome = recall_run(node, group.state, group.due - group.base)
                    outcome.hits[group.mask] += 1
                    if self.trace is not None:
                        self._log(group, outcome, step, placed)
                    group.base += outcome.last
                    group.state = outcome.next
                    if outcome.refreshes:
                        group.due += outcome.refreshes * self.recall.interval
                    if outcome.refresh_commands:
                        self.books.refresh_commands(placed.layer, outcome.refresh_commands, len(group.members))
                    if group.base + latency > end:
                        end = group.base + latency
            for token in signals:
                if end > tokens[token]:
                    tokens[token] = end
            if end > ends[op]:
                ends[op] = end
        for variant_groups in groups:
            for group in variant_groups:
                for channel in group.members:
                    self._state[channel], self._base[channel], self._due[channel] = group.state, group.base, group.due
        self.books.block_done(placed.block, placed.layer, ends)

    def _groups(self, channels: list[int]) -> list[_Group]:
        found: dict[tuple[int, int, int], _Group] = {}
        for channel in channels:
            key = (self._state[channel], self._base[channel], self._due[channel])
            group = found.get(key)
            if group is None:
                group = found[key] = _Group(*key)
            group.members.append(channel)
            group.mask |= 1 << channel
        return list(found.values())

    def _wait(self, group: _Group, until: int, token: str, layer: int) -> None:
        recall, reason = self.recall, f"wait {self._kinds[token]}"
        while group.due < until:
            outcome = recall.refresh(group.state, group.due - group.base)
            if self.trace is not None:
                self._log_extras(group, outcome)
            self._waits[group.mask, reason] += outcome.last
            self._extra_open += outcome.open_ticks * len(group.members)
            self.books.refresh_commands(layer, outcome.refresh_commands, len(group.members))
            group.base += outcome.last
            group.state = outcome.next
            group.due += recall.interval
        idle = until - 1 - group.base
        if idle > 0:
            self._waits[group.mask, reason] += idle
            if recall.is_open(group.state):
                self._extra_open += idle * len(group.members)
            group.state = recall.age(group.state, idle)
            group.base = until - 1

    def _compute(self, op: int, placed: Placed, ready: int, token: str, busy: int, latency: int) -> int:
        start = self.clock.edge(ready)
        if start > self._asic_free:
            self._asic_waits[f"wait {self._kinds[token]}"] += start - self._asic_free
        else:
            start = self._asic_free
        self._asic_free = start + busy
        self._asic_cycles[placed.block.ops[op].kind, placed.layer] += busy
        return self.clock.tick(start + latency)

    # -- trace ----------------------------------------------------------------------------------------------------

    def _log(self, group: _Group, outcome: Outcome, step: Step, placed: Placed) -> None:
        assert self.trace is not None
        for channel in group.members:
            rows = self._opened_rows[channel]
            events = ticks(outcome.log, group.base)
            for run, k, row, _ in expand(step.items, placed.row_base):  # type: ignore[arg-type]
                event = self._extras_until_own(channel, events)
                if event is None:
                    continue
                where = command_where(run, k, self.spec.counts)
                if self.spec.commands[run.command].effect == "open":
                    rows[where] = row
                self.trace.append((event, channel, run.command, where, row, command_column(run, k)))

    def _extras_until_own(self, channel: int, events: Iterator[tuple[int, str, Where] | None]) -> int | None:
        """Write down what refresh added; the tick of the program's own command, or None if it was dropped."""
        assert self.trace is not None
        for event in events:
            if event is None:
                return None
            tick, command, where = event
            if not command:
                return tick
            opens = self.spec.commands[command].effect == "open"
            row = self._opened_rows[channel][where] if opens else -1
            self.trace.append((tick, channel, command, where, row, -1))
        raise AssertionError("an outcome must log every command of its step")

    def _log_extras(self, group: _Group, outcome: Outcome) -> None:
        assert self.trace is not None
        for channel in group.members:
            for event in ticks(outcome.log, group.base):
                assert event is not None
                self.trace.append((event[0], channel, event[1], event[2], -1, -1))

    # -- the end --------------------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Forget blocks of earlier tokens, and outcomes once there are too many."""
        self.books.flush()
        self._compiled.clear()
        self.recall.segments.forget_items()
        if self.recall.size() > MEMORY_LIMIT:
            self._collect()
            self.recall.segments.clear()

    def _collect(self) -> None:
        """Fold the outcomes into where each channel's ticks went."""
        for outcome in self.recall.outcomes():
            for mask, n in outcome.hits.items():
                for channel in _members(mask):
                    spent = self._spent[channel]
                    for reason, spent_ticks in outcome.spent.items():
                        spent[reason] += n * spent_ticks
                self.books.totals.row_open_ticks += n * outcome.open_ticks * mask.bit_count()
            outcome.hits.clear()

    def _close(self) -> RunTotals:
        self._collect()
        for (mask, reason), waited in self._waits.items():
            for channel in _members(mask):
                self._spent[channel][reason] += waited
        totals = self.books.close()
        totals.row_open_ticks += self._extra_open
        for channel, spent in enumerate(self._spent):
            self.books.channel(channel, spent, self._base[channel])
        self.books.asic(self.clock, self._asic_cycles, self._asic_waits)
        return totals


def _members(mask: int) -> Iterator[int]:
    channel = 0
    while mask:
        if mask & 1:
            yield channel
        mask >>= 1
        channel += 1


def _last_command(step: Step) -> str:
    item = step.items[-1]
    while not hasattr(item, "command"):
        item = item.body[-1]  # type: ignore[union-attr]
    return str(item.command)
