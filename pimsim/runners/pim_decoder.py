"""Decoders on PIM machines: DRAM channels with in-bank MAC units and a controller ASIC."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from pimsim.analysis.baselines import check_baselines
from pimsim.analysis.energy import is_mac
from pimsim.analysis.roofline import roofs
from pimsim.arch.dram import DramSpec
from pimsim.arch.formats import format_bytes
from pimsim.arch.system import ArchConfig
from pimsim.bounds.traffic import bytes_of_groups, bytes_without_pim
from pimsim.config import Loaded
from pimsim.machine.fast import FastEngine
from pimsim.machine.units import Unit
from pimsim.mapper.choice import graph_for, mapping_for
from pimsim.mapper.mapping import Mapping
from pimsim.program.isa import Item, Placed, Stream, count_commands
from pimsim.result import Latency, Result, build_result
from pimsim.runners import Engine, Progress, RunOptions, TraceRow
from pimsim.runners.pim_memory import MemoryWatch
from pimsim.trace.spans import Recorder, Recorders
from pimsim.trace.totals import RunTotals
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph

if TYPE_CHECKING:
    from pimsim.analysis.requests import Requests
    from pimsim.analysis.strict import StrictOracle
    from pimsim.machine.controller.shared import SharedChannel
    from pimsim.runners.decoder_counts import AttentionCounter
    from pimsim.trace.activity import ActivityRecorder

T = TypeVar("T")


def simulate(arch: Loaded[ArchConfig], workload: Loaded[WorkloadConfig], options: RunOptions) -> Result:
    """Time the decoder on the PIM machine, command by command."""
    return run(arch, workload, options)[0]


def run(
    arch: Loaded[Any], workload: Loaded[WorkloadConfig], options: RunOptions, further: Sequence[Unit] = ()
) -> tuple[Result, Mapping, RunTotals]:
    """`simulate` on a machine that may have ``further`` units; also what was decided, and the counters."""
    start = time.perf_counter()
    check_baselines(options.baselines, workload.value)  # a wrong one must not cost the run
    spec = arch.value.dram.resolve()
    graph = graph_for(workload.value, arch.value)
    mapping = mapping_for(workload.value, graph, arch.value, spec)
    functional = None
    if options.check_tokens:
        from pimsim.runners.pim_check import check  # numpy is only needed here

        functional = check(arch.value, workload.value, options.check_tokens, mapping)
    timed = _time(arch, spec, mapping, options, further)
    totals, element_bytes = timed.totals, format_bytes(arch.value.pim.format)
    without_pim = _without_pim(graph, mapping, element_bytes) + (timed.host.bytes if timed.host else 0)
    result = build_result(
        arch=arch.value,
        arch_hash=arch.hash,
        workload=workload.value,
        workload_hash=workload.hash,
        spec=spec,
        totals=totals,
        engine=timed.engine,
        traffic={"bytes": _over_pins(totals, spec), "bytes_without_pim": without_pim},
        wall_seconds=time.perf_counter() - start,
        peak_memory_bytes=peak_memory_bytes(),
        baselines=list(options.baselines),
        command_line=list(options.command_line),
        functional=functional,
    )
    seconds = {kind: op.seconds for kind, op in result.ops.items()}
    linear = workload.value.together == 1 and mapping.attention is None  # counts grow linearly with the context
    result = replace(
        result,
        activity=timed.activity.activity(totals.ticks, spec.tick_seconds) if timed.activity else None,
        roofline=roofs(spec, element_bytes, mapping.passes, graph, seconds) if linear else None,
        latency=_latency(result.pass_seconds, mapping.prompt_passes, workload.value.generate_tokens),
        legality=None if timed.oracle is None else {"checked": timed.oracle.checked},
        requests=timed.host,
        memory=timed.memory.section(totals.token_ticks, element_bytes),
        counts=timed.counts,
    )
    return result, mapping, totals


class _Timed(NamedTuple):
    """A program that has run, and those who watched it."""

    totals: RunTotals
    engine: Engine
    host: Requests | None
    oracle: StrictOracle | None
    activity: ActivityRecorder | None
    memory: MemoryWatch
    counts: dict[str, Any] | None


def _time(arch: Loaded[Any], spec: DramSpec, mapping: Mapping, options: RunOptions, further: Sequence[Unit]) -> _Timed:
    """Run the program, beside host traffic if the machine has it."""
    activity: ActivityRecorder | None = None
    if options.activity:
        from pimsim.trace.activity import ActivityRecorder

        activity = ActivityRecorder({name for name, command in spec.commands.items() if is_mac(command)})
    options = replace(options, recorder=_recorder(options.recorder, activity))
    oracle: StrictOracle | None = None
    if options.strict:
        from pimsim.analysis.strict import StrictOracle

        oracle = StrictOracle(spec)
    sink = None if oracle is None else strict_sink(oracle, options)
    engine: Engine = "reference" if arch.value.host_traffic else options.engine
    shared: list[SharedChannel] = []
    if arch.value.host_traffic:
        from pimsim.runners.pim_host import shared_channels

        shared = shared_channels(arch, spec)
    runner = _runner(arch.value, spec, engine, options, sink, shared, further)
    memory = MemoryWatch(mapping, spec)
    counter: AttentionCounter | None = None
    program, passes = memory.watch(mapping.program()), sum(1 for _ in mapping.contexts())
    if mapping.attention is not None:
        from pimsim.runners.decoder_counts import AttentionCounter

        counter = AttentionCounter(mapping.attention, mapping.workload.model.layers)
        program = counter.watch(program)
    with _collector_paused():
        totals = runner.run(_watched(program, passes, options.progress) if options.progress else program)
        alone = FastEngine(arch.value, spec, further=further).run(mapping.program()) if shared else None
    if options.trace is not None:
        options.trace.extend(runner.trace or ())
        options.trace.sort(key=lambda row: (row[0], row[1]))
    host = None
    if alone is not None:
        from pimsim.runners.pim_host import book, figures

        book(shared, totals)
        host = figures(shared, spec, totals, alone)
    return _Timed(totals, engine, host, oracle, activity, memory, counter.section() if counter is not None else None)


def _over_pins(totals: RunTotals, spec: DramSpec) -> int:
    """Bytes over the data pins."""
    pins = {name for name, command in spec.commands.items() if command.data != "none"}
    return spec.burst_bytes * sum(n for (_, _, name), n in totals.commands.items() if name in pins)


def _without_pim(graph: WorkloadGraph, mapping: Mapping, element_bytes: int) -> int:
    """Bytes that the same passes would move without PIM."""
    if mapping.workload.together > 1 or mapping.attention is not None:
        return bytes_of_groups(graph, mapping.contexts(), element_bytes)
    return bytes_without_pim(graph, mapping.passes, element_bytes)


def _latency(ends: Sequence[float], prompt_passes: int, generated: int) -> Latency:
    """Where the passes of the prompts end, and what each further token takes."""
    first = ends[prompt_passes - 1]
    return Latency(first, (ends[-1] - first) / (generated - 1) if generated > 1 else None)


def strict_sink(oracle: StrictOracle, options: RunOptions) -> Callable[[TraceRow], None]:
    """What checks every command and, where a trace is asked for, keeps those of its window."""
    trace, window = options.trace, options.trace_window

    def take(row: TraceRow) -> None:
        oracle(row)
        if trace is not None and (window is None or window[0] <= row[0] < window[1]):
            trace.append(row)

    return take


def estimate_commands(arch: Loaded[ArchConfig], workload: Loaded[WorkloadConfig]) -> int:
    """DRAM commands of a whole run without those that refresh adds.

    The commands of a forward pass grow all but linearly with its context, so the first pass, the last and the one
    between them stand for all (Simpson's rule); up to three passes are counted exactly.
    """
    mapping = mapping_for(workload.value, graph_for(workload.value, arch.value), arch.value, arch.value.dram.resolve())
    if mapping.workload.together > 1:
        return sum(map(_commands_of, mapping.program()))
    passes = mapping.passes
    if passes <= 3:
        return sum(_pass_commands(mapping, context) for context in range(1, passes + 1))
    first, middle, last = (_pass_commands(mapping, context) for context in (1, (1 + passes) // 2, passes))
    return round(passes * (first + 4 * middle + last) / 6)


def _pass_commands(mapping: Mapping, context: int) -> int:
    return _commands_of(mapping.forward_pass(context))


def _commands_of(blocks: Iterable[Placed]) -> int:
    times: Counter[int] = Counter()
    streams: dict[int, Stream] = {}
    for placed in blocks:
        for stream in placed.block.channels:
            streams[id(stream)] = stream
            times[id(stream)] += 1
    return sum(n * _stream_commands(streams[key]) for key, n in times.items())


def _stream_commands(stream: Stream) -> int:
    items = [cast(tuple[Item, ...], step.items) for step in stream]
    return sum(number for part in items for number in count_commands(part).values())


def _recorder(*recorders: Recorder | None) -> Recorder | None:
    """One recorder for all that there are, or None."""
    found = [recorder for recorder in recorders if recorder is not None]
    return Recorders(*found) if len(found) > 1 else next(iter(found), None)


def _runner(
    arch: ArchConfig,
    spec: DramSpec,
    engine: Engine,
    options: RunOptions,
    sink: Callable[[TraceRow], object] | None,
    shared: Sequence[SharedChannel],
    further: Sequence[Unit],
) -> FastEngine:
    """The engine, set up; with channels that are shared with a host, it is the reference engine."""
    traced, window = options.trace is not None and sink is None, options.trace_window
    more: dict[str, Any] = {"cores": shared} if shared else {}
    return engine_of(engine)(
        arch, spec, trace=traced, window=window, recorder=options.recorder, sink=sink, further=further, **more
    )


def engine_of(name: Engine) -> type[FastEngine]:
    """The engine of a name."""
    if name == "fast":
        return FastEngine
    from pimsim.machine.reference import ReferenceEngine  # SimPy is only needed here

    return ReferenceEngine  # type: ignore[return-value]


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the cycle collector from walking the engines' tables again and again; they hold no garbage cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _watched(passes: Iterable[T], total: int, progress: Progress) -> Iterator[T]:
    for done, placed in enumerate(passes):
        progress(done, total)
        yield placed
    progress(total, total)


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
