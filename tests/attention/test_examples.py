"""Examples that can be checked by hand, and exact figures of the publications."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pimsim.workload.attention.base import Case, algorithm, count
from pimsim.workload.attention.cmab import Cmab
from pimsim.workload.attention.decisions import draw, load
from pimsim.workload.attention.flash import Flash
from pimsim.workload.attention.interpreter import evaluate
from pimsim.workload.attention.lean import makespan, partition
from pimsim.workload.attention.primitives import Boundary, Exponentiate, WeightedSum
from pimsim.workload.attention.single_pass import SinglePass
from pimsim.workload.attention.topk import TopKAttention
from pimsim.workload.attention.vanilla import Vanilla

SCORES, VALUES = (0.0, math.log(2), math.log(3)), (1.0, 2.0, 6.0)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("mla", [(0, 1, 1), (math.log(2), 1.5, 2.5), (math.log(3), 2, 23 / 3)]),
        ("log", [(0, 1), (math.log(3), 5 / 3), (math.log(6), 23 / 6)]),
    ],
)
def test_the_softmax_state_of_three_keys(layout, expected) -> None:
    fold = Exponentiate("e", "exponentiate", (), sources=((1, 1, 1),) * 2, layout=layout)
    total = WeightedSum("w", "weighted_sum", (), sources=((1, 1, 1), (1, 1, 1)), layout=layout)
    state = np.array([[[-np.inf, *[0.0] * (len(expected[0]) - 1)]]])
    for s, v, wanted in zip(SCORES, VALUES, expected, strict=True):
        state = total.meaning(fold.meaning(np.array([[[s]]]), state), np.array([[[v]]]), state)
        np.testing.assert_allclose(state[0, 0], wanted, rtol=1e-12, atol=1e-12)


def test_traffic_of_flash_1_and_of_unfused_attention() -> None:
    case = Case(queries=1024, keys=1024, d_head=64, causal=False)
    flash = Flash(version=1, on_chip_words=51_200)
    assert flash.tile(64) == (64, 200)
    found = count(flash.expand(case))
    assert (found.reads, found.writes, found.moved) == (929_792, 405_504, 1_335_296)
    assert count(Vanilla().expand(case)).moved == 4_456_448
    assert found.exps == 1024**2 + 2 * 1024 * 6
    longer = Case(queries=4096, keys=4096, d_head=64, causal=False)
    assert (flash.counts(longer).moved, Vanilla().counts(longer).moved) == (17_383_424, 68_157_440)


def test_the_lean_schedule_of_two_heads_and_four_workers() -> None:
    assert partition(2, 5, 4) == [(0, 0, 0, 3), (1, 0, 3, 5), (1, 1, 0, 1), (2, 1, 1, 3), (3, 1, 3, 5)]
    for heads in range(1, 6):
        for tiles in range(1, 8):
            for workers in range(1, 12):
                load_of = [0] * workers
                for worker, _, first, stop in partition(heads, tiles, workers):
                    load_of[worker] += stop - first
                assert sum(load_of) == heads * tiles
                assert max(load_of) == makespan(heads, tiles, workers) == math.ceil(heads * tiles / workers)


def test_top_two_of_four_scores() -> None:
    case = Case(queries=1, keys=4, d_head=1, causal=False)
    kind = TopKAttention(k=2)
    tensors = {"q": np.ones((1, 1, 1)), "k": np.array([1.0, 3, 2, 0]).reshape(1, 4, 1), "v": np.zeros((1, 4, 1))}
    tensors["v"][0, 1] = 1
    results = evaluate(kind.expand(case), tensors)
    assert results["top_k.1"].tolist() == [[[1, 2]]]
    assert results["output"].item() == pytest.approx(0.731059, abs=5e-7)


def test_chunks_of_the_code_may_exceed_the_chunk() -> None:
    assert [len(rows) for rows in TopKAttention(chunk=1024).parts(2500)] == [1250, 1250]


def test_single_pass_keeps_no_score() -> None:
    case = Case(phase="decode", queries=1, keys=100, d_head=8)
    found = SinglePass(block=1).counts(case)
    assert (found.exps, found.persistent) == (200, 2 * 100 * 8)


def test_aaren_has_a_constant_state() -> None:
    kind = algorithm("aaren")
    found = [kind.counts(Case(phase="update", queries=1, keys=n, d_head=16, heads=4)) for n in (100, 1_000_000)]
    assert found[0] == found[1]
    assert (found[0].persistent, found[0].exps, found[0].macs) == (4 * 18, 8, 2 * 64)


def test_figures_of_the_constant_memory_block() -> None:
    kind, six = Cmab(), Cmab(blocks=6)
    sizes = {"d_head": 16, "heads": 4, "causal": False}
    token = Case(phase="update", queries=1, keys=1, **sizes)
    found = count(kind.expand(token))
    assert (found.macs, found.exps, 4 * found.persistent) == (24_576, 2_048, 34_816)
    assert (six.counts(token).macs, 4 * six.counts(token).persistent) == (147_456, 208_896)
    refresh = count(kind.expand(Case(phase="query", queries=1, keys=1, **sizes)))
    assert (refresh.macs, refresh.exps) == (25_690_112, 196_608)
    assert six.refresh_macs(64) * 6 == 154_140_672
    assert kind.counts(token) == kind.counts(Case(phase="update", queries=1, keys=1_000_000, **sizes))


def test_streaming_equals_the_one_shot_attention() -> None:
    kind = Cmab(latents=3, outputs=2, d_ff=4)
    whole = Case(phase="update", queries=7, keys=7, d_head=2, heads=2)
    tensors = kind.sample(whole, seed=1)
    empty = np.zeros_like(tensors["0.state"])
    empty[..., 0] = -np.inf
    once = evaluate(kind.expand(whole), {**tensors, "0.state": empty})["0.new_state"]
    state = empty
    for start, stop in ((0, 1), (1, 4), (4, 7)):
        case = Case(phase="update", queries=stop - start, keys=stop, d_head=2, heads=2)
        given = {**tensors, "0.state": state, "data": tensors["data"][start:stop]}
        state = evaluate(kind.expand(case), given)["0.new_state"]
    np.testing.assert_allclose(state, once, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("causal", "n", "m", "p", "scores"),
    [(True, 4096, 64, 4, 490_240), (False, 4096, 64, 4, 976_384), (True, 16, 2, 1, 82), (False, 16, 2, 1, 148)],
)
def test_scores_of_fast_multipole_attention(causal, n, m, p, scores) -> None:
    case = Case(queries=n, keys=n, d_head=1, causal=causal)
    for learned in (False, True):
        kind = algorithm("fma", {"cell": m, "summaries": p, "learned": learned})
        assert count(kind.expand(case)).scores == scores
    assert case.pairs() == (n * (n + 1) // 2 if causal else n * n)


@pytest.mark.parametrize(("weighted", "output"), [(False, 4 / 6), (True, 4 / 8)])
def test_the_weights_of_the_last_of_eight_tokens(weighted, output) -> None:
    case = Case(queries=8, keys=8, d_head=1)
    kind = algorithm("fma", {"cell": 2, "summaries": 1, "weighted": weighted})
    v = np.array([0.0] * 4 + [1.0] * 4).reshape(1, 8, 1)
    tensors = {"q": np.zeros((1, 8, 1)), "k": np.zeros((1, 8, 1)), "v": v}
    assert evaluate(kind.expand(case), tensors)["output"][0, 7, 0] == pytest.approx(output)


def test_learned_filters_of_fast_multipole_attention() -> None:
    case = Case(queries=8, keys=8, d_head=1)
    kind = algorithm("fma", {"cell": 2, "summaries": 1, "learned": True})
    tensors = {"q": np.zeros((1, 8, 1)), "k": np.zeros((1, 8, 1)), "v": np.arange(8.0).reshape(1, 8, 1)}
    tensors |= {"k_filters.1": np.ones((1, 1, 2)), "v_filters.1": np.array([[[0.0, 1.0]]])}
    # token 7 sees the tokens 4 to 7 and, of the cells before them, what the filter takes: their second tokens
    assert evaluate(kind.expand(case), tensors)["output"][0, 7, 0] == pytest.approx((4 + 5 + 6 + 7 + 1 + 3) / 6)


def test_filters_that_average_are_averages_and_their_work_is_that_of_a_grouped_convolution() -> None:
    n, m, p, d, levels = 64, 4, 2, 3, 3
    case = Case(queries=n, keys=n, d_head=d, causal=False)
    plain, learned = (algorithm("fma", {"cell": m, "summaries": p, "learned": f}) for f in (False, True))
    tensors = plain.sample(case)
    means = {}
    for level in range(1, levels + 1):
        size = m << (level - 1)
        part = np.repeat(np.eye(p), size // p, axis=1) / (size // p)
        means |= {f"{name}_filters.{level}": np.tile(part, (d, 1, 1)) for name in "kv"}
    averages = evaluate(plain.expand(case), tensors)["output"]
    np.testing.assert_allclose(evaluate(learned.expand(case), tensors | means)["output"], averages, rtol=1e-12)
    more = count(learned.expand(case)).macs - count(plain.expand(case)).macs
    assert more == 2 * p * d * n * levels
    assert count(learned.expand(case)).persistent - count(plain.expand(case)).persistent == 2 * p * d * (n // 2 - m)


@pytest.mark.parametrize(("gate", "share"), [(0.003, 0.928), (0.01, 0.400), (0.1, 0.061)])
def test_tiles_that_pruning_keeps(gate, share) -> None:
    case = Case(queries=16_384, keys=16_384, d_head=1)
    kind = algorithm("fox", {"gate": gate})
    start = kind.decide(case, kind.sample(case))["start"]
    assert kind.delta(case) == pytest.approx(-35.704, abs=5e-4)
    assert kind.tiles(case, start) / kind.tiles(case, 0 * start) == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize(("delta", "start"), [(-2.5, [0, 0, 2, 4]), (-3, [0, 0, 0, 2]), (-3.5, [0, 0, 0, 2])])
def test_the_boundary_of_eight_tokens(delta, start) -> None:
    found = Boundary("b", "boundary", (), sources=((1, 8), (1,)), rows=8, block_rows=2, block_columns=2)
    assert found.meaning(-np.arange(1.0, 9)[None], np.array([delta])).tolist() == [start]


def test_a_clipped_softmax_of_three_scores() -> None:
    case = Case(queries=1, keys=3, d_head=1, causal=False)
    tensors = {"q": np.ones((1, 1, 1)), "k": np.array([0.0, 0, 3]).reshape(1, 3, 1), "v": np.ones((1, 3, 1))}
    results = evaluate(algorithm("clipped_softmax", {"gamma": -0.1}).expand(case), tensors)
    np.testing.assert_allclose(results["elementwise.1"], [[[0, 0, 0.90039]]], atol=5e-6)


def test_decisions_are_recorded_and_replayed(tmp_path) -> None:
    case = Case(queries=5, keys=9, d_head=4, heads=2)
    kind = TopKAttention(k=2, chunk=3)
    drawn = draw(kind, case, seed=3)
    drawn.save(tmp_path / "decisions.json")
    back = load(tmp_path / "decisions.json")
    assert (back.algorithm, back.case, back.origin) == (kind, case, "distribution: topk.sample, seed 3")
    other = kind.sample(case, seed=4)
    replayed: dict[str, np.ndarray] = {}
    evaluate(kind.expand(case), other, replay=back.decisions, record=replayed)
    live: dict[str, np.ndarray] = {}
    evaluate(kind.expand(case), other, record=live)
    assert all((replayed[name] == drawn.decisions[name]).all() for name in drawn.decisions)
    assert any((live[name] != drawn.decisions[name]).any() for name in drawn.decisions)
