"""Regions that answer for others, and parts that are timed once: equal to timing everything, for random sizes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.config import load_arch, load_workload
from pimsim.machine.fpga.family import Families
from pimsim.machine.fpga.fast import run_region
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.reference import run_region as run_beats
from pimsim.machine.fpga.schedule import run_program
from pimsim.mapper.fpga import units
from pimsim.mapper.fpga.attention import Pipelines, Schedule, query_key, weighted_values
from pimsim.mapper.fpga.decoder import DecoderProgram
from pimsim.mapper.fpga.schedules import Shape
from pimsim.program.dataflow import Action, Fifo, Loop, Region, Run, Stage, nest
from pimsim.runners import RunOptions
from pimsim.runners.fpga_decoder import time_parts, whole_program
from pimsim.runners.streaming_books import Books

NAMES = ("query", "key", "value", "scores", "statistics", "output")
PORTS = {name: name for name in NAMES}
timings = st.builds(
    PortTiming,
    numerator=st.integers(1, 3),
    denominator=st.integers(1, 3),
    latency=st.integers(1, 40),
    max_burst=st.sampled_from([1, 4, 16]),
    outstanding=st.sampled_from([8, 16]),
)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    timing=timings,
    schedule=st.sampled_from(["reordered", "naive"]),
    rows=st.integers(1, 4),
    beats=st.sampled_from([1, 2, 3]),
    lanes=st.integers(1, 4),
    heads=st.sampled_from([1, 2, 12]),
    shared=st.booleans(),
    interval=st.integers(1, 4),
    start=st.integers(0, 30),
)
def test_attention_of_every_context_is_what_a_run_of_its_own_says(
    timing: PortTiming,
    schedule: Schedule,
    rows: int,
    beats: int,
    lanes: int,
    heads: int,
    shared: bool,
    interval: int,
    start: int,
) -> None:
    families, ports, pipes = Families(), dict.fromkeys(NAMES, timing), Pipelines(statistics_interval=interval)
    lanes = min(lanes, rows) if schedule == "reordered" else lanes
    for before in (*range(start, start + 12), 150, 151):
        of = (heads, 8, before, heads) if shared else (heads, 8, before)
        shape = Shape(rows, beats * heads if shared else beats, lanes, *of)
        for build in (query_key, weighted_values):
            region = build(shape, pipes, PORTS, schedule=schedule)
            found = families.run(region, ports)
            assert found == run_region(region, ports)
            if before == start:
                assert found == run_beats(region, ports)
    assert families.timed <= 28


def test_far_contexts_need_no_run_of_their_own() -> None:
    families, ports = Families(), dict.fromkeys(NAMES, PortTiming(1, 1, 20, 16, 16))
    shapes = [Shape(1, 24, 1, 12, 8, before) for before in range(300)]
    found = [families.run(query_key(shape, Pipelines(), PORTS), ports).cycles for shape in shapes]
    assert families.timed < 60
    for before in (150, 233, 299):
        assert found[before] == run_region(query_key(shapes[before], Pipelines(), PORTS), ports).cycles


def test_a_limit_inside_a_loop_is_not_stretched() -> None:
    """The loop inside runs as often as the one around it says: its limit is reached before the state comes back."""

    def region(inside: int) -> Region:
        beat = (("beats", 1),)
        make = Stage("make", (Action((), beat),), nest(Run(0, 6 * inside)), 1, 3)
        loop = nest(Loop(6, (Run(0, inside), Run(1, 1))))
        use = Stage("use", (Action(beat), Action()), loop, 2, 5)
        return Region((make, use), (Fifo("beats", 2),))

    families = Families()
    for inside in (60, 61, 75, 200):
        assert families.run(region(inside), {}) == run_region(region(inside), {})


def test_rows_of_other_layers_answer_for_each_other() -> None:
    families, ports = Families(), {"a": PortTiming(1, 1, 10, 16, 16)}
    lengths = [*range(300, 360), 5000]
    for length in lengths:
        region = units.load(length, "a", 5)
        assert families.run(region, ports) == run_region(region, ports)
    assert families.timed < len(lengths)


SMALL = {"model.layers": 2, "model.d_model": 32, "model.heads": 2, "model.d_ff": 64, "model.vocabulary": 40}


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    prompt=st.integers(1, 9),
    generate=st.integers(1, 8),
    batch=st.integers(1, 3),
    together=st.one_of(st.none(), st.integers(1, 9)),
    head=st.booleans(),
    embeddings=st.booleans(),
    schedule=st.sampled_from(["reordered", "naive"]),
    prefetch=st.sampled_from(["experts", "layers", "none"]),
    ports=st.integers(0, 3),
    softmax=st.sampled_from(["single_pass", "three_pass"]),
    lanes=st.integers(1, 5),
)
def test_timing_every_part_once_is_timing_every_call(
    prompt: int,
    generate: int,
    batch: int,
    together: int | None,
    head: bool,
    embeddings: bool,
    schedule: str,
    prefetch: str,
    ports: int,
    softmax: str,
    lanes: int,
) -> None:
    fields: dict[str, Any] = SMALL | {
        "prompt_tokens": prompt, "generate_tokens": generate, "batch": batch, "lm_head": head, "embeddings": embeddings,
        "prefill": "matrix" if together else "token_by_token", "prefill_tokens": together or 1,
    }  # fmt: skip
    machine = {
        "fpga.attention.schedule": schedule, "fpga.attention.softmax": softmax, "fpga.attention.parallelism": lanes,
        "fpga.encoder.weight_prefetch": prefetch,
        "fpga.encoder.weight_ports": [f"hbm{20 + number}" for number in range(ports)] or None,
    }  # fmt: skip
    work = load_workload("gpt2_decode", [(name, json.dumps(value)) for name, value in fields.items()]).value
    fpga = load_arch("fpga_stream_u280", [(name, json.dumps(value)) for name, value in machine.items()]).value.fpga
    timing = PortTiming(2, 3, 64, 16, 16)
    program = DecoderProgram(fpga, fpga.encoder, work)
    timed = time_parts(program, timing, Families().run, RunOptions())
    calls = whole_program(program)[0].calls
    times = run_program(calls, timing, run_region)
    assert timed.books == Books.of(calls, times)
    assert timed.ends[-1] == times.cycles
    tokens = batch * (prompt + generate - 1)
    assert sum(timed.kept) == program.kept_beats(calls) == 2 * work.model.layers * tokens * work.model.d_model // 8
    assert timed.different < len(timed.ends) * (3 * work.model.layers + 2) or len(timed.ends) == 1
