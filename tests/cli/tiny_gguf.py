"""A model small enough to be written by a test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pimsim.workload.importers import import_workload
from pimsim.workload.models import build_graph
from pimsim.workload.reference import random_weights

LETTERS = [*(chr(code) for code in range(0x21, 0x7F)), "\u0120", "!!", "<end>"]
NAMES = {"ln_1": "attn_norm", "qkv": "attn_qkv", "proj": "attn_output", "ln_2": "ffn_norm", "up": "ffn_up"}
NAMES |= {"down": "ffn_down"}
ENDS = {"gamma": "weight", "beta": "bias"}


def write_model(path: Path) -> None:
    """A GPT-2 with two layers, random weights and a vocabulary of characters."""
    import gguf

    config = path.with_name("config.json")
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 32, "vocab_size": len(LETTERS)}
    config.write_text(json.dumps({"model_type": "gpt2", **sizes}))
    weights = random_weights(build_graph(import_workload(config)), seed=3, scale=0.3)
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(2)
    writer.add_context_length(32)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(256)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(LETTERS)
    writer.add_token_types([1] * (len(LETTERS) - 1) + [3])
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(len(LETTERS) - 1)
    tops = {"embed.tokens": "token_embd.weight", "embed.positions": "position_embd.weight"}
    tops |= {"final.ln_f.gamma": "output_norm.weight", "final.ln_f.beta": "output_norm.bias"}
    for name in weights:
        head, _, rest = name.partition(".")
        short, _, end = rest.partition(".")
        if name in tops:
            writer.add_tensor(tops[name], np.ascontiguousarray(weights[name]))
        elif short in NAMES:
            stored = np.ascontiguousarray(weights[name].T)
            writer.add_tensor(f"blk.{head[1:]}.{NAMES[short]}.{ENDS.get(end, end)}", stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
