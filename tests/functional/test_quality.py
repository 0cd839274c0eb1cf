"""Whole texts through a model: exact attention is the reference, and algorithms are what they are one token at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import CONFIGS, TOKENS

from pimsim.errors import InputError, WorkloadError
from pimsim.quality import judge, with_algorithm
from pimsim.workload.attention.base import algorithm, discover
from pimsim.workload.importers import import_workload
from pimsim.workload.models import build_graph
from pimsim.workload.reference import Reference, random_weights
from pimsim.workload.sequence import TextModel

LONG = (TOKENS * 4)[:28]


def model_of(name: str, folder: Path) -> tuple[TextModel, Reference]:
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    workload = import_workload(folder / "config.json").model_copy(update={"generate_tokens": 9})
    graph = build_graph(workload)
    weights = random_weights(graph, seed=2, scale=0.3)
    return TextModel(graph, weights), Reference(graph, workload, weights)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_text_at_once_is_the_reference_token_by_token(name: str, tmp_path: Path) -> None:
    model, reference = model_of(name, tmp_path)
    exact = np.array([reference.step(token, i)["final.lm_head"] for i, token in enumerate(TOKENS)])
    found = model.logits(TOKENS)
    assert np.max(np.abs(found - exact)) < 2e-5 * np.max(np.abs(exact))


EXACT = [
    ("vanilla", {}),
    ("reordered", {"lanes": 3}),
    ("single_pass", {"block": 5}),
    ("flash", {"block_rows": 5, "block_columns": 7}),
    ("lean", {"workers": 3, "block": 4}),
    ("topk", {"k": 28}),
    ("longformer", {"side": 28}),
    ("kv_drop", {"budget": 28, "window": 4}),
    ("clipped_softmax", {"gamma": 0.0}),
]


@pytest.mark.parametrize(("name", "parameters"), EXACT, ids=[name for name, _ in EXACT])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_algorithms_that_leave_nothing_out_change_nothing(
    name: str, parameters: dict[str, Any], family: str, tmp_path: Path
) -> None:
    model, _ = model_of(family, tmp_path)
    exact = model.logits(LONG)
    found = with_algorithm(model, LONG, algorithm(name, parameters))
    assert np.max(np.abs(found - exact)) < 1e-4 * np.max(np.abs(exact))
    quality = judge(LONG, found, exact)
    assert quality.agreement == 1
    assert quality.divergence < 1e-6


APPROXIMATE = [
    ("topk", {"k": 2}),
    ("longformer", {"side": 2}),
    ("kv_drop", {"budget": 6, "window": 2}),
    ("landmark", {"block": 4, "retrieved": 1}),
    ("clipped_softmax", {"gamma": -0.1}),
    ("gated", {}),
    ("llm_int8", {"threshold": 1.0}),
]


@pytest.mark.parametrize(("name", "parameters"), APPROXIMATE, ids=[name for name, _ in APPROXIMATE])
def test_algorithms_that_leave_something_out_are_judged(name: str, parameters: dict[str, Any], tmp_path: Path) -> None:
    model, _ = model_of("llama", tmp_path)
    exact = model.logits(LONG)
    quality = judge(LONG, with_algorithm(model, LONG, algorithm(name, parameters)), exact)
    assert quality.divergence > 1e-8
    assert 0 <= quality.agreement <= 1
    assert quality.perplexity > 1


def test_a_smaller_budget_is_further_off(tmp_path: Path) -> None:
    model, _ = model_of("llama", tmp_path)
    exact = model.logits(LONG)
    far = [
        judge(LONG, with_algorithm(model, LONG, algorithm("topk", {"k": k})), exact).divergence for k in (1, 4, 16, 28)
    ]
    assert far == sorted(far, reverse=True)


def test_dropped_keys_are_those_of_the_algorithm(tmp_path: Path) -> None:
    """With a budget of one token each query sees the newest key and the one before it, as a window of that width does."""
    model, _ = model_of("llama", tmp_path)
    dropped = with_algorithm(model, LONG, algorithm("kv_drop", {"budget": 1, "window": 1}))
    window = with_algorithm(model, LONG, algorithm("longformer", {"side": 1}))
    assert np.max(np.abs(dropped - window)) < 1e-4 * np.max(np.abs(window))


def test_the_figures_of_a_text() -> None:
    exact = np.log(np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]))
    same = judge([0, 1, 2], exact, exact)
    assert (same.agreement, same.divergence) == (1, pytest.approx(0, abs=1e-12))
    assert same.perplexity == pytest.approx((0.25 * 0.25) ** -0.5)
    other = judge([0, 1, 2], exact[:, [1, 0, 2]], exact)
    assert other.agreement == pytest.approx(1 / 3)
    assert other.divergence == pytest.approx((0.25 * np.log(2) + 0.25 * np.log(2) + 0) / 3)


def test_what_is_no_part_of_a_decoder_is_refused(tmp_path: Path) -> None:
    model, _ = model_of("llama", tmp_path)
    with pytest.raises(
        InputError, match=r"^attention cmab must take queries, keys and values, or a linear layer, to be"
    ):
        with_algorithm(model, LONG, algorithm("cmab", {}))
    with pytest.raises(WorkloadError, match=r"^tokens must be from 0 to 39, not 0 to 40$"):
        model.logits([0, 40])


def test_every_algorithm_is_judged_or_refused(tmp_path: Path) -> None:
    model, _ = model_of("gpt2", tmp_path)
    judged = []
    for name in discover().names():
        try:
            found = with_algorithm(model, LONG, algorithm(name))
        except (InputError, WorkloadError):
            continue
        assert found.shape == (len(LONG), 40), name
        assert np.all(np.isfinite(found)), name
        judged.append(name)
    assert {"topk", "longformer", "landmark", "kv_drop", "gated", "llm_int8", "fox", "linear"} <= set(judged)
