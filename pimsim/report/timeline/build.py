"""From what a machine told its recorder to tracks, slices and curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from pimsim.report.timeline.sinks import Args, Sink
from pimsim.trace.bins import Bins
from pimsim.trace.spans import BlockSpans, Span

DETAILS = ("op", "step", "command")
"""op: what each unit works on; step: every step and every wait; command: every DRAM command and open row, too."""

CommandRow = tuple[int, int, str, tuple[int, ...], int, int]
"""(tick, channel, command, address, row, column)."""

Effect = Callable[[str, tuple[int, ...]], tuple[str, Sequence[int]]]
"""(command, address) -> ("open" | "close" | "none", flat indices of the banks that it reaches)."""


class Prices:
    """What the curves need to know about a machine.

    Args:
        joules: DRAM command -> energy of one.
        bytes_moved: DRAM command -> bytes that one moves over the data pins.
        unit_watts: unit -> power while it works, for units that issue no DRAM commands.
        tick_seconds: length of a tick.
    """

    def __init__(
        self,
        joules: Mapping[str, float],
        bytes_moved: Mapping[str, int],
        unit_watts: Mapping[str, float],
        tick_seconds: float,
    ) -> None:
        self.joules, self.bytes_moved, self.unit_watts = joules, bytes_moved, unit_watts
        self.tick_seconds = tick_seconds


class Timeline:
    """A recorder (`pimsim.trace.spans.Recorder`) that draws as the run goes on.

    Args:
        sink: where to draw.
        units: every unit, in the order of their tracks.
        prices: for the curves.
        detail: one of `DETAILS`.
        window: first tick, and the tick after the last one or None; slices are cut at its borders.
    """

    def __init__(
        self, sink: Sink, units: Iterable[str], prices: Prices, detail: str, window: tuple[int, int | None]
    ) -> None:
        self._sink, self._prices = sink, prices
        self._first, self._last = window
        self._steps = detail != "op"
        program = sink.group("program")
        self._passes, self._blocks, self._ops = (
            sink.track(name, program) for name in ("passes", "blocks", "operations (what the end waits for)")
        )
        names = list(units)
        head = sink.group("units")
        self._tracks = {unit: sink.track(unit, head) for unit in names}
        self._power, self._bytes = Bins(*window), Bins(*window)
        self._queues = {unit: Bins(*window) for unit in names}
        self._joules = 0.0
        """Energy of everything that steps account for, in the window or not."""
        self._pass_number, self._pass_start = 0, 0
        self._command_cost: dict[tuple[tuple[str, int], ...], tuple[float, int]] = {}
        self.commands = 0
        """DRAM commands in the file, if it shows them."""

    def block(self, block: BlockSpans) -> None:
        """Draw a block."""
        label = "" if block.layer < 0 else f"L{block.layer} "
        at = block.frontier
        for op, gain in zip(block.ops, block.gains, strict=True):
            self._slice(self._ops, at, at + gain, label + op.kind)
            at += gain
        self._slice(self._blocks, block.frontier, at, f"{label}{block.name}")
        for span in block.spans:
            self._account(block.origin, span)
        if self._outside(block):
            return
        if self._steps:
            self._draw_steps(block, label)
        else:
            self._draw_ops(block, label)

    def end_pass(self, tick: int) -> None:
        """Draw a forward pass."""
        self._slice(self._passes, self._pass_start, tick, f"pass {self._pass_number}")
        self._pass_number, self._pass_start = self._pass_number + 1, tick

    def draw_commands(self, rows: Iterable[CommandRow], effect: Effect, bank_count: int) -> None:
        """Draw DRAM commands and the rows that they hold open; ``rows`` are in the order of time.

        ``bank_count`` is the number of banks in a channel. A row that was open before the window
        began is not known and not drawn.
        """
        buses: dict[int, int] = {}
        banks: dict[tuple[int, int], int] = {}
        opened: dict[tuple[int, int], tuple[int, int]] = {}
        last = 0
        for tick, channel, command, where, row, column in rows:
            last = tick + 1
            self.commands += 1
            if channel not in buses:
                group = self._sink.group(f"channel{channel} DRAM")
                buses[channel] = self._sink.track("commands", group)
                banks |= {(channel, b): self._sink.track(f"bank{b}", group) for b in range(bank_count)}
            args: Args = {"cycle": tick, "row": row, "column": column}
            self._slice(buses[channel], tick, tick + 1, command, {k: v for k, v in args.items() if v != -1})
            what, reached = effect(command, where)
            for bank in reached if what != "none" else ():
                start = opened.pop((channel, bank), None)
                if start is not None:
                    self._slice(banks[channel, bank], start[0], tick, f"row {start[1]}")
                if what == "open":
                    opened[channel, bank] = (tick, row)
        for key, (tick, row) in opened.items():
            self._slice(banks[key], tick, last, f"row {row}")

    def close(self, ticks: int, joules: float) -> None:
        """Draw the curves of a run of so many ticks and joules, and finish the file.

        What no step accounts for (standby, waiting) is spread evenly over the run.
        """
        tick_seconds = self._prices.tick_seconds
        rest = (joules - self._joules) / (ticks * tick_seconds) if ticks else 0.0
        head = self._sink.group("curves")
        power = self._sink.counter("power", head, "W")
        for tick, rate in self._power.rates(ticks):
            self._sink.value(power, tick, rate / tick_seconds + rest)
        bandwidth = self._sink.counter("data pins", head, "GB/s")
        for tick, rate in self._bytes.rates(ticks):
            self._sink.value(bandwidth, tick, rate / tick_seconds * 1e-9)
        for unit, bins in self._queues.items():
            depth = self._sink.counter(f"queue depth {unit}", head, "steps")
            for tick, rate in bins.rates(ticks):
                self._sink.value(depth, tick, rate)
        self._sink.close()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _outside(self, block: BlockSpans) -> bool:
        if not block.spans:
            return True
        origin = block.origin
        if self._last is not None and origin + min(span.idle for span in block.spans) >= self._last:
            return True
        return origin + max(span.end for span in block.spans) <= self._first

    def _draw_steps(self, block: BlockSpans, label: str) -> None:
        origin = block.origin
        for span in block.spans:
            kind = label + block.ops[span.op].kind
            for unit in span.units:
                track = self._tracks[unit]
                if span.begin > span.idle:
                    self._slice(track, span.idle + origin, span.begin + origin, span.reason)
                self._slice(track, span.begin + origin, span.end + origin, kind)

    def _draw_ops(self, block: BlockSpans, label: str) -> None:
        """Steps of one operation that follow each other on a unit become one slice."""
        current: dict[str, tuple[int, int, int]] = {}
        for span in block.spans:
            for unit in span.units:
                before = current.get(unit)
                if before is not None and before[0] == span.op:
                    current[unit] = (span.op, before[1], span.end)
                    continue
                if before is not None:
                    self._draw_op(block, label, unit, before)
                current[unit] = (span.op, span.begin, span.end)
        for unit, last in current.items():
            self._draw_op(block, label, unit, last)

    def _draw_op(self, block: BlockSpans, label: str, unit: str, piece: tuple[int, int, int]) -> None:
        op, begin, end = piece
        self._slice(self._tracks[unit], begin + block.origin, end + block.origin, label + block.ops[op].kind)

    def _account(self, origin: int, span: Span) -> None:
        n, begin, end = len(span.units), span.begin + origin, span.end + origin
        joules, moved = self._cost(span.commands)
        if joules or moved:
            self._power.add(begin, end, n * joules)
            self._bytes.add(begin, end, n * moved)
        if span.refresh:
            extra = self._cost(span.refresh)[0]
            self._power.add(span.idle + origin, end, n * extra)
            joules += extra
        for unit in span.units:
            watts = self._prices.unit_watts.get(unit)
            if watts:
                work = watts * (end - begin) * self._prices.tick_seconds
                self._power.add(begin, end, work)
                self._joules += work
            if span.ready is not None and span.ready < span.begin:
                self._queues[unit].add(span.ready + origin, begin, span.begin - span.ready)
        self._joules += n * joules

    def _cost(self, commands: tuple[tuple[str, int], ...]) -> tuple[float, int]:
        found = self._command_cost.get(commands)
        if found is None:
            prices = self._prices
            found = self._command_cost[commands] = (
                sum(n * prices.joules.get(command, 0.0) for command, n in commands),
                sum(n * prices.bytes_moved.get(command, 0) for command, n in commands),
            )
        return found

    def _slice(self, track: int, begin: int, end: int, name: str, args: Args | None = None) -> None:
        begin = max(begin, self._first)
        if self._last is not None:
            end = min(end, self._last)
        if end > begin:
            self._sink.slice(track, begin, end, name, args)


__all__ = ["DETAILS", "CommandRow", "Effect", "Prices", "Timeline"]
