"""Hand examples and figures of the rest of the family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pimsim.config import load_workload
from pimsim.errors import WorkloadError
from pimsim.workload.attention.base import Case, algorithm, count, discover
from pimsim.workload.attention.bigbird import BigBird
from pimsim.workload.attention.cmab import Cmab
from pimsim.workload.attention.cmanp import Cmanp
from pimsim.workload.attention.decisions import draw, load
from pimsim.workload.attention.fox import Fox
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


def _pruned_mass(kind: Fox, case: Case, tensors: dict[str, np.ndarray], delta: float) -> np.ndarray:
    """Weight of each row, under its whole softmax, that lies in tiles which the boundary drops."""
    start = kind.decide(case, {**tensors, "delta": np.full(case.heads, delta)})["start"]
    i, j = np.arange(case.keys)[:, None], np.arange(case.keys)[None, :]
    s = tensors["q"] @ tensors["k"].swapaxes(1, 2) * case.scale
    s = s + tensors["lambda"][:, :, None] - tensors["lambda"][:, None, :]
    w = np.exp(np.where(j <= i, s, -np.inf))
    w /= w.sum(-1, keepdims=True)
    dropped = np.arange(case.keys) < np.repeat(start, kind.block_rows, axis=1)[:, : case.keys, None]
    assert dropped.any()
    return np.where(dropped, w, 0.0).sum(-1)


@pytest.mark.parametrize("log_eps", [-0.5, -2.0, -10.0])
@pytest.mark.parametrize("seed", range(4))
def test_what_pruning_drops_of_a_row_weighs_at_most_eps(log_eps, seed) -> None:
    case = Case(queries=96, keys=96, d_head=4, heads=3)
    kind = Fox(block_rows=4, block_columns=2, log_eps=log_eps)
    tensors = kind.sample(case, seed)
    rng = np.random.default_rng(seed)
    tensors["lambda"] = np.cumsum(-rng.exponential(1.0, (3, 96)), axis=1)
    bound = np.abs(tensors["q"] @ tensors["k"].swapaxes(1, 2)).max() * case.scale
    kind = kind.model_copy(update={"bound": bound})
    assert _pruned_mass(kind, case, tensors, kind.delta(case)).max() <= np.exp(log_eps)


def test_the_bound_on_pruned_mass_needs_both_ends_of_the_scores() -> None:
    case = Case(queries=64, keys=64, d_head=1)
    kind = Fox(block_rows=1, block_columns=1, log_eps=-1.0, bound=3.0)
    k = np.full((1, 64, 1), 3.0)
    k[:, -1] = -3.0  # the last row's own key is as small as it may be, all others as large
    tensors = {"q": np.ones((1, 64, 1)), "k": k, "lambda": np.cumsum(np.full((1, 64), -0.12), axis=1)}
    tensors["lambda"][:, -1] -= 5.1  # a gate that all but closes before the last token
    assert 0.001 < _pruned_mass(kind, case, tensors, kind.delta(case))[0, -1] <= np.exp(-1.0)
    assert _pruned_mass(kind, case, tensors, kind.delta(case) + 2 * kind.bound)[0, -1] > np.exp(-1.0)


def test_weights_of_eight_tokens_with_two_landmarks() -> None:
    case = Case(queries=8, keys=8, d_head=8)
    tensors = {"q": np.zeros((1, 8, 8)), "k": np.zeros((1, 8, 8)), "v": np.eye(8)[None]}
    expected = [1 / 8, 1 / 8, 0, 1 / 8, 1 / 8, 0, 1 / 4, 1 / 4]
    found = evaluate(algorithm("landmark", {"block": 2}).expand(case), tensors)["output"][0, 7]
    np.testing.assert_allclose(found, expected)
    step = Case(phase="decode", queries=1, keys=8, d_head=8)
    given = {"q": tensors["q"][:, :1], "k_new": tensors["k"][:, :1], "v_new": tensors["v"][:, 7:]}
    given |= {x: tensors[x][:, :7] for x in "kv"}
    one = evaluate(algorithm("landmark", {"block": 2, "retrieved": 2}).expand(step), given)["output"][0, 0]
    np.testing.assert_allclose(one, expected)


def test_decode_with_landmarks_gathers_whole_blocks() -> None:
    case = Case(phase="decode", queries=1, keys=51 * 100 + 10, d_head=64)
    found = algorithm("landmark").counts(case)
    assert (found.scores, found.gathered) == (100 + 10 + 4 * 50, 4 * 50 * 2 * 64)


def test_pairs_of_a_window_and_a_global_token() -> None:
    kind = algorithm("longformer", {"side": 1, "global_tokens": 1})
    case = Case(queries=5, keys=5, d_head=5, causal=False)
    tensors = {"q": np.zeros((1, 5, 5)), "k": np.zeros((1, 5, 5)), "v": np.eye(5)[None]}
    seen = evaluate(kind.expand(case), tensors)["output"][0] > 0
    assert seen.astype(int).tolist() == [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 0, 1, 1, 1],
        [1, 0, 0, 1, 1],
    ]
    sizes = {"d_head": 64, "causal": False}
    scores = [kind.counts(Case(queries=n, keys=n, **sizes)).scores for n in (1000, 2000, 3000)]
    assert scores[2] - scores[1] == scores[1] - scores[0]


def test_blocks_of_bigbird() -> None:
    case = Case(queries=64 * 20, keys=64 * 20, d_head=1, causal=False)
    pattern = BigBird().pattern(case)
    assert pattern[0] == pattern[1] == list(range(20))
    assert {len(set(blocks)) for blocks in pattern[4:-1]} == {2 + 3 + 3}
    assert all({0, 1, c - 1, c, c + 1} <= set(blocks) for c, blocks in enumerate(pattern[:-1]) if c > 1)
    assert pattern == BigBird().pattern(case) != BigBird(seed=1).pattern(case)


def test_linear_attention_of_two_tokens() -> None:
    case = Case(queries=2, keys=2, d_head=1)
    tensors = {"q": np.zeros((1, 2, 1)), "k": np.array([[[0.0], [2.0]]]), "v": np.array([[[4.0], [8.0]]])}
    found = evaluate(algorithm("linear").expand(case), tensors)["output"].ravel()
    np.testing.assert_allclose(found, [4, (1 * 4 + 3 * 8) / 4])  # phi(0) = 1, phi(2) = 3


def test_a_step_of_linear_attention_costs_the_same_at_any_length() -> None:
    found = [algorithm("linear").counts(Case(phase="decode", queries=1, keys=n, d_head=64)) for n in (10, 10**6)]
    assert found[0] == found[1]
    assert (found[0].macs, found[0].persistent) == (2 * 64 * 65, 64 * 65)


def test_the_signs_of_two_elements_name_a_row() -> None:
    case = Case(queries=1, keys=1, d_head=2)
    tables = np.zeros((1, 4, 1))
    tables[0, 2] = 1.0
    given = {"x": np.array([[1.0, -0.5]]), "tables": tables, "bias": np.zeros(1)}
    for scaled, weight in ((False, 0.643914), (True, 0.965871)):
        kind = algorithm("memory_layer", {"bits": 2, "d_out": 1, "scaled": scaled})
        results = evaluate(kind.expand(case), given)
        assert results["sign_hash.1"].item() == 2
        assert results["output"].item() == pytest.approx(weight, abs=5e-7)


def test_figures_of_a_memory_layer() -> None:
    found = algorithm("memory_layer").counts(Case(phase="decode", queries=1, keys=1, d_head=64, heads=8))
    assert (found.macs, found.gathered, found.persistent) == (512 * 512 // 8, 32_768, 8_388_608)


def test_eight_bit_integers_with_an_outlier_column() -> None:
    kind, case = algorithm("llm_int8", {"d_out": 2}), Case(queries=2, keys=2, d_head=4)
    given = {
        "x": np.array([[1, -2, 0.5, 8], [0.5, 1, -4, 0.2]]),
        "w": np.array([[1, 2], [0.5, -1], [2, 0.25], [-1, 4]]),
    }
    decided = kind.decide(case, given)
    assert decided["outliers"].tolist() == [[0, 0, 0, 1]]
    results = evaluate(kind.expand(case, decided), given)
    assert results["elementwise.4"].tolist() == [
        [64, -127, 32, 0],
        [16, 32, -127, 0],
    ]
    assert results["product.1"].tolist() == [[4096, 8416], [-14081, -1016]]
    np.testing.assert_allclose(results["output"], [[-7.047182, 36.174344], [-7.185765, -0.207874]], atol=5e-7)


def test_a_row_of_zeros_stays_zero() -> None:
    kind, case = algorithm("llm_int8", {"d_out": 2}), Case(queries=1, keys=1, d_head=3)
    given = {"x": np.zeros((1, 3)), "w": np.ones((3, 2))}
    assert evaluate(kind.expand(case, kind.decide(case, given)), given)["output"].tolist() == [[0.0, 0.0]]


def test_a_gate_of_zero_halves_the_head() -> None:
    kind, case = algorithm("gated"), Case(queries=2, keys=2, d_head=3)
    given = kind.sample(case)
    given["gate"] = given["bias"] * np.zeros_like(given["gate"])
    given["bias"] = np.zeros_like(given["bias"])
    plain = evaluate(algorithm("vanilla").expand(case), {name: given[name] for name in "qkv"})["output"]
    np.testing.assert_allclose(evaluate(kind.expand(case), given)["output"], plain / 2)


def test_queries_of_a_cluster_share_a_row() -> None:
    case = Case(queries=4, keys=3, d_head=1, causal=False)
    given = {
        "q": np.array([[[1.0], [-1.0], [1.2], [-1.2]]]),
        "k": np.arange(3.0).reshape(1, 3, 1),
        "v": np.eye(3)[None, :, :1],
    }
    results = evaluate(algorithm("clustered", {"clusters": 2, "iterations": 3}).expand(case), given)
    assert results["clusters.1"].tolist() == [[0, 1, 0, 1]]
    weights = np.exp(1.1 * np.arange(3))
    np.testing.assert_allclose(results["output"][0, [0, 2], 0], weights[0] / weights.sum())


def test_the_larger_of_two_hidden_units_takes_part() -> None:
    kind, case = algorithm("topk_ffn", {"d_ff": 3, "k": 1}), Case(queries=2, keys=2, d_head=2)
    given = {
        "x": np.array([[[1.0, 2.0], [-1.0, -3.0]]]),
        "w1": np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]]]),  # units get 1, 2, 2 and -1, -3, -2.5
        "w2": np.array([[[5.0, 0.0], [0.0, 7.0], [9.0, 9.0]]]),
    }
    results = evaluate(kind.expand(case), given)
    assert results["top_k.1"].tolist() == [[[1], [0]]]  # the lower index of equals
    assert results["output"].tolist() == [[0.0, 14.0], [0.0, 0.0]]  # and nothing where the largest is negative


def test_top_k_of_hidden_units_is_the_whole_layer_while_at_most_k_are_positive() -> None:
    kind, case = algorithm("topk_ffn", {"d_ff": 40, "k": 30, "chunk": 4}), Case(queries=9, keys=9, d_head=3, heads=2)
    given = kind.sample(case)
    hidden = np.maximum(given["x"][0] @ given["w1"][0].T, 0)
    assert 2 < np.count_nonzero(hidden, axis=1).max() <= 30
    np.testing.assert_allclose(evaluate(kind.expand(case), given)["output"], hidden @ given["w2"][0], rtol=1e-9)
    fewer = evaluate(algorithm("topk_ffn", {"d_ff": 40, "k": 2}).expand(case), given)["output"]
    assert not np.allclose(fewer, hidden @ given["w2"][0])


@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_blocks_in_windows_are_the_blocks_of_their_reference(window) -> None:
    kind = algorithm("efficientvit", {"window": window, "d_qk": 2, "kernels": (3, 1), "depth": 2})
    case = Case(queries=16, keys=16, d_head=3, heads=2, causal=False)
    given = kind.sample(case, 1)
    found = evaluate(kind.expand(case), given)["output"]
    np.testing.assert_allclose(found, kind.reference(case, given)["output"], rtol=1e-9)
    assert count(kind.expand(case)) == kind.counts(case)


def test_a_window_sees_no_token_of_another_and_mixing_sees_neighbours() -> None:
    kind = algorithm("efficientvit", {"window": 2, "d_qk": 2, "kernels": (1,)})
    case = Case(queries=16, keys=16, d_head=2, heads=1, causal=False)
    given = kind.sample(case)
    given |= {name: 0 * x for name, x in given.items() if ".mix." in name}
    changed = given | {"x": given["x"] + np.eye(16)[:, [0]]}  # token 0, of the window of the tokens 0, 1, 4, 5
    one, other = (evaluate(kind.expand(case), each)["output"] for each in (given, changed))
    assert sorted({*np.flatnonzero(np.any(one != other, axis=1)).tolist()}) == [0, 1, 4, 5]
    given |= {"block0.before.mix.filters": np.ones((2, 3, 3))}
    given |= {name: 0 * x for name, x in given.items() if "attention" in name}
    changed = given | {"x": given["x"] + np.eye(16)[:, [15]]}
    one, other = (evaluate(kind.expand(case), each)["output"] for each in (given, changed))
    assert sorted({*np.flatnonzero(np.any(one != other, axis=1)).tolist()}) == [10, 11, 14, 15]


def test_padding_attends_with_tokens_of_zeros() -> None:
    """Of nine tokens in windows of four, the last window has token 8 and three of padding, whose keys are the bias."""
    kind = algorithm("efficientvit", {"window": 2, "d_qk": 1, "kernels": (1,)})
    case = Case(queries=9, keys=9, d_head=1, heads=1, causal=False)
    assert kind.windows(case) == [(0, 1, 3, 4), (2, 9, 5, 9), (6, 7, 9, 9), (8, 9, 9, 9)]
    given = {name: np.zeros(shape) for name, shape in kind.inputs(case).items()}
    given["x"] = np.arange(1.0, 10)[:, None]
    # all scores are 0: a token gets the mean of its window's values, which are its tokens, by the projection
    given |= {"block0.attention.0.wv": np.ones((1, 1)), "block0.attention.proj": np.ones((1, 1))}
    found = evaluate(kind.expand(case), given)["output"][:, 0] - given["x"][:, 0]
    np.testing.assert_allclose(found, [3, 3, 9 / 4, 3, 3, 9 / 4, 15 / 4, 15 / 4, 9 / 4])
    np.testing.assert_allclose(kind.reference(case, given)["output"][:, 0] - given["x"][:, 0], found)


VISION = [
    # MACs of a block besides attention: 2 (1) depthwise of 9 n C, 2 (1) feed-forward of 4 n C^2; attention by window and head
    # t (C/h) (32 + C/h) + 16 t 25 + t^2 (16 + C/h), and t C^2 for each window
    ("efficientvit_m0_stage1", 196, 64, 1, 2, 4 * (4 * (49 * 16 * 48 + 16 * 49 * 25 + 49**2 * 32) + 49 * 64**2)),
    ("efficientvit_m0_stage2", 49, 128, 2, 2, 4 * (49 * 32 * 64 + 16 * 49 * 25 + 49**2 * 48) + 49 * 128**2),
    ("efficientvit_m0_stage3", 16, 192, 3, 2, 4 * (16 * 48 * 80 + 16 * 16 * 25 + 16**2 * 64) + 16 * 192**2),
    ("shvit_s1_stage2", 49, 224, 4, 1, 49 * 48 * 80 + 49**2 * 64 + 49 * 224**2),
    ("shvit_s1_stage3", 16, 320, 5, 1, 16 * 68 * 100 + 16**2 * 84 + 16 * 320**2),
]


@pytest.mark.parametrize(("name", "n", "c", "depth", "times", "attention"), VISION)
def test_work_of_the_stages_of_vision_models(name, n, c, depth, times, attention) -> None:
    work = load_workload(name).value
    kind, case = work.method(), work.case()
    found = count(kind.expand(case))
    assert (case.keys, case.width, kind.depth) == (n, c, depth)
    assert found == kind.counts(case)
    assert found.macs == depth * (attention + times * (9 * n * c + 4 * n * c * c))


def test_queries_share_out_the_best_keys_of_their_cluster_by_their_own_scores() -> None:
    # one group: its mean scores the keys 0, 1, 2 with weights 1, 4, 16 of 21, so that keys 2 and 1 hold 20/21 together;
    # by their own scores the queries give these keys 4 : 2 and 64 : 8
    case = Case(queries=2, keys=3, d_head=1, causal=False)
    kind = algorithm("clustered", {"clusters": 1, "iterations": 1, "improved": True, "k": 2})
    given = {"q": np.log(2) * np.array([[[1.0], [3.0]]]), "k": np.arange(3.0).reshape(1, 3, 1)}
    for key, shares in enumerate(([1 / 21, 1 / 21], [20 / 63, 20 / 189], [40 / 63, 160 / 189])):
        tensors = {**given, "v": np.eye(3)[None, :, [key]]}
        for found in (evaluate(kind.expand(case), tensors), kind.reference(case, tensors)):
            np.testing.assert_allclose(found["output"].ravel(), shares, rtol=1e-12)


def test_improved_clusters_with_all_keys_are_exact_attention() -> None:
    case = Case(queries=9, keys=7, d_head=3, heads=2, causal=False)
    kind = algorithm("clustered", {"clusters": 2, "improved": True, "k": 7})
    given = kind.sample(case)
    exact = evaluate(algorithm("vanilla").expand(case), given)["output"]
    np.testing.assert_allclose(evaluate(kind.expand(case), given)["output"], exact, rtol=1e-9)
    plain = algorithm("clustered", {"clusters": 2})
    assert not np.allclose(evaluate(plain.expand(case), given)["output"], exact)


def test_the_least_attended_key_is_dropped_and_recent_ones_stay() -> None:
    case = Case(phase="decode", queries=1, keys=5, d_head=1)
    kind = algorithm("kv_drop", {"budget": 4, "window": 1})
    given = {name: np.zeros((1, 4, 1)) for name in "kv"} | {name: np.zeros((1, 1, 1)) for name in ("k_new", "v_new")}
    given |= {"q": np.ones((1, 1, 1)), "recent": np.zeros((1, 1, 4))}
    given["k"] = np.array([3.0, -5.0, 1.0, 2.0]).reshape(1, 4, 1)
    results = evaluate(kind.expand(case), given)
    assert results["top_k.1"].tolist() == [[[0, 3, 2]]]
    assert results["new_k"].ravel().tolist() == [3, 2, 1, 0]
    assert results["new_recent"].shape == (1, 1, 4)


def test_a_cache_with_a_budget_does_not_grow() -> None:
    kind = algorithm("kv_drop", {"budget": 4, "window": 2, "slack": 2})
    given = kind.sample(Case(queries=9, keys=9, d_head=2))
    results = evaluate(kind.expand(Case(queries=9, keys=9, d_head=2)), given)
    lengths = []
    for seed in range(6):
        n = results["new_k"].shape[1] + 1
        case = Case(phase="decode", queries=1, keys=n, d_head=2)
        state = {name: results[f"new_{name}"] for name in ("k", "v", "recent")}
        results = evaluate(kind.expand(case), {**kind.sample(case, seed), **state})
        lengths.append(results["new_k"].shape[1])
    assert lengths == [5, 4, 5, 4, 5, 4]


def test_residual_memory_caching_is_linear_attention_in_any_segments() -> None:
    case = Case(queries=7, keys=7, d_head=3, heads=2)
    kinds = [algorithm("memory_caching", {"segment": c, "read": "residual"}) for c in (1, 3, 100)]
    given = kinds[0].sample(case)
    outputs = [evaluate(kind.expand(case), given)["output"] for kind in kinds]
    plain = np.tril(given["q"] @ given["k"].swapaxes(1, 2)) @ given["v"]
    for found in outputs:
        np.testing.assert_allclose(found, plain, rtol=1e-9, atol=1e-12)


def test_cached_states_grow_with_the_segments() -> None:
    case = Case(queries=4096, keys=4096, d_head=64)
    found = algorithm("memory_caching", {"read": "residual"}).counts(case)
    assert found.persistent == 16 * 64 * 64
    assert found.macs == 64 * 64 * (2 * 4096 + 256 * 16 * 15 // 2)


def test_figures_of_vision_attention() -> None:
    window = Case(queries=49, keys=49, d_head=16, heads=4, causal=False)  # 64 channels, the first stage of M0
    head = 49 * 16 * (32 + 16) + 16 * 49 * 25 + 49 * 49 * (16 + 16)
    assert count(algorithm("cascaded_group").expand(window)).macs == 4 * head + 49 * 64 * 64
    stage = Case(queries=49, keys=49, d_head=224, causal=False)
    found = count(algorithm("single_head", {"attended": 48}).expand(stage))
    assert (found.macs, found.exps) == (49 * 48 * 80 + 49 * 49 * 64 + 49 * 224 * 224, 49 * 49)


def test_a_head_of_the_cascade_sees_the_one_before_it() -> None:
    kind, case = algorithm("cascaded_group"), Case(queries=4, keys=4, d_head=2, heads=2, causal=False)
    given = kind.sample(case)
    given["proj"] = np.diag([0.0, 0, 1, 1])  # only what the second head says
    changed = given | {"x": given["x"] + np.array([1.0, 1, 0, 0])}
    outputs = [evaluate(kind.expand(case), each)["output"] for each in (given, changed)]
    assert not np.allclose(*outputs)


@pytest.mark.parametrize(
    ("name", "values", "phase", "operation"),
    [
        ("llm_int8", {"d_out": 2}, "prefill", "outliers"),
        ("memory_layer", {"bits": 2, "d_out": 2}, "prefill", "sign_hash.1"),
        ("clustered", {"clusters": 2}, "prefill", "clusters.1"),
        ("kv_drop", {"budget": 3, "window": 1}, "prefill", "top_k.1"),
        ("landmark", {"block": 2, "retrieved": 1}, "decode", "top_k.1"),
        ("tca", {"d_ff": 2}, "query", "top_k.2"),
        ("memory_caching", {"segment": 2, "read": "top_k", "k": 1}, "prefill", "top_k.3"),
        ("cascaded_group", {"kernels": [3, 1]}, "prefill", None),
    ],
)
def test_what_data_decide_is_recorded_and_replayed(tmp_path, name, values, phase, operation) -> None:
    causal = name not in {"clustered", "cascaded_group"}
    case = Case(phase=phase, queries=1 if phase == "decode" else 9, keys=9, d_head=2, causal=causal)
    kind = algorithm(name, values)
    drawn = draw(kind, case, seed=1)
    drawn.save(tmp_path / "decisions.json")
    back = load(tmp_path / "decisions.json")
    assert (back.algorithm, back.case) == (kind, case)
    assert operation is None or operation in back.decisions
    replayed: dict[str, np.ndarray] = {}
    evaluate(kind.expand(case, back.decisions), kind.sample(case, seed=2), replay=back.decisions, record=replayed)
    assert set(replayed) >= set(drawn.decisions)
    assert all((replayed[key] == found).all() for key, found in drawn.decisions.items())


def test_the_table_of_the_documentation_names_all_algorithms_and_their_phases() -> None:
    page = Path(__file__).parents[2] / "docs" / "attention.md"
    first, _, _ = page.read_text(encoding="utf-8").partition("\n## What runs")
    rows = [line.split("|")[1:3] for line in first.splitlines() if line.startswith("| `")]
    table = {name.strip(" `"): tuple(phases.strip().split(", ")) for name, phases in rows}
    assert table == {name: kind.phases for name, kind in discover().items()}


@pytest.mark.parametrize(
    ("name", "values", "case", "message"),
    [
        (
            "reordered",
            {},
            {"queries": 2, "keys": 2},
            r"^attention reordered must have causal = false or one query, not 2",
        ),
        (
            "lbanp",
            {},
            {"phase": "query", "queries": 1, "keys": 1, "heads": 2, "kv_heads": 1},
            r"^attention lbanp must have as",
        ),
        (
            "cmanp",
            {},
            {"phase": "update", "queries": 3, "keys": 2, "causal": False},
            r"^attention cmanp must have queries at",
        ),
        (
            "tca",
            {},
            {"phase": "query", "queries": 1, "keys": 1, "heads": 2, "kv_heads": 1},
            r"^attention tca must have as many",
        ),
        (
            "bigbird",
            {},
            {"queries": 65, "keys": 65},
            r"^attention bigbird must have queries equal to keys, a multiple of block",
        ),
        ("landmark", {}, {"queries": 2, "keys": 2, "causal": False}, r"^attention landmark must be causal$"),
        (
            "linear",
            {},
            {"queries": 1, "keys": 2},
            r"^attention linear must have queries equal to keys in a causal prefill, not",
        ),
        ("clustered", {}, {"queries": 2, "keys": 2}, r"^attention clustered must have causal = false"),
        (
            "kv_drop",
            {},
            {"queries": 2, "keys": 2, "heads": 2, "kv_heads": 1},
            r"^attention kv_drop must have as many kv_heads",
        ),
        (
            "memory_layer",
            {"bits": 7},
            {"queries": 1, "keys": 1},
            r"^attention memory_layer must have heads \* d_head a mult",
        ),
        (
            "memory_caching",
            {},
            {"queries": 1, "keys": 2},
            r"^attention memory_caching must be causal with queries equal to",
        ),
        (
            "single_head",
            {"attended": 65},
            {"queries": 4, "keys": 4, "causal": False},
            r"^parameter attended of attention single_h",
        ),
        (
            "cascaded_group",
            {},
            {"queries": 5, "keys": 5, "causal": False},
            r"^attention cascaded_group must have causal = false",
        ),
        (
            "cascaded_group",
            {"kernels": [4]},
            {"queries": 4, "keys": 4, "causal": False},
            r"^parameter kernels of attention casc",
        ),
        (
            "efficientvit",
            {"window": 2},
            {"queries": 8, "keys": 8, "causal": False},
            r"^attention efficientvit must have causal = false and queries equal to keys, the tokens of a square image, not 8",
        ),
        ("shvit", {}, {"queries": 5, "keys": 5, "causal": False}, r"^attention shvit must have causal = false"),
        ("llm_int8", {}, {"queries": 1, "keys": 1}, r"^attention llm_int8 must be given decisions"),
    ],
)
def test_cases_that_an_algorithm_does_not_have_are_refused(name, values, case, message) -> None:
    with pytest.raises(WorkloadError, match=message):
        algorithm(name, values).expand(Case(**case))
