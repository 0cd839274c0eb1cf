"""The reference engine: SimPy processes that issue one command at a time. Slow, plain, and the measure of the fast one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.machine.asic import asic_unit
from pimsim.machine.books import Books, frontier_gains
from pimsim.machine.channel import ChannelCore, LogEntry
from pimsim.machine.kernel import Kernel, Process, Token
from pimsim.machine.units import Unit
from pimsim.program.isa import Placed, Step, command_column, command_where, count_commands, expand
from pimsim.trace.spans import BlockSpans, Recorder, Span
from pimsim.trace.totals import RunTotals

TraceRow = tuple[int, int, str, tuple[int, ...], int, int]
Sink = Callable[[TraceRow], object]


class _Live:
    """A block in flight: its tokens, and who still has to pass through it."""

    def __init__(self, placed: Placed, units: int, tokens: dict[str, Token], ends_pass: bool) -> None:
        self.placed, self.tokens, self.ends_pass = placed, tokens, ends_pass
        self.left = units
        self.spans: list[Span] = []
        self.ends = [0] * len(placed.block.ops)


class ReferenceEngine:
    """Runs a program; `run` may be called once."""

    def __init__(
        self,
        arch: ArchConfig,
        spec: DramSpec,
        *,
        trace: bool = False,
        window: tuple[int, int] | None = None,
        recorder: Recorder | None = None,
        start_order: Iterable[int] | None = None,
        sink: Sink | None = None,
        cores: Sequence[ChannelCore] | None = None,
        further: Sequence[Unit] = (),
    ) -> None:
        self.arch, self.spec = arch, spec
        self.recorder, self.window = recorder, window
        self.kernel = Kernel()
        self.units = (asic_unit(arch), *further)
        self.books = Books(self.units)
        self._names = [*(f"channel{i}" for i in range(spec.channels)), *(unit.name for unit in self.units)]
        self._frontier = 0
        self.cores = list(cores) if cores is not None else [ChannelCore(spec) for _ in range(spec.channels)]
        self.trace: list[TraceRow] | None = [] if trace else None
        for channel, core in enumerate(self.cores):
            core.log = [] if trace else None
            core.sink = None if sink is None else _tap(sink, channel)
        self._order = list(start_order) if start_order is not None else list(range(len(self._names)))
        self._live: deque[_Live] = deque()
        self._first = 0
        self._latest: dict[str, Token] = {}
        self._waits: list[Counter[str]] = [Counter() for _ in self.units]
        self._doing = ["at the start"] * len(self._names)

    def run(self, passes: Iterable[Iterable[Placed]]) -> RunTotals:
        """Run all forward passes and return the totals."""
        self._source = self._instantiate(passes)
        for number in self._order:
            unit = number - self.spec.channels
            process = self._unit(unit) if unit >= 0 else self._channel(number)
            self.kernel.start(self._names[number], process, lambda number=number: self._doing[number])  # type: ignore[misc]
        self.kernel.run()
        return self._close()

    # -- processes ------------------------------------------------------------------------------------------------

    def _channel(self, channel: int) -> Process:
        core = self.cores[channel]
        commands, counts = self.spec.commands, self.spec.counts
        for live in self._blocks():
            before = core.refresh_commands.copy()
            for step in live.placed.block.channels[channel]:
                yield from self._await(channel, live, step)
                ready, reason = self._ready(live, step)
                idle, seen = core.base, core.refresh_commands.copy()
                core.wait(ready, reason)
                begin, last = core.base, ""
                for run, k, row, _ in expand(step.items, live.placed.row_base):  # type: ignore[arg-type]
                    core.issue(core.target(run.command, command_where(run, k, counts)), row, command_column(run, k))
                    last = run.command
                self._signal(live, step, max(ready, core.base + commands[last].latency))
                if self.recorder is not None:
                    ticks = (idle + 1, ready if reason else None, begin + 1, core.base + 1)
                    refresh = {name: n - seen[name] for name, n in core.refresh_commands.items() if n != seen[name]}
                    self._record(live, f"channel{channel}", step, ticks, reason, refresh)
                if core.base > self.kernel.now:
                    yield self.kernel.until(core.base)
            added = {
                command: n - before[command] for command, n in core.refresh_commands.items() if n != before[command]
            }
            self.books.refresh_commands(live.placed.layer, added)
            self._leave(live)

    def _unit(self, number: int) -> Process:
        unit, clock, free = self.units[number], self.units[number].clock, 0
        for live in self._blocks():
            for step in dict(live.placed.block.units).get(unit.name, ()):
                yield from self._await(self.spec.channels + number, live, step)
                ready, reason = self._ready(live, step)
                start = max(free, clock.edge(ready))
                if start > free:
                    self._waits[number][reason] += start - free
                busy, latency = unit.costs.step(step.items)
                if self.recorder is not None:
                    idle, begin, end = (clock.tick(edge) for edge in (free, start, start + busy))
                    self._record(live, unit.name, step, (idle, ready if reason else None, begin, end), reason, {})
                free = start + busy
                self._signal(live, step, clock.tick(start + latency))
                if clock.tick(free) > self.kernel.now:
                    yield self.kernel.until(clock.tick(free))
            self._leave(live)

    def _record(
        self,
        live: _Live,
        unit: str,
        step: Step,
        ticks: tuple[int, int | None, int, int],
        reason: str,
        refresh: dict[str, int],
    ) -> None:
        commands = count_commands(step.items) if unit.startswith("channel") else {}  # type: ignore[arg-type]
        counts = tuple(sorted(commands.items())), tuple(sorted(refresh.items()))
        live.spans.append(Span((unit,), step.op, *ticks, reason, *counts))

    # -- tokens ---------------------------------------------------------------------------------------------------

    def _await(self, unit: int, live: _Live, step: Step) -> Iterator[object]:
        for name in step.waits:
            token = live.tokens.get(name)
            if token is not None and (event := token.pending) is not None:
                self._doing[unit] = f"for {name} in {live.placed.block.name} since tick {self.kernel.now}"
                yield event

    def _ready(self, live: _Live, step: Step) -> tuple[int, str]:
        ready, reason = 0, ""
        for name in step.waits:
            token = live.tokens.get(name)
            if token is not None and token.time > ready:
                ready, reason = token.time, f"wait {token.kind}"
        return ready, reason

    def _signal(self, live: _Live, step: Step, tick: int) -> None:
        live.ends[step.op] = max(live.ends[step.op], tick)
        for name in step.signals:
            token = live.tokens[name]
            self.kernel.at(tick, lambda token=token: token.signal(tick))  # type: ignore[misc]

    # -- blocks ---------------------------------------------------------------------------------------------------

    def _instantiate(self, passes: Iterable[Iterable[Placed]]) -> Iterator[_Live]:
        for placed_blocks in passes:
            waiting: Placed | None = None
            for placed in placed_blocks:
                if waiting is not None:
                    yield self._make_live(waiting, ends_pass=False)
                waiting = placed
            if waiting is not None:
                yield self._make_live(waiting, ends_pass=True)

    def _make_live(self, placed: Placed, *, ends_pass: bool) -> _Live:
        block = placed.block
        tokens = {name: self._latest[name] for name in block.carried if name in self._latest}
        producers: Counter[str] = Counter()
        kinds: dict[str, str] = {}
        for stream in block.streams:
            for step in stream:
                for name in step.signals:
                    producers[name] += 1
                    kinds[name] = block.ops[step.op].kind
        for name, n in producers.items():
            tokens[name] = self._latest[name] = Token(self.kernel, name, kinds[name], n)
        return _Live(placed, len(self._names), tokens, ends_pass)

    def _blocks(self) -> Iterator[_Live]:
        """Blocks in order for one unit; made when the first unit gets there, dropped when the last one has left."""
        index = 0
        while True:
            if index - self._first == len(self._live):
                live = next(self._source, None)
                if live is None:
                    return
                self._live.append(live)
            yield self._live[index - self._first]
            index += 1

    def _leave(self, live: _Live) -> None:
        live.left -= 1
        while self._live and self._live[0].left == 0:
            done = self._live.popleft()
            self._first += 1
            block, once = done.placed.block, Counter({done.placed.layer: 1})
            before = self._frontier
            gains, self._frontier = frontier_gains(done.ends, self._frontier)
            if self.recorder is not None:
                self.recorder.block(BlockSpans(done.placed.layer, block.name, block.ops, 0, before, gains, done.spans))
            self.books.ran(block, gains, once)
            self.books.executed(block, once)
            if done.ends_pass:
                self.books.totals.token_ticks.append(self._frontier)
                if self.recorder is not None:
                    self.recorder.end_pass(self._frontier)

    def _close(self) -> RunTotals:
        totals = self.books.totals
        totals.ticks = self._frontier
        for channel, core in enumerate(self.cores):
            self.books.channel(channel, core.spent, core.base)
            totals.row_open_ticks += core.open_ticks
            if self.trace is not None and core.log is not None:
                self.trace += [
                    (tick, channel, command, where, row, column)
                    for tick, command, where, row, column in core.log
                    if self.window is None or self.window[0] <= tick < self.window[1]
                ]
        for unit, waits in zip(self.units, self._waits, strict=True):
            self.books.unit(unit, waits)
        return totals


def _tap(sink: Sink, channel: int) -> Callable[[LogEntry], object]:
    """What tells the sink the commands of one channel."""
    return lambda entry: sink((entry[0], channel, *entry[1:]))
