"""Tiny models of every family: their ``config.json``, and their weights under the names of the graph.

The weights and logits in ``tests/data/reference`` come from here; ``make_reference_data.py`` writes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TOKENS = [3, 17, 0, 38, 5, 17, 29, 1, 12]

_GPT = {"n_layer": 2, "n_embd": 16, "n_head": 4, "n_positions": 32, "vocab_size": 40}
_RMS = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "vocab_size": 40,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", **_GPT},
    "gpt2_gelu_erf": {"model_type": "gpt2", **_GPT, "activation_function": "gelu", "n_inner": 20},
    "gpt_neo": {
        "model_type": "gpt_neo",
        "num_layers": 2,
        "hidden_size": 16,
        "num_heads": 4,
        "max_position_embeddings": 32,
        "vocab_size": 40,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 16,
    },
    "gptj": {"model_type": "gptj", **_GPT, "n_embd": 32, "rotary_dim": 4, "tie_word_embeddings": False},
    "opt": {
        "model_type": "opt",
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "num_attention_heads": 4,
        "ffn_dim": 24,
        "max_position_embeddings": 32,
        "vocab_size": 40,
    },
    "llama": {"model_type": "llama", **_RMS, "rope_theta": 500.0, "tie_word_embeddings": True},
    "llama31": {
        "model_type": "llama",
        **_RMS,
        "head_dim": 8,
        "rope_parameters": _LLAMA3,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
    },
    "mistral": {"model_type": "mistral", **_RMS, "num_key_value_heads": 1, "sliding_window": 16},
    "qwen2": {"model_type": "qwen2", **_RMS, "rms_norm_eps": 1e-4, "tie_word_embeddings": False},
    "gemma": {"model_type": "gemma", **_RMS, "head_dim": 8, "hidden_act": "gelu_pytorch_tanh"},
}

_GPT2_NAMES = {
    "ln_1": ["ln_1"],
    "qkv": ["attn.c_attn"],
    "proj": ["attn.c_proj"],
    "ln_2": ["ln_2"],
    "up": ["mlp.c_fc"],
    "down": ["mlp.c_proj"],
}
_NEO_NAMES = {
    **_GPT2_NAMES,
    "qkv": [f"attn.attention.{each}_proj" for each in "qkv"],
    "proj": ["attn.attention.out_proj"],
}
_GPTJ_NAMES = {
    "ln_1": ["ln_1"],
    "qkv": [f"attn.{each}_proj" for each in "qkv"],
    "proj": ["attn.out_proj"],
    "up": ["mlp.fc_in"],
    "down": ["mlp.fc_out"],
}
_OPT_NAMES = {
    "ln_1": ["self_attn_layer_norm"],
    "qkv": [f"self_attn.{each}_proj" for each in "qkv"],
    "proj": ["self_attn.out_proj"],
    "ln_2": ["final_layer_norm"],
    "up": ["fc1"],
    "down": ["fc2"],
}
_LLAMA_NAMES = {
    "ln_1": ["input_layernorm"],
    "qkv": [f"self_attn.{each}_proj" for each in "qkv"],
    "proj": ["self_attn.o_proj"],
    "ln_2": ["post_attention_layernorm"],
    "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
    "down": ["mlp.down_proj"],
}
_TOP: dict[str, tuple[str, str, dict[str, list[str]]]] = {
    "gpt2": ("transformer", "h", _GPT2_NAMES),
    "gpt_neo": ("transformer", "h", _NEO_NAMES),
    "gptj": ("transformer", "h", _GPTJ_NAMES),
    "opt": ("model.decoder", "layers", _OPT_NAMES),
}
_ENDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def transformers_model(config: dict[str, Any], seed: int = 0) -> Any:
    """A model of the transformers package in float64, every parameter random and far from its neutral value."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {key: value for key, value in config.items() if key != "model_type"}
    torch.manual_seed(seed)
    made = AutoConfig.for_model(config["model_type"], **fields)
    model = AutoModelForCausalLM.from_config(made, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3)
            gain = name.endswith("weight") and ("norm" in name.lower() or ".ln_" in name)
            if gain and config["model_type"] != "gemma":
                parameter.add_(1.0)
    return model.double().eval()


def transformers_logits(model: Any, tokens: list[int]) -> Array:
    """Logits ``[tokens, vocabulary]``."""
    import torch

    with torch.no_grad():
        logits: Array = model(torch.tensor([tokens])).logits[0].double().numpy()
    return logits


def graph_weights(model: Any, shapes: dict[str, tuple[int, ...]], kind: str) -> dict[str, Array]:
    """The parameters of a transformers model under the names of the graph."""
    state = {name: tensor.detach().float().numpy() for name, tensor in model.state_dict().items()}
    top, layers, names = _TOP.get(kind, ("model", "layers", _LLAMA_NAMES))
    found = {}
    for name, shape in shapes.items():
        owner, _, end = name.rpartition(".")
        head, _, short = owner.partition(".")
        if name == "embed.tokens":
            tensor = state.get(f"{top}.wte.weight", state.get(f"{top}.embed_tokens.weight"))
        elif name == "embed.positions":
            tensor = state.get(f"{top}.wpe.weight", state.get(f"{top}.embed_positions.weight"))
            tensor = tensor[-shape[0] :]  # the first two positions of OPT are never used
        elif short == "lm_head":
            tensor = state[f"lm_head.{end}"].T
        elif short == "ln_f":
            last = next(each for each in ("ln_f", "final_layer_norm", "norm") if f"{top}.{each}.weight" in state)
            tensor = state[f"{top}.{last}.{_ENDS[end]}"]
        else:
            parts = [state[f"{top}.{layers}.{head[1:]}.{each}.{_ENDS[end]}"] for each in names[short]]
            # Conv1D of GPT-2 keeps [d_in, d_out], Linear [d_out, d_in]
            tensor = np.concatenate(parts) if kind != "gpt2" or len(shape) == 1 else parts[0].T
            tensor = tensor.T
        found[name] = np.ascontiguousarray(tensor)
    return found
