"""Programs of streaming machines: from calls to a result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from pimsim.analysis.baselines import ImageTable, compare_image
from pimsim.analysis.fpga_energy import fpga_energy
from pimsim.analysis.resources import Resource
from pimsim.analysis.strict import StrictOracle
from pimsim.arch.fpga import FpgaArchConfig, FpgaConfig
from pimsim.config import Loaded
from pimsim.errors import InputError
from pimsim.machine.channel import LogEntry
from pimsim.machine.fpga.memory import MemoryChannel, MemoryTiming
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.schedule import ProgramTimes, RunRegion, run_program
from pimsim.machine.fpga.shared import Machine, run_fast, run_reference
from pimsim.program.dataflow import Call, beats, verify_calls
from pimsim.program.works import Work
from pimsim.result import Dram, Identity, Result, Simulation, Time, dram_figures, manifest
from pimsim.runners import RunOptions
from pimsim.runners.pim_decoder import peak_memory_bytes
from pimsim.runners.streaming_books import Books

APART = (1 << 20) + (1 << 10)
"""Beats from one buffer to the next: other rows, and in most memories the next bank."""

NO_JUMPS = (
    "with a DRAM behind the ports the fast engine jumps over nothing, as rows and refreshes do not recur; it is slower"
)


def run_calls(
    arch: Loaded[FpgaArchConfig],
    workload: Loaded[Any],
    calls: Sequence[Call],
    options: RunOptions,
    start: float,
    needs: dict[str, Resource],
    linear_units: int = 1,
    baselines: Mapping[str, ImageTable] | None = None,
    observe: Callable[[ProgramTimes], None] | None = None,
) -> Result:
    """Verify and time a program.

    Args:
        arch: the machine.
        workload: what it computes.
        calls: the program.
        options: how to run.
        start: when the run began, by `time.perf_counter`.
        needs: of the device.
        linear_units: how many there are.
        baselines: to compare an image with.
        observe: told when every call runs.
    """
    verify_calls(calls)
    memory = memory_behind(arch.value.fpga)
    times, oracle = time_calls(arch, workload, calls, memory, options)
    if observe is not None:
        observe(times)
    return result_of(
        Books.of(calls, times), arch, workload, options, start, needs, linear_units, baselines, memory, oracle
    )


def time_calls(
    arch: Loaded[FpgaArchConfig],
    workload: Loaded[Any],
    calls: Sequence[Call],
    memory: Mapping[str, MemoryChannel] | None,
    options: RunOptions,
) -> tuple[ProgramTimes, StrictOracle | None]:
    """The times of a program in front of a memory, and who checked its commands in a strict run.

    Raises:
        InputError: as `refuse_strict`.
    """
    refuse_strict(arch, workload, options)
    oracle = _watch(memory, options) if memory is not None else None
    return _time(calls, port_timing(arch.value), memory, options), oracle


def refuse_strict(arch: Loaded[FpgaArchConfig], workload: Loaded[Any], options: RunOptions) -> None:
    """Raises: InputError, if commands are to be checked and there is no DRAM."""
    if options.strict and memory_behind(arch.value.fpga) is None:
        raise InputError(
            f"--strict must be left out: {workload.value.name} on {arch.value.name} issues no DRAM commands that could be "
            "checked; it does with arch.fpga.memory.kind=dram"
        )


def result_of(
    books: Books,
    arch: Loaded[FpgaArchConfig],
    workload: Loaded[Any],
    options: RunOptions,
    start: float,
    needs: dict[str, Resource],
    linear_units: int,
    baselines: Mapping[str, ImageTable] | None = None,
    memory: Mapping[str, MemoryChannel] | None = None,
    oracle: StrictOracle | None = None,
) -> Result:
    """The result of a program that has run; arguments as for `run_calls`, and what was behind the ports and who watched it."""
    hertz = arch.value.fpga.clock_mhz * 1e6
    seconds = books.cycles / hertz
    energy = fpga_energy(arch.value.fpga, books.activity(arch.value.fpga.beat_bits), needs, linear_units)
    return Result(
        arch=Identity(arch.value.name, arch.hash),
        workload=Identity(workload.value.name, workload.hash),
        engine=options.engine,
        time=Time(seconds, books.cycles, hertz),
        tokens=None,
        energy=energy,
        dram=_dram(memory) if memory is not None else None,
        legality=None if oracle is None else {"checked": oracle.checked},
        notes=[NO_JUMPS] if memory is not None and options.engine == "fast" else [],
        interface=None,
        units=books.units(hertz),
        ops=books.ops(hertz, energy),
        layers=books.layers(hertz, energy),
        baselines={
            name: compare_image(baseline, workload.value, seconds, energy.joules)
            for name, baseline in (baselines or {}).items()
        },
        simulation=Simulation(
            time.perf_counter() - start,
            books.iterations,
            peak_memory_bytes(),
        ),
        manifest=manifest(options.command_line, {"arch": arch.hash, "workload": workload.hash}),
        ports=books.traffic(arch.value.fpga, port_timing(arch.value)),
        resources=needs or None,
        demand=books.demand() or None,
    )


def memory_behind(fpga: FpgaConfig) -> dict[str, MemoryChannel] | None:
    """A new memory: the DRAM channel behind each port, in turn; None where memory is fixed."""
    if fpga.memory is None or fpga.memory.kind == "fixed" or fpga.memory.dram is None:
        return None
    spec = fpga.memory.dram.resolve()
    cycle, tick = Fraction(10**6) / Fraction(repr(fpga.clock_mhz)), Fraction(repr(spec.tck_ps)) / spec.ticks_per_clock
    timing = MemoryTiming(spec, fpga.memory.path_cycles, fpga.beat_bits // 8, cycle / tick)
    channels = [MemoryChannel(timing) for _ in range(spec.channels)]
    return {name: channels[number % len(channels)] for number, name in enumerate(fpga.ports.names)}


def _time(
    calls: Sequence[Call], timing: PortTiming, memory: Mapping[str, MemoryChannel] | None, options: RunOptions
) -> ProgramTimes:
    """The times of a program, region by region or, where calls share a DRAM, all together; the trace in order."""
    if memory is None:
        return run_program(calls, timing, engine_of(options.engine), options.progress)
    machine = Machine(timing, memory, [_places(call) for call in calls])
    times = (run_fast if options.engine == "fast" else run_reference)(calls, machine, options.progress)
    if options.trace is not None:
        options.trace.sort(key=lambda row: (row[0], row[1]))
    return times


def _watch(memory: Mapping[str, MemoryChannel], options: RunOptions) -> StrictOracle | None:
    """Let every command be traced, and checked in a strict run; the oracle of a strict run."""
    channels = list({id(channel): channel for channel in memory.values()}.values())
    oracle = StrictOracle(channels[0].spec) if options.strict else None
    for number, channel in enumerate(channels):

        def take(entry: LogEntry, number: int = number) -> None:
            tick, command, where, row, column = entry
            line = (tick, number, command, where, row, column)
            if oracle is not None:
                oracle(line)
            if options.trace is not None:
                options.trace.append(line)

        if options.strict or options.trace is not None:
            channel.core.sink = take
    return oracle


def estimate_commands(fpga: FpgaConfig, calls: Sequence[Call]) -> int | None:
    """DRAM commands of a program, about: a column access for each burst; None without a DRAM."""
    memory = memory_behind(fpga)
    if memory is None:
        return None
    moved = sum(beats(read.bursts) for call in calls for read in call.region.reads)
    moved += sum(beats(write.bursts) for call in calls for write in call.region.writes)
    return moved * (fpga.beat_bits // 8) // next(iter(memory.values())).spec.burst_bytes


def _places(call: Call) -> Mapping[str, int]:
    """Beat address of each stream of a call: where the program says that it lies, if it does.

    Otherwise what is read and written under one name lies in one place, far from the others.
    """
    streams = [*(read.name for read in call.region.reads), *(write.name for write in call.region.writes)]
    if isinstance(call.work, Work) and call.work.at.keys() >= set(streams):
        return call.work.at
    buffers = list(dict.fromkeys(name.partition("_")[2] for name in streams))
    return {name: buffers.index(name.partition("_")[2]) * APART for name in streams}


def _dram(memory: Mapping[str, MemoryChannel]) -> Dram:
    counts: Counter[str] = Counter()
    channels = {id(channel): channel for channel in memory.values()}.values()
    for channel in channels:
        counts.update(channel.counts)
        counts.update(channel.core.refresh_commands)
    return dram_figures(counts, next(iter(channels)).spec)


def port_timing(arch: FpgaArchConfig) -> PortTiming:
    """The ports in fabric cycles: a beat takes ``beat bits / port bits x fabric clock / port clock``."""
    ports = arch.fpga.ports
    rate = Fraction(arch.fpga.beat_bits, ports.width_bits) * Fraction(repr(arch.fpga.clock_mhz))
    rate /= Fraction(repr(ports.clock_mhz))
    return PortTiming(rate.numerator, rate.denominator, ports.latency, ports.max_burst, ports.outstanding)


def engine_of(name: str) -> RunRegion:
    """What times a region, by the name of an engine."""
    if name == "fast":
        from pimsim.machine.fpga.family import Families

        return Families().run
    from pimsim.machine.fpga.reference import run_region as run_beats  # SimPy is only needed here

    return run_beats


__all__ = [
    "PortTiming", "engine_of", "estimate_commands", "memory_behind", "port_timing", "refuse_strict", "result_of", "run_calls",
    "time_calls",
]  # fmt: skip
