"""Attention and feed-forward parts of latent models (CMAB, CMANP, LBANP): shapes, closed forms, expansion, reference.

Both are pre-norm with the residual of the *normalised* input, ``y = f(LN(x)) + LN(x)``, as in the code
BorealisAI/constant-memory-anp. The feed-forward part is ``x * GELU(gate)`` between two linear layers.
"""

from __future__ import annotations

from math import erf, sqrt

import numpy as np

from pimsim.workload.attention.base import Case, Floats, Tensors, dense_softmax
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Primitive, Shape, Softmax


def attention_shapes(at: str, d: int, cross: bool = False) -> dict[str, Shape]:
    """Weights of an attention part; ``cross``: the context has a normalisation of its own."""
    shapes: dict[str, Shape] = {f"{at}.{w}": (d, d) for w in ("wq", "wk", "wv", "wo")}
    shapes |= {f"{at}.{w}": (d,) for w in ("bo", "gain", "shift")}
    if cross:
        shapes |= {f"{at}.{w}": (d,) for w in ("context_gain", "context_shift")}
    return shapes


def feed_forward_shapes(at: str, d: int, d_ff: int) -> dict[str, Shape]:
    """Weights of a feed-forward part."""
    shapes: dict[str, Shape] = {f"{at}.{w}": (d, d_ff) for w in ("wx", "wg")}
    shapes |= {f"{at}.{w}": (d_ff,) for w in ("bx", "bg")}
    shapes |= {f"{at}.w2": (d_ff, d)}
    return shapes | {f"{at}.{w}": (d,) for w in ("b2", "gain", "shift")}


def mlp_shapes(at: str, widths: list[int]) -> dict[str, Shape]:
    """Linear layers from width to width."""
    shapes: dict[str, Shape] = {}
    for i in range(len(widths) - 1):
        shapes |= {f"{at}.{i}.w": (widths[i], widths[i + 1]), f"{at}.{i}.b": (widths[i + 1],)}
    return shapes


def attend_macs(rows: int, context: int, d: int) -> int:
    """Four projections, scores and values."""
    return 2 * rows * d * d + 2 * context * d * d + 2 * rows * context * d


def mlp_macs(rows: int, widths: list[int]) -> int:
    """Products of linear layers."""
    return rows * sum(widths[i] * widths[i + 1] for i in range(len(widths) - 1))


def feed_forward(e: Expansion, at: str, x: Primitive, name: str = "") -> Primitive:
    """Gated feed-forward part: ``3 rows d d_ff`` MACs."""
    x = e.norm(x, e[f"{at}.gain"], e[f"{at}.shift"])
    up, gate = (e.product(x, e[f"{at}.w{w}"], e[f"{at}.b{w}"]) for w in "xg")
    return e.apply("add", e.product(e.apply("gelu_gate", up, gate), e[f"{at}.w2"], e[f"{at}.b2"]), x, name=name)


def attend(e: Expansion, case: Case, at: str, x: Primitive, context: Primitive | None = None) -> Primitive:
    """Self-attention, or cross-attention to a context."""
    x = e.norm(x, e[f"{at}.gain"], e[f"{at}.shift"])
    c = e.norm(context, e[f"{at}.context_gain"], e[f"{at}.context_shift"]) if context else x
    q, k, v = (e.split_heads(e.product(y, e[f"{at}.{w}"]), case.heads) for y, w in ((x, "wq"), (c, "wk"), (c, "wv")))
    found = e.product(e.add(Softmax, e.scores(q, k, case.scale)), v)
    return e.apply("add", e.product(e.join_heads(found), e[f"{at}.wo"], e[f"{at}.bo"]), x)


def mlp(e: Expansion, at: str, x: Primitive, layers: int) -> Primitive:
    """Linear layers with ReLU between them."""
    for i in range(layers):
        x = e.product(e.apply("relu", x) if i else x, e[f"{at}.{i}.w"], e[f"{at}.{i}.b"])
    return x


# ------------------------------------------------------------------------------------------ reference, no primitives


def layer_norm(x: Floats, gain: Floats, shift: Floats) -> Floats:
    """Layer normalisation of rows."""
    normed: Floats = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * gain + shift
    return normed


def attended(case: Case, t: Tensors, at: str, x: Floats, context: Floats | None = None) -> Floats:
    """Attention head by head."""
    x = layer_norm(x, t[f"{at}.gain"], t[f"{at}.shift"])
    c = x if context is None else layer_norm(context, t[f"{at}.context_gain"], t[f"{at}.context_shift"])
    heads = []
    for head in range(case.heads):
        own = slice(head * case.d_head, (head + 1) * case.d_head)
        q, k, v = x @ t[f"{at}.wq"][:, own], c @ t[f"{at}.wk"][:, own], c @ t[f"{at}.wv"][:, own]
        heads.append(dense_softmax(q @ k.T * case.scale) @ v)
    found: Floats = np.concatenate(heads, axis=1) @ t[f"{at}.wo"] + t[f"{at}.bo"] + x
    return found


def fed_forward(t: Tensors, at: str, x: Floats) -> Floats:
    """The gated part."""
    x = layer_norm(x, t[f"{at}.gain"], t[f"{at}.shift"])
    g = x @ t[f"{at}.wg"] + t[f"{at}.bg"]
    phi = np.array([0.5 * (1 + erf(each / sqrt(2))) for each in g.ravel()]).reshape(g.shape)
    found: Floats = ((x @ t[f"{at}.wx"] + t[f"{at}.bx"]) * g * phi) @ t[f"{at}.w2"] + t[f"{at}.b2"] + x
    return found


def perceptron(t: Tensors, at: str, x: Floats, layers: int) -> Floats:
    """Linear layers with ReLU between them."""
    for i in range(layers):
        x = np.maximum(x, 0.0 if i else -np.inf) @ t[f"{at}.{i}.w"] + t[f"{at}.{i}.b"]
    return x
