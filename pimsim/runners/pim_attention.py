"""Attention algorithms by themselves on PIM machines: DRAM channels with in-bank MAC units and a controller ASIC."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from math import prod
from typing import cast

from pimsim.analysis.baselines import load_baseline
from pimsim.analysis.strict import StrictOracle
from pimsim.arch.dram import DramSpec
from pimsim.arch.formats import FLOAT_BITS, format_bytes
from pimsim.arch.system import ArchConfig
from pimsim.config import Loaded
from pimsim.errors import CapacityExceeded, InputError
from pimsim.mapper.attention.banks import Banks
from pimsim.mapper.attention.count import count_program
from pimsim.mapper.attention.least import check_least
from pimsim.mapper.attention.lowering import AttentionLowering
from pimsim.mapper.attention.slices import in_turn, sliced
from pimsim.mapper.attention.space import Space
from pimsim.mapper.attention.values import Nested
from pimsim.mapper.layout import Shape
from pimsim.mapper.lower.pim import PimLowering
from pimsim.program.isa import Block, Item, Placed, count_commands
from pimsim.result import Result, build_result
from pimsim.runners import RunOptions
from pimsim.runners.attention import Expanded, counts_section
from pimsim.runners.pim_decoder import engine_of, peak_memory_bytes, strict_sink
from pimsim.runners.pim_memory import attention_memory
from pimsim.trace.spans import Recorder, Recorders, SpanList
from pimsim.trace.totals import RunTotals
from pimsim.workload.attention.base import Counts, discover
from pimsim.workload.attention.primitives import Load, Primitive, Source

SCORES_SHARE = 8
"""Scores that take more than this part of the SRAM are cut into heads and rows; a softmax needs their place about twice."""


SOURCES_SHARE = 64
"""Given tensors of this part of the SRAM or more may move to the banks where the SRAM does not hold everything."""


_NO_CHECK = {
    True: "programs of attention by itself have no scales for integers",
    False: "the errors that it allows are relative to a result, and those of fixed point are not",
}
"""Whether the format is int8 -> why attention by itself has no check in it."""


def simulate(arch: Loaded[ArchConfig], workload: Expanded, options: RunOptions) -> Result:
    """Time the program of an attention algorithm, command by command, and count what it does.

    Raises:
        MappingError: the machine cannot carry out the algorithm, or a memory is too small.
        InputError: a check is asked for in a format that has none, or decisions are those of something else.
    """
    start = time.perf_counter()
    for name in options.baselines:
        load_baseline(name)  # none of them is about attention alone, but a wrong name is told
    _check_format(arch, options)
    from pimsim.functional.attention_check import AttentionCheck, prepare  # numpy is only needed here

    work, spec = workload.value, arch.value.dram.resolve()
    _check_room(arch.value, spec, work.title, work.method().inputs(work.chunk_case()).values())
    inputs = prepare(work.method(), work.case(), work.seed, arch.value.pim.format, work.decisions, work.chunk_case())
    after = "odd" if inputs.chunks > 1 else ""
    lowering, block = lower(arch.value, spec, inputs.ops, inputs.indices(), after=after, shares=work.shares)
    turns = [Placed(block, 0, -1)]
    if inputs.chunks > 1:
        _check_states(workload, lowering)
        _, other = lower(
            arch.value, spec, inputs.ops, inputs.indices(), name="odd", after="attention", shares=work.shares
        )
        turns.append(Placed(other, 0, -1))
    passes = [[turns[number % len(turns)]] for number in range(inputs.chunks)]
    functional = None
    if options.check_tokens:
        from pimsim.runners.pim_check import timed_steps

        check = AttentionCheck(
            arch.value, spec, inputs, lowering.values, lowering.constants, lowering.banks.used, lowering.ops
        )
        functional = check.run([placed for [placed] in passes], timed_steps(arch.value, spec, passes))
    spans = SpanList()
    oracle = StrictOracle(spec) if options.strict else None
    recorders = [each for each in (options.recorder, spans if inputs.chunks == 1 else None) if each is not None]
    recorded = Recorders(*recorders) if recorders else None
    totals = _timed(arch.value, spec, passes, options, recorded, oracle)
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
        legality=None if oracle is None else {"checked": oracle.checked},
        memory=attention_memory(lowering, block, spans.blocks, spec, element, totals.token_ticks),
    )


def _check_format(arch: Loaded[ArchConfig], options: RunOptions) -> None:
    """Raises: InputError, if a check is asked for in a format that has none; ConfigError, if a host has traffic of its own."""
    number_format = arch.value.pim.format
    if options.check_tokens and number_format not in FLOAT_BITS:
        raise InputError(
            f"--check must be left out where pim.format is {number_format}: {_NO_CHECK[number_format == 'int8']}"
        )
    if arch.value.host_traffic:
        raise arch.tree.error("must be left out where attention runs by itself", ("host_traffic",))


def _check_room(arch: ArchConfig, spec: DramSpec, title: str, given: Iterable[tuple[int, ...]]) -> None:
    """Before tensors are drawn; ``given``: their shapes.

    Raises:
        CapacityExceeded: what is given is larger than banks and SRAM together.
    """
    size = format_bytes(arch.pim.format) * sum(prod(shape) for shape in given)
    banks = spec.channels * spec.banks_per_channel * spec.rows * spec.columns * spec.burst_bytes
    if size > banks + arch.asic.sram_bytes:
        raise CapacityExceeded(
            f"tensors of {title} must fit into {banks:,} bytes of banks and {arch.asic.sram_bytes:,} of SRAM, "
            f"not take {size:,}"
        )


def _timed(
    arch: ArchConfig,
    spec: DramSpec,
    passes: Sequence[list[Placed]],
    options: RunOptions,
    recorder: Recorder | None,
    oracle: StrictOracle | None,
) -> RunTotals:
    """Run the program; a trace that is asked for is filled."""
    runner = engine_of(options.engine)(
        arch,
        spec,
        trace=options.trace is not None and oracle is None,
        window=options.trace_window,
        recorder=recorder,
        sink=None if oracle is None else strict_sink(oracle, options),
    )
    totals = runner.run(iter(passes))
    if options.trace is not None:
        options.trace.extend(runner.trace or ())
        options.trace.sort(key=lambda row: (row[0], row[1]))
    return totals


def estimate_commands(arch: Loaded[ArchConfig], workload: Expanded) -> int:
    """DRAM commands of the program, exactly; refreshes come on top."""
    from pimsim.functional.attention_check import prepare

    work = workload.value
    inputs = prepare(work.method(), work.case(), work.seed, arch.value.pim.format, work.decisions)
    _, block = lower(arch.value, arch.value.dram.resolve(), inputs.ops, inputs.indices(), shares=work.shares)
    items = [cast("tuple[Item, ...]", step.items) for stream in block.channels for step in stream]
    return sum(number for part in items for number in count_commands(part).values())


def attention_algorithms() -> tuple[str, ...]:
    """Attention algorithms that run here: every primitive has a lowering. Single cases may still be refused."""
    return tuple(discover().names())


def _check_states(workload: Expanded, lowering: AttentionLowering) -> None:
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
    shares: int | None = None,
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
    check_least(cut, capacity, element)
    pim = PimLowering(spec, shape, arch.pim.accumulators)
    attempts = _attempts(cut, capacity // SOURCES_SHARE)
    for number, (order, compact, in_banks) in enumerate(attempts):
        lowering = AttentionLowering(
            order,
            pim,
            Banks(shape, spec.rows, shares),
            Space(capacity, shape.lanes, element, compact=compact),
            indices,
            in_banks=in_banks,
            serial=arch.dispatch == "serial",
            name=name,
            after=after,
        )
        try:
            return lowering, lowering.lower()
        except CapacityExceeded:
            if number == len(attempts) - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _attempts(ops: Sequence[Primitive], smallest: int) -> list[tuple[Sequence[Primitive], bool, frozenset[str]]]:
    """(order, compact, sources in the banks) from what is fastest to what needs the least SRAM."""
    used = {name for op in ops if not isinstance(op, Load) for name in op.inputs}  # others are in the banks anyway
    given = (op for op in ops if isinstance(op, Source) and op.name in used)
    largest_first = sorted(given, key=lambda op: (-op.size, op.name))
    movable = [op.name for op in largest_first if op.size >= smallest]
    return [
        (in_turn(ops), False, frozenset()),
        (ops, False, frozenset()),
        *((ops, True, frozenset(movable[:moved])) for moved in range(len(movable) + 1)),
    ]


__all__ = [
    "attention_algorithms",
    "estimate_commands",
    "lower",
    "simulate",
]
