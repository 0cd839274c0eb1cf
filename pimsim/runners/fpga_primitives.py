"""Attention algorithms by name on a streaming accelerator: expansion, program, time, counts, memory and check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pimsim.arch.fpga import FpgaArchConfig, FpgaConfig
from pimsim.config import Loaded
from pimsim.errors import CapacityExceeded, InputError, MappingError, UnsupportedOp
from pimsim.functional.primitive_check import FixedPoint, check
from pimsim.functional.streaming.fixed import Formats
from pimsim.machine.fpga.schedule import ProgramTimes
from pimsim.mapper.fpga.expansion import StreamUnits, lower
from pimsim.mapper.fpga.streams import Lanes
from pimsim.program.dataflow import done
from pimsim.program.streaming import StreamProgram
from pimsim.result import Result
from pimsim.runners import RunOptions
from pimsim.runners.attention import Expanded, counts_section
from pimsim.runners.streaming import run_calls
from pimsim.workload.attention import decisions
from pimsim.workload.attention.base import Algorithm, Case
from pimsim.workload.attention_only import AttentionConfig
from pimsim.workload.classifier import ClassifierConfig

COUNTED = ("scores", "exps", "logs", "macs", "reads", "writes", "gathered")
"""What the actions of a program count; persistent words follow from what is kept."""


def simulate(
    arch: Loaded[FpgaArchConfig],
    workload: Expanded,
    options: RunOptions,
    start: float,
    part_of: Callable[[str], str] | None = None,
) -> Result:
    """Lower the expansion of the algorithm and time it.

    Args:
        arch: The machine.
        workload: What it computes.
        options: How to run.
        start: When the run began, by `time.perf_counter`.
        part_of: Operation -> the part under which layers of the result list it; None: all are one.

    Raises:
        UnsupportedOp: the machine lacks a unit, or rows lie in memory as it cannot read them.
        ConfigError: what must be on the chip at once is larger than the buffer, or tokens are to be taken up in chunks.
    """
    work, case, method = workload.value, workload.value.case(), workload.value.method()
    if work.chunk is not None and work.chunk != case.queries:
        raise workload.tree.error(
            f"must be left out on {arch.value.name}, where a state takes up all {case.queries} queries together, "
            f"not {work.chunk}",
            ("chunk",),
        )
    machine = stream_units(arch.value)
    decided, origin = _decisions(workload, method, case)
    if options.check_tokens and work.decisions is not None and not _of_sample(work, decided):
        raise InputError(
            f"--check must be left out on {arch.value.name} where decisions of {work.algorithm} are replayed: its units decide "
            "for themselves, on drawn tensors"
        )
    try:
        program = lower(method.expand(case, decided), machine, options.progress)
    except CapacityExceeded as error:
        raise arch.tree.error(
            str(error).removeprefix("fpga.primitives.buffer_words "), ("fpga", "primitives", "buffer_words")
        ) from None
    except MappingError as error:
        raise UnsupportedOp(f"{work.title} does not run on {arch.value.name}: {error}") from None
    layers: list[str] = []
    if part_of is not None:
        layers = list(dict.fromkeys(part_of(call.name) for call in program.calls))
        program.calls = [replace(call, layer=layers.index(part_of(call.name))) for call in program.calls]
    found: list[ProgramTimes] = []
    result = run_calls(arch, workload, program.calls, options, start, {}, observe=found.append)
    (times,) = found
    spans = list(zip(times.starts, times.ends, strict=True))
    word = arch.value.fpga.word_bits // 8
    if layers:
        named = zip(result.layers, layers, strict=True)
        result = replace(result, layers=[replace(layer, name=name) for layer, name in named])
    return replace(
        result,
        counts=counts_section(counts_of(program), method.counts(case, decided or None), origin),
        memory=memory_of(program, times, word, machine.buffer_words, result.time.clock_hz),
        functional=check(program, spans, method, case, work.seed, decided, fixed_point(arch.value.fpga))
        if options.check_tokens
        else None,
    )


def stream_units(arch: FpgaArchConfig) -> StreamUnits:
    """What a machine with a section ``fpga.primitives`` has for them."""
    fpga = arch.fpga
    assert fpga.primitives is not None, "the caller sees to that"
    return StreamUnits(
        {name: Lanes(unit.lanes, unit.depth) for name, unit in fpga.primitives.units.items()},
        fpga.primitives.buffer_words,
        tuple(fpga.primitives.ports),
        words_of_beat(fpga),
        fpga.attention.load_depth,
        fpga.attention.store_depth,
        fpga.attention.fifo_depth,
        arch.name,
    )


def fixed_point(fpga: FpgaConfig) -> FixedPoint | None:
    """What the units compute in; None: float32."""
    if fpga.formats is None or (fpga.primitives is not None and fpga.primitives.arithmetic == "float32"):
        return None
    return FixedPoint(Formats.of(fpga.formats), words_of_beat(fpga))


def words_of_beat(fpga: FpgaConfig) -> int:
    """Words that a stream moves per cycle."""
    return fpga.beat_bits // fpga.word_bits


def _decisions(workload: Expanded, method: Algorithm, case: Case) -> tuple[Mapping[str, Any] | None, str | None]:
    """Decisions that the expansion needs, and where they come from; None where the program does not depend on data.

    Raises:
        ConfigError: a file of decisions is of another algorithm or case.
    """
    work = workload.value
    if work.decisions is not None:
        recorded = decisions.load(Path(work.decisions))
        if (recorded.algorithm, recorded.case) != (method, case):
            raise workload.tree.error(
                f"must be a recording of {work.algorithm} with the parameters and sizes of {work.name}, not "
                f"{recorded.algorithm.name()} with {recorded.case}",
                ("decisions",),
            )
        decisions.check_range(Path(work.decisions), recorded)
        return recorded.decisions, f"file {work.decisions} ({recorded.origin})"
    if not method.decides:
        return None, None
    origin = f"distribution: {work.algorithm}.sample, seed {work.seed}"
    return method.decide(case, method.sample(case, work.seed)), origin


def _of_sample(work: AttentionConfig | ClassifierConfig, decided: Mapping[str, Any] | None) -> bool:
    """Whether decisions that a program is built on are those of the drawn tensors, on which it is checked."""
    method, case = work.method(), work.case()
    own = method.decide(case, method.sample(case, work.seed))
    return all(name in (decided or {}) and (decided or {})[name].tolist() == own[name].tolist() for name in own)


def counts_of(program: StreamProgram) -> dict[str, int]:
    """What the program does, counted lane by lane from the actions of its stages, and the words that it keeps."""
    counted = done(program.calls)
    return {name: counted[name] for name in COUNTED} | {"persistent": sum(kept.words for kept in program.kept)}


def memory_of(
    program: StreamProgram, times: ProgramTimes, word: int, capacity: int, hertz: float
) -> dict[str, dict[str, Any]]:
    """Bytes of the buffer over time, from when the first call that uses words starts to when the last one ends; and of memory.

    What is stored keeps its place to the end of the run.
    """
    changes: dict[int, int] = {}
    for held in program.held:
        calls = [call for call in held.calls if call >= 0]
        begin = 0 if len(calls) < len(held.calls) else times.starts[calls[0]]
        changes[begin] = changes.get(begin, 0) + held.size
        if not held.stays:
            end = max(times.ends[call] for call in calls)
            changes[end] = changes.get(end, 0) - held.size
    live, peak, profile = 0, 0, []
    for cycle in sorted(changes):
        live += changes[cycle]
        peak = max(peak, live)
        profile.append((cycle / hertz, live * word))
    kept = {space: sum(k.words for k in program.kept if k.space == space) * word for space in ("chip", "memory")}
    return {
        "buffer": {
            "peak_bytes": peak * word,
            "persistent_bytes": kept["chip"],
            "capacity_bytes": capacity * word,
            "over_time": _thinned(profile),
        },
        "memory": {
            "peak_bytes": program.memory_words * word,
            "persistent_bytes": kept["memory"],
            "capacity_bytes": None,
            "over_time": None,
        },
    }


POINTS = 200
"""Most moments of a profile over time."""


def _thinned(profile: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most `POINTS` moments: the largest of each stretch of equally many."""
    size = -(-len(profile) // POINTS) if profile else 1
    return [max(profile[at : at + size], key=lambda point: point[1]) for at in range(0, len(profile), size)]


__all__ = ["counts_of", "fixed_point", "memory_of", "simulate", "stream_units"]
