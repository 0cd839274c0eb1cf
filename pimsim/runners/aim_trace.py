"""Traces of AiM instructions on GDDR6-AiM."""

from __future__ import annotations

import math
import time

from pimsim.analysis.energy import OUTSIDE
from pimsim.analysis.strict import StrictOracle
from pimsim.arch.aim import AimConfig
from pimsim.arch.dram import DramSpec
from pimsim.config import Loaded
from pimsim.machine.aim.host import AimRun, run_aim
from pimsim.machine.aim.policy import POLICIES
from pimsim.program.aim_isr import Instruction, Limits, read_instructions
from pimsim.result import Dram, Identity, Interface, Result, Simulation, Time, manifest
from pimsim.runners import RunOptions
from pimsim.runners.aim_energy import costed
from pimsim.runners.pim_decoder import command_sink, peak_memory_bytes
from pimsim.trace.totals import RunTotals
from pimsim.workload.trace import TraceWorkload


def simulate(arch: Loaded[AimConfig], workload: Loaded[TraceWorkload], options: RunOptions) -> Result:
    """Time the instructions; what each channel issues is exact."""
    start = time.perf_counter()
    spec = arch.value.dram.resolve()
    instructions = _instructions(spec, workload)
    policy = POLICIES[arch.value.quirks]
    oracle = StrictOracle(spec) if options.strict else None
    run = run_aim(spec, policy, instructions, sink=command_sink(oracle, options), progress=options.progress)
    if options.trace is not None:
        options.trace.sort()
    hashes = {"arch": arch.hash, "workload": workload.hash}
    return Result(
        arch=Identity(arch.value.name, arch.hash),
        workload=Identity(workload.value.name, workload.hash),
        engine=options.engine,
        time=Time(run.cycles * spec.tick_seconds, run.cycles, 1e12 / spec.tck_ps),
        tokens=None,
        energy=costed(_totals(run), arch.value, spec),
        dram=_dram(spec, run),
        interface=_interface(spec, run),
        units={},
        ops={},
        layers=[],
        baselines={},
        simulation=Simulation(time.perf_counter() - start, sum(run.total_counts.values()), peak_memory_bytes()),
        manifest=manifest(options.command_line, hashes),
        legality=None if oracle is None else {"checked": oracle.checked},
    )


def estimate_commands(arch: Loaded[AimConfig], workload: Loaded[TraceWorkload]) -> int:
    """Requests of all channels; prerequisites and refreshes come on top."""
    spec = arch.value.dram.resolve()
    return sum(i.size * len(i.channels) for i in _instructions(spec, workload))


def _instructions(spec: DramSpec, workload: Loaded[TraceWorkload]) -> list[Instruction]:
    limits = Limits(spec.channels, math.prod(spec.counts), spec.rows, spec.columns)
    return read_instructions(workload.value.path, limits)


def _totals(run: AimRun) -> RunTotals:
    """All commands as one operation; the host's own arithmetic is not in a trace."""
    totals = RunTotals(ticks=run.cycles)
    for name, count in run.total_counts.items():
        totals.commands["trace", OUTSIDE, name] += count
    return totals


def _moved(spec: DramSpec, run: AimRun, way: str) -> int:
    return spec.burst_bytes * sum(n for name, n in run.total_counts.items() if spec.commands[name].data == way)


def _dram(spec: DramSpec, run: AimRun) -> Dram:
    counts = run.total_counts
    return Dram(
        commands={name: counts[name] for name in spec.commands if counts[name]},
        row_hit_rate=None,
        refreshes=sum(n for name, n in counts.items() if spec.commands[name].refresh),
        bytes_read=_moved(spec, run, "read"),
        bytes_written=_moved(spec, run, "write"),
    )


def _interface(spec: DramSpec, run: AimRun) -> Interface:
    """Without PIM, every column that is computed on in a bank would cross the pins."""
    moved = _moved(spec, run, "read") + _moved(spec, run, "write")
    banks = spec.banks_per_channel
    inside = {"MAC": 1, "RDCP": 1, "WRCP": 1, "MAC16": banks, "EWMUL16": banks}
    without = moved + spec.burst_bytes * sum(run.total_counts[name] * n for name, n in inside.items())
    return Interface(moved, without, without / moved if moved else None)


__all__ = ["estimate_commands", "simulate"]
