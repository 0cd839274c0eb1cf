"""Attention products on a streaming accelerator."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

from pimsim.analysis.baselines import load_baseline
from pimsim.analysis.energy import EnergyReport
from pimsim.arch.fpga import FpgaArchConfig
from pimsim.config import Loaded
from pimsim.machine.fpga.books import RegionTimes
from pimsim.machine.fpga.ports import PortTiming
from pimsim.mapper.fpga.attention import Pipelines, Shape, naive_query_key, query_key, weighted_values
from pimsim.program.dataflow import Call, beats, iterations, verify_calls
from pimsim.result import Identity, Layer, Op, Port, Result, Simulation, Time, Unit, manifest
from pimsim.runners import RunOptions
from pimsim.runners.pim_decoder import peak_memory_bytes
from pimsim.workload.attention_only import AttentionConfig

RunRegion = Callable[..., RegionTimes]


def simulate(arch: Loaded[FpgaArchConfig], workload: Loaded[AttentionConfig], options: RunOptions) -> Result:
    """Time the attention products, call after call, beat by beat."""
    start = time.perf_counter()
    for name in options.baselines:
        load_baseline(name)  # none of them is about attention alone, but a wrong name is told
    calls = _calls(arch, workload)
    verify_calls(calls)
    run = _engine(options.engine)
    timing = port_timing(arch.value)
    times: list[RegionTimes] = []
    for done, call in enumerate(calls):
        if options.progress:
            options.progress(done, len(calls))
        times.append(run(call.region, dict.fromkeys(arch.value.fpga.ports.names, timing)))
    if options.progress:
        options.progress(len(calls), len(calls))
    cycles = sum(part.cycles for part in times)
    seconds = cycles / (arch.value.fpga.clock_mhz * 1e6)
    joules = seconds * arch.value.fpga.board_power_w
    return Result(
        arch=Identity(arch.value.name, arch.hash),
        workload=Identity(workload.value.name, workload.hash),
        engine=options.engine,
        time=Time(seconds, cycles, arch.value.fpga.clock_mhz * 1e6),
        tokens=None,
        energy=EnergyReport(joules, {"board": joules}, {}, {}, arch.value.fpga.board_power_w, []),
        dram=None,
        interface=None,
        units=_units(calls, times, cycles, seconds),
        ops={
            call.op: Op(1, seconds * part.cycles / cycles, part.cycles / cycles, joules * part.cycles / cycles)
            for call, part in sorted(zip(calls, times, strict=True), key=lambda pair: -pair[1].cycles)
        },
        layers=[Layer("block 0", seconds, joules)],
        baselines={},
        simulation=Simulation(
            time.perf_counter() - start,
            sum(iterations(stage) for call in calls for stage in call.region.stages),
            peak_memory_bytes(),
        ),
        manifest=manifest(options.command_line, {"arch": arch.hash, "workload": workload.hash}),
        ports=_traffic(calls, arch.value, timing, cycles),
    )


def estimate_commands(_arch: Loaded[FpgaArchConfig], _workload: Loaded[AttentionConfig]) -> None:
    """A streaming machine records no DRAM commands."""
    return


def port_timing(arch: FpgaArchConfig) -> PortTiming:
    """The ports in fabric cycles: a beat takes ``beat bits / port bits x fabric clock / port clock``."""
    ports = arch.fpga.ports
    rate = Fraction(arch.fpga.beat_bits, ports.width_bits) * Fraction(repr(arch.fpga.clock_mhz))
    rate /= Fraction(repr(ports.clock_mhz))
    return PortTiming(rate.numerator, rate.denominator, ports.latency, ports.max_burst, ports.outstanding)


def _calls(arch: Loaded[FpgaArchConfig], workload: Loaded[AttentionConfig]) -> list[Call]:
    unit, work = arch.value.fpga.attention, workload.value
    words = arch.value.fpga.beat_bits // arch.value.fpga.word_bits
    if work.d_head % words:
        raise workload.tree.error(
            f"must be a multiple of the words of a beat of {arch.value.name}, which are {words}, not {work.d_head}",
            ("d_head",),
        )
    if unit.parallelism > work.tokens:
        raise arch.tree.error(
            f"must be at most the tokens of {work.name}, which are {work.tokens}, not {unit.parallelism}",
            ("fpga", "attention", "parallelism"),
        )
    pipes = Pipelines(
        unit.load_depth, unit.product_depth, unit.statistics_depth, unit.weighted_depth, unit.store_depth,
        unit.statistics_interval, unit.fifo_depth,
    )  # fmt: skip
    shape = Shape(work.tokens, work.heads * work.d_head // words, unit.parallelism)
    if work.schedule == "naive":
        return [Call("query_key", "attention_scores", 0, naive_query_key(shape, pipes, unit.placement))]
    return [
        Call("query_key", "attention_scores", 0, query_key(shape, pipes, unit.placement)),
        Call("weighted_values", "attention_values", 0, weighted_values(shape, pipes, unit.placement), (0,)),
    ]


def _engine(name: str) -> RunRegion:
    if name == "fast":
        from pimsim.machine.fpga.fast import run_region

        return run_region
    from pimsim.machine.fpga.reference import run_region as run_beats  # SimPy is only needed here

    return run_beats


def _units(calls: list[Call], times: list[RegionTimes], cycles: int, seconds: float) -> dict[str, Unit]:
    units = {}
    for call, part in zip(calls, times, strict=True):
        for stage in call.region.stages:
            if not stage.unit:
                continue
            busy = iterations(stage) * stage.interval
            stalls = Counter({f"wait {reason}": n for reason, n in part.stalls[stage.name].items()})
            stalls["fill and drain"] = part.cycles - busy - stalls.total()
            stalls["idle"] = cycles - part.cycles
            units[stage.unit] = Unit(
                busy * seconds / cycles,
                busy / cycles,
                {reason: n * seconds / cycles for reason, n in stalls.most_common() if n},
            )
    return units


def _traffic(calls: list[Call], arch: FpgaArchConfig, timing: PortTiming, cycles: int) -> dict[str, Port]:
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


__all__ = ["estimate_commands", "port_timing", "simulate"]
