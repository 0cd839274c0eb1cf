"""Decoders on GDDR6-AiM: products in the banks, the rest on the host."""

from __future__ import annotations

import time

from pimsim.analysis.baselines import check_baselines, compare, load_baseline
from pimsim.analysis.energy import EnergyReport
from pimsim.analysis.strict import StrictOracle
from pimsim.arch.aim import AimConfig
from pimsim.arch.dram import DramSpec
from pimsim.bounds.traffic import bytes_without_pim
from pimsim.config import Loaded
from pimsim.machine.aim.policy import POLICIES
from pimsim.machine.aim.segments import AimProgram
from pimsim.mapper.aim import ELEMENT_BYTES, AimMapping
from pimsim.result import (
    Dram,
    Identity,
    Interface,
    Layer,
    Op,
    Result,
    Simulation,
    Time,
    Tokens,
    Unit,
    manifest,
)
from pimsim.runners import RunOptions
from pimsim.runners.aim_energy import costed
from pimsim.runners.pim_decoder import command_sink, peak_memory_bytes
from pimsim.trace.totals import RunTotals
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.models import build_graph

MAC = "MAC16"


def simulate(arch: Loaded[AimConfig], workload: Loaded[WorkloadConfig], options: RunOptions) -> Result:
    """Time the decoder on the machine, command by command; ``engine="reference"`` looks nothing up.

    Raises:
        CapacityExceeded: weights and KV cache do not fit.
    """
    start = time.perf_counter()
    check_baselines(options.baselines, workload.value)
    spec = arch.value.dram.resolve()
    graph = build_graph(workload.value)
    mapping = AimMapping(workload.value, graph, arch.value, spec)
    functional = None
    if options.check_tokens:
        from pimsim.runners.aim_check import check  # numpy is only needed here

        functional = check(arch.value, workload.value, mapping, options.check_tokens)
    oracle = StrictOracle(spec) if options.strict else None
    program = AimProgram(
        spec,
        POLICIES[arch.value.quirks],
        mapping.addressed(),
        remember=options.engine == "fast",
        sink=command_sink(oracle, options),
    )
    report = options.progress
    totals = program.run(
        (mapping.forward_pass(context) for context in range(1, mapping.passes + 1)),
        (lambda done: report(done, mapping.passes)) if report else None,
    )
    if options.trace is not None:
        options.trace.sort()
    joules = costed(totals, arch.value, spec)
    seconds = totals.ticks * spec.tick_seconds
    generated = workload.value.generate_tokens
    hashes = {"arch": arch.hash, "workload": workload.hash}
    return Result(
        arch=Identity(arch.value.name, arch.hash),
        workload=Identity(workload.value.name, workload.hash),
        engine=options.engine,
        time=Time(seconds, totals.ticks, 1e12 / spec.tck_ps),
        tokens=Tokens(
            workload.value.prompt_tokens, generated, seconds / generated, generated / seconds if seconds else None
        ),
        energy=joules,
        dram=_dram(spec, totals),
        interface=_interface(spec, totals, bytes_without_pim(graph, mapping.passes, ELEMENT_BYTES)),
        units=_units(spec, totals),
        ops=_ops(spec, totals, joules),
        layers=_layers(spec, totals, joules),
        baselines={
            name: compare(load_baseline(name), workload.value, seconds, joules.joules) for name in options.baselines
        },
        simulation=Simulation(time.perf_counter() - start, sum(totals.commands.values()), peak_memory_bytes()),
        manifest=manifest(options.command_line, hashes),
        functional=functional,
        legality=None if oracle is None else {"checked": oracle.checked},
        pass_seconds=tuple(ticks * spec.tick_seconds for ticks in totals.token_ticks),
    )


def estimate_commands(arch: Loaded[AimConfig], workload: Loaded[WorkloadConfig]) -> int:
    """Requests of all channels in all forward passes; the commands before them and refreshes come on top."""
    mapping = AimMapping(workload.value, build_graph(workload.value), arch.value, arch.value.dram.resolve())
    last = mapping.passes
    parts = [(1, 1), ((1 + last) // 2, 4), (last, 1)]  # Simpson's rule: a pass grows all but linearly
    return round(last / 6 * sum(weight * _requests(mapping, context) for context, weight in parts))


def _requests(mapping: AimMapping, context: int) -> int:
    return sum(
        instruction.size * len(instruction.channels)
        for placed in mapping.forward_pass(context)
        for instruction in placed.segment.instructions
    )


_WAYS = ("read", "write")


def _dram(spec: DramSpec, totals: RunTotals) -> Dram:
    counts = {name: totals.count(name) for name in spec.commands}
    banks = spec.banks_per_channel
    columns = counts[MAC] * banks + counts["WRA16"] * banks + counts["WRCP"]
    activates = counts["ACT16"] * banks + counts["ACT"]
    moved = {way: spec.burst_bytes * sum(n for c, n in counts.items() if spec.commands[c].data == way) for way in _WAYS}
    return Dram(
        commands={name: count for name, count in counts.items() if count},
        row_hit_rate=max(0.0, 1 - activates / columns) if columns else None,
        refreshes=sum(count for name, count in counts.items() if spec.commands[name].refresh),
        bytes_read=moved["read"],
        bytes_written=moved["write"],
    )


def _interface(spec: DramSpec, totals: RunTotals, without: int) -> Interface:
    dram = _dram(spec, totals)
    moved = dram.bytes_read + dram.bytes_written
    return Interface(moved, without, without / moved if moved else None)


def _units(spec: DramSpec, totals: RunTotals) -> dict[str, Unit]:
    """The MAC units of all channels together, as their mean, and the host."""
    interval = max(spec.timing["nCCDS"], spec.timing["nCCDL"])
    macs = totals.count(MAC) * interval / spec.channels
    host = float(totals.unit_busy["host"])
    busy = {"mac": (macs, "rows, registers and transfers"), "host": (host, "products and cache")}
    return {
        name: Unit(
            busy_seconds=ticks * spec.tick_seconds,
            busy_fraction=ticks / totals.ticks if totals.ticks else 0.0,
            stalls={reason: (totals.ticks - ticks) * spec.tick_seconds},
        )
        for name, (ticks, reason) in busy.items()
    }


def _ops(spec: DramSpec, totals: RunTotals, joules: EnergyReport) -> dict[str, Op]:
    kinds = dict.fromkeys((*(op for op, _ in totals.op_ticks.most_common()), *joules.by_op))
    return {
        kind: Op(
            count=totals.op_count[kind],
            seconds=totals.op_ticks[kind] * spec.tick_seconds,
            share=totals.op_ticks[kind] / totals.ticks if totals.ticks else 0.0,
            joules=joules.by_op.get(kind, 0.0),
        )
        for kind in kinds
    }


def _layers(spec: DramSpec, totals: RunTotals, joules: EnergyReport) -> list[Layer]:
    return [
        Layer(
            "outside the blocks" if number < 0 else f"block {number}",
            totals.layer_ticks[number] * spec.tick_seconds,
            joules.by_layer.get(number, 0.0),
        )
        for number in sorted({*totals.layer_ticks, *joules.by_layer}, key=lambda number: (number < 0, number))
    ]


__all__ = ["estimate_commands", "simulate"]
