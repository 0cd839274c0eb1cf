"""The earliest legal in-order schedule of a list of commands."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pimsim.arch.dram import DramSpec
from pimsim.errors import TimingViolation
from pimsim.machine.bank import BankState
from pimsim.machine.calendar import Calendar
from pimsim.trace.csvio import TraceCommand, bind_trace


def replay(spec: DramSpec, commands: Iterable[TraceCommand], file: Path | str | None = None) -> list[TraceCommand]:
    """`commands` with the tick at which each issues: the earliest legal one after the command before it on its channel.

    The cycles given are ignored. Channels run on their own; ticks start at 1. `file` is named in messages.

    Raises:
        TraceError: a command or an address is none of the DRAM's.
        TimingViolation: a bank is in the wrong state for a command, such as a read of a closed bank, or the second step
            of a command of two comes too late after the first.
    """
    rows = list(commands)
    channels: dict[int, _Channel] = {}
    issued = []
    for number, (row, where) in enumerate(zip(rows, bind_trace(spec, rows, file), strict=True), start=1):
        channel = channels.get(max(row.channel, 0)) or channels.setdefault(max(row.channel, 0), _Channel(spec))
        try:
            tick = channel.issue(row, where)
        except TimingViolation as error:
            place = f"line {row.line}" if row.line else f"command {number}"
            raise TimingViolation(f"{f'{file}: ' if file else ''}{place}: {error}") from error
        issued.append(row._replace(cycle=tick))
    return issued


class _Channel:
    """One channel that issues what it is given as soon as it may."""

    def __init__(self, spec: DramSpec) -> None:
        self.calendar, self.banks = Calendar(spec), BankState(spec)
        self.tick = 0

    def issue(self, row: TraceCommand, where: tuple[int, ...]) -> int:
        plan = self.calendar.plan(row.command, where)
        tick = max(self.calendar.earliest(plan), self.tick + 1)
        self.banks.check(row.command, where, row.row, tick)
        self.tick = tick
        self.calendar.record(plan, tick)
        self.banks.apply(row.command, where, row.row, tick)
        return self.tick
