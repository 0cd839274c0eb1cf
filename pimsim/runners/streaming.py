"""Programs of streaming machines: from calls to a result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from pimsim.analysis.baselines import ImageTable, compare_image
from pimsim.analysis.energy import OUTSIDE, EnergyReport
from pimsim.analysis.fpga_energy import CallActivity, fpga_energy
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
from pimsim.program.dataflow import Call, beats, iterations, verify_calls
from pimsim.program.works import Work
from pimsim.result import Dram, Identity, Layer, Op, Port, Result, Simulation, Time, Unit, dram_figures, manifest
from pimsim.runners import RunOptions
from pimsim.runners.pim_decoder import peak_memory_bytes

_PRODUCTS = ("attention.query_key", "attention.weighted_values")
APART = (1 << 20) + (1 << 10)
"""Beats from one buffer to the next: other rows, and in most memories the next bank."""

NO_JUMPS = (
    "with a DRAM behind the ports the fast engine jumps over nothing, as rows and refreshes do not recur; it is slower"
)

_TOKENS = ("read_query", "read_key", "read_value")
"""Streams of the attention products that bring rows, not scores."""


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
    timing = port_timing(arch.value)
    memory = _memory(arch.value.fpga)
    if options.strict and memory is None:
        raise InputError(
            f"--strict must be left out: {workload.value.name} on {arch.value.name} issues no DRAM commands that could be "
            "checked; it does with arch.fpga.memory.kind=dram"
        )
    oracle = _watch(memory, options) if memory is not None else None
    times = _time(calls, timing, memory, options)
    if observe is not None:
        observe(times)
    cycles = times.cycles
    hertz = arch.value.fpga.clock_mhz * 1e6
    energy = fpga_energy(arch.value.fpga, _activity(calls, times, arch.value.fpga.beat_bits), needs, linear_units)
    return Result(
        arch=Identity(arch.value.name, arch.hash),
        workload=Identity(workload.value.name, workload.hash),
        engine=options.engine,
        time=Time(cycles / hertz, cycles, hertz),
        tokens=None,
        energy=energy,
        dram=_dram(memory) if memory is not None else None,
        legality=None if oracle is None else {"checked": oracle.checked},
        notes=[NO_JUMPS] if memory is not None and options.engine == "fast" else [],
        interface=None,
        units=_units(calls, times, hertz),
        ops=_ops(calls, times, hertz, energy),
        layers=_layers(calls, times, hertz, energy),
        baselines={
            name: compare_image(baseline, workload.value, cycles / hertz, energy.joules)
            for name, baseline in (baselines or {}).items()
        },
        simulation=Simulation(
            time.perf_counter() - start,
            sum(_iterations(calls)),
            peak_memory_bytes(),
        ),
        manifest=manifest(options.command_line, {"arch": arch.hash, "workload": workload.hash}),
        ports=_traffic(calls, arch.value, timing, cycles),
        resources=needs or None,
        demand=_demand(calls) or None,
    )


def _memory(fpga: FpgaConfig) -> dict[str, MemoryChannel] | None:
    """The DRAM channel behind each port, in turn; None where memory is fixed."""
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
        return run_program(calls, timing, _engine(options.engine), options.progress)
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
    memory = _memory(fpga)
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


def _engine(name: str) -> RunRegion:
    if name == "fast":
        from pimsim.machine.fpga.fast import run_region

        return run_region
    from pimsim.machine.fpga.reference import run_region as run_beats  # SimPy is only needed here

    return run_beats


def _iterations(calls: Sequence[Call]) -> list[int]:
    """Iterations of every call, all stages together."""
    known: dict[int, int] = {}
    for call in calls:
        if id(call.region) not in known:
            known[id(call.region)] = sum(iterations(stage) for stage in call.region.stages)
    return [known[id(call.region)] for call in calls]


def _moved(calls: Sequence[Call], times: ProgramTimes) -> list[tuple[Call, int]]:
    """By how many cycles each call moved the end of the program; calls in the order in which they end."""
    moved, latest = [], 0
    for end, _, call in sorted(zip(times.ends, range(len(calls)), calls, strict=True), key=lambda entry: entry[:2]):
        moved.append((call, end - latest))
        latest = end
    return moved


def _ops(calls: Sequence[Call], times: ProgramTimes, hertz: float, energy: EnergyReport) -> dict[str, Op]:
    counts = Counter(call.op for call in calls)
    cycles: Counter[str] = Counter()
    for call, moved in _moved(calls, times):
        cycles[call.op] += moved
    return {
        op: Op(counts[op], moved / hertz, moved / times.cycles, energy.by_op.get(op, 0.0))
        for op, moved in cycles.most_common()
    }


def _layers(calls: Sequence[Call], times: ProgramTimes, hertz: float, energy: EnergyReport) -> list[Layer]:
    cycles: Counter[int] = Counter()
    for call, moved in _moved(calls, times):
        cycles[call.layer] += moved
    return [
        Layer(
            "outside the blocks" if layer == OUTSIDE else f"block {layer}",
            cycles[layer] / hertz,
            energy.by_layer.get(layer, 0.0),
        )
        for layer in sorted(cycles, key=lambda layer: (layer == OUTSIDE, layer))
    ]


def _activity(calls: Sequence[Call], times: ProgramTimes, beat_bits: int) -> list[CallActivity]:
    """What every call did that costs energy."""
    found = []
    for call, moved in _moved(calls, times):
        busy: Counter[str] = Counter()
        for stage in call.region.stages:
            if stage.unit:
                busy[stage.unit] += iterations(stage) * stage.interval
        moves = sum(beats(read.bursts) for read in call.region.reads)
        moves += sum(beats(write.bursts) for write in call.region.writes)
        found.append(CallActivity(call.op, call.layer, moved, busy, moves * beat_bits))
    return found


def _units(calls: Sequence[Call], times: ProgramTimes, hertz: float) -> dict[str, Unit]:
    busy: Counter[str] = Counter()
    used: Counter[str] = Counter()
    stalls: dict[str, Counter[str]] = {}
    for call, part in zip(calls, times.regions, strict=True):
        for stage in call.region.stages:
            if stage.unit:
                waits = Counter({f"wait {reason}": n for reason, n in part.stalls[stage.name].items()})
                works = iterations(stage) * stage.interval
                busy[stage.unit] += works
                used[stage.unit] += part.cycles
                stalls.setdefault(stage.unit, Counter()).update(waits)
                stalls[stage.unit]["fill and drain"] += part.cycles - works - waits.total()
    for unit, cycles in used.items():
        stalls[unit]["idle"] = times.cycles - cycles
    return {
        unit: Unit(
            works / hertz,
            works / times.cycles,
            {reason: n / hertz for reason, n in stalls[unit].most_common() if n},
        )
        for unit, works in busy.most_common()
    }


def _demand(calls: Sequence[Call]) -> dict[str, float]:
    """Beats that each attention product reads per iteration; rows and steps have equally many beats and iterations."""
    moved: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for call in calls:
        for stage in call.region.stages:
            if stage.unit in _PRODUCTS:
                steps[call.op] += iterations(stage)
                moved[call.op] += sum(beats(read.bursts) for read in call.region.reads if read.name in _TOKENS)
    return {op: moved[op] / steps[op] for op in steps}


def _traffic(calls: Sequence[Call], arch: FpgaArchConfig, timing: PortTiming, cycles: int) -> dict[str, Port]:
    read: Counter[str] = Counter()
    written: Counter[str] = Counter()
    for call in calls:
        for stream in call.region.reads:
            read[stream.port] += beats(stream.bursts)
        for target in call.region.writes:
            written[target.port] += beats(target.bursts)
    size, share = arch.fpga.beat_bits // 8, timing.numerator / timing.denominator / cycles
    return {
        name: Port(read[name] * size, written[name] * size, read[name] * share, written[name] * share)
        for name in arch.fpga.ports.names
    }


__all__ = ["estimate_commands", "port_timing", "run_calls"]
