"""Attention algorithms by themselves on PIM machines: DRAM channels with in-bank MAC units and a controller ASIC."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import cast

from pimsim.analysis.baselines import load_baseline
from pimsim.arch.dram import DramSpec
from pimsim.arch.formats import FLOAT_BITS, format_bytes
from pimsim.arch.system import ArchConfig
from pimsim.config import Loaded
from pimsim.errors import CapacityExceeded, InputError
from pimsim.mapper.attention.banks import Banks
from pimsim.mapper.attention.count import count_program
from pimsim.mapper.attention.lowering import AttentionLowering, Nested
from pimsim.mapper.attention.slices import sliced
from pimsim.mapper.attention.space import Space
from pimsim.mapper.layout import Shape
from pimsim.mapper.lower.pim import PimLowering
from pimsim.program.isa import Block, Item, Placed, count_commands
from pimsim.result import Result, build_result
from pimsim.runners import RunOptions
from pimsim.runners.attention import counts_section
from pimsim.runners.pim_decoder import engine_of, peak_memory_bytes
from pimsim.runners.pim_memory import attention_memory
from pimsim.trace.spans import SpanList
from pimsim.workload.attention.base import Counts, discover
from pimsim.workload.attention.primitives import Primitive, Source
from pimsim.workload.attention_only import AttentionConfig

SCORES_SHARE = 8
"""Scores that take more than this part of the SRAM are cut into heads and rows; a softmax needs their place about twice."""


SOURCES_SHARE = 64
"""Given tensors of this part of the SRAM or more may move to the banks where the SRAM does not hold everything."""


def simulate(arch: Loaded[ArchConfig], workload: Loaded[AttentionConfig], options: RunOptions) -> Result:
    """Time the program of an attention algorithm, command by command, and count what it does.

    Raises:
        MappingError: the machine cannot carry out the algorithm, or a memory is too small.
        InputError: a check is asked for in a format that has none, or decisions are those of something else.
    """
    start = time.perf_counter()
    for name in options.baselines:
        load_baseline(name)  # none of them is about attention alone, but a wrong name is told
    if options.check_tokens and arch.value.pim.format not in FLOAT_BITS:
        raise InputError(
            f"--check must be left out where pim.format is {arch.value.pim.format}: their programs have no scales"
        )
    from pimsim.functional.attention_check import AttentionCheck, prepare  # numpy is only needed here

    work, spec = workload.value, arch.value.dram.resolve()
    inputs = prepare(work.method(), work.case(), work.seed, arch.value.pim.format, work.decisions, work.chunk_case())
    lowering, block = lower(arch.value, spec, inputs.ops, inputs.indices(), after="odd" if inputs.chunks > 1 else "")
    turns = [Placed(block, 0, -1)]
    if inputs.chunks > 1:
        _check_states(workload, lowering)
        _, other = lower(arch.value, spec, inputs.ops, inputs.indices(), name="odd", after="attention")
        turns.append(Placed(other, 0, -1))
    passes = [[turns[number % len(turns)]] for number in range(inputs.chunks)]
    functional = None
    if options.check_tokens:
        from pimsim.runners.pim_check import timed_steps

        check = AttentionCheck(arch.value, spec, inputs, lowering.values, lowering.constants, lowering.banks.used)
        functional = check.run([placed for [placed] in passes], timed_steps(arch.value, spec, passes))
    spans = SpanList()
    recorded = options.recorder or (spans if inputs.chunks == 1 else None)
    runner = engine_of(options.engine)(
        arch.value,
        spec,
        trace=options.trace is not None,
        window=options.trace_window,
        recorder=recorded,
    )
    totals = runner.run(iter(passes))
    if options.trace is not None and runner.trace is not None:
        options.trace.extend(sorted(runner.trace, key=lambda row: (row[0], row[1])))
    counts = count_program(block, lowering).times(inputs.chunks)
    element = format_bytes(arch.value.pim.format)
    pins = {name for name, command in spec.commands.items() if command.data != "none"}
    moved = spec.burst_bytes * sum(n for (_, _, name), n in totals.commands.items() if name in pins)
    over_pins = counts.reads + counts.writes + counts.moved_besides
    result = build_result(
        arch=arch.value,
        arch_hash=arch.hash,
        workload=work,
        workload_hash=workload.hash,
        spec=spec,
        totals=totals,
        engine=options.engine,
        traffic={"bytes": moved, "bytes_without_pim": element * (over_pins + counts.met_besides)},
        wall_seconds=time.perf_counter() - start,
        peak_memory_bytes=peak_memory_bytes(),
        baselines=(),
        command_line=list(options.command_line),
        functional=functional,
    )
    closed = times(inputs.method.counts(work.chunk_case(), inputs.decided or None), inputs.chunks)
    return replace(
        result,
        counts=counts_section(asdict(counts), closed, inputs.origin),
        memory=attention_memory(lowering, block, spans.blocks, spec, element, totals.token_ticks),
    )


def estimate_commands(arch: Loaded[ArchConfig], workload: Loaded[AttentionConfig]) -> int:
    """DRAM commands of the program, exactly; refreshes come on top."""
    from pimsim.functional.attention_check import prepare

    work = workload.value
    inputs = prepare(work.method(), work.case(), work.seed, arch.value.pim.format, work.decisions)
    _, block = lower(arch.value, arch.value.dram.resolve(), inputs.ops, inputs.indices())
    items = [cast("tuple[Item, ...]", step.items) for stream in block.channels for step in stream]
    return sum(number for part in items for number in count_commands(part).values())


def attention_algorithms() -> tuple[str, ...]:
    """Attention algorithms that run here: every primitive has a lowering. Single cases may still be refused."""
    return tuple(discover().names())


def _check_states(workload: Loaded[AttentionConfig], lowering: AttentionLowering) -> None:
    """Raises: ConfigError, if a state is not updated where it lies, so that the next chunk would not find it."""
    from pimsim.functional.attention_check import successor

    given = {successor(op.name): lowering.values[op.name].buffer for op in lowering.ops if isinstance(op, Source)}
    for name, value in lowering.persistent.items():
        if value.buffer is None or value.buffer is not given.get(name):
            raise workload.tree.error(
                f"must be left out for attention {workload.value.algorithm}: {name} is not a state that is updated where it lies",
                ("chunk",),
            )


def times(counts: Counts, number: int) -> Counts:
    """Counts of so many runs; what is persistent stays one."""
    return replace(counts * number, persistent=counts.persistent)


def lower(
    arch: ArchConfig,
    spec: DramSpec,
    ops: Sequence[Primitive],
    indices: Mapping[str, Nested],
    name: str = "attention",
    after: str = "",
) -> tuple[AttentionLowering, Block]:
    """The program of an expansion.

    Raises:
        UnsupportedOp: a primitive has no lowering, or meets memory as the machine does not lay it out.
        CapacityExceeded: a memory is too small.
    """
    element = format_bytes(arch.pim.format)
    shape = Shape(
        channels=spec.channels,
        banks=spec.banks_per_channel,
        columns=spec.columns,
        lanes=spec.burst_bytes // element,
        buffer=arch.pim.global_buffer_bytes // element,
    )
    capacity = arch.asic.sram_bytes // element
    cut = sliced(ops, capacity // SCORES_SHARE)
    pim = PimLowering(spec, shape, arch.pim.accumulators)
    largest_first = sorted((op for op in cut if isinstance(op, Source)), key=lambda op: (-op.size, op.name))
    for moved in range(len(largest_first) + 1):
        lowering = AttentionLowering(
            cut,
            pim,
            Banks(shape, spec.rows),
            Space(capacity, shape.lanes, element),
            indices,
            in_banks=frozenset(op.name for op in largest_first[:moved]),
            serial=arch.dispatch == "serial",
            name=name,
            after=after,
        )
        try:
            return lowering, lowering.lower()
        except CapacityExceeded:
            if moved == len(largest_first) or largest_first[moved].size * SOURCES_SHARE < capacity:
                raise
    raise AssertionError("the last attempt returns or raises")


__all__ = [
    "attention_algorithms",
    "estimate_commands",
    "lower",
    "simulate",
]
