"""Workloads from ``config.json`` and GGUF files, sound ones and broken ones."""

from __future__ import annotations

import json
import math
import random
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pimsim.config import load_workload, unsourced
from pimsim.errors import ConfigError, InputError, WorkloadError
from pimsim.workload.config import FAMILIES
from pimsim.workload.importers import import_workload
from pimsim.workload.importers.gguf import ARCHITECTURES, load_weights, read_gguf
from pimsim.workload.importers.hf import MODEL_TYPES
from pimsim.workload.models import build_graph
from pimsim.workload.reference import random_weights, weight_shapes

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 16, "n_head": 4, "n_positions": 32, "vocab_size": 40}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "vocab_size": 40,
    "rms_norm_eps": 1e-5,
}
OPT = {
    "model_type": "opt",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "ffn_dim": 24,
    "max_position_embeddings": 32,
    "vocab_size": 40,
}


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config, indent=2))
    return path


def model(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The fields of the imported model that differ from the defaults, sizes left out."""
    fields = import_workload(write_config(folder, config)).model.model_dump(exclude_defaults=True)
    sizes = ("layers", "d_model", "heads", "d_ff", "vocabulary", "context")
    return {name: value for name, value in fields.items() if name not in sizes}


# ------------------------------------------------------------------------------------------------------- config.json


def test_gpt2_is_the_default_structure(tmp_path: Path) -> None:
    workload = import_workload(write_config(tmp_path, GPT2))
    assert workload.model.model_dump(exclude_defaults=True) == {
        "layers": 2,
        "d_model": 16,
        "heads": 4,
        "d_ff": 64,
        "vocabulary": 40,
        "context": 32,
    }
    assert (workload.family, workload.name) == ("gpt2", tmp_path.name)
    assert (workload.prompt_tokens, workload.generate_tokens) == (1, 32)
    assert workload.lm_head
    assert workload.embeddings


LLAMA_FIELDS = {
    "kv_heads": 2,
    "norm": "rmsnorm",
    "activation": "silu",
    "gated": True,
    "position": "rope",
    "biases": [],
    "tied_embeddings": False,
}


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (LLAMA, LLAMA_FIELDS),
        ({**LLAMA, "num_key_value_heads": None}, {**LLAMA_FIELDS, "kv_heads": 4}),
        ({**LLAMA, "rope_theta": 5e5, "rope_scaling": None}, {**LLAMA_FIELDS, "rope_theta": 5e5}),
        (
            {**LLAMA, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
            {**LLAMA_FIELDS, "rope_theta": 5e5},
        ),
        (
            {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
            {**LLAMA_FIELDS, "rope_factors": [4.0, 4.0]},
        ),
        ({**LLAMA, "attention_bias": True}, {**LLAMA_FIELDS, "biases": ["attention", "projection"]}),
        ({**LLAMA, "head_dim": 8, "rms_norm_eps": 0.1}, {**LLAMA_FIELDS, "d_head": 8, "norm_eps": 0.1}),
        (
            {**LLAMA, "model_type": "mistral", "sliding_window": 16},
            {**LLAMA_FIELDS, "window": 16},
        ),
        ({**LLAMA, "model_type": "mistral", "sliding_window": None}, LLAMA_FIELDS),
        ({**LLAMA, "model_type": "qwen2", "sliding_window": 16}, {**LLAMA_FIELDS, "biases": ["attention"]}),
        (
            {**LLAMA, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16},
            {**LLAMA_FIELDS, "biases": ["attention"], "window": 16},
        ),
        (
            {**LLAMA, "model_type": "gemma", "hidden_act": "gelu"},
            {
                "kv_heads": 2,
                "d_head": 256,
                "norm": "rmsnorm",
                "norm_offset": 1.0,
                "gated": True,
                "position": "rope",
                "biases": [],
                "embedding_scale": 4.0,
            },
        ),
        (
            {**GPT2, "model_type": "gptj", "rotary_dim": 2},
            {
                "position": "rope",
                "rope_fraction": 0.5,
                "rope_convention": "interleaved",
                "biases": ["feed_forward", "lm_head"],
                "parallel_residual": True,
                "tied_embeddings": False,
            },
        ),
        (
            {
                "model_type": "gpt_neo",
                "num_layers": 2,
                "hidden_size": 16,
                "num_heads": 4,
                "max_position_embeddings": 32,
                "vocab_size": 40,
                "attention_types": [[["global", "local"], 1]],
                "window_size": 8,
            },
            {"biases": ["projection", "feed_forward"], "attention_scale": 1.0, "window": 8},
        ),
        (OPT, {"activation": "relu"}),
        ({**OPT, "enable_bias": False}, {"activation": "relu", "biases": []}),
    ],
)
def test_structures(config: dict[str, Any], fields: dict[str, Any], tmp_path: Path) -> None:
    assert model(tmp_path, config) == fields


def test_every_type_is_the_label_of_a_family() -> None:
    assert set(MODEL_TYPES) == set(FAMILIES)
    assert set(ARCHITECTURES) <= set(FAMILIES)


def test_runs_are_not_longer_than_the_window(tmp_path: Path) -> None:
    config = {**LLAMA, "model_type": "mistral", "sliding_window": 16}
    workload = import_workload(write_config(tmp_path, config))
    assert workload.generate_tokens == 16
    build_graph(workload)


def test_llama_31_stretches_long_wavelengths_only(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = {**LLAMA, "hidden_size": 512, "rope_theta": 5e5, "rope_scaling": scaling}
    factors = model(tmp_path, config)["rope_factors"]
    assert len(factors) == 64
    assert factors == sorted(factors)
    assert (factors[0], factors[-1]) == (1.0, 8.0)
    wavelengths = [2 * math.pi * 5e5 ** (2 * i / 128) for i in range(64)]
    kept = sum(each < 8192 / 4 for each in wavelengths)
    assert [each == 1.0 for each in factors] == [True] * kept + [False] * (64 - kept)


def test_overrides_and_lines_of_an_imported_workload(tmp_path: Path) -> None:
    path = write_config(tmp_path, LLAMA)
    loaded = load_workload(path, [("generate_tokens", "7"), ("model.layers", "1")])
    assert (loaded.value.generate_tokens, loaded.value.model.layers) == (7, 1)
    place = loaded.tree.position(("model", "d_ff"))
    assert path.read_text().splitlines()[place.line - 1 if place.line else -1] == '  "intermediate_size": 24,'
    assert unsourced(loaded) == []


def test_a_workload_written_as_json_is_still_a_workload(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    sizes = {"layers": 1, "d_model": 8, "heads": 2, "d_ff": 8, "vocabulary": 9, "context": 4}
    path.write_text(json.dumps({"name": "mine", "model": sizes}))
    assert load_workload(path).value.name == "mine"


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        ({"hidden_size": "big"}, 4, r"must be a whole number, not 'big'"),
        ({"hidden_size": 16.0}, 4, r"must be a whole number, not 16\.0"),
        ({"hidden_size": True}, 4, r"must be a whole number, not True"),
        ({"hidden_size": None}, None, r"must have the key 'hidden_size'"),
        ({"num_hidden_layers": -1}, 3, r"must be greater than 0, not -1"),
        ({"num_attention_heads": 0}, 5, r"must be positive and at most 1e12, not 0"),
        ({"rms_norm_eps": [1]}, 10, r"must be a number, not a list"),
        ({"tie_word_embeddings": 1}, 11, r"must be true or false, not 1"),
        ({"hidden_act": "swich"}, 11, r"must be one of gelu, .*, swish, not 'swich'; did you mean 'swish'"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}},
            12,
            r"must be one of default, linear, llama3, not 'yarn'",
        ),
        ({"rope_scaling": 2}, 11, r"must be a mapping"),
        ({"rope_scaling": {"type": "linear"}}, 11, r"must have the key 'factor'"),
        ({"rope_theta": -1.0}, 11, r"must be positive and at most 1e12, not -1"),
        ({"layer_types": ["chunked_attention"]}, 11, r"must be full_attention or sliding_attention, not 'chunked_a"),
    ],
)
def test_wrong_keys_of_a_config(changes: dict[str, Any], line: int | None, message: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, {**LLAMA, **changes})
    with pytest.raises(ConfigError, match=message) as raised:
        load_workload(path)
    assert raised.value.file == str(path)
    if line is not None:
        assert raised.value.line == line


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**GPT2, "scale_attn_by_inverse_layer_idx": True}, r"must be false: scores with a factor per layer cannot "),
        ({**GPT2, "add_cross_attention": True}, r"must be false: cross-attention cannot be expressed"),
        ({**OPT, "do_layer_norm_before": False}, r"must be true: norms behind attention and feed-forward cannot "),
        ({**OPT, "word_embed_proj_dim": 8}, r"must be hidden_size, 16: a projection behind the embedding cannot be "),
        ({**GPT2, "model_type": "gptj", "rotary_dim": 8}, r"must be at most the 4 elements of a head, not 8"),
        ({**GPT2, "model_type": "gptj"}, r"must have the key 'rotary_dim'"),
        ({"vocab_size": 3}, r"must have the key 'model_type'"),
    ],
)
def test_structures_that_cannot_be_expressed(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_workload(write_config(tmp_path, config))


def test_an_unknown_type_lists_the_known_ones(tmp_path: Path) -> None:
    path = write_config(tmp_path, {**LLAMA, "model_type": "mixtral"})
    known = "gemma, gpt2, gpt_neo, gptj, llama, mistral, opt, qwen2"
    with pytest.raises(WorkloadError, match=rf"config\.json:2: model_type must be one of {known}, not 'mixtral'"):
        load_workload(path)


def test_heads_that_do_not_divide_the_width(tmp_path: Path) -> None:
    path = write_config(tmp_path, {**LLAMA, "num_attention_heads": 6, "num_key_value_heads": 6})
    workload = load_workload(path).value
    with pytest.raises(WorkloadError, match=r"^model\.d_model must be a multiple of model\.heads, not 16 and 6$"):
        build_graph(workload)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model_type": ', "\x00", '"llama"'])
def test_files_that_are_no_config(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_workload(path)


# -------------------------------------------------------------------------------------------------------------- GGUF

TYPES = {int: (4, "I"), float: (6, "f"), bool: (7, "?")}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def metadata_value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    number, form = TYPES[type(value)]
    return struct.pack(f"<I{form}", number, value)


def gguf_bytes(
    metadata: dict[str, Any], tensors: dict[str, np.ndarray], encodings: dict[str, int] | None = None
) -> bytes:
    """A GGUF file with float32 tensors, whose axes are given slowest first."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(text(key) + metadata_value(value) for key, value in metadata.items())
    data = b""
    for name, tensor in tensors.items():
        head += text(name) + struct.pack("<I", tensor.ndim) + struct.pack(f"<{tensor.ndim}Q", *tensor.shape[::-1])
        head += struct.pack("<IQ", (encodings or {}).get(name, 0), len(data))
        data += tensor.astype("<f4").tobytes()
        data += bytes(-len(data) % 32)
    return head + bytes(-len(head) % 32) + data


LLAMA_KEYS: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 32,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 24,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 500.0,
    "tokenizer.ggml.tokens": [f"t{i}" for i in range(40)],
}


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as llama.cpp's converter orders them: elements i and i + half of a head side by side."""
    width = rows.shape[0] // heads
    order = [h * width + i + part * width // 2 for h in range(heads) for i in range(width // 2) for part in (0, 1)]
    return rows[order]


def llama_tensors(weights: dict[str, np.ndarray], *, reordered: bool = True) -> dict[str, np.ndarray]:
    found = {"token_embd.weight": weights["embed.tokens"], "output_norm.weight": weights["final.ln_f.gamma"]}
    if "final.lm_head.weight" in weights:
        found["output.weight"] = weights["final.lm_head.weight"].T
    for i in range(2):
        q, k, v = np.split(weights[f"h{i}.qkv.weight"].T, [32, 48])
        gate, up = np.split(weights[f"h{i}.gate_up.weight"].T, 2)
        found |= {
            f"blk.{i}.attn_norm.weight": weights[f"h{i}.ln_1.gamma"],
            f"blk.{i}.attn_q.weight": interleaved(q, 4) if reordered else q,
            f"blk.{i}.attn_k.weight": interleaved(k, 2) if reordered else k,
            f"blk.{i}.attn_v.weight": v,
            f"blk.{i}.attn_output.weight": weights[f"h{i}.proj.weight"].T,
            f"blk.{i}.ffn_norm.weight": weights[f"h{i}.ln_2.gamma"],
            f"blk.{i}.ffn_gate.weight": gate,
            f"blk.{i}.ffn_up.weight": up,
            f"blk.{i}.ffn_down.weight": weights[f"h{i}.down.weight"].T,
        }
    return found


def tiny_llama(folder: Path, *, tied: bool = False) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights under the names of the graph, and the tensors of a file that has them."""
    config = {**LLAMA, "hidden_size": 32, "rope_theta": 500.0, "tie_word_embeddings": tied}
    graph = build_graph(import_workload(write_config(folder, config)))
    weights = dict(random_weights(graph, seed=2))
    if tied:
        del weights["final.lm_head.weight"]
    return weights, llama_tensors(weights)


def write_gguf(folder: Path, content: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_file_gives_the_same_workload_as_the_config(tied: bool, tmp_path: Path) -> None:
    _, tensors = tiny_llama(tmp_path, tied=tied)
    imported = load_workload(write_gguf(tmp_path, gguf_bytes(LLAMA_KEYS, tensors)), [("generate_tokens", "5")])
    config = load_workload(tmp_path / "config.json")
    assert imported.value.model == config.value.model
    assert imported.value.model.tied_embeddings is tied
    assert (imported.value.name, imported.value.generate_tokens) == ("model", 5)
    assert unsourced(imported) == []


@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_of_a_gguf_file_are_those_of_the_graph(tied: bool, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the weights of a GGUF file need the package gguf")
    weights, tensors = tiny_llama(tmp_path, tied=tied)
    path = write_gguf(tmp_path, gguf_bytes(LLAMA_KEYS, tensors))
    loaded = load_weights(path)
    shapes = weight_shapes(build_graph(import_workload(path)))
    assert {name: tensor.shape for name, tensor in loaded.items()} == shapes
    assert len(loaded) == len(shapes)
    for name, tensor in weights.items():
        np.testing.assert_array_equal(loaded[name], tensor)
        assert loaded[name].dtype == np.float32
    if tied:
        np.testing.assert_array_equal(loaded["final.lm_head.weight"], weights["embed.tokens"].T)


def test_weights_of_a_given_workload(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the weights of a GGUF file need the package gguf")
    weights, tensors = tiny_llama(tmp_path)
    path = write_gguf(tmp_path, gguf_bytes(LLAMA_KEYS, tensors))
    pairs = load_workload(path, [("model.rope_convention", "interleaved")]).value
    stored = load_weights(path, pairs)["h0.qkv.weight"]
    np.testing.assert_array_equal(stored[:, :32].T, interleaved(weights["h0.qkv.weight"][:, :32].T, 4))
    wider = load_workload(path, [("model.d_ff", "32")]).value
    with pytest.raises(WorkloadError, match=r"tensor 'blk\.0\.ffn_gate\.weight' must have the shape \[32, 32\]"):
        load_weights(path, wider)


def test_qwen2_has_biases_and_rows_in_order(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the weights of a GGUF file need the package gguf")
    weights, _ = tiny_llama(tmp_path)
    tensors = llama_tensors(weights, reordered=False)
    for i in range(2):
        for what, width in (("q", 32), ("k", 16), ("v", 16)):
            tensors[f"blk.{i}.attn_{what}.bias"] = np.full(width, float("qkv".index(what)))
    keys = {key.replace("llama", "qwen2"): value for key, value in LLAMA_KEYS.items()}
    keys["general.architecture"] = "qwen2"
    path = write_gguf(tmp_path, gguf_bytes(keys, tensors))
    workload, loaded = import_workload(path), load_weights(path)
    assert workload.model.biases == ["attention"]
    np.testing.assert_array_equal(loaded["h1.qkv.weight"], weights["h1.qkv.weight"])
    np.testing.assert_array_equal(loaded["h1.qkv.bias"], np.repeat([0.0, 1.0, 2.0], [32, 16, 16]))


def test_gpt2(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the weights of a GGUF file need the package gguf")
    graph = build_graph(import_workload(write_config(tmp_path, GPT2)))
    weights = random_weights(graph)
    names = {"ln_1": "attn_norm", "qkv": "attn_qkv", "proj": "attn_output", "ln_2": "ffn_norm"}
    names |= {"up": "ffn_up", "down": "ffn_down"}
    ends = {"gamma": "weight", "beta": "bias"}
    tensors = {
        "token_embd.weight": weights["embed.tokens"],
        "position_embd.weight": weights["embed.positions"],
        "output_norm.weight": weights["final.ln_f.gamma"],
        "output_norm.bias": weights["final.ln_f.beta"],
    }
    for name in weights:
        head, _, rest = name.partition(".")
        short, _, end = rest.partition(".")
        if head in ("h0", "h1"):
            tensors[f"blk.{head[1]}.{names[short]}.{ends.get(end, end)}"] = weights[name].T
    keys = {
        "general.architecture": "gpt2",
        "gpt2.block_count": 2,
        "gpt2.context_length": 32,
        "gpt2.embedding_length": 16,
        "gpt2.feed_forward_length": 64,
        "gpt2.attention.head_count": 4,
        "gpt2.attention.layer_norm_epsilon": 1e-5,
    }
    path = write_gguf(tmp_path, gguf_bytes(keys, tensors))
    loaded = load_weights(path)
    assert import_workload(path).model.model_dump(exclude={"kv_heads"}) == import_workload(
        tmp_path / "config.json"
    ).model.model_dump(exclude={"kv_heads"})
    for name, tensor in weights.items():
        np.testing.assert_array_equal(loaded[name], tensor)


def test_files_of_the_writer_of_the_format(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="writes the file")
    weights, tensors = tiny_llama(tmp_path)
    path = tmp_path / "written.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(32)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(24)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    writer.add_vocab_size(40)
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    for name, tensor in tensors.items():
        quantised = tensor.ndim == 2 and tensor.shape[1] == 32
        kind = gguf.GGMLQuantizationType.Q8_0 if quantised else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(tensor), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_gguf(path).values("tokenizer.ggml.scores") == [0.5, 1.5]
    for name, tensor in load_weights(path).items():
        # 8 bits for each block of 32: half a step of the largest element
        np.testing.assert_allclose(tensor, weights[name], rtol=0, atol=0.51 * np.abs(weights[name]).max() / 127)


def test_stretched_rotations(tmp_path: Path) -> None:
    _, tensors = tiny_llama(tmp_path)
    tensors["rope_freqs.weight"] = np.array([1.0, 1.0, 2.5, 8.0])
    path = write_gguf(tmp_path, gguf_bytes(LLAMA_KEYS, tensors))
    assert import_workload(path).model.rope_factors == [1.0, 1.0, 2.5, 8.0]
    del tensors["rope_freqs.weight"]
    keys = {**LLAMA_KEYS, "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    assert import_workload(write_gguf(tmp_path, gguf_bytes(keys, tensors))).model.rope_factors == [2.0] * 4


def test_the_metadata_of_a_tokenizer(tmp_path: Path) -> None:
    _, tensors = tiny_llama(tmp_path)
    file = read_gguf(write_gguf(tmp_path, gguf_bytes(LLAMA_KEYS, tensors)))
    assert file.values("tokenizer.ggml.tokens") == [f"t{i}" for i in range(40)]
    assert file.count("tokenizer.ggml.tokens") == 40
    assert file.metadata["llama.block_count"] == 2
    with pytest.raises(ConfigError, match=r"tokenizer\.ggml\.merges: the file must have this list$"):
        file.values("tokenizer.ggml.merges")


# ------------------------------------------------------------------------------------------------------ GGUF, broken


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "bert"}, rf"must be one of {', '.join(ARCHITECTURES)}, not 'bert'$"),
        ({"general.architecture": None}, r"must have the key 'general\.architecture'$"),
        ({"general.architecture": 3}, r"general\.architecture: must be text, not 3$"),
        ({"general.alignment": 3}, r"general\.alignment: must be a power of two of at most 1,048,576, not 3$"),
        ({"llama.block_count": None}, r"must have the key 'llama\.block_count'$"),
        ({"llama.block_count": "two"}, r"llama\.block_count: must be a whole number, not 'two'$"),
        ({"llama.block_count": 0}, r"llama\.block_count: must be positive and below 2\^40, not 0$"),
        ({"llama.block_count": 3}, r"the file must have the tensor 'blk\.2\.attn_norm\.weight', \[32\]$"),
        ({"llama.block_count": 2**32 - 1}, r"4,294,967,295 layers must have more than 21 tensors$"),
        ({"llama.attention.head_count": ["4", "4"]}, r"head_count: must be a whole number, not a list of 2$"),
        ({"llama.attention.head_count_kv": 3}, r"^model\.heads must be a multiple of model\.kv_heads, not 4 and 3$"),
        ({"llama.attention.head_count_kv": 4}, r"'blk\.0\.attn_k\.weight' must have the shape \[32, 32\] \(slowest"),
        ({"llama.embedding_length": 64}, r"'token_embd\.weight' must have the shape \[40, 64\] \(slowest axis first\)"),
        ({"llama.vocab_size": 41}, r"'token_embd\.weight' must have the shape \[41, 32\] \(slowest axis first\), not"),
        ({"llama.attention.layer_norm_rms_epsilon": -1.0}, r"epsilon: must be positive and finite, not -1\.0$"),
        ({"llama.rope.freq_base": float("nan")}, r"freq_base: must be positive and finite, not nan$"),
        ({"llama.rope.dimension_count": 10}, r"must be at most the 8 elements of a head, not 10$"),
        ({"llama.rope.scaling.type": "yarn"}, r"must be one of none, linear, not 'yarn'$"),
        ({"llama.expert_count": 8}, r"expert_count: must be 0: a mixture of experts cannot be expressed$"),
        ({"llama.attention.value_length": 4}, r"value_length: must be as long as the keys, 8$"),
        ({"split.count": 2}, r"split\.count: must be 1: models in several files cannot be read$"),
    ],
)
def test_wrong_keys_of_a_gguf_file(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    _, tensors = tiny_llama(tmp_path)
    keys = {key: value for key, value in {**LLAMA_KEYS, **changes}.items() if value is not None}
    path = write_gguf(tmp_path, gguf_bytes(keys, tensors))
    with pytest.raises(InputError, match=message):
        load_workload(path)


def test_tensors_that_are_missing_or_have_another_shape(tmp_path: Path) -> None:
    _, tensors = tiny_llama(tmp_path)
    for name in ("blk.1.ffn_down.weight", "token_embd.weight", "output_norm.weight"):
        rest = {each: tensor for each, tensor in tensors.items() if each != name}
        with pytest.raises(WorkloadError, match=f"the file must have the tensor '{name}'"):
            load_workload(write_gguf(tmp_path, gguf_bytes(LLAMA_KEYS, rest)))
        other = {**tensors, name: tensors[name][:-1]}
        with pytest.raises(WorkloadError, match=f"tensor '{name}' must have the shape"):
            load_workload(write_gguf(tmp_path, gguf_bytes(LLAMA_KEYS, other)))


def test_an_unsupported_encoding(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the weights of a GGUF file need the package gguf")
    _, tensors = tiny_llama(tmp_path)
    name = "blk.1.attn_q.weight"
    path = write_gguf(tmp_path, gguf_bytes(LLAMA_KEYS, tensors, {name: 99}))
    load_workload(path)  # sizes are known all the same
    message = rf"the encoding of tensor '{name}' must be one of F32, F16, Q4_0, .*, not number 99$"
    with pytest.raises(WorkloadError, match=message):
        load_weights(path)


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the weights of a GGUF file need the package gguf")
    _, tensors = tiny_llama(tmp_path)
    tensors["blk.0.attn_v.weight"] = np.full((16, 32), np.inf)
    weights = load_weights(write_gguf(tmp_path, gguf_bytes(LLAMA_KEYS, tensors)))
    with pytest.raises(WorkloadError, match=r"every element of tensor 'blk\.0\.attn_v\.weight' must be finite$"):
        weights["h0.qkv.weight"]


def test_the_optional_package_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tensors = tiny_llama(tmp_path)
    path = write_gguf(tmp_path, gguf_bytes(LLAMA_KEYS, tensors))
    monkeypatch.setitem(sys.modules, "gguf", None)
    load_workload(path)
    with pytest.raises(
        InputError,
        match=r"^reading the weights of GGUF files must have the package gguf: pip install 'pimsim\[models\]'$",
    ):
        load_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a GGUF file must begin with b'GGUF'; the file is empty$"),
        (b"GGU", r"a GGUF file must begin with b'GGUF', not b'GGU'$"),
        (b"GGML" + bytes(40), r"a GGUF file must begin with b'GGUF', not b'GGML'$"),
        (b"GGUF", r"a GGUF file must go on to byte 8 at least; it is truncated at 4$"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), r"the GGUF version must be 2 or 3, little-endian, not 1$"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), r"the GGUF version must be 2 or 3, .*, not 50331648$"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), r"tensors must be at most 0, not 9,223,372,036,854,775,808$"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), r"keys must be at most 0, not 9,223,372,036,854,775,808$"),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60) + bytes(40),
            r"the bytes of a key must be at most 40, not 1,152,921,504,606,846,976$",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**40) + bytes(64),
            r"the texts of 'k' must be at most 8, not 1,099,511,627,776$",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 2**40) + bytes(64),
            r"the numbers of 'k' must be at most 64, not 1,099,511,627,776$",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64),
            r"'k' must be a list of numbers or texts, not of type 9$",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 77) + bytes(64),
            r"'k' must have a known type, not 77$",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2) + b"\xff\xfe" + bytes(64),
            r"a key at byte 32 must be UTF-8$",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("k") + metadata_value(1)),
            r"every key must be given once, not 'k' twice$",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<I", 2**31) + bytes(64),
            r"tensor 't' must have 1 to 4 axes, not 2147483648$",
        ),
        (
            b"GGUF"
            + struct.pack("<IQQ", 3, 1, 0)
            + text("t")
            + struct.pack("<IQQIQ", 2, 2**60, 2**60, 0, 0)
            + bytes(64),
            r"must go on to byte 5,316,.*, where tensor 't' \[\d+, \d+\] ends; it is truncated at \d+$",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 33, 8, 0) + bytes(64),
            r"the innermost axis of tensor 't' must be a positive multiple of 32, not 33$",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 4, 0, 2**62) + bytes(64),
            r"where tensor 't' \[4\] ends; it is truncated at \d+$",
        ),
    ],
)
def test_broken_headers(content: bytes, message: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path, content)
    with pytest.raises(WorkloadError, match=message):
        load_workload(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be a file, not a folder$"):
        read_gguf(tmp_path)
    with pytest.raises(ConfigError, match=r"the file must exist$"):
        read_gguf(tmp_path / "none.gguf")


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    _, tensors = tiny_llama(tmp_path)
    content = gguf_bytes(LLAMA_KEYS, tensors)
    end = len(content) - 32  # the last tensor may be followed by padding
    for length in [*range(0, 2000, 7), *range(2000, end, 997)]:
        with pytest.raises(WorkloadError):
            load_workload(write_gguf(tmp_path, content[:length]))


def test_changed_bytes_never_end_in_anything_but_an_input_error(tmp_path: Path) -> None:
    _, tensors = tiny_llama(tmp_path)
    content = gguf_bytes(LLAMA_KEYS, tensors)
    dice = random.Random(1)
    for _ in range(1500):
        broken = bytearray(content)
        for _ in range(dice.randint(1, 3)):
            broken[dice.randrange(2200)] = dice.choice([0, 1, 127, 128, 255, dice.randrange(256)])
        path = write_gguf(tmp_path, bytes(broken))
        try:
            build_graph(load_workload(path).value)
        except InputError as error:
            assert str(error)
