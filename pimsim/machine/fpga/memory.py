"""A DRAM behind the memory ports: bursts become column commands of `ChannelCore`, and all ports of a channel share it.

Requests are served one after the other, in the order in which the ports make them; what a request needs is precharged, then
activated, then read or written. Rows stay open until another row of their bank is needed. Consecutive bursts of the DRAM go to
the bank groups in turn, then along the row, then to the next bank. Times outside are fabric cycles, times inside are ticks of
the DRAM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from pimsim.arch.dram import Command, DramSpec
from pimsim.errors import SimulationError
from pimsim.machine.channel import ChannelCore, Target

BANK_GROUP = "bankgroup"
"""Level over which consecutive bursts are spread."""


Bank = tuple[int, ...]
Place = tuple[Bank, int, int]
"""(bank, row, column) of a burst."""


@dataclass(frozen=True, slots=True)
class _Targets:
    """The commands of a bank."""

    close: Target
    open: Target
    read: Target
    write: Target


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
        self._rows: dict[Bank, int] = {}
        kinds = (("close", "none"), ("open", "none"), ("none", "read"), ("none", "write"))
        self._names = [_plain(self.spec, effect, data).name for effect, data in kinds]
        self._order = _spread_order(self.spec)
        self._targets: dict[Bank, _Targets] = {}

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
        places = [self._place(number) for number in range(first, last + 1)]
        done: list[int] = []
        while len(done) < len(places):
            done += self._columns_at(self._open_rows(places[len(done) :]), write=write)
        ends = [((beat + number + 1) * size - 1) // burst - first for number in range(beats)]
        return [self._cycle(done[end]) for end in ends]

    def _open_rows(self, places: Sequence[Place]) -> Sequence[Place]:
        """Precharge, then activate, the banks of as many places as need one row of a bank only; these places."""
        rows: dict[Bank, int] = {}
        for count, (bank, row, _) in enumerate(places):
            if rows.setdefault(bank, row) != row:
                places = places[:count]
                break
        wrong = [(bank, row) for bank, row in rows.items() if self._rows.get(bank) != row]
        for bank, _ in wrong:
            if bank in self._rows:
                self._issue(self._target(bank).close)
        for bank, row in wrong:
            self._issue(self._target(bank).open, row)
            self._rows[bank] = row
        return places

    def _columns_at(self, places: Sequence[Place], *, write: bool) -> list[int]:
        """Read or write bursts whose rows are open; the tick at which the data of each is complete."""
        done = []
        for bank, row, column in places:
            targets = self._target(bank)
            command = targets.write if write else targets.read
            done.append(self._issue(command, row, column) + command.latency)
        return done

    def _target(self, bank: Bank) -> _Targets:
        if bank not in self._targets:
            where = (*bank, *(-1,) * (len(self.spec.address_fields) - len(bank)))
            self._targets[bank] = _Targets(*(self.core.target(name, where) for name in self._names))
        return self._targets[bank]

    def _issue(self, target: Target, row: int = -1, column: int = -1) -> int:
        self.counts[target.command] += 1
        tick = self.core.issue(target, row, column)
        return self.core.base if tick is None else tick

    def _place(self, burst: int) -> Place:
        """Where a burst lies; addresses beyond the memory begin again."""
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
