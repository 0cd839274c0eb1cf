"""The composition root: from an architecture and a workload to a result."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

from pimsim.analysis.baselines import load_baseline
from pimsim.arch.system import FORMAT_BYTES, ArchConfig
from pimsim.bounds.traffic import bytes_without_pim
from pimsim.config import Loaded, load_arch, load_workload, split_overrides
from pimsim.machine.fast import FastEngine, TraceRow
from pimsim.mapper.mapping import Mapping
from pimsim.result import Result, build_result
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.models import build_graph

Engine = Literal["fast", "reference"]
Progress = Callable[[int, int], None]
"""Called with (forward passes done, forward passes in all)."""

T = TypeVar("T")


def simulate(
    arch: str,
    workload: str,
    *,
    overrides: Sequence[str] = (),
    engine: Engine = "fast",
    baselines: Sequence[str] = (),
    trace: list[TraceRow] | None = None,
    progress: Progress | None = None,
    command_line: Sequence[str] = (),
) -> Result:
    """Simulate a workload on an architecture.

    Args:
        arch: name of a shipped architecture, or path of a YAML file.
        workload: likewise.
        overrides: ``"arch.dram.channels=16"`` and the like.
        engine: ``"fast"`` or ``"reference"``; both give the same cycles.
        baselines: names of baselines to compare with.
        trace: filled with every DRAM command, sorted by tick and channel (only for short runs).
        progress: called after every forward pass.

    Raises:
        InputError: something in the input is wrong; the message says what and where. Baselines are looked up before the run.
    """
    options = split_overrides(overrides)
    return simulate_loaded(
        load_arch(arch, options["arch"]),
        load_workload(workload, options["workload"]),
        engine=engine,
        baselines=baselines,
        trace=trace,
        progress=progress,
        command_line=command_line,
    )


def simulate_loaded(
    arch: Loaded[ArchConfig],
    workload: Loaded[WorkloadConfig],
    *,
    engine: Engine = "fast",
    baselines: Sequence[str] = (),
    trace: list[TraceRow] | None = None,
    progress: Progress | None = None,
    command_line: Sequence[str] = (),
) -> Result:
    """`simulate` for configurations that are loaded already."""
    start = time.perf_counter()
    for name in baselines:
        load_baseline(name)  # a wrong name must not cost the run
    spec = arch.value.dram.resolve()
    graph = build_graph(workload.value)
    mapping = Mapping(workload.value, graph, arch.value, spec)
    runner = _engine(engine)(arch.value, spec, trace=trace is not None)
    program = mapping.program()
    with _collector_paused():
        totals = runner.run(_watched(program, mapping.passes, progress) if progress else program)
    if trace is not None and runner.trace is not None:
        trace += sorted(runner.trace, key=lambda row: (row[0], row[1]))
    pins = {name for name, command in spec.commands.items() if command.data != "none"}
    moved = spec.burst_bytes * sum(n for (_, _, name), n in totals.commands.items() if name in pins)
    return build_result(
        arch=arch.value,
        arch_hash=arch.hash,
        workload=workload.value,
        workload_hash=workload.hash,
        spec=spec,
        totals=totals,
        engine=engine,
        traffic={
            "bytes": moved,
            "bytes_without_pim": bytes_without_pim(graph, mapping.passes, FORMAT_BYTES[arch.value.pim.format]),
        },
        wall_seconds=time.perf_counter() - start,
        peak_memory_bytes=peak_memory_bytes(),
        baselines=list(baselines),
        command_line=list(command_line),
    )


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
