"""A DRAM behind the memory ports: bursts become column commands of `ChannelCore`, and all ports of a channel share it.

Requests are served one after the other, in the order in which the ports make them; rows stay open until another row of their
bank is needed. Consecutive bursts of the DRAM go to the bank groups in turn, then along the row, then to the next bank.
Times outside are fabric cycles, times inside are ticks of the DRAM.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from pimsim.arch.dram import Command, DramSpec
from pimsim.errors import SimulationError
from pimsim.machine.channel import ChannelCore, Target

BANK_GROUP = "bankgroup"
"""Level over which consecutive bursts are spread."""


@dataclass(frozen=True)
class MemoryTiming:
    """A memory behind ports: its DRAM, fabric cycles between a port and it (each way), bytes of a beat, ticks in a cycle."""

    spec: DramSpec
    path: int
    beat_bytes: int
    ticks_per_cycle: Fraction


class MemoryChannel:
    """One DRAM channel that serves bursts of beats."""

    def __init__(self, timing: MemoryTiming) -> None:
        self.timing, self.spec = timing, timing.spec
        self.core = ChannelCore(timing.spec)
        self._ticks, self._cycles = timing.ticks_per_cycle.numerator, timing.ticks_per_cycle.denominator
        self.counts: Counter[str] = Counter()
        """Commands of requests; those of refreshes are in the core."""
        self._rows: dict[tuple[int, ...], int] = {}
        self._open = _plain(self.spec, "open", "none")
        self._close = _plain(self.spec, "close", "none")
        self._columns = {False: _plain(self.spec, "none", "read"), True: _plain(self.spec, "none", "write")}
        self._order = _spread_order(self.spec)
        self._targets: dict[tuple[int, ...], tuple[Target, Target, Target, Target]] = {}
        """Bank -> its precharge, activate, read and write."""

    def access(self, cycle: int, beat: int, beats: int, *, write: bool) -> list[int]:
        """Serve a request that arrives at a cycle.

        Args:
            cycle: when the request, and the data of a write, are there.
            beat: address of its first beat.
            beats: how many follow each other.
            write: whether it writes.

        Returns:
            for each beat the cycle at which its data has been read or written.
        """
        size, burst = self.timing.beat_bytes, self.spec.burst_bytes
        first, last = beat * size // burst, ((beat + beats) * size - 1) // burst
        self.core.wait(self._tick(cycle), "request")
        done = [self._column(number, write=write) for number in range(first, last + 1)]
        ends = [((beat + number + 1) * size - 1) // burst - first for number in range(beats)]
        return [self._cycle(done[end]) for end in ends]

    def _column(self, burst: int, *, write: bool) -> int:
        """Read or write one burst of the DRAM; the tick at which its data is complete."""
        bank, row, column = self._place(burst)
        close, open_, read, write_ = self._targets.get(bank) or self._compile(bank)
        if self._rows.get(bank) != row:
            if bank in self._rows:
                self._issue(close)
            self._issue(open_, row)
            self._rows[bank] = row
        command = write_ if write else read
        return self._issue(command, row, column) + command.latency

    def _compile(self, bank: tuple[int, ...]) -> tuple[Target, Target, Target, Target]:
        where = (*bank, *(-1,) * (len(self.spec.address_fields) - len(bank)))
        names = (self._close.name, self._open.name, self._columns[False].name, self._columns[True].name)
        close, open_, read, write = (self.core.target(name, where) for name in names)
        self._targets[bank] = close, open_, read, write
        return self._targets[bank]

    def _issue(self, target: Target, row: int = -1, column: int = -1) -> int:
        self.counts[target.command] += 1
        tick = self.core.issue(target, row, column)
        return self.core.base if tick is None else tick

    def _place(self, burst: int) -> tuple[tuple[int, ...], int, int]:
        """(bank, row, column) of a burst; addresses beyond the memory begin again."""
        at = [0] * len(self.spec.levels)
        column = 0
        for level in self._order:
            count = self.spec.columns if level < 0 else self.spec.counts[level]
            burst, digit = divmod(burst, count)
            if level < 0:
                column = digit
            else:
                at[level] = digit
        return tuple(at), burst % self.spec.rows, column

    def _tick(self, cycle: int) -> int:
        """First tick at or after a cycle."""
        return -(-cycle * self._ticks // self._cycles)

    def _cycle(self, tick: int) -> int:
        """First cycle at or after a tick."""
        return -(-tick * self._cycles // self._ticks)


def _spread_order(spec: DramSpec) -> list[int]:
    """Parts of an address from the fastest to the slowest, as levels; -1 is the column."""
    levels = list(range(len(spec.levels)))
    groups = [level for level in levels if spec.levels[level] == BANK_GROUP]
    return [*groups, -1, *(level for level in reversed(levels) if level not in groups)]


def _plain(spec: DramSpec, effect: str, data: str) -> Command:
    """The command of a single bank that does this and nothing else."""
    deepest = spec.levels[-1]
    found = [
        command
        for command in spec.commands.values()
        if (command.effect, command.data, command.scope) == (effect, data, deepest) and not command.refresh
    ]
    if not found:
        raise SimulationError(f"{spec.name} must have a command of one bank with effect {effect} and data {data}")
    return found[0]


__all__ = ["MemoryChannel", "MemoryTiming"]
