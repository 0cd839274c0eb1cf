"""Keeping the totals of a run: what both engines report the same way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

from pimsim.machine.units import Unit
from pimsim.program.isa import Block, Item, Transfer, count_commands
from pimsim.trace.totals import RunTotals

IDLE = "idle"

COUNTS_LIMIT = 10_000
"""Item tuples whose commands to remember."""


def frontier_gains(ends: Sequence[int], frontier: int) -> tuple[list[int], int]:
    """How far each operation moves the frontier, and where it stands then.

    The frontier is the tick at which everything so far is complete. An operation is charged with the ticks by which
    its own
    end lies beyond it, so the charges of all operations add up to the length of the run.
    """
    gains = []
    for end in ends:
        gains.append(max(0, end - frontier))
        frontier = max(frontier, end)
    return gains, frontier


class Books:
    """Adds up a run. Commands and cycles of units of the program are counted from its blocks: they do not depend on time."""

    def __init__(self, units: Sequence[Unit]) -> None:
        """``units``: those that are no channels, the ASIC first."""
        self.totals = RunTotals()
        self._units = {unit.name: unit for unit in units}
        self._counted: dict[int, tuple[object, dict[str, int]]] = {}

    def ran(self, block: Block, gains: Sequence[int], layers: Counter[int]) -> None:
        """A block ran ``layers[layer]`` times in each layer, and its operations moved the frontier by ``gains`` each time."""
        total, times = sum(gains), sum(layers.values())
        for op, gain in zip(block.ops, gains, strict=True):
            if gain:
                self.totals.op_ticks[op.kind] += gain * times
        for layer, n in layers.items():
            self.totals.layer_ticks[layer] += total * n

    def executed(self, block: Block, layers: Counter[int]) -> None:
        """Count the commands, operations and cycles of units of a block that ran ``layers[layer]`` times in each layer."""
        commands: Counter[tuple[str, str]] = Counter()
        for stream in block.channels:
            for step in stream:
                for command, n in self._count(step.items).items():
                    commands[block.ops[step.op].kind, command] += n
        for layer, times in layers.items():
            for (kind, command), n in commands.items():
                self.totals.commands[kind, layer, command] += n * times
            for op in block.ops:
                self.totals.op_count[op.kind] += times
        for name, stream in block.units:
            for step in stream:
                kind, cycles = block.ops[step.op].kind, self._units[name].costs.step(step.items)[0]
                moved = sum(item.elements for item in step.items if isinstance(item, Transfer))
                for layer, times in layers.items():
                    self._unit_cycles(name, kind, layer, cycles * times)
                    if moved:
                        self.totals.link_elements[name, kind, layer] += moved * times

    def _unit_cycles(self, name: str, kind: str, layer: int, cycles: int) -> None:
        if name == "asic":
            self.totals.asic_cycles[kind, layer] += cycles
        else:
            self.totals.unit_cycles[name, kind, layer] += cycles

    def _count(self, items: tuple[object, ...]) -> dict[str, int]:
        """`count_commands`, looked up for tuples that were counted before."""
        found = self._counted.get(id(items))
        if found is None:
            if len(self._counted) > COUNTS_LIMIT:
                self._counted.clear()
            found = self._counted[id(items)] = (items, count_commands(cast(tuple[Item, ...], items)))
        return found[1]

    def refresh_commands(self, layer: int, commands: dict[str, int], times: int = 1) -> None:
        """Commands that refresh added (or, negative, made needless), ``times`` times."""
        for command, n in commands.items():
            self.totals.commands["refresh", layer, command] += n * times

    def channel(self, index: int, spent: dict[str, int], base: int) -> None:
        """Book where the ticks of a channel up to ``base`` went; the rest of the run it is idle."""
        unit = f"channel{index}.mac"
        self.totals.unit_busy[unit] = spent.get("busy", 0)
        stalls = Counter({reason: ticks for reason, ticks in spent.items() if reason != "busy" and ticks})
        if self.totals.ticks > base:
            stalls[IDLE] += self.totals.ticks - base
        self.totals.unit_stalls[unit] = stalls

    def unit(self, unit: Unit, waits: Counter[str]) -> None:
        """Book the cycles of a unit, converted to ticks; what rounding and the end leave over is idle."""
        totals, name = self.totals, unit.name
        own = totals.asic_cycles.values() if name == "asic" else _of(totals.unit_cycles, name)
        busy = min(totals.ticks, unit.clock.tick(sum(own)))
        stalls: Counter[str] = Counter()
        left = totals.ticks - busy
        for reason, n in sorted(waits.items()):
            stalls[reason] = min(left, unit.clock.tick(n))
            left -= stalls[reason]
        if left:
            stalls[IDLE] = left
        totals.unit_busy[name], totals.unit_stalls[name] = busy, stalls


def _of(cycles: Counter[tuple[str, str, int]], name: str) -> list[int]:
    return [n for (unit, _, _), n in cycles.items() if unit == name]
