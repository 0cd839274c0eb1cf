"""The attention schedules: published counts, every pair once, port traffic, cycles of both engines."""

from __future__ import annotations

import itertools

import pytest

from pimsim.errors import MappingError
from pimsim.machine.fpga.fast import run_region as fast
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.reference import run_region as reference
from pimsim.mapper.fpga.attention import Pipelines, Shape, naive_query_key, query_key, steps, weighted_values
from pimsim.program.dataflow import Region, beats, iterations, verify_region

QK = {"query": "in2", "key": "in3", "scores": "in1", "statistics": "in4"}
MV = {"value": "in2", "scores": "in1", "statistics": "in4", "output": "in1"}
HLS = Pipelines(load=10, product=6, statistics=59, weighted=11, store=8)
IDEAL = dict.fromkeys(("in1", "in2", "in3", "in4"), PortTiming(1, 1, 10, 16, 16))
EDGE = dict.fromkeys(("in1", "in2", "in3", "in4"), PortTiming(2, 1, 64, 16, 16))


def size(region: Region, stage: str) -> int:
    return next(iterations(s) for s in region.stages if s.name == stage)


def test_published_counts_for_129_tokens_and_4_lanes() -> None:
    region = query_key(Shape(129, 24, 4), HLS, QK)
    assert len(steps(Shape(129, 24, 4))) == 4257
    assert size(region, "product") == 102_168
    assert size(region, "statistics") == 17_028
    assert size(weighted_values(Shape(129, 24, 4), HLS, MV), "product") == 102_168


def test_published_counts_for_128_tokens_and_4_lanes() -> None:
    assert len(steps(Shape(128, 24, 4))) == 4099
    region = query_key(Shape(128, 24, 4), HLS, QK)
    assert sum(beats(read.bursts) for read in region.reads) == 4227 * 24


@pytest.mark.parametrize(("tokens", "lanes"), list(itertools.product((1, 2, 5, 12, 13), (1, 2, 3, 4, 5, 8, 13))))
def test_every_pair_is_computed_once_and_rows_finish_in_order(tokens: int, lanes: int) -> None:
    if lanes > tokens:
        with pytest.raises(
            MappingError, match=rf"^parallelism must be at most the number of tokens, which is {tokens}, "
        ):
            steps(Shape(tokens, 3, lanes))
        return
    found = steps(Shape(tokens, 3, lanes))
    assert len(found) == -(-tokens // lanes) * tokens + (tokens - 1) % lanes  # closed form, shares no code
    pairs = [(row, step.key) for step in found for row in step.rows if row >= 0]
    assert sorted(pairs) == sorted(itertools.product(range(tokens), range(tokens)))
    last = {row: number for number, (row, _) in enumerate(pairs)}
    assert sorted(last, key=lambda row: last[row]) == list(range(tokens))
    for region in (query_key(Shape(tokens, 3, lanes), HLS, QK), weighted_values(Shape(tokens, 3, lanes), HLS, MV)):
        verify_region(region)
        assert size(region, "product") == len(found) * 3
        assert fast(region, EDGE) == reference(region, EDGE)


def test_cycles_at_one_beat_per_cycle_are_within_one_percent_of_the_schedule_report() -> None:
    shape = Shape(129, 24, 4)
    assert fast(query_key(shape, HLS, QK), IDEAL).cycles == pytest.approx(102_241, rel=0.01)
    assert fast(weighted_values(shape, HLS, MV), IDEAL).cycles == pytest.approx(102_188, rel=0.01)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16, 32, 64])
def test_reordered_reads_one_beat_per_cycle_and_naive_as_many_as_there_are_lanes(lanes: int) -> None:
    shape = Shape(128, 4, lanes)
    for build, wanted in ((query_key, 1), (naive_query_key, lanes)):
        region = build(shape, HLS, QK)
        verify_region(region)
        keys = next(beats(read.bursts) for read in region.reads if read.name == "read_key")
        assert keys / size(region, "product") == wanted
