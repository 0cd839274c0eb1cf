"""The fast engine: every command at its exact tick, without visiting each one.

Streams are in order and wait only for tokens, so a block can be evaluated in the order of its dependencies: each unit
carries its own time, and a token is the time at which it is signalled. Nothing has to be decided between units, so no
event queue is needed. Three things are recognised when they come again, each at its own level:

* what a channel does in a step (`Recall`);
* channels that run the same stream from the same state: they are evaluated once;
* a block that starts from the same state of the whole machine, relative to now: its effect is an `Effect` that is
applied
  again. Without a refresh inside, it does not matter when the next one is due, as long as it is not due before the end.

The reference engine (`pimsim.machine.reference`) does the same work one command at a time, and the property tests
hold the
two together tick by tick.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.machine.asic import asic_unit
from pimsim.machine.books import Books, frontier_gains
from pimsim.machine.recall import Outcome, Recall, ticks
from pimsim.machine.segment import Node
from pimsim.machine.units import Unit
from pimsim.program.isa import (
    Block,
    Placed,
    Repeat,
    Run,
    Step,
    Where,
    command_column,
    command_where,
    count_commands,
    expand,
)
from pimsim.trace.spans import BlockSpans, Counts, Recorder, Span
from pimsim.trace.totals import RunTotals

TraceRow = tuple[int, int, str, Where, int, int]
"""(tick, channel, command, address, row, column)."""

Sink = Callable[[TraceRow], object]
"""Told every command; those of a channel come in the order of issue."""

MEMORY_LIMIT = 50_000
"""Outcomes to remember before they are cleared; keeps a run of any length in bounded memory."""

COMPILED_LIMIT = 64
"""Blocks of the program to keep in compiled form."""

ALIKE_LIMIT = 256
"""Blocks of different course whose effects to keep."""

EFFECT_LIMIT = 20_000
"""Effects of blocks to remember."""


class _Group:
    """Channels that are in the same state and do the same."""

    __slots__ = ("base", "due", "mask", "members", "need", "refreshes", "state")

    def __init__(self, state: int, base: int, due: int) -> None:
        self.state, self.base, self.due = state, base, due
        self.members: list[int] = []
        self.mask = 0
        self.need = 0
        """Tick at which a refresh must not yet have been due for everything to go as it went."""
        self.refreshes = 0

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(f"channel{channel}" for channel in self.members)


@dataclass(slots=True)
class _Machine:
    """State of the machine between two blocks."""

    channels: tuple[tuple[int, int], ...]
    """(state, ticks by which the channel is ahead of ``origin``) of each channel."""
    origin: int
    """Tick up to which channel 0 is used up; everything else is told relative to it."""
    due: list[int]
    free: list[int]
    """Edge of its own clock at which each unit that is no channel can start its next step."""
    frontier: int = 0
    """Tick at which everything so far is complete."""
    tokens: dict[str, int] = field(default_factory=dict)

    def copy(self) -> _Machine:
        """The same state, to come back to."""
        return replace(self, due=self.due.copy(), free=self.free.copy(), tokens=self.tokens.copy())


class Effect:
    """What a block does to the machine, relative to the tick at which it starts.

    ``layers`` counts how often it happened in each layer; the books are written from that at the end.
    """

    __slots__ = (
        "advance", "channels", "free", "frontier", "gains", "layers", "need", "open_ticks", "outcomes", "refreshes", "spans",
        "tokens", "unit_waits", "waits",
    )  # fmt: skip

    def __init__(self) -> None:
        self.layers: Counter[int] = Counter()
        self.outcomes: list[tuple[int, Outcome]] = []
        """(mask of channels, what they did)."""
        self.waits: list[tuple[int, str, int]] = []
        """(mask of channels, reason, ticks)."""
        self.unit_waits: list[tuple[int, str, int]] = []
        """(unit, reason, edges of its clock)."""
        self.open_ticks = 0
        """Ticks with a row open while channels waited, summed over channels."""
        self.channels: tuple[tuple[int, int], ...] = ()
        self.free: tuple[int, ...] = ()
        """Edges at which the units that the block uses are free."""
        self.advance = self.frontier = self.need = 0
        self.gains: list[int] = []
        self.refreshes: tuple[int, ...] | None = None
        """Refresh intervals that each channel used up; None if there was none."""
        self.tokens: tuple[tuple[str, int], ...] = ()
        self.spans: list[Span] = []
        """Steps relative to the start, if somebody records them."""


_StepPlan = tuple[int, int, Node | None, tuple[str, ...], tuple[str, ...], int, int, Step]
"""(variant or, below zero, -1 - unit, operation, segment, waits, signals, busy cycles, latency, step)."""


class _Compiled:
    """A block ready for evaluation, with the effects that it has had."""

    __slots__ = ("block", "channels_of", "clear", "kinds", "passes", "plain", "refreshed", "runs", "steps", "units")

    def __init__(self, block: Block, recall: Recall, units: Sequence[Unit]) -> None:
        self.block = block
        self.passes = 0
        """Forward passes in which the block occurred."""
        self.runs: Counter[int] = Counter()
        """Layer -> how often the block ran."""
        self.plain: dict[tuple[object, ...], Effect] = {}
        self.refreshed: dict[tuple[object, ...], Effect] = {}
        self.kinds = {
            token: block.ops[step.op].kind for stream in block.streams for step in stream for token in step.signals
        }
        self.clear = dict.fromkeys(self.kinds, 0)
        variant: dict[int, int] = {}
        self.channels_of: list[list[int]] = []
        for channel, stream in enumerate(block.channels):
            number = variant.setdefault(id(stream), len(variant))
            if number == len(self.channels_of):
                self.channels_of.append([])
            self.channels_of[number].append(channel)
        numbers = {unit.name: number for number, unit in enumerate(units)}
        self.units = [numbers[name] for name, _ in block.units]
        """Units that are no channels and have a stream, in the order of the block."""
        self.steps = [plan for at in block.order if (plan := self._plan(*at, variant, recall, units))]

    def signature(self) -> tuple[object, ...]:
        """Equal for blocks that take the same time, issue the same commands and belong to the same operations."""
        return (
            tuple(op.kind for op in self.block.ops),
            tuple(map(tuple, self.channels_of)),
            *[
                (variant, op, id(node), waits, signals, busy, latency)
                for variant, op, node, waits, signals, busy, latency, _ in self.steps
            ],
        )

    def _plan(
        self, stream: int, position: int, variant: dict[int, int], recall: Recall, units: Sequence[Unit]
    ) -> _StepPlan | None:
        """The step at a place of the order; None for channels whose stream another channel stands for."""
        step = self.block.streams[stream][position]
        if stream >= len(self.block.channels):
            unit = self.units[stream - len(self.block.channels)]
            busy, latency = units[unit].costs.step(step.items)
            return -1 - unit, step.op, None, step.waits, step.signals, busy, latency, step
        number = variant[id(self.block.channels[stream])]
        if self.channels_of[number][0] != stream:
            return None
        node = recall.segments.node(step.items)  # type: ignore[arg-type]
        latency = recall.spec.commands[last_command(step)].latency
        return number, step.op, node, step.waits, step.signals, 0, latency, step


class FastEngine:
    """Evaluates a program; `run` may be called again to go on with more passes, and returns the totals of all.

    Args:
        arch: the machine.
        spec: ``arch.dram`` resolved.
        trace: keep every command in `trace`.
        window: with ``trace``, keep only commands from the first of these ticks to before the second; what lies outside
            is not visited one by one.
        recorder: told every step of every unit.
        sink: told every command, in place of `trace`; nothing is kept, and every block is visited.
        further: units beyond the channels and the ASIC.
    """

    def __init__(
        self,
        arch: ArchConfig,
        spec: DramSpec,
        *,
        trace: bool = False,
        window: tuple[int, int] | None = None,
        recorder: Recorder | None = None,
        sink: Sink | None = None,
        further: Sequence[Unit] = (),
    ) -> None:
        self.arch, self.spec = arch, spec
        self.recorder = recorder
        self.window = window if trace else None
        self._whole = sink is not None or (trace and window is None)
        """Whether every command is traced, so that every block is visited."""
        self.recall = Recall(spec, keep_log=trace or sink is not None)
        self.units = (asic_unit(arch), *further)
        self.books = Books(self.units)
        self.trace: list[TraceRow] | None = [] if trace and sink is None else None
        self._write: Sink = sink or (self.trace.append if self.trace is not None else _lose)
        n = spec.channels
        self._machine = _Machine(((self.recall.initial, 0),) * n, 0, [self.recall.first_due] * n, [0] * len(self.units))
        self._kinds: dict[str, str] = {}
        """Token -> kind of the operation that signals it, as of the last block that did."""
        self._compiled: dict[int, _Compiled] = {}
        """Identity of a block -> its compiled form."""
        self._alive: list[Block] = []
        """The blocks in `_compiled`, so that their identities stay their own."""
        self._alike: dict[tuple[object, ...], _Compiled] = {}
        self._effects = 0
        self._opened_rows: list[dict[Where, int]] = [{} for _ in range(n)]
        self._spent: defaultdict[int, Counter[str]] = defaultdict(Counter)
        """Bit mask of channels -> where their ticks went."""
        self._waits: list[Counter[str]] = [Counter() for _ in self.units]
        self._logging = self._whole
        """Whether commands are being written down."""
        self._counts: dict[Node, Counts] = {}

    def run(self, passes: Iterable[Iterable[Placed]]) -> RunTotals:
        """Run all forward passes and return the totals."""
        for blocks in passes:
            seen: set[int] = set()
            for placed in blocks:
                compiled = self._compile(placed.block)
                if id(compiled) not in seen:
                    seen.add(id(compiled))
                    compiled.passes += 1
                self._block(compiled, placed)
            self.books.totals.token_ticks.append(self._machine.frontier)
            if self.recorder is not None:
                self.recorder.end_pass(self._machine.frontier)
            if len(self._compiled) > COMPILED_LIMIT:
                self._compiled.clear()
                self._alive.clear()
                self.recall.segments.forget_items()
            if len(self._alike) > ALIKE_LIMIT or self.recall.learned > MEMORY_LIMIT:
                self._forget(seen)
        return self._close()

    def _compile(self, block: Block) -> _Compiled:
        compiled = self._compiled.get(id(block))
        if compiled is None:
            compiled = self._compiled[id(block)] = self._course(block)
            self._alive.append(block)
        return compiled

    def _course(self, block: Block) -> _Compiled:
        """The compiled form; a block that takes the same course as another one shares its effects."""
        if self._whole:  # addresses matter, so every block is one of its own
            fresh = _Compiled(block, self.recall, self.units)
            self._alike[(id(fresh),)] = fresh
            return fresh
        known = self._compiled.get(id(block.like))
        if known is not None and self._same_course(block, known.block):
            return known
        fresh = _Compiled(block, self.recall, self.units)
        return self._alike.setdefault(fresh.signature(), fresh)

    def _same_course(self, block: Block, other: Block) -> bool:
        """Whether the steps of a block take the same time as those of a block that is like it."""
        if _sharing(block) != _sharing(other) or [n for n, _ in block.units] != [n for n, _ in other.units]:
            return False
        node = self.recall.segments.node
        for own, theirs in zip(block.channels, other.channels, strict=True):
            for a, b in zip(own, theirs, strict=True):
                if a is not b and node(a.items) is not node(b.items):  # type: ignore[arg-type]
                    return False
        costs = {unit.name: unit.costs.step for unit in self.units}
        return all(
            a is b or costs[name](a.items) == costs[name](b.items)
            for (name, own), (_, theirs) in zip(block.units, other.units, strict=True)
            for a, b in zip(own, theirs, strict=True)
        )

    # -- one block ------------------------------------------------------------------------------------------------

    def _block(self, compiled: _Compiled, placed: Placed) -> None:
        compiled.runs[placed.layer] += 1
        if self.recorder is None and self.window is None:
            self._advance(compiled, placed)
            return
        before = self._machine.copy()
        effect = self._advance(compiled, placed)
        if self.recorder is not None:
            block = placed.block
            self.recorder.block(
                BlockSpans(
                    placed.layer, block.name, block.ops, before.origin, before.frontier, effect.gains, effect.spans
                )
            )
        if self.window is not None:
            self._trace_window(before, placed)

    def _trace_window(self, before: _Machine, placed: Placed) -> None:
        """Go through a block that touches the window once more, this time command by command."""
        assert self.window is not None
        assert self.trace is not None
        first, last = self.window
        after = self._machine
        starts = min(ahead for _, ahead in before.channels) + before.origin
        ends = max(ahead for _, ahead in after.channels) + after.origin
        if ends < first or starts >= last:
            return
        self._machine, have = before, len(self.trace)
        self._logging = True
        self._evaluate(_Compiled(placed.block, self.recall, self.units), placed)
        self._logging = False
        self._machine = after
        self.trace[have:] = [row for row in self.trace[have:] if first <= row[0] < last]

    def _advance(self, compiled: _Compiled, placed: Placed) -> Effect:
        """Let a block happen, and give what it did."""
        if self._whole:
            visited = self._evaluate(compiled, placed)
            self._once(compiled, placed, visited)
            return visited
        machine = self._machine
        origin = machine.origin
        key = (
            machine.channels,
            *[part for unit in compiled.units for part in self._phase(unit, machine.free[unit])],
            machine.frontier - origin,
            *[(machine.tokens.get(token, 0) - origin, self._kinds.get(token)) for token in compiled.block.carried],
        )
        effect = compiled.plain.get(key)
        if effect is None or min(machine.due) - origin < effect.need:
            due_key = (key, *[due - origin for due in machine.due])
            effect = compiled.refreshed.get(due_key)
            if effect is None:
                effect = self._evaluate(compiled, placed)
                if effect.refreshes is None:  # it may be there already: the refresh that was due was not in its way
                    effect = compiled.plain.setdefault(key, effect)
                elif compiled.passes > 1 and self._effects < EFFECT_LIMIT:
                    compiled.refreshed[due_key] = effect
                    self._effects += 1
                else:
                    self._once(compiled, placed, effect)
                    return effect
                effect.layers[placed.layer] += 1
                return effect
        effect.layers[placed.layer] += 1
        self._apply(compiled, effect)
        return effect

    def _phase(self, unit: int, edge: int) -> tuple[int, int]:
        """An edge of a unit's clock relative to the origin, and how the origin lies between edges."""
        whole, part = divmod(self._machine.origin * self.units[unit].clock.cycles, self.units[unit].clock.ticks)
        return edge - whole, part

    def _once(self, compiled: _Compiled, placed: Placed, effect: Effect) -> None:
        """An effect that is not worth remembering goes to the books at once."""
        effect.layers[placed.layer] += 1
        self._book_effect(compiled, effect)

    def _apply(self, compiled: _Compiled, effect: Effect) -> None:
        """Let an effect happen again."""
        machine = self._machine
        origin = machine.origin
        machine.channels = effect.channels
        for unit, edges in zip(compiled.units, effect.free, strict=True):
            clock = self.units[unit].clock
            machine.free[unit] = edges + origin * clock.cycles // clock.ticks
        machine.frontier = origin + effect.frontier
        for token, tick in effect.tokens:
            machine.tokens[token] = origin + tick
        self._kinds.update(compiled.kinds)
        if effect.refreshes is not None:
            interval = self.recall.interval
            machine.due = [due + n * interval for due, n in zip(machine.due, effect.refreshes, strict=True)]
        machine.origin = origin + effect.advance

    def _evaluate(self, compiled: _Compiled, placed: Placed) -> Effect:  # noqa: C901 (the hot loop stays in one piece)
        """Work a block out step by step, and note its effect."""
        effect = Effect()
        tokens = self._machine.tokens
        tokens.update(compiled.clear)
        self._kinds.update(compiled.kinds)
        groups = [self._groups(channels) for channels in compiled.channels_of]
        ends = [0] * len(placed.block.ops)
        recall_run, outcomes = self.recall.run, effect.outcomes
        recording = self.recorder is not None
        for variant, op, node, waits, signals, busy, latency, step in compiled.steps:
            ready, token = 0, ""
            for name in waits:
                tick = tokens.get(name, 0)
                if tick > ready:
                    ready, token = tick, name
            if node is None:
                unit = -1 - variant
                free = self._machine.free[unit]
                end = self._compute(effect, unit, ready, token, busy, latency)
                if recording:
                    self._record_compute(effect, unit, op, free, ready, token, busy)
            else:
                end = ready
                for group in groups[variant]:
                    idle, seen = group.base, len(outcomes)
                    if ready - 1 > group.base:
                        self._wait(effect, group, ready, token)
                    outcome = recall_run(node, group.state, group.due - group.base)
                    outcomes.append((group.mask, outcome))
                    if self._logging:
                        self._log(group, outcome, step, placed)
                    if group.base + outcome.guard >= group.need:  # max() takes twice the time, here and below
                        group.need = group.base + outcome.guard + 1
                    begin = group.base
                    group.base += outcome.last
                    group.state = outcome.next
                    if recording:
                        self._record(effect, group, op, (idle, ready, begin), token, node, step, outcomes[seen:])
                    if outcome.refreshes:
                        group.due += outcome.refreshes * self.recall.interval
                        group.refreshes += outcome.refreshes
                    if group.base + latency > end:  # noqa: PLR1730
                        end = group.base + latency
            for name in signals:
                tokens[name] = max(tokens[name], end)
            ends[op] = max(ends[op], end)
        self._finish(effect, [group for variant_groups in groups for group in variant_groups], ends, compiled)
        return effect

    def _groups(self, channels: list[int]) -> list[_Group]:
        machine = self._machine
        found: dict[tuple[int, int, int], _Group] = {}
        for channel in channels:
            state, ahead = machine.channels[channel]
            key = (state, ahead + machine.origin, machine.due[channel])
            group = found.get(key)
            if group is None:
                group = found[key] = _Group(*key)
            group.members.append(channel)
            group.mask |= 1 << channel
        return list(found.values())

    def _wait(self, effect: Effect, group: _Group, until: int, token: str) -> None:
        recall, reason, start = self.recall, f"wait {self._kinds[token]}", group.base
        while group.due < until:
            self._idle(effect, group, group.due - recall.horizon)
            outcome = recall.refresh(group.state, group.due - group.base)
            effect.outcomes.append((group.mask, outcome))
            if self._logging:
                self._log_extras(group, outcome)
            group.base += outcome.last
            group.state = outcome.next
            group.due += recall.interval
            group.refreshes += 1
        self._idle(effect, group, until - 1)
        group.need = max(group.need, until)
        effect.waits.append((group.mask, reason, group.base - start))

    def _idle(self, effect: Effect, group: _Group, until: int) -> None:
        """Let a group's time pass up to ``until``, if that lies ahead."""
        idle = until - group.base
        if idle > 0:
            if self.recall.is_open(group.state):
                effect.open_ticks += idle * len(group.members)
            group.state = self.recall.age(group.state, idle)
            group.base = until

    def _compute(self, effect: Effect, unit: int, ready: int, token: str, busy: int, latency: int) -> int:
        free, clock = self._machine.free, self.units[unit].clock
        start = clock.edge(ready)
        if start > free[unit]:
            effect.unit_waits.append((unit, f"wait {self._kinds[token]}", start - free[unit]))
        else:
            start = free[unit]
        free[unit] = start + busy
        return clock.tick(start + latency)

    def _finish(self, effect: Effect, groups: list[_Group], ends: list[int], compiled: _Compiled) -> None:
        """Take the machine to the end of the block, and write the effect relative to its start."""
        machine = self._machine
        start = machine.origin
        state, base, refreshes = {}, {}, {}
        for group in groups:
            for channel in group.members:
                state[channel], base[channel], refreshes[channel] = group.state, group.base, group.refreshes
                machine.due[channel] = group.due
        machine.origin = base[0]
        order = range(self.spec.channels)
        machine.channels = effect.channels = tuple((state[c], base[c] - machine.origin) for c in order)
        effect.gains, machine.frontier = frontier_gains(ends, machine.frontier)
        effect.advance, effect.frontier = machine.origin - start, machine.frontier - start
        clocks = [self.units[unit].clock for unit in compiled.units]
        effect.free = tuple(
            machine.free[unit] - start * clock.cycles // clock.ticks
            for unit, clock in zip(compiled.units, clocks, strict=True)
        )
        effect.need = max(group.need for group in groups) - start
        effect.tokens = tuple((token, machine.tokens[token] - start) for token in compiled.kinds)
        if any(refreshes.values()):
            effect.refreshes = tuple(refreshes[c] for c in order)

    # -- timeline -------------------------------------------------------------------------------------------------

    def _record(
        self,
        effect: Effect,
        group: _Group,
        op: int,
        at: tuple[int, int, int],
        token: str,
        node: Node,
        step: Step,
        outcomes: list[tuple[int, Outcome]],
    ) -> None:
        """Note a step of a group of channels; ``at`` are the last ticks used up before waiting and before the step."""
        origin, (idle, ready, begin) = self._machine.origin, at
        commands = self._counts.get(node)
        if commands is None:
            commands = self._counts[node] = tuple(sorted(count_commands(step.items).items()))  # type: ignore[arg-type]
        added: Counter[str] = Counter()
        for _, outcome in outcomes:
            for command, n in outcome.refresh_commands.items():
                added[command] += n
        effect.spans.append(
            Span(
                group.units,
                op,
                idle + 1 - origin,
                ready - origin if token else None,
                begin + 1 - origin,
                group.base + 1 - origin,
                f"wait {self._kinds[token]}" if token else "",
                commands,
                tuple(sorted((command, n) for command, n in added.items() if n)),
            )
        )

    def _record_compute(self, effect: Effect, unit: int, op: int, free: int, ready: int, token: str, busy: int) -> None:
        """Note a step of a unit that was free from edge ``free`` on."""
        origin, tick, end = self._machine.origin, self.units[unit].clock.tick, self._machine.free[unit]
        effect.spans.append(
            Span(
                (self.units[unit].name,),
                op,
                tick(free) - origin,
                ready - origin if token else None,
                tick(end - busy) - origin,
                tick(end) - origin,
                f"wait {self._kinds[token]}" if token else "",
                (),
                (),
            )
        )

    # -- trace ----------------------------------------------------------------------------------------------------

    def _log(self, group: _Group, outcome: Outcome, step: Step, placed: Placed) -> None:
        for channel in group.members:
            rows = self._opened_rows[channel]
            events = ticks(outcome.log, group.base)
            for run, k, row, _ in expand(step.items, placed.row_base):  # type: ignore[arg-type]
                tick = self._extras_until_own(channel, events)
                if tick is None:
                    continue
                where = command_where(run, k, self.spec.counts)
                if self.spec.commands[run.command].effect == "open":
                    rows[where] = row
                self._write((tick, channel, run.command, where, row, command_column(run, k)))

    def _extras_until_own(self, channel: int, events: Iterator[tuple[int, str, Where] | None]) -> int | None:
        """Write down what refresh added; the tick of the program's own command, or None if it was dropped."""
        for event in events:
            if event is None:
                return None
            tick, command, where = event
            if not command:
                return tick
            opens = self.spec.commands[command].effect == "open"
            row = self._opened_rows[channel].get(where, -1) if opens else -1
            self._write((tick, channel, command, where, row, -1))
        raise AssertionError("an outcome must log every command of its step")

    def _log_extras(self, group: _Group, outcome: Outcome) -> None:
        for channel in group.members:
            for event in ticks(outcome.log, group.base):
                assert event is not None
                self._write((event[0], channel, event[1], event[2], -1, -1))

    # -- the books ------------------------------------------------------------------------------------------------

    def _book_effect(self, compiled: _Compiled, effect: Effect) -> None:
        """Write down what an effect adds up to, as often as it happened."""
        times = sum(effect.layers.values())
        if not times:
            return
        totals = self.books.totals
        self.books.ran(compiled.block, effect.gains, effect.layers)
        for mask, outcome in effect.outcomes:
            outcome.hits[mask] += times
            if outcome.refresh_commands:
                for layer, n in effect.layers.items():
                    self.books.refresh_commands(layer, outcome.refresh_commands, n * mask.bit_count())
        for mask, reason, waited in effect.waits:
            self._spent[mask][reason] += times * waited
        for unit, reason, edges in effect.unit_waits:
            self._waits[unit][reason] += times * edges
        totals.row_open_ticks += times * effect.open_ticks
        effect.layers.clear()

    def _book_effects(self, compiled: _Compiled) -> None:
        """Book all effects of a block and forget them."""
        for effects in (compiled.plain, compiled.refreshed):
            for effect in effects.values():
                self._book_effect(compiled, effect)
        self._effects -= len(compiled.refreshed)
        compiled.plain.clear()
        compiled.refreshed.clear()

    def _forget(self, keep: set[int]) -> None:
        """Book and forget what earlier passes did; outcomes too, once there are too many."""
        full = self.recall.learned > MEMORY_LIMIT
        for signature, compiled in list(self._alike.items()):
            if full or id(compiled) not in keep:
                self._retire(compiled)
                del self._alike[signature]
        self._compiled.clear()
        self._alive.clear()
        if full:
            self._collect()
            self.recall.forget()

    def _retire(self, compiled: _Compiled) -> None:
        self._book_effects(compiled)
        self.books.executed(compiled.block, compiled.runs)
        compiled.runs.clear()

    def _collect(self) -> None:
        """Fold the outcomes into where the ticks of each set of channels went."""
        for outcome in self.recall.outcomes():
            for mask, n in outcome.hits.items():
                spent = self._spent[mask]
                for reason, spent_ticks in outcome.spent.items():
                    spent[reason] += n * spent_ticks
                self.books.totals.row_open_ticks += n * outcome.open_ticks * mask.bit_count()
            outcome.hits.clear()

    def _close(self) -> RunTotals:
        for compiled in set(self._compiled.values()) | set(self._alike.values()):
            self._retire(compiled)
        self._collect()
        totals, machine = self.books.totals, self._machine
        totals.ticks = machine.frontier
        for channel, (_, ahead) in enumerate(machine.channels):
            own: Counter[str] = Counter()
            for mask, spent in self._spent.items():
                if mask >> channel & 1:
                    own.update(spent)
            self.books.channel(channel, own, machine.origin + ahead)
        for unit, waits in zip(self.units, self._waits, strict=True):
            self.books.unit(unit, waits)
        return totals


def _lose(_: TraceRow) -> None:
    """Nobody asked for commands."""


def _sharing(block: Block) -> list[int]:
    """For each channel, the first one that has the same stream."""
    first: dict[int, int] = {}
    return [first.setdefault(id(stream), channel) for channel, stream in enumerate(block.channels)]


def last_command(step: Step) -> str:
    """The command that a channel's step ends with."""
    item = step.items[-1]
    while isinstance(item, Repeat):
        item = item.body[-1]
    assert isinstance(item, Run)
    return item.command
