"""Random shapes of the shipped regions on random ports: the fast engine and the reference engine agree."""

from __future__ import annotations

import random

import pytest

from pimsim.machine.fpga.fast import run_region as fast
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.reference import run_region as reference
from pimsim.mapper.fpga import units
from pimsim.mapper.fpga.attention import PASSES, Pipelines, Softmax, query_key, softmax_pass, weighted_values
from pimsim.mapper.fpga.schedules import Schedule, Shape
from pimsim.program.dataflow import Region

STREAMS = ("query", "key", "value", "scores", "statistics", "output")


def draw(seed: int) -> tuple[Region, dict[str, PortTiming]]:
    r = random.Random(seed)
    timing = PortTiming(r.choice([1, 2, 3]), r.choice([1, 2]), r.randint(1, 70), r.choice([4, 16]), r.choice([2, 16]))
    lanes = r.randint(1, 5)
    shape = Shape(r.randint(lanes, 30), r.randint(1, 4), lanes, r.choice([1, 3, 12]))
    passes = {which: (r.randint(1, 9), r.randint(1, 20)) for which in PASSES}
    pipes = Pipelines(*(r.randint(1, most) for most in (9, 20, 80, 30, 9, 3)), passes=passes)
    schedule: Schedule = r.choice(["reordered", "naive"])
    softmax: Softmax = r.choice(["single_pass", "three_pass"])
    ports = {stream: r.choice("abcd") for stream in STREAMS}
    gelu = units.DirectGelu(r.choice([1, 2, 5, 16]), r.randint(1, 20), r.randint(1, 20))
    unit = units.LinearUnit(input_fifo=r.choice([2, 48]), multiply=r.randint(1, 16), direct_gelu=r.choice([None, gelu]))
    outputs, inputs = 16 * r.randint(1, 4), 16 * r.randint(1, 4)
    other, tokens = r.choice("ab"), r.randint(1, 30)
    builds = (
        lambda: query_key(shape, pipes, ports, schedule=schedule, softmax=softmax),
        lambda: weighted_values(shape, pipes, ports, schedule=schedule, softmax=softmax),
        lambda: units.linear(tokens, outputs, inputs, unit, ("a", other), gelu=True),
        lambda: units.expert(tokens, outputs, inputs, unit, ("a", other), gelu=False, gathers=seed % 8 < 4),
        lambda: softmax_pass(r.choice(PASSES), shape, pipes, ports, schedule=schedule),
    )
    return builds[seed % len(builds)](), dict.fromkeys("abcd", timing)


@pytest.mark.parametrize("seed", range(60))
def test_engines_agree(seed: int) -> None:
    region, ports = draw(seed)
    assert fast(region, ports) == reference(region, ports)
