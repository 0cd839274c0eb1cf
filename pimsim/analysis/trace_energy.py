"""Energy of a command trace: its counters, then the same formulas as for a run (`pimsim.analysis.energy`).

A bank with an open row counts as active from its activate to its precharge; an auto-precharge counts from its column
command, as nothing in the trace says when it happens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from pimsim.analysis.energy import OUTSIDE, DramMachine, EnergyReport, dram_energy
from pimsim.arch.dram import Command, DramSpec
from pimsim.errors import TraceError
from pimsim.trace.csvio import TraceCommand, bind_trace
from pimsim.trace.totals import RunTotals

OP = "trace"
"""The operation that every command of a trace is booked on."""

Bank = tuple[int, ...]


def trace_energy(
    machine: DramMachine, commands: Iterable[TraceCommand], *, end: int | None = None, file: Path | str | None = None
) -> EnergyReport:
    """Joules of the DRAM for a list of issued commands.

    Args:
        machine: the memory alone (`pimsim.analysis.energy.Memory`) or a machine around one.
        commands: issued commands; their cycles must not decrease.
        end: tick up to which standby counts; by default, until the last command has taken effect.
        file: named in messages.

    Raises:
        TraceError: a command or an address is none of the DRAM's, or cycles decrease.
    """
    spec = machine.dram.resolve()
    return dram_energy(trace_totals(spec, commands, end=end, file=file), machine, spec)


def trace_totals(
    spec: DramSpec, commands: Iterable[TraceCommand], *, end: int | None = None, file: Path | str | None = None
) -> RunTotals:
    """The counters of a list of issued commands; see `trace_energy` for the arguments.

    Raises:
        TraceError: a command or an address is none of the DRAM's, or cycles decrease.
    """
    rows = list(commands)
    totals = RunTotals()
    channels: dict[int, _OpenRows] = {}
    latest: dict[int, int] = {}
    for row, address in zip(rows, bind_trace(spec, rows, file), strict=True):
        command = spec.commands[row.command]
        if row.cycle < (before := latest.get(row.channel, 0)):
            message = f"the cycles of a channel must not decrease, {before} came before {row.cycle}"
            raise TraceError(message, file=file, line=row.line or None)
        latest[row.channel] = row.cycle
        totals.commands[OP, OUTSIDE, row.command] += 1
        totals.ticks = max(totals.ticks, row.cycle + max(command.latency, command.ticks))
        channels.setdefault(max(row.channel, 0), _OpenRows(spec)).note(command, address, row.cycle)
    if end is not None:
        totals.ticks = end
    totals.row_open_ticks = sum(channel.active_until(totals.ticks) for channel in channels.values())
    return totals


class _OpenRows:
    """For how many ticks at least one row of a channel was open."""

    def __init__(self, spec: DramSpec) -> None:
        self._spec = spec
        self._open: set[Bank] = set()
        self._since = 0
        self._active = 0

    def note(self, command: Command, address: Bank, cycle: int) -> None:
        """What a command at a tick opens or closes."""
        if command.effect == "none":
            return
        was_open = bool(self._open)
        if command.effect == "open":
            self._open.update(self._banks(command, address))
        else:
            self._open.difference_update(self._banks(command, address))
        if self._open and not was_open:
            self._since = cycle
        elif was_open and not self._open:
            self._active += cycle - self._since

    def active_until(self, end: int) -> int:
        """Ticks with an open row up to `end`."""
        return self._active + (max(0, end - self._since) if self._open else 0)

    def _banks(self, command: Command, address: Bank) -> Iterable[Bank]:
        depth = self._spec.levels.index(command.scope) + 1 if command.scope in self._spec.levels else 0
        return itertools.product(
            *(
                (address[level],) if level < depth and address[level] >= 0 else range(count)
                for level, count in enumerate(self._spec.counts)
            )
        )


__all__ = ["trace_energy", "trace_totals"]
