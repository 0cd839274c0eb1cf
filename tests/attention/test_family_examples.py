"""Hand examples and figures of the rest of the family."""

from __future__ import annotations

import numpy as np
import pytest

from pimsim.workload.attention.base import Case, count
from pimsim.workload.attention.cmab import Cmab
from pimsim.workload.attention.cmanp import Cmanp
from pimsim.workload.attention.interpreter import evaluate
from pimsim.workload.attention.lbanp import Lbanp
from pimsim.workload.attention.reordered import Reordered
from pimsim.workload.attention.tca import TreeCrossAttention


def test_lanes_of_the_reordered_stream_need_one_token_per_step() -> None:
    case = Case(queries=128, keys=128, d_head=1, causal=False)
    assert Reordered(lanes=4).stream(case)[:2] == (4_099, 4_227)
    naive = Reordered(lanes=4, reorder=False).stream(case)
    assert (naive.steps, naive.tokens) == (128**2 // 4, 128**2 + 128)
    odd = Case(queries=129, keys=129, d_head=1, causal=False)
    assert [Reordered(lanes=p).stream(odd).steps for p in (1, 4, 8)] == [16_641, 4_257, 2_193]
    for lanes in (1, 2, 4, 8, 16, 32, 64):
        assert Reordered(lanes=lanes).stream(case).bandwidth < 2
        assert Reordered(lanes=lanes, reorder=False).stream(case).bandwidth == pytest.approx(lanes, rel=0.01)


def test_each_pair_passes_once_and_rows_finish_in_order() -> None:
    case = Case(queries=7, keys=5, d_head=1, causal=False)
    pairs = [pair for step in Reordered(lanes=3).steps(case) for pair in step]
    assert sorted(pairs) == [(i, j) for i in range(7) for j in range(5)]
    last = {i: at for at, (i, _) in enumerate(pairs)}
    assert sorted(last, key=last.__getitem__) == list(range(7))
    assert [j for i, j in pairs if i == 1] == [1, 2, 3, 4, 0]


def test_the_refresh_interval_decides_what_a_point_costs() -> None:
    sizes = {"d_head": 16, "heads": 4}
    stream, refresh = 147_456, 154_140_672
    embedding = 2 * 64 + 3 * 64 * 64
    for every in (1, 10, 100):
        kind = Cmanp(refresh_interval=every)
        costs = [kind.counts(Case(phase="update", queries=100, keys=n, **sizes)) for n in (100, 1_000_000)]
        assert costs[0] == costs[1]
        assert costs[0].macs == 100 * (stream + embedding) + 100 // every * refresh
    one = Case(phase="update", queries=1, keys=1, **sizes)
    assert count(Cmanp(refresh_interval=2).expand(one)).macs == stream + embedding
    assert count(Cmanp(refresh_interval=1).expand(one)).macs == stream + embedding + refresh
    assert Cmanp().counts(one).persistent == 6 * (Cmab().counts(one).persistent + 128 * 64)


def test_the_stream_of_the_process_is_the_same_in_any_pieces() -> None:
    kind = Cmanp(latents=2, outputs=2, d_ff=2, blocks=2, embed_layers=2, refresh_interval=3)
    sizes = {"phase": "update", "d_head": 2, "heads": 2}
    whole = Case(queries=8, keys=8, **sizes)
    tensors = kind.sample(whole, seed=2)
    once = evaluate(kind.expand(whole), tensors)
    given = dict(tensors)
    for start, stop in ((0, 2), (2, 3), (3, 8)):
        given["points"] = tensors["points"][start:stop]
        results = evaluate(kind.expand(Case(queries=stop - start, keys=stop, **sizes)), given)
        for k in range(2):
            given |= {f"{k}.{name}": results[f"{k}.new_{name}"] for name in ("state", "outputs")}
    for name in ("0.new_state", "1.new_state", "0.new_outputs", "1.new_outputs"):
        np.testing.assert_allclose(results[name], once[name], rtol=1e-9, atol=1e-12)


def test_lbanp_conditions_on_all_data_and_answers_at_a_constant_cost() -> None:
    kind, sizes = Lbanp(), {"d_head": 16, "heads": 4}
    found = {n: kind.counts(Case(phase="update", queries=1, keys=n, **sizes)) for n in (1, 200, 1600)}
    assert found[1600].scores == 6 * 4 * (1600 * 128 + 128 * 128)
    assert found[1600].persistent - found[200].persistent == 1400 * 64
    answers = [kind.counts(Case(phase="query", queries=10, keys=n, **sizes)) for n in (200, 1600)]
    assert answers[0] == answers[1]
    assert answers[0].scores == 6 * 4 * 128 * 10


@pytest.mark.parametrize(("n", "levels", "leaves", "scored"), [(256, 7, 2, 16), (512, 8, 2, 18), (1024, 9, 2, 20)])
def test_nodes_that_a_tree_search_scores(n, levels, leaves, scored) -> None:
    kind = TreeCrossAttention()
    assert (kind.levels(n), kind.leaves(n), kind.scored(n)) == (levels, leaves, scored)
    case = Case(phase="query", queries=3, keys=n, d_head=2, heads=2)
    found = count(kind.expand(case))
    assert (found.scores, found.gathered) == (3 * 2 * scored, 2 * 3 * scored * 4)


def test_a_tree_of_two_leaves_is_flat() -> None:
    assert [TreeCrossAttention().levels(n) for n in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]


def test_the_search_follows_the_largest_weight() -> None:
    case = Case(phase="query", queries=1, keys=4, d_head=1)  # two nodes below the root, two leaves each
    kind = TreeCrossAttention(d_ff=1)
    tensors = {name: np.zeros_like(each) for name, each in kind.sample(case).items()}
    tensors["ca.shift"] = tensors["ca.wq"] = np.ones(1).reshape(tensors["ca.wq"].shape)
    tensors["ca.shift"] = np.ones(1)  # the normalised target is 1
    tensors["0.k"], tensors["1.k"] = np.array([[[0.0], [2.0]]]), np.array([[[9.0], [9.0], [0.0], [0.0]]])
    results = evaluate(kind.expand(case), tensors)
    assert results["top_k.1"].item() == 1
    assert results["children.2"].tolist() == [[[2, 3]]]
    shares = results["exponentiate.1"].weights.ravel()
    np.testing.assert_allclose(shares / shares.sum(), [1 / 3, 0, 1 / 3, 1 / 3])
