"""Keeping the totals of a run: what both engines report the same way."""

from __future__ import annotations

from collections import Counter

from pimsim.machine.asic import AsicClock
from pimsim.program.isa import Block, count_commands
from pimsim.trace.totals import RunTotals

IDLE = "idle"


class Books:
    """Adds up a run.

    Commands of the program are counted from its blocks (they do not depend on time); what refresh adds is counted as it
    happens. The end of an operation is the tick at which its last result is complete; an operation is charged with the
    ticks by which it moves the end of everything before it, so the charges add up to the length of the run.
    """

    def __init__(self) -> None:
        self.totals = RunTotals()
        self._frontier = 0
        self._runs: dict[int, tuple[Block, Counter[int]]] = {}

    def block_done(self, block: Block, layer: int, ends: list[int]) -> None:
        """A block ran in ``layer``; ``ends`` holds the tick at which each of its operations was complete."""
        entry = self._runs.get(id(block))
        if entry is None:
            entry = self._runs[id(block)] = (block, Counter())
        entry[1][layer] += 1
        frontier = start = self._frontier
        op_ticks = self.totals.op_ticks
        for op, end in zip(block.ops, ends, strict=True):
            if end > frontier:
                op_ticks[op.kind] += end - frontier
                frontier = end
        self.totals.layer_ticks[layer] += frontier - start
        self._frontier = frontier

    def pass_done(self) -> None:
        """A forward pass is complete."""
        self.totals.token_ticks.append(self._frontier)

    def refresh_commands(self, layer: int, commands: dict[str, int], channels: int = 1) -> None:
        """Commands that refresh added in each of ``channels`` channels."""
        for command, n in commands.items():
            self.totals.commands["refresh", layer, command] += n * channels

    def flush(self) -> None:
        """Count the commands and operations of all blocks noted so far, and forget the blocks."""
        for block, layers in self._runs.values():
            per_op: Counter[tuple[int, str]] = Counter()
            for stream in block.channels:
                for step in stream:
                    for command, n in count_commands(step.items).items():  # type: ignore[arg-type]
                        per_op[step.op, command] += n
            for layer, times in layers.items():
                for (op, command), n in per_op.items():
                    self.totals.commands[block.ops[op].kind, layer, command] += n * times
                for op_entry in block.ops:
                    self.totals.op_count[op_entry.kind] += times
        self._runs.clear()

    def close(self) -> RunTotals:
        """The finished totals."""
        self.flush()
        self.totals.ticks = self._frontier
        return self.totals

    def channel(self, index: int, spent: dict[str, int], base: int) -> None:
        """Book where the ticks of a channel up to ``base`` went; the rest of the run it is idle."""
        unit = f"channel{index}.mac"
        self.totals.unit_busy[unit] = spent.get("busy", 0)
        stalls = Counter({reason: ticks for reason, ticks in spent.items() if reason != "busy" and ticks})
        if self.totals.ticks > base:
            stalls[IDLE] += self.totals.ticks - base
        self.totals.unit_stalls[unit] = stalls

    def asic(self, clock: AsicClock, cycles: Counter[tuple[str, int]], waits: Counter[str]) -> None:
        """Book the cycles of the ASIC, converted to ticks; what rounding and the end leave over is idle."""
        totals = self.totals
        totals.asic_cycles = cycles
        busy = min(totals.ticks, clock.tick(sum(cycles.values())))
        stalls: Counter[str] = Counter()
        left = totals.ticks - busy
        for reason, n in sorted(waits.items()):
            stalls[reason] = min(left, clock.tick(n))
            left -= stalls[reason]
        if left:
            stalls[IDLE] = left
        totals.unit_busy["asic"], totals.unit_stalls["asic"] = busy, stalls
