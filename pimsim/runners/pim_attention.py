"""Attention algorithms by themselves on PIM machines: DRAM channels with in-bank MAC units and a controller ASIC."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, cast

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
from pimsim.mapper.attention.parts import Rewritten, by_heads, stored_in_parts
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

if TYPE_CHECKING:
    from pimsim.functional.attention_check import Inputs

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
    from pimsim.functional.attention_check import prepare  # numpy is only needed here

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
    functional = _checked(arch.value, spec, inputs, lowering, passes) if options.check_tokens else None
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


def _checked(
    arch: ArchConfig, spec: DramSpec, inputs: Inputs, lowering: AttentionLowering, passes: Sequence[list[Placed]]
) -> dict[str, Any]:
    """The ``functional`` section: the program on numbers, in its own order and in the machine's."""
    from pimsim.functional.attention_check import AttentionCheck
    from pimsim.runners.pim_check import timed_steps

    decided = lowering.rewritten.shared(inputs.decided)
    check = AttentionCheck(
        arch, spec, inputs, lowering.values, lowering.constants, lowering.banks.used, lowering.ops, decided
    )
    return check.run([placed for [placed] in passes], timed_steps(arch, spec, passes))


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
    name = lowering.misplaced()
    if name:
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
    _check_least(ops, capacity, element)
    pim = PimLowering(spec, shape, arch.pim.accumulators)
    full, moved = CapacityExceeded(""), None
    for attempt in _attempts(ops, capacity, stream=bool(after)):
        lowering = AttentionLowering(
            attempt.order,
            pim,
            Banks(shape, spec.rows, shares),
            Space(capacity, shape.lanes, element, compact=attempt.compact),
            attempt.rewritten.shared(indices),
            rewritten=attempt.rewritten,
            in_banks=attempt.in_banks,
            keeps_in_banks=attempt.keeps_in_banks,
            serial=arch.dispatch == "serial",
            name=name,
            after=after,
        )
        try:
            block = lowering.lower()
        except CapacityExceeded as error:
            full = error
            continue
        if not after or not lowering.misplaced():
            return lowering, block
        moved = moved or (lowering, block)
    if moved is None:
        raise full
    return moved


@dataclass(frozen=True)
class _Attempt:
    """A way to carry an expansion out."""

    rewritten: Rewritten
    order: Sequence[Primitive]
    compact: bool = False
    """Whether places in the SRAM are used again as soon as possible."""
    in_banks: frozenset[str] = frozenset()
    """Sources that are fetched from the banks when they are needed."""
    keeps_in_banks: bool = False


def _check_least(ops: Sequence[Primitive], capacity: int, element: int) -> None:
    """Raises: CapacityExceeded, if an operation does not fit by itself, also for as few heads and rows as there can be."""
    try:
        check_least(_sliced(Rewritten(ops), capacity).ops, capacity, element)
    except CapacityExceeded:
        *_, least = _shares(ops, capacity)
        check_least(least.ops, capacity, element)


def _attempts(ops: Sequence[Primitive], capacity: int, *, stream: bool) -> Iterator[_Attempt]:
    """From what is fastest to what needs the least SRAM of ``capacity`` elements: at last, few heads at a time.

    Where the program is one of a ``stream``, states that do not fit the SRAM are read from the banks and written back.
    """
    used = {name for op in ops if not isinstance(op, Load) for name in op.inputs}  # others are in the banks anyway
    given = (op for op in ops if isinstance(op, Source) and op.name in used)
    largest_first = sorted(given, key=lambda op: (-op.size, op.name))
    movable = [op.name for op in largest_first if op.size >= capacity // SOURCES_SHARE]
    whole = _sliced(Rewritten(ops), capacity)
    yield _Attempt(whole, in_turn(whole.ops))
    yield _Attempt(whole, whole.ops)
    for moved in range(len(movable) + 1):
        yield _Attempt(whole, whole.ops, compact=True, in_banks=frozenset(movable[:moved]))
    if stream:
        yield _Attempt(whole, whole.ops, compact=True, in_banks=frozenset(movable), keeps_in_banks=True)
    for each in _shares(ops, capacity):
        cut = stored_in_parts(each)
        yield _Attempt(cut, cut.ops, compact=True)
        yield _Attempt(cut, cut.ops, compact=True, in_banks=frozenset(movable))
        yield _Attempt(cut, cut.ops, compact=True, in_banks=frozenset(movable), keeps_in_banks=True)


def _shares(ops: Sequence[Primitive], capacity: int) -> Iterator[Rewritten]:
    """The operations in slices, for all heads at once, then for ever fewer of them."""
    heads = max((op.shape[0] for op in ops if isinstance(op, Source) and len(op.shape) == 3), default=1)
    for parts in range(1, heads + 1):
        shared = by_heads(ops, parts) if heads % parts == 0 else None
        if shared is not None:
            yield _sliced(shared, capacity)


def _sliced(before: Rewritten, capacity: int) -> Rewritten:
    """Scores that are too large in slices of heads and rows."""
    return replace(before, ops=sliced(before.ops, capacity // SCORES_SHARE))


__all__ = [
    "attention_algorithms",
    "estimate_commands",
    "lower",
    "simulate",
]
