"""Builders: from a workload configuration to the graph of one forward pass.

The names inside block i begin with ``h<i>.``. Without rotation, gates and shared heads a block is that of GPT-2:
``ln_1 qkv kv scores softmax values proj add_1 ln_2 up gelu down add_2``. The variants change single operations:

==================  ==========================================================================================
rotation            ``rope`` after ``qkv``; keys and scores read its result
gated feed-forward  ``gate_up`` (one product, ``[gate | up]``) and ``gate`` in place of ``up`` and ``gelu``
other activation    ``act`` in place of ``gelu``
parallel residual   no ``ln_2``; the feed-forward part reads ``ln_1``
==================  ==========================================================================================
"""

from __future__ import annotations

from pimsim.errors import WorkloadError
from pimsim.workload.config import DecoderConfig, WorkloadConfig
from pimsim.workload.graph import WorkloadGraph
from pimsim.workload.ops import (
    Activation,
    ArgMax,
    Attention,
    CacheWrite,
    Embedding,
    Gate,
    Gelu,
    LayerNorm,
    Linear,
    OpNode,
    Residual,
    RmsNorm,
    Rope,
    Scores,
    Softmax,
    Values,
)


def build_graph(workload: WorkloadConfig) -> WorkloadGraph:
    """The operations of one decode step; attention other than vanilla is one operation (`Attention`).

    Raises:
        WorkloadError: the attention is none for this decoder, the heads do not divide the model width, the key and value
            heads do not divide the heads, a head has an odd number of rotated elements or other factors, or the run is
            longer than the sliding window.
    """
    model = workload.model
    _check(workload)
    positions = model.context if model.position == "learned" else 0
    ops: list[OpNode] = [
        Embedding(
            "embed",
            "embedding",
            (),
            vocabulary=model.vocabulary,
            positions=positions,
            width=model.d_model,
            scale=model.embedding_scale,
        )
    ]
    stream = "embed"
    for layer in range(model.layers):
        block = _block(f"h{layer}", stream, workload)
        ops += block
        stream = block[-1].name
    if workload.lm_head:
        ops += _head(stream, model)
    return WorkloadGraph(ops)


def softmax_graph(workload: WorkloadConfig) -> WorkloadGraph:
    """The operations of vanilla attention, for machines that carry them out together on a schedule of their own (single_pass).

    Raises:
        WorkloadError: as `build_graph`.
    """
    return build_graph(workload.model_copy(update={"attention": "vanilla"}))


def _check(workload: WorkloadConfig) -> None:
    model = workload.model
    if model.d_head is None and model.d_model % model.heads:
        raise WorkloadError(f"model.d_model must be a multiple of model.heads, not {model.d_model} and {model.heads}")
    if model.heads % model.key_value_heads:
        raise WorkloadError(f"model.heads must be a multiple of model.kv_heads, not {model.heads} and {model.kv_heads}")
    if model.position == "rope" and (model.rotary_width % 2 or not model.rotary_width):
        raise WorkloadError(
            f"model.rope_fraction of the {model.head_width} elements of a head must be an even number of elements, at "
            f"least 2, not {model.rotary_width}"
        )
    if model.rope_factors is not None and len(model.rope_factors) != model.rotary_width // 2:
        raise WorkloadError(
            f"model.rope_factors must have one number for each of {model.rotary_width // 2} rotated pairs, not "
            f"{len(model.rope_factors)}"
        )
    passes = workload.prompt_tokens + workload.generate_tokens - 1
    if model.window is not None and passes > model.window:
        raise WorkloadError(
            f"prompt_tokens + generate_tokens - 1 must be at most model.window, {model.window}, not {passes}: sliding-"
            "window attention differs from full attention beyond its window and cannot be expressed"
        )


def _block(h: str, x: str, workload: WorkloadConfig) -> list[OpNode]:
    """Decoder block with the norms in front: attention, then feed-forward, each added to the stream ``x``."""
    add_1, model = f"{h}.add_1", workload.model
    attention = _attention(h, x, workload)
    ops = [*attention, Residual(add_1, "residual", (x, attention[-1].name), width=model.d_model)]
    if model.parallel_residual:
        source = f"{h}.ln_1"
    else:
        source = f"{h}.ln_2"
        ops.append(_norm(source, add_1, model))
    feed_forward = _feed_forward(h, source, model)
    last = Residual(f"{h}.add_2", "residual", (add_1, feed_forward[-1].name), width=model.d_model)
    return [*ops, *feed_forward, last]


def _attention(h: str, x: str, workload: WorkloadConfig) -> list[OpNode]:
    """Norm, fused projection ``[queries | keys | values]``, attention over the cache, output projection."""
    model = workload.model
    d, heads, kv_heads, d_head = model.d_model, model.heads, model.key_value_heads, model.head_width
    qkv = f"{h}.qkv"
    ops: list[OpNode] = [
        _norm(f"{h}.ln_1", x, model),
        Linear(
            qkv,
            "qkv_projection",
            (f"{h}.ln_1",),
            d_in=d,
            d_out=(heads + 2 * kv_heads) * d_head,
            bias="attention" in model.biases,
        ),
    ]
    if model.position == "rope":
        ops.append(
            Rope(
                f"{h}.rope",
                "rope",
                (qkv,),
                heads=heads,
                d_head=d_head,
                kv_heads=kv_heads,
                rotary=model.rotary_width,
                theta=model.rope_theta,
                convention=model.rope_convention,
                factors=tuple(model.rope_factors or ()),
            )
        )
        qkv = f"{h}.rope"
    attended = _softmax_over_cache(h, qkv, model)
    if workload.attention != "vanilla":
        attended = [_by_algorithm(h, qkv, workload)]
    return [
        *ops,
        *attended,
        Linear(
            f"{h}.proj",
            "output_projection",
            (attended[-1].name,),
            d_in=heads * d_head,
            d_out=d,
            bias="projection" in model.biases,
        ),
    ]


def _softmax_over_cache(h: str, qkv: str, model: DecoderConfig) -> list[OpNode]:
    """Cache write, scores, softmax, weighted sum."""
    heads, kv_heads, d_head, kv = model.heads, model.key_value_heads, model.head_width, f"{h}.kv"
    return [
        CacheWrite(kv, "kv_write", (qkv,), heads=heads, d_head=d_head, kv_heads=kv_heads),
        Scores(
            f"{h}.scores",
            "attention_scores",
            (qkv, kv),
            heads=heads,
            d_head=d_head,
            kv_heads=kv_heads,
            scale=model.score_scale,
        ),
        Softmax(f"{h}.softmax", "softmax", (f"{h}.scores",), heads=heads),
        Values(f"{h}.values", "attention_values", (f"{h}.softmax", kv), heads=heads, d_head=d_head, kv_heads=kv_heads),
    ]


def _by_algorithm(h: str, qkv: str, workload: WorkloadConfig) -> OpNode:
    """Attention of the registry as one operation."""
    from pimsim.workload.decoder_attention import (
        method_for,
        reads_hidden,
    )  # numpy, which the usual decoder does without

    model, method = workload.model, method_for(workload)
    scale = 1.0 if model.attention_scale is None else model.attention_scale * model.head_width**0.5
    return Attention(
        f"{h}.attend",
        "attention",
        (qkv, f"{h}.ln_1") if reads_hidden(method) else (qkv,),
        heads=model.heads,
        d_head=model.head_width,
        kv_heads=model.key_value_heads,
        scale=scale,
        method=method,
    )


def _feed_forward(h: str, x: str, model: DecoderConfig) -> list[OpNode]:
    """Two products with a nonlinearity between them; the first one has both halves of a gated nonlinearity."""
    d, d_ff, bias = model.d_model, model.d_ff, "feed_forward" in model.biases
    first, between = (f"{h}.gate_up", f"{h}.gate") if model.gated else (f"{h}.up", f"{h}.act")
    nonlinear: OpNode
    if model.gated:
        nonlinear = Gate(between, "gate", (first,), width=d_ff, function=model.activation)
    elif model.activation == "gelu_tanh":
        nonlinear = Gelu(f"{h}.gelu", "gelu", (first,), width=d_ff)
    else:
        kind = "gelu" if model.activation == "gelu_erf" else model.activation
        nonlinear = Activation(between, kind, (first,), width=d_ff, function=model.activation)
    return [
        Linear(first, "ffn_up", (x,), d_in=d, d_out=(2 if model.gated else 1) * d_ff, bias=bias),
        nonlinear,
        Linear(f"{h}.down", "ffn_down", (nonlinear.name,), d_in=d_ff, d_out=d, bias=bias),
    ]


def _head(x: str, model: DecoderConfig) -> list[OpNode]:
    """Last norm, logits and the token with the largest one."""
    logits = Linear(
        "final.lm_head",
        "lm_head",
        ("final.ln_f",),
        d_in=model.d_model,
        d_out=model.vocabulary,
        bias="lm_head" in model.biases,
        tied="embed.tokens" if model.tied_embeddings else "",
    )
    argmax = ArgMax("final.argmax", "argmax", ("final.lm_head",), width=model.vocabulary)
    return [_norm("final.ln_f", x, model), logits, argmax]


def _norm(name: str, x: str, model: DecoderConfig) -> OpNode:
    kind = LayerNorm if model.norm == "layernorm" else RmsNorm
    return kind(name, model.norm, (x,), width=model.d_model, eps=model.norm_eps, offset=model.norm_offset)
