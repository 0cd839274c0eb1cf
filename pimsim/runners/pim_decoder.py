"""Decoders on PIM machines: DRAM channels with in-bank MAC units and a controller ASIC."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar, cast

from pimsim.analysis.baselines import check_baselines
from pimsim.analysis.roofline import roofs
from pimsim.arch.formats import format_bytes
from pimsim.arch.system import ArchConfig
from pimsim.bounds.traffic import bytes_of_groups, bytes_without_pim
from pimsim.config import Loaded
from pimsim.machine.fast import FastEngine
from pimsim.machine.units import Unit
from pimsim.mapper.group import GroupMapping
from pimsim.mapper.hybrid import mapping_for
from pimsim.mapper.mapping import Mapping
from pimsim.program.isa import Item, Placed, Stream, count_commands
from pimsim.result import Latency, Result, build_result
from pimsim.runners import Engine, Progress, RunOptions
from pimsim.trace.totals import RunTotals
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.models import build_graph

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
    functional = None
    if options.check_tokens:
        from pimsim.runners.pim_check import check  # numpy is only needed here

        functional = check(arch.value, workload.value, options.check_tokens)
    spec = arch.value.dram.resolve()
    graph = build_graph(workload.value)
    mapping = mapping_for(workload.value, graph, arch.value, spec)
    runner = _engine(options.engine)(
        arch.value,
        spec,
        trace=options.trace is not None,
        window=options.trace_window,
        recorder=options.recorder,
        further=further,
    )
    program, passes = mapping.program(), sum(1 for _ in mapping.contexts())
    with _collector_paused():
        totals = runner.run(_watched(program, passes, options.progress) if options.progress else program)
    if options.trace is not None and runner.trace is not None:
        options.trace.extend(sorted(runner.trace, key=lambda row: (row[0], row[1])))
    pins = {name for name, command in spec.commands.items() if command.data != "none"}
    moved = spec.burst_bytes * sum(n for (_, _, name), n in totals.commands.items() if name in pins)
    element_bytes = format_bytes(arch.value.pim.format)
    result = build_result(
        arch=arch.value,
        arch_hash=arch.hash,
        workload=workload.value,
        workload_hash=workload.hash,
        spec=spec,
        totals=totals,
        engine=options.engine,
        traffic={
            "bytes": moved,
            "bytes_without_pim": bytes_of_groups(graph, mapping.contexts(), element_bytes)
            if workload.value.together > 1
            else bytes_without_pim(graph, mapping.passes, element_bytes),
        },
        wall_seconds=time.perf_counter() - start,
        peak_memory_bytes=peak_memory_bytes(),
        baselines=list(options.baselines),
        command_line=list(options.command_line),
        functional=functional,
    )
    seconds = {kind: op.seconds for kind, op in result.ops.items()}
    roofline = roofs(spec, element_bytes, mapping.passes, graph, seconds) if workload.value.together == 1 else None
    latency = _latency(result.pass_seconds, mapping.prompt_passes, workload.value.generate_tokens)
    return replace(result, roofline=roofline, latency=latency), mapping, totals


def _latency(ends: Sequence[float], prompt_passes: int, generated: int) -> Latency:
    """Where the passes of the prompts end, and what each further token takes."""
    first = ends[prompt_passes - 1]
    return Latency(first, (ends[-1] - first) / (generated - 1) if generated > 1 else None)


def estimate_commands(arch: Loaded[ArchConfig], workload: Loaded[WorkloadConfig]) -> int:
    """DRAM commands of a whole run without those that refresh adds.

    The commands of a forward pass grow all but linearly with its context, so the first pass, the last and the one
    between them stand for all (Simpson's rule); up to three passes are counted exactly.
    """
    mapping = mapping_for(workload.value, build_graph(workload.value), arch.value, arch.value.dram.resolve())
    if isinstance(mapping, GroupMapping):
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


def _engine(name: Engine) -> type[FastEngine]:
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
