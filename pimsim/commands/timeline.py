"""``pimsim run --timeline``: what the run command needs to draw one."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from pimsim.analysis.energy import command_joules
from pimsim.arch.dram import DramSpec
from pimsim.arch.hybrid import FPGA, LINK_IN, LINK_OUT, UNITS, HybridConfig
from pimsim.arch.system import ArchConfig
from pimsim.commands.output import choose
from pimsim.config import Loaded
from pimsim.errors import InputError
from pimsim.report.timeline import DETAILS, Timeline, open_sink, parse_window, sink_format
from pimsim.report.timeline.build import Effect, Prices
from pimsim.result import Result
from pimsim.runners import TraceRow, find_runner

COMMAND_LIMIT = 2_000_000
"""DRAM commands that a timeline may show; each takes some 20 bytes of a .pftrace and 200 of a .json."""


class TimelineRequest:
    """A timeline that a user asked for: checked before the run, drawn during it and after it.

    Args:
        path: the file; its ending is the format.
        arch: the machine.
        workload: what runs.
        detail: one of `DETAILS`.
        window: as `parse_window` takes it; empty for all of the run.

    Raises:
        InputError: an option is wrong, the machine records no timeline, or it would show too many commands.
    """

    def __init__(self, path: Path, arch: Loaded[Any], workload: Loaded[Any], detail: str, window: str) -> None:
        self.detail = choose("timeline detail", detail, DETAILS)
        self._ending = sink_format(path)
        if not isinstance(arch.value, ArchConfig):
            raise InputError(
                f"--timeline must be left out: an architecture of kind {arch.value.kind}, as {arch.value.name} is, "
                "records none yet"
            )
        self._arch, self._spec = arch.value, arch.value.dram.resolve()
        clock_ps = Fraction(repr(self._spec.tck_ps))
        self._tick_ps = clock_ps / self._spec.ticks_per_clock
        self.window = parse_window(window, clock_ps, self._spec.ticks_per_clock) if window else (0, None)
        self.rows: list[TraceRow] | None = [] if detail == "command" else None
        if self.rows is not None:
            self._check_length(arch, workload)

    @property
    def trace_window(self) -> tuple[int, int] | None:
        """The window for a command trace, or None for all of the run."""
        first, last = self.window
        return None if (first, last) == (0, None) else (first, 1 << 62 if last is None else last)

    def open(self, file: BinaryIO) -> Timeline:
        """The recorder that draws into ``file``."""
        spec, arch = self._spec, self._arch
        prices = Prices(
            {name: sum(command_joules(command, arch, spec)[0].values()) for name, command in spec.commands.items()},
            {name: spec.burst_bytes for name, command in spec.commands.items() if command.data != "none"},
            unit_watts(arch),
            spec.tick_seconds,
        )
        units = [*(f"channel{channel}" for channel in range(spec.channels)), "asic"]
        units += UNITS if isinstance(arch, HybridConfig) else ()
        sink = open_sink(self._ending, file, self._tick_ps)
        return Timeline(sink, units, prices, self.detail, self.window)

    def finish(self, timeline: Timeline, result: Result) -> None:
        """Draw what is only known at the end."""
        if self.rows is not None:
            timeline.draw_commands(self.rows, bank_effect(self._spec), self._spec.banks_per_channel)
        timeline.close(round(result.time.cycles * self._spec.ticks_per_clock), result.energy.joules)

    def _check_length(self, arch: Loaded[Any], workload: Loaded[Any]) -> None:
        commands = find_runner(arch, workload).estimate_commands(arch, workload) or 0
        first, last = self.window
        if last is not None:  # a channel issues at most one command a tick
            commands = min(commands, (last - first) * self._spec.channels)
        if commands > COMMAND_LIMIT:
            raise InputError(
                f"--timeline-detail command must show at most {COMMAND_LIMIT:,} DRAM commands, not up to {commands:,}; "
                "choose a shorter --timeline-window, or the detail step"
            )


def unit_watts(arch: ArchConfig) -> dict[str, float]:
    """Power of units that issue no DRAM commands while they work, as far as it is known."""
    milliwatts = arch.energy.asic_busy_power_mw
    watts = {"asic": None if milliwatts is None else milliwatts * 1e-3}
    if isinstance(arch, HybridConfig):
        price, link = arch.link.pj_per_bit, arch.link
        each = None if price is None else price * 1e-12 * link.width_bits * link.clock_mhz * 1e6
        watts |= {FPGA: arch.fpga.busy_power_w, LINK_IN: each, LINK_OUT: each}
    return {unit: power for unit, power in watts.items() if power is not None}


def bank_effect(spec: DramSpec) -> Effect:
    """What a command does to which banks of its channel."""
    known: dict[tuple[str, tuple[int, ...]], tuple[str, Sequence[int]]] = {}

    def effect(name: str, where: tuple[int, ...]) -> tuple[str, Sequence[int]]:
        key = (name, where)
        found = known.get(key)
        if found is None:
            command = spec.commands[name]
            found = known[key] = (command.effect, _banks(where, spec) if command.effect != "none" else ())
        return found

    return effect


def _banks(where: tuple[int, ...], spec: DramSpec) -> list[int]:
    """Flat indices of the banks that a command reaches; a level that it does not address stands for all its nodes."""
    banks = [0]
    for index, count in zip(where, spec.counts, strict=False):
        choices = range(count) if index < 0 else (index,)
        banks = [bank * count + choice for bank in banks for choice in choices]
    return banks


__all__ = ["COMMAND_LIMIT", "TimelineRequest", "bank_effect"]
