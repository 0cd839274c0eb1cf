"""The attention schedules: published counts, every pair once, port traffic, cycles of both engines."""

from __future__ import annotations

import itertools

import pytest

from pimsim.errors import MappingError
from pimsim.machine.fpga.fast import run_region as fast
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.reference import run_region as reference
from pimsim.mapper.fpga.attention import PASSES, Pipelines, Softmax, query_key, softmax_pass, weighted_values
from pimsim.mapper.fpga.schedules import Schedule, Shape, naive_steps, slot_count, step_count, steps
from pimsim.program.dataflow import Region, beats, iterations, verify_region
from pimsim.run import simulate

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
    assert step_count(Shape(tokens, 3, lanes), "reordered") == len(found)
    for region in (query_key(Shape(tokens, 3, lanes), HLS, QK), weighted_values(Shape(tokens, 3, lanes), HLS, MV)):
        verify_region(region)
        assert size(region, "product") == len(found) * 3
        assert fast(region, EDGE) == reference(region, EDGE)


def test_cycles_at_one_beat_per_cycle_are_within_one_percent_of_the_schedule_report() -> None:
    shape = Shape(129, 24, 4)
    assert fast(query_key(shape, HLS, QK), IDEAL).cycles == pytest.approx(102_241, rel=0.01)
    assert fast(weighted_values(shape, HLS, MV), IDEAL).cycles == pytest.approx(102_188, rel=0.01)


FORMS = list(itertools.product(("reordered", "naive"), ("single_pass", "three_pass")))
SIZES = ((1, 1), (2, 2), (5, 3), (12, 4), (13, 5), (13, 13))
PASS = Pipelines(passes={"maximum": (1, 3), "sum": (4, 9), "divide": (7, 7)})


def regions(shape: Shape, schedule: Schedule, softmax: Softmax) -> list[Region]:
    """All regions of one layer's attention."""
    passes = PASSES if softmax == "three_pass" else ()
    return [
        query_key(shape, PASS, QK, schedule=schedule, softmax=softmax),
        *(softmax_pass(which, shape, PASS, MV, schedule=schedule) for which in passes),
        weighted_values(shape, PASS, MV, schedule=schedule, softmax=softmax),
    ]


@pytest.mark.parametrize(("schedule", "softmax"), FORMS)
@pytest.mark.parametrize(("tokens", "lanes"), SIZES)
def test_engines_agree_on_every_form(tokens: int, lanes: int, schedule: Schedule, softmax: Softmax) -> None:
    for region in regions(Shape(tokens, 3, lanes), schedule, softmax):
        verify_region(region)
        assert fast(region, EDGE) == reference(region, EDGE)


@pytest.mark.parametrize(("tokens", "lanes"), SIZES)
def test_the_naive_schedule_meets_every_pair_once_row_by_row(tokens: int, lanes: int) -> None:
    found = naive_steps(Shape(tokens, 3, lanes))
    assert [(step.row, key) for step in found for key in step.keys] == [*itertools.product(range(tokens), repeat=2)]
    assert [step.loads for step in found if step.loads >= 0] == list(range(tokens))
    assert len(found) == step_count(Shape(tokens, 3, lanes), "naive") == tokens * -(-tokens // lanes)
    scores, values = regions(Shape(tokens, 3, lanes), "naive", "single_pass")
    assert size(scores, "product") == size(values, "product") == 3 * len(found)
    assert size(scores, "statistics") == slot_count(Shape(tokens, 3, lanes), "naive") == tokens**2
    for region, token in ((scores, "read_key"), (values, "read_value")):
        assert next(beats(read.bursts) for read in region.reads if read.name == token) == 3 * tokens**2


def test_the_three_pass_softmax_reads_all_scores_once_more_for_each_pass() -> None:
    shape = Shape(13, 3, 4)
    scores, *passes, values = regions(shape, "naive", "three_pass")
    one = shape.score_beats(13 * 13)
    read = [next(beats(r.bursts) for r in region.reads if r.name == "read_scores") for region in (*passes, values)]
    assert read == [one] * 4
    written = [next((beats(w.bursts) for w in r.writes if w.name == "write_scores"), 0) for r in (scores, *passes)]
    assert written == [one, 0, 0, one]


def test_a_pass_that_is_not_pipelined_takes_its_interval_for_every_score() -> None:
    region = softmax_pass("divide", Shape(20, 3, 4), PASS, MV, schedule="naive")
    assert 7 * 400 < fast(region, IDEAL).cycles < 7 * 400 + 60


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16, 32, 64])
def test_reordered_reads_one_beat_per_cycle_and_naive_as_many_as_there_are_lanes(lanes: int) -> None:
    shape = Shape(128, 4, lanes)
    schedules: tuple[tuple[Schedule, int], ...] = (("reordered", 1), ("naive", lanes))
    for schedule, wanted in schedules:
        for build, ports, name in ((query_key, QK, "read_key"), (weighted_values, MV, "read_value")):
            region = build(shape, HLS, ports, schedule=schedule)
            verify_region(region)
            moved = next(beats(read.bursts) for read in region.reads if read.name == name)
            assert moved / size(region, "product") == wanted


@pytest.mark.parametrize("lanes", [1, 4, 32])
def test_the_demand_of_a_run_is_the_papers_cost_table(lanes: int) -> None:
    n, p = 128, lanes
    wanted = {
        "reordered": (n * n / p + n + p - 1) / (n * n / p + p - 1),
        "naive": (n * n + n) / (n * n / p),
    }
    for schedule, tokens_per_step in wanted.items():
        result = simulate(
            "edge_moe_zcu102",
            f"attention_{schedule}",
            overrides=[
                "workload.tokens=128", f"arch.fpga.attention.parallelism={p}",
                "arch.fpga.resources.device=null", "workload.d_head=8",
            ],
        )  # fmt: skip
        assert result.demand is not None
        assert result.demand["attention_scores"] == pytest.approx(tokens_per_step)
        assert result.figures()["attention_tokens_per_step"] == result.demand["attention_scores"]
