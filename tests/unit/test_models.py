"""Graphs of the families: operations, shapes and counts."""

from __future__ import annotations

from typing import Any

import pytest

from pimsim.config import load_workload
from pimsim.errors import ConfigError, WorkloadError
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph
from pimsim.workload.models import build_graph
from pimsim.workload.ops import Activation, CacheWrite, Embedding, Gate, Linear, Rope, Scores, Values

LLAMA: dict[str, Any] = {
    "kv_heads": 2,
    "norm": "rmsnorm",
    "activation": "silu",
    "gated": True,
    "position": "rope",
    "biases": [],
    "tied_embeddings": False,
}
_ATTENTION = ["kv", "scores", "softmax", "values", "proj", "add_1", "ln_2"]
GPT2_BLOCK = ["ln_1", "qkv", *_ATTENTION, "up", "gelu", "down", "add_2"]
LLAMA_BLOCK = ["ln_1", "qkv", "rope", *_ATTENTION, "gate_up", "gate", "down", "add_2"]


def workload(*, generate_tokens: int = 8, **model: Any) -> WorkloadConfig:
    fields = {"layers": 2, "d_model": 64, "heads": 8, "d_ff": 96, "vocabulary": 100, "context": 32, **model}
    given = {"name": "tiny", "model": fields, "generate_tokens": generate_tokens, "lm_head": True}
    return WorkloadConfig.model_validate(given)


def graph(**model: Any) -> WorkloadGraph:
    return build_graph(workload(**model))


def block(built: WorkloadGraph, layer: int = 0) -> list[str]:
    return [op.name.partition(".")[2] for op in built.layers()[layer]]


# ------------------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # counted from the published checkpoints
        ("gpt2_decode", 124_439_808),
        ("gpt2_medium_decode", 354_823_168),
        ("gpt2_large_decode", 774_030_080),
        ("gpt2_xl_decode", 1_557_611_200),
        ("smollm2_135m_decode", 134_515_008),
        ("llama2_7b_decode", 6_738_415_616),
        ("llama3_8b_decode", 8_030_261_248),
    ],
)
def test_parameters_of_published_models(name: str, parameters: int) -> None:
    assert build_graph(load_workload(name, [("lm_head", "true")]).value).parameters() == parameters


def test_parameters_of_llama_by_formula() -> None:
    d, kv, d_ff, vocabulary, layers = 64, 16, 96, 100, 2
    attention = d * (d + 2 * kv) + d * d
    expected = layers * (attention + 3 * d * d_ff + 2 * d) + 2 * vocabulary * d + d
    assert graph(**LLAMA).parameters() == expected


def test_weights_and_macs_of_llama() -> None:
    built = graph(**LLAMA)
    matrices = 2 * (64 * 96 + 64 * 64 + 3 * 64 * 96) + 64 * 100
    assert built.weights() == matrices
    assert built.macs(10) == matrices + 2 * (2 * 64 * 10)


def test_shared_heads_share_the_cache_but_not_the_arithmetic() -> None:
    built = graph(**LLAMA)
    assert built.cache_traffic(10) == (2 * 2 * 16 * 10, 2 * 2 * 16)
    scores, values, write = built["h0.scores"], built["h0.values"], built["h0.kv"]
    assert isinstance(scores, Scores)
    assert isinstance(values, Values)
    assert isinstance(write, CacheWrite)
    assert [op.kv_heads for op in (scores, values, write)] == [2, 2, 2]
    assert scores.macs(10) == values.macs(10) == 8 * 8 * 10
    assert scores.cache_reads(10) == values.cache_reads(10) == 2 * 8 * 10
    assert write.cache_writes() == 2 * 2 * 8


def test_key_heads_are_as_many_as_heads_by_default() -> None:
    assert Scores("s", "attention_scores", (), heads=4, d_head=16).kv_heads == 4
    assert Scores("s", "attention_scores", (), heads=4, d_head=16).scale == 0.25
    assert CacheWrite("w", "kv_write", (), heads=4, d_head=16).cache_writes() == 2 * 4 * 16


# --------------------------------------------------------------------------------------------------------- structure


def test_the_defaults_are_gpt2() -> None:
    built = graph()
    assert block(built) == GPT2_BLOCK
    assert all(op.bias for op in built if isinstance(op, Linear) and op.name != "final.lm_head")
    head, embed = built["final.lm_head"], built["embed"]
    assert isinstance(head, Linear)
    assert isinstance(embed, Embedding)
    assert not head.bias
    assert built.tied() == {"final.lm_head.weight": "embed.tokens"}
    assert embed.positions == 32


def test_the_block_of_llama() -> None:
    built = graph(**LLAMA, rope_theta=500.0)
    assert block(built) == block(built, 1) == LLAMA_BLOCK
    assert [op.kind for op in built.layers()[0]] == [
        "rmsnorm",
        "qkv_projection",
        "rope",
        "kv_write",
        "attention_scores",
        "softmax",
        "attention_values",
        "output_projection",
        "residual",
        "rmsnorm",
        "ffn_up",
        "gate",
        "ffn_down",
        "residual",
    ]
    assert built["h0.kv"].inputs == ("h0.rope",)
    assert built["h0.scores"].inputs == ("h0.rope", "h0.kv")
    rope = built["h0.rope"]
    assert rope == Rope(
        "h0.rope", "rope", ("h0.qkv",), heads=8, d_head=8, kv_heads=2, rotary=8, theta=500.0, convention="half"
    )
    assert isinstance(rope, Rope)
    assert rope.frequencies() == pytest.approx([1, 500**-0.25, 500**-0.5, 500**-0.75])
    assert built["h0.gate"] == Gate("h0.gate", "gate", ("h0.gate_up",), width=96, function="silu")
    assert built.tied() == {}
    assert set(built.tensors()) == {
        "embed.tokens",
        *(f"h{i}.{each}.weight" for i in range(2) for each in ("qkv", "proj", "gate_up", "down")),
        *(f"h{i}.{each}.gamma" for i in range(2) for each in ("ln_1", "ln_2")),
        "final.ln_f.gamma",
        "final.lm_head.weight",
    }
    assert built.tensors()["h0.qkv.weight"] == (64, (8 + 2 * 2) * 8)
    assert built.tensors()["h0.gate_up.weight"] == (64, 2 * 96)


def test_a_parallel_residual_has_one_norm() -> None:
    built = graph(parallel_residual=True)
    assert block(built) == [name for name in GPT2_BLOCK if name != "ln_2"]
    assert built["h0.up"].inputs == ("h0.ln_1",)
    assert built["h0.add_1"].inputs == ("embed", "h0.proj")
    assert built["h0.add_2"].inputs == ("h0.add_1", "h0.down")


@pytest.mark.parametrize(("name", "kind"), [("relu", "relu"), ("silu", "silu"), ("gelu_erf", "gelu")])
def test_other_activations(name: str, kind: str) -> None:
    built = graph(activation=name)
    assert built["h0.act"] == Activation("h0.act", kind, ("h0.up",), width=96, function=name)
    assert built["h0.down"].inputs == ("h0.act",)


def test_heads_of_another_width() -> None:
    tensors = graph(**{**LLAMA, "d_head": 16}).tensors()
    assert tensors["h0.qkv.weight"] == (64, 12 * 16)
    assert tensors["h0.proj.weight"] == (8 * 16, 64)


@pytest.mark.parametrize("biases", [[], ["attention"], ["projection", "lm_head"], ["feed_forward"]])
def test_biases(biases: list[str]) -> None:
    owners = {"attention": ["qkv"], "projection": ["proj"], "feed_forward": ["up", "down"], "lm_head": ["lm_head"]}
    expected = {short for each in biases for short in owners[each]}
    found = {name.split(".")[1] for name in graph(biases=biases).tensors() if name.endswith(".bias")}
    assert found == expected


def test_scales_and_norm_fields_reach_the_operations() -> None:
    built = graph(attention_scale=1.0, embedding_scale=8.0, norm_eps=1e-3, norm_offset=1.0)
    scores, embed, norm = built["h0.scores"], built["embed"], built["h1.ln_2"]
    assert (getattr(scores, "scale", 0), getattr(embed, "scale", 0)) == (1.0, 8.0)
    assert (getattr(norm, "eps", 0), getattr(norm, "offset", 0)) == (1e-3, 1.0)


def test_partial_rotation() -> None:
    rope = graph(position="rope", rope_fraction=0.5, rope_factors=[1.0, 4.0])["h0.rope"]
    assert isinstance(rope, Rope)
    assert rope.rotary == 4
    assert rope.frequencies() == pytest.approx([1.0, 10_000**-0.5 / 4])


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"heads": 7}, r"model\.d_model must be a multiple of model\.heads, not 64 and 7$"),
        ({"kv_heads": 3}, r"model\.heads must be a multiple of model\.kv_heads, not 8 and 3$"),
        ({"kv_heads": 16}, r"model\.heads must be a multiple of model\.kv_heads, not 8 and 16$"),
        (
            {"position": "rope", "rope_fraction": 0.4},
            r"model\.rope_fraction of the 8 elements of a head must be an even number of elements, at least 2, not 3$",
        ),
        (
            {"position": "rope", "rope_factors": [1.0]},
            r"model\.rope_factors must have one number for each of 4 rotated pairs, not 1$",
        ),
        (
            {"window": 7},
            r"prompt_tokens \+ generate_tokens - 1 must be at most model\.window, 7, not 8: sliding-window attention ",
        ),
    ],
)
def test_structures_that_cannot_be_built(model: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkloadError, match=f"^{message}"):
        graph(**model)


def test_a_run_within_the_window_is_full_attention() -> None:
    assert block(graph(window=8)) == GPT2_BLOCK


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("model.norm", "batchnorm"), r"must be one of layernorm, rmsnorm, not 'batchnorm'"),
        (("model.position", "alibi"), r"must be one of learned, rope, none, not 'alibi'"),
        (("model.biases", "[all]"), r"must be one of attention, projection, feed_forward, lm_head, not 'all'"),
        (("model.rope_fraction", "1.5"), r"must be at most 1, not 1\.5"),
        (("model.kv_heads", "0"), r"must be greater than 0, not 0"),
        (("family", "bert"), r"must be one of gpt2, gpt_neo, gptj, opt, llama, mistral, qwen2, gemma, not 'bert'"),
    ],
)
def test_fields_with_wrong_values(override: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_workload("gpt2_decode", [override])
    assert raised.value.path.startswith(override[0])


def test_a_family_is_more_than_a_label() -> None:
    with pytest.raises(
        ConfigError, match=r"^.*gpt2_decode\.yaml:4:1: model: must have norm: rmsnorm for family llama, "
    ):
        load_workload("gpt2_decode", [("family", "llama")])
    with pytest.raises(ConfigError, match=r"model: must have parallel_residual: true for family gptj, not false$"):
        load_workload("gpt2_decode", [("family", "gptj"), ("model.position", "rope")])
