"""Decoders on a streaming accelerator: prompts as matrix-matrix work, then token after token."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

from pimsim.analysis.baselines import check_baselines, compare, load_baseline
from pimsim.analysis.resources import EncoderNeeds, instances, resources
from pimsim.arch.fpga import FpgaArchConfig, FpgaEncoder
from pimsim.config import Loaded
from pimsim.errors import MappingError
from pimsim.machine.fpga.schedule import RunRegion, run_program
from pimsim.mapper.fpga.decoder import DecoderProgram, append
from pimsim.mapper.group import prompt_groups
from pimsim.program.dataflow import Call, verify_calls
from pimsim.program.works import StreamingProgram
from pimsim.result import Latency, Result, Tokens
from pimsim.runners import RunOptions, streaming
from pimsim.runners.streaming_books import Books
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.models import softmax_graph

MAX_POINTS = 200
"""Most moments of the memory over time."""


def simulate(arch: Loaded[FpgaArchConfig], workload: Loaded[WorkloadConfig], options: RunOptions) -> Result:
    """Time the decoder pass after pass, beat by beat.

    Raises:
        ConfigError: the model needs a unit that the machine does not have.
        MappingError, CapacityExceeded: its sizes do not fit the machine.
    """
    start = time.perf_counter()
    work, fpga = workload.value, arch.value.fpga
    check_baselines(options.baselines, work)  # a wrong one must not cost the run
    streaming.refuse_strict(arch, workload, options)
    unit = check(arch, workload)
    needs_of = decoder_needs(work)
    needs = resources(fpga, work.model.heads, needs_of)
    program = DecoderProgram(fpga, unit, work)
    functional = None
    if options.check_tokens:
        from pimsim.runners.fpga_decoder_check import DecoderCheck  # numpy is only needed here

        functional = DecoderCheck(fpga, arch.value.name, work, options.check_tokens).run()
    memory = streaming.memory_behind(fpga)
    if memory is None:
        timed = time_parts(program, streaming.port_timing(arch.value), streaming.engine_of(options.engine), options)
        books, ends, kept, oracle = timed.books, timed.ends, timed.kept, None
    else:
        whole, lasts = whole_program(program)
        times, oracle = streaming.time_calls(arch, workload, whole.calls, memory, options)
        books = Books.of(whole.calls, times)
        ends = [max(times.ends[call] for call in last) for last in lasts]
        first = [0, *(max(last) + 1 for last in lasts)]
        kept = [program.kept_beats(whole.calls[begin:end]) for begin, end in pairwise(first)]
    result = streaming.result_of(
        books, arch, workload, options, start, needs, instances(fpga, needs_of), None, memory, oracle
    )
    seconds, joules = result.time.seconds, result.energy.joules
    moments = tuple(end / result.time.clock_hz for end in ends)
    return replace(
        result,
        functional=functional,
        tokens=_tokens(work, seconds),
        latency=_latency(moments, prompt_groups(work), work.generate_tokens),
        pass_seconds=moments,
        memory=_memory(program, moments, kept),
        baselines={name: compare(load_baseline(name), work, seconds, joules) for name in options.baselines},
    )


def check(arch: Loaded[FpgaArchConfig], workload: Loaded[WorkloadConfig]) -> FpgaEncoder:
    """The units around attention, if the machine has all that the model needs.

    Raises:
        MappingError: the machine computes attention only.
        ConfigError: what the model needs is not there; the error names the field.
        WorkloadError: as for `build_graph`.
    """
    fpga, work, name = arch.value.fpga, workload.value, arch.value.name
    if fpga.encoder is None:
        raise MappingError(f"{name} must have a section fpga.encoder for {work.name}; it computes attention only")
    if work.attention not in ("vanilla", "single_pass"):
        raise workload.tree.error(
            f"must be vanilla or single_pass on {name}, which has units for softmax attention only, not {work.attention}",
            ("attention",),
        )
    softmax_graph(work)
    model = work.model
    wanted: list[tuple[str, Any, tuple[Any, ...], str]] = [
        ("norm_offset", model.norm_offset, (0.0,), "stores gains whole"),
        ("activation", model.activation, ("gelu_tanh", "gelu_erf", "silu"), "has tables of what ReLU is more"),
        ("rope_fraction", model.rope_fraction, (1.0,), "rotates whole heads"),
        ("parallel_residual", model.parallel_residual, (False,), "adds attention before the feed-forward part"),
        ("attention_scale", model.score_scale, (model.head_width**-0.5,), "scales scores by 1 / sqrt(d_head)"),
        ("embedding_scale", model.embedding_scale, (1.0,), "adds embeddings as they are stored"),
    ]
    for field_name, given, fitting, why in wanted:
        if given not in fitting:
            text = " or ".join(_plain(each) for each in fitting)
            raise workload.tree.error(
                f"must be {text} on {name}, which {why}, not {_plain(given)}", ("model", field_name)
            )
    if work.attention == "single_pass" and fpga.attention.softmax != "single_pass":
        raise workload.tree.error(
            f"must be vanilla on {name}, whose fpga.attention.softmax is {fpga.attention.softmax}, not single_pass",
            ("attention",),
        )
    passes = work.prompt_tokens + work.generate_tokens - 1
    if work.embeddings and model.position == "learned" and passes > model.context:
        raise workload.tree.error(
            f"must be at most model.context - prompt_tokens + 1 = {model.context - work.prompt_tokens + 1} with embeddings, "
            f"as there is no position behind it, not {work.generate_tokens}",
            ("generate_tokens",),
        )
    return fpga.encoder


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def decoder_needs(work: WorkloadConfig) -> EncoderNeeds:
    """Matrices of a decoder, by use."""
    model = work.model
    attended, kept = model.heads * model.head_width, model.key_value_heads * model.head_width
    matrices = dict.fromkeys(("query", "output_projection"), model.d_model * attended)
    matrices |= dict.fromkeys(("key", "value"), model.d_model * kept)
    matrices |= dict.fromkeys(("ffn_up", "ffn_down"), model.d_model * model.d_ff)
    if work.lm_head:
        matrices["lm_head"] = model.d_model * model.vocabulary
    return EncoderNeeds(0, matrices, 1)


# ------------------------------------------------------------------------------------------------------------------ time


@dataclass
class Timed:
    """A run: everything that was done, and the cycle at which each pass was complete."""

    books: Books = field(default_factory=Books)
    ends: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    """Beats that each pass writes into caches."""
    different: int = 0
    """Parts that had to be timed."""


def time_parts(
    program: DecoderProgram, timing: streaming.PortTiming, run_region: RunRegion, options: RunOptions
) -> Timed:
    """Time every different part once, and add up.

    A part begins when the one before is complete, so it takes as long wherever it stands; parts of equal key have equal regions.
    """
    timed, known = Timed(), dict[Hashable, tuple[Books, int]]()
    often: Counter[tuple[Hashable, int]] = Counter()
    passes = list(program.groups)
    for number, group in enumerate(passes):
        if options.progress:
            options.progress(number, len(passes))
        cycles, kept = timed.ends[-1] if timed.ends else 0, 0
        for part in program.parts(group):
            if part.key not in known:
                calls = part.make().calls
                known[part.key] = _time_calls(calls, timing, run_region), program.kept_beats(calls)
            often[part.key, part.layer] += 1
            books, written = known[part.key]
            cycles, kept = cycles + books.cycles, kept + written
        timed.ends.append(cycles)
        timed.kept.append(kept)
    for (key, layer), times in often.items():
        timed.books.add(known[key][0], times, layer)
    timed.different = len(known)
    if options.progress:
        options.progress(len(passes), len(passes))
    return timed


def _time_calls(calls: Sequence[Call], timing: streaming.PortTiming, run_region: RunRegion) -> Books:
    verify_calls(calls)
    return Books.of(calls, run_program(calls, timing, run_region))


def whole_program(program: DecoderProgram, passes: int | None = None) -> tuple[StreamingProgram, list[tuple[int, ...]]]:
    """All calls of the first ``passes`` passes, one by one, and for each pass those that end it."""
    found, lasts = StreamingProgram(beats=program.beats), list[tuple[int, ...]]()
    barrier: tuple[int, ...] = ()
    for number, group in enumerate(program.groups):
        if number == passes:
            break
        barrier = append(found, list(program.parts(group)), barrier)
        lasts.append(barrier)
    return found, lasts


# -------------------------------------------------------------------------------------------------------------- sections


def _tokens(work: WorkloadConfig, seconds: float) -> Tokens:
    prompt, generated = work.batch * work.prompt_tokens, work.batch * work.generate_tokens
    return Tokens(prompt, generated, seconds / generated, generated / seconds)


def _latency(ends: Sequence[float], prompt_passes: int, generated: int) -> Latency:
    """Where the passes of the prompts end, and what each further token takes."""
    first = ends[prompt_passes - 1]
    return Latency(first, (ends[-1] - first) / (generated - 1) if generated > 1 else None)


def _memory(program: DecoderProgram, ends: Sequence[float], kept: Sequence[int]) -> dict[str, Any]:
    """Bytes behind the ports: weights, tables and features from the beginning, keys and values as passes have written them."""
    size, bits = program.fpga.beat_bits // 8, program.unit.weight_bits
    still = program.beats - len(program.cached)
    course = [(end, (still + n) * size) for end, n in zip(ends, accumulate(kept), strict=True)]
    step = -(-len(course) // MAX_POINTS)
    buffers = 2 * program.unit.buffer_weights * bits // 8
    return {
        "memory": {
            "peak_bytes": course[-1][1],
            "persistent_bytes": sum(kept) * size,
            "capacity_bytes": None,
            "over_time": [(0.0, still * size), *course[step - 1 :: step]],
        },
        "weight_buffers": {
            "peak_bytes": program.buffered_weights * 2 * bits // 8,
            "persistent_bytes": 0,
            "capacity_bytes": buffers,
            "over_time": None,
        },
    }


def estimate_commands(arch: Loaded[FpgaArchConfig], workload: Loaded[WorkloadConfig]) -> int | None:
    """DRAM commands of the run, about: a column access for each burst; None without a DRAM."""
    fpga = arch.value.fpga
    if streaming.memory_behind(fpga) is None:
        return None
    program = DecoderProgram(fpga, check(arch, workload), workload.value)
    known: dict[Hashable, int] = {}
    total = 0
    for group in program.groups:
        for part in program.parts(group):
            if part.key not in known:
                known[part.key] = streaming.estimate_commands(fpga, part.make().calls) or 0
            total += known[part.key]
    return total


__all__ = ["check", "decoder_needs", "estimate_commands", "simulate", "time_parts", "whole_program"]
