"""Builders: from a workload configuration to the graph of one forward pass."""

from __future__ import annotations

from pimsim.errors import WorkloadError
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph
from pimsim.workload.ops import (
    ArgMax,
    CacheWrite,
    Embedding,
    Gelu,
    LayerNorm,
    Linear,
    OpNode,
    Residual,
    Scores,
    Softmax,
    Values,
)


def build_graph(workload: WorkloadConfig) -> WorkloadGraph:
    """The operations of one decode step.

    Raises:
        WorkloadError: the heads do not divide the model width.
    """
    model = workload.model
    if model.d_model % model.heads:
        raise WorkloadError(f"model.d_model must be a multiple of model.heads, not {model.d_model} and {model.heads}")
    ops: list[OpNode] = [
        Embedding("embed", "embedding", (), vocabulary=model.vocabulary, positions=model.context, width=model.d_model)
    ]
    stream = "embed"
    for layer in range(model.layers):
        block = _gpt2_block(f"h{layer}", stream, workload)
        ops += block
        stream = block[-1].name
    if workload.lm_head:
        ops += [
            LayerNorm("final.ln_f", "layernorm", (stream,), width=model.d_model),
            Linear("final.lm_head", "lm_head", ("final.ln_f",), d_in=model.d_model, d_out=model.vocabulary),
            ArgMax("final.argmax", "argmax", ("final.lm_head",), width=model.vocabulary),
        ]
    return WorkloadGraph(ops)


def _gpt2_block(h: str, x: str, workload: WorkloadConfig) -> list[OpNode]:
    """Pre-LayerNorm decoder block of GPT-2 and GPT-3: attention and GELU feed-forward, each with a residual."""
    model = workload.model
    d, heads, d_head = model.d_model, model.heads, model.d_model // model.heads
    return [
        LayerNorm(f"{h}.ln_1", "layernorm", (x,), width=d),
        Linear(f"{h}.qkv", "qkv_projection", (f"{h}.ln_1",), d_in=d, d_out=3 * d),
        CacheWrite(f"{h}.kv", "kv_write", (f"{h}.qkv",), heads=heads, d_head=d_head),
        Scores(f"{h}.scores", "attention_scores", (f"{h}.qkv", f"{h}.kv"), heads=heads, d_head=d_head),
        Softmax(f"{h}.softmax", "softmax", (f"{h}.scores",), heads=heads),
        Values(f"{h}.values", "attention_values", (f"{h}.softmax", f"{h}.kv"), heads=heads, d_head=d_head),
        Linear(f"{h}.proj", "output_projection", (f"{h}.values",), d_in=d, d_out=d),
        Residual(f"{h}.add_1", "residual", (x, f"{h}.proj"), width=d),
        LayerNorm(f"{h}.ln_2", "layernorm", (f"{h}.add_1",), width=d),
        Linear(f"{h}.up", "ffn_up", (f"{h}.ln_2",), d_in=d, d_out=model.d_ff),
        Gelu(f"{h}.gelu", "gelu", (f"{h}.up",), width=model.d_ff),
        Linear(f"{h}.down", "ffn_down", (f"{h}.gelu",), d_in=model.d_ff, d_out=d),
        Residual(f"{h}.add_2", "residual", (f"{h}.add_1", f"{h}.down"), width=d),
    ]
