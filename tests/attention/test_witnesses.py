"""Three witnesses of every algorithm: its expansion computes the reference, and counts as the closed forms say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.errors import UnknownName, WorkloadError
from pimsim.workload.attention.base import ALGORITHMS, Case, algorithm, count, discover
from pimsim.workload.attention.interpreter import evaluate

CASES = {
    "vanilla": [{}, {"materialise": False}],
    "single_pass": [{"block": 1}, {"block": 3}],
    "clipped_softmax": [{}, {"gamma": -0.2, "zeta": 1.1}],
    "flash": [
        {"version": v, "block_rows": r, "block_columns": c}
        for v in (1, 2)
        for r, c in ((1, 1), (3, 2), (2, 5), (64, 64))
    ],
    "topk": [{"k": 1, "chunk": 2}, {"k": 3, "chunk": 4}, {"k": 99}],
    "topk_ffn": [{"d_ff": f, "k": k, "chunk": c} for f, k, c in ((5, 2, 2), (4, 1, 3), (3, 9, 99))],
    "fma": [
        {"cell": 2, "summaries": p, "weighted": w, "learned": f}
        for p, w, f in ((1, False, False), (2, True, False), (2, False, False), (1, True, True), (2, False, True))
    ],
    "fox": [{"gate": g, "block_rows": 2, "block_columns": c, "bound": 0.5} for g in (0.1, 5.0) for c in (1, 2)],
    "lean": [{"workers": w, "block": c} for w in (1, 3, 7) for c in (1, 4)],
    "aaren": [{}],
    "cmab": [{"latents": 3, "outputs": 2, "d_ff": 4, "blocks": 2}],
    "reordered": [{"lanes": p, "reorder": r} for p in (1, 2, 5) for r in (True, False)],
    "lbanp": [{"latents": 3, "layers": 2, "d_ff": 4, "dim_y": 2}],
    "cmanp": [
        {"latents": 3, "outputs": 2, "d_ff": 4, "blocks": 2, "dim_x": 2, "embed_layers": 2, "refresh_interval": r}
        for r in (1, 3, 20)
    ],
    "tca": [{"branching": b, "d_ff": 3} for b in (2, 3)],
    "longformer": [{"side": w, "global_tokens": g, "block": 3} for w, g in ((0, 0), (2, 0), (1, 2), (3, 20))],
    "bigbird": [
        {"block": 2, "window": w, "global_blocks": g, "random_blocks": r}
        for w, g, r in ((0, 0, 0), (1, 0, 1), (1, 1, 2), (0, 2, 1))
    ],
    "landmark": [{"block": c, "retrieved": r} for c, r in ((1, 1), (2, 2), (3, 99))],
    "linear": [{"chunk": c} for c in (1, 3, 64)],
    "gated": [{}],
    "memory_layer": [{"bits": t, "d_out": 3, "scaled": s} for t, s in ((1, False), (2, True))],
    "unified_norm": [{"d_out": 3, "folded": f} for f in (True, False)],
    "llm_int8": [{"d_out": 3, "sampled_outliers": o, "threshold": t} for o, t in ((0, 6.0), (1, 6.0), (1, 0.5))],
    "clustered": [
        {"clusters": c, "iterations": i, "improved": k > 0, "k": max(k, 1), "chunk": 3}
        for c, i, k in ((1, 1, 0), (3, 4, 0), (2, 3, 1), (99, 2, 99), (3, 4, 2))
    ],
    "kv_drop": [
        {"budget": c, "window": w, "slack": x, "score": s}
        for c, w, x, s in ((4, 2, 1, "recent"), (3, 5, 2, "recent"), (5, 1, 1, "recent"), (4, 2, 2, "draft"))
    ],
    "memory_caching": [
        {"segment": c, "read": r, "k": k} for c, r, k in ((3, "residual", 1), (2, "gated", 1), (2, "top_k", 2))
    ],
    "cascaded_group": [{"d_qk": 2, "kernels": k} for k in ((3,), (5, 1))],
    "single_head": [{"attended": 1, "d_qk": 2}],
    "efficientvit": [{"d_qk": 2, "kernels": (3,), "window": w, "depth": t} for w, t in ((7, 2), (1, 1), (2, 1))],
    "shvit": [{"attended": 1, "d_qk": 2, "depth": t} for t in (1, 2)],
}
CAUSAL = {"fox", "landmark", "memory_caching"}
IMAGES = {"cascaded_group", "efficientvit", "shvit"}
SQUARE = {*IMAGES, "aaren", "bigbird", "single_head", "fma", "linear", "memory_caching"}
NOT_SHARED = {"aaren", "cmab", "cmanp", "fox", "kv_drop", "lbanp", "lean", "memory_caching", "tca"}
NOT_CAUSAL = {*IMAGES, "clustered", "single_head", "reordered"}
SETTINGS = settings(deadline=None, max_examples=15, derandomize=True)


def test_every_algorithm_has_cases() -> None:
    assert set(CASES) == set(discover().names())


@pytest.mark.parametrize(("name", "values"), [(n, v) for n, all_values in CASES.items() for v in all_values])
@SETTINGS
@given(data=st.data())
def test_the_expansion_is_the_reference_and_counts_as_the_closed_forms(name, values, data) -> None:
    kind = algorithm(name, values)
    phase = data.draw(st.sampled_from(kind.phases))
    keys = data.draw(st.integers(1, 12))
    queries = 1 if phase == "decode" else data.draw(st.integers(1, keys))
    if name in {"bigbird", "fma"}:
        keys = 2 * data.draw(st.sampled_from((2, 4, 8)))
    if name in IMAGES:
        keys = data.draw(st.integers(1, 4)) ** 2
    if name in SQUARE and phase != "decode":
        queries = keys
    groups = data.draw(st.integers(1, 2))
    share = 1 if name in NOT_SHARED else data.draw(st.integers(1, 2))
    causal = name in CAUSAL or (name not in NOT_CAUSAL and data.draw(st.booleans()))
    d = data.draw(st.integers(1, 5)) * values.get("bits", 1)
    case = Case(phase=phase, queries=queries, keys=keys, d_head=d, heads=groups * share, kv_heads=groups, causal=causal)
    tensors = kind.sample(case, seed=data.draw(st.integers(0, 9)))
    decided = kind.decide(case, tensors)
    graph = kind.expand(case, decided)
    results = evaluate(graph, tensors)
    for result, expected in kind.reference(case, tensors).items():
        np.testing.assert_allclose(results[result], expected, rtol=1e-9, atol=1e-12)
    for result, decision in decided.items():  # what the expansion was built on is what its data say
        np.testing.assert_array_equal(results[result], decision)
    assert count(graph) == kind.counts(case, decided)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_algorithm_says_what_it_is(name) -> None:
    kind = ALGORITHMS.get(name)
    assert kind.description
    assert kind.source
    assert set(kind.phases) <= {"prefill", "decode", "update", "query"}


def test_an_unknown_name_asks_what_was_meant() -> None:
    with pytest.raises(UnknownName, match=r"^attention must be one of .*, not 'flesh'; did you mean 'flash'\?$"):
        algorithm("flesh")


def test_an_unknown_parameter_asks_what_was_meant() -> None:
    with pytest.raises(WorkloadError, match=r"^parameters of attention topk must be among chunk, k, not 'chunks'; did"):
        algorithm("topk", {"chunks": 2})


def test_a_parameter_out_of_range_is_named() -> None:
    with pytest.raises(WorkloadError, match=r"^parameter k of attention topk: .*greater than 0, not 0$"):
        algorithm("topk", {"k": 0})


def test_a_phase_that_an_algorithm_does_not_have_is_refused() -> None:
    with pytest.raises(WorkloadError, match=r"^phase of attention lean must be one of decode, not 'prefill'$"):
        algorithm("lean").expand(Case(queries=2, keys=2))


def test_an_expansion_that_no_memory_holds_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("pimsim.workload.attention.expansion.MOST_PRIMITIVES", 100)
    with pytest.raises(
        WorkloadError,
        match=r"^an expansion must have at most 100 primitives, which \w+\.\d+ exceeds; make the case smaller, or blocks",
    ):
        algorithm("single_pass").expand(Case(phase="decode", queries=1, keys=40))
