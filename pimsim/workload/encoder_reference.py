"""What an encoder computes, in float64, with no program, machine or number format: its operations one by one, and their weights.

Features are ``[tokens, width]``, matrices ``[outputs, inputs]``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pimsim.workload.encoder import EncoderConfig
from pimsim.workload.reference import softmax

Floats = npt.NDArray[np.float64]
Routes = tuple[tuple[int, ...], ...]
Values = Mapping[str, Any]
"""Result of each operation; of gating, the experts ``[tokens, k]`` and what they count."""


@dataclass(frozen=True)
class EncoderOp:
    """An operation: its name, what it reads, and its weights; ``tensor`` is the common beginning of their names."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    tensor: str = ""
    layer: int = -1
    gelu: bool = False
    queue: tuple[int, ...] = ()
    """Tokens of an expert."""
    experts: tuple[int, ...] = ()
    """Experts that have tokens."""


def operations(work: EncoderConfig, routes: Callable[[int], Routes]) -> Iterator[EncoderOp]:
    """All operations in order; ``routes`` is asked for the experts of each token of a layer once its gating was given out."""
    stream = "embedding"
    if work.norm == "post":
        yield EncoderOp("embedding_norm", "layernorm", ("embedding",), "embedding_norm")
        stream = "embedding_norm"
    for layer in range(work.layers):
        for op in _layer(work, layer, stream, routes):
            yield op
            stream = op.name
    if work.final_norm:
        yield EncoderOp("final_norm", "layernorm", (stream,), "final_norm")
        stream = "final_norm"
    if work.classes is not None:
        yield EncoderOp("classifier", "linear", (stream,), "classifier")


def _layer(work: EncoderConfig, layer: int, stream: str, routes: Callable[[int], Routes]) -> Iterator[EncoderOp]:
    """The operations of a layer; the last one gives the features that the next layer begins with."""
    h = f"h{layer}."

    def op(name: str, kind: str, *inputs: str, gelu: bool = False) -> EncoderOp:
        return EncoderOp(h + name, kind, inputs, h + name, layer, gelu)

    pre = work.norm == "pre"
    normed = stream
    if pre:
        yield op("norm1", "layernorm", stream)
        normed = f"{h}norm1"
    yield op("query", "linear", normed)
    yield op("key", "linear", normed)
    yield op("scores", "scores", f"{h}query", f"{h}key")
    yield op("statistics", "statistics", f"{h}scores")
    yield op("value", "linear", normed)
    yield op("attention", "attention", f"{h}scores", f"{h}value")
    yield op("projection", "linear", f"{h}attention")
    yield op("residual1", "residual", stream, f"{h}projection")
    after = f"{h}residual1"
    if not pre:
        yield op("norm1", "layernorm", after)
        after = f"{h}norm1"
    normed = after
    if pre:
        yield op("norm2", "layernorm", after)
        normed = f"{h}norm2"
    if work.is_moe(layer):
        yield op("gating", "gating", normed)
        yield from _experts(layer, normed, routes(layer))
        last = f"{h}moe"
    else:
        yield op("ffn_up", "linear", normed, gelu=True)
        yield op("ffn_down", "linear", f"{h}ffn_up")
        last = f"{h}ffn_down"
    yield op("residual2", "residual", after, last)
    if not pre:
        yield op("norm2", "layernorm", f"{h}residual2")


def _experts(layer: int, normed: str, routes: Routes) -> Iterator[EncoderOp]:
    h = f"h{layer}."
    used = sorted({expert for experts in routes for expert in experts})
    for expert in used:
        queue = tuple(token for token, experts in enumerate(routes) if expert in experts)
        name = f"{h}expert{expert}.up"
        yield EncoderOp(name, "expert_up", (normed,), name, layer, gelu=True, queue=queue)
    inputs = (f"{h}gating", *(f"{h}expert{expert}.up" for expert in used))
    yield EncoderOp(f"{h}moe", "moe", inputs, h, layer, experts=tuple(used))


ATTENTION = (
    EncoderOp("scores", "scores", ("query", "key")),
    EncoderOp("statistics", "statistics", ("scores",)),
    EncoderOp("attention", "attention", ("scores", "value")),
)
"""The operations of attention by itself."""


# ------------------------------------------------------------------------------------------------------------ definitions


def gelu(x: Floats) -> Floats:
    """``x Phi(x)``."""
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def erf(x: Floats) -> Floats:
    """The error function of every element."""
    found: Floats = np.fromiter((math.erf(each) for each in x.ravel()), np.float64, x.size).reshape(x.shape)
    return found


def layer_norm(x: Floats, gain: Floats, shift: Floats, eps: float) -> Floats:
    """``(x - mean) / sqrt(variance + eps) gain + shift`` of every row."""
    centred = x - x.mean(axis=1, keepdims=True)
    normed: Floats = centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + eps) * gain + shift
    return normed


def linear(x: Floats, weights: Floats, biases: Floats) -> Floats:
    """``x W^T + b``."""
    found: Floats = x @ weights.T + biases
    return found


def sentence_embedding(x: Floats) -> Floats:
    """The mean of all rows, at length 1."""
    mean = x.mean(axis=0)
    found: Floats = mean / np.linalg.norm(mean)
    return found


def split_heads(x: Floats, heads: int) -> Floats:
    """``[tokens, width]`` -> ``[heads, tokens, d_head]``."""
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def scores(query: Floats, key: Floats, heads: int) -> Floats:
    """``Q K^T / sqrt(d_head)`` of every head. ``[tokens, tokens, heads]``: query, key, head."""
    found: Floats = split_heads(query, heads) @ split_heads(key, heads).transpose(0, 2, 1)
    return (found / math.sqrt(query.shape[1] // heads)).transpose(1, 2, 0)


def statistics(found: Floats) -> Floats:
    """1 / sum of the exponentials and the maximum of every row and head. ``[tokens, 2 heads]``."""
    largest = found.max(axis=1)
    return np.concatenate([1 / np.exp(found - largest[:, None]).sum(axis=1), largest], axis=1)


def attention(found: Floats, value: Floats) -> Floats:
    """Values weighted by the softmax of scores ``[rows, tokens, heads]``."""
    shares = softmax(found.transpose(2, 0, 1))
    return (shares @ split_heads(value, found.shape[2])).transpose(1, 0, 2).reshape(len(found), -1)


def patch_embedding(image: Floats, weights: Mapping[str, Any], work: EncoderConfig) -> Floats:
    """Patches of ``[colours, height, width]`` times their matrix, plus positions, behind the class token."""
    assert work.image is not None
    p, (colours, height, width) = work.image.patch, image.shape
    cut = image.reshape(colours, height // p, p, width // p, p).transpose(1, 3, 0, 2, 4).reshape(-1, colours * p * p)
    found = linear(cut, _f(weights["patch.weights"]), _f(weights["patch.biases"])) + _f(weights["position"])
    return np.concatenate([_f(weights["class_token"])[None], found]) if work.image.class_token else found


def compute(op: EncoderOp, values: Values, weights: Mapping[str, Any], heads: int, eps: float = 0.0) -> Any:
    """The result of an operation from those of the ones that it reads; of gating, the shares of all experts.

    ``heads``: of attention; ``eps``: what a LayerNorm adds to the variance.
    """
    inputs = [values[name] for name in op.inputs]
    match op.kind:
        case "layernorm":
            gain, shift = _f(weights[f"{op.tensor}.gain"]), _f(weights[f"{op.tensor}.shift"])
            return layer_norm(inputs[0], gain, shift, eps)
        case "linear" | "expert_up":
            rows = inputs[0][list(op.queue)] if op.queue else inputs[0][:1] if op.name == "classifier" else inputs[0]
            found = linear(rows, _f(weights[f"{op.tensor}.weights"]), _f(weights[f"{op.tensor}.biases"]))
            return gelu(found) if op.gelu else found
        case "scores":
            return scores(inputs[0], inputs[1], heads)
        case "statistics":
            return statistics(inputs[0])
        case "attention":
            return attention(inputs[0], inputs[1])
        case "residual":
            return inputs[0] + inputs[1]
        case "gating":
            return softmax(inputs[0] @ _f(weights[f"{op.tensor}.weights"]).T)
        case _:
            return mixture(op, inputs[0], dict(zip(op.experts, inputs[1:], strict=True)), weights)


def mixture(op: EncoderOp, gates: tuple[Any, Any], hidden: Mapping[int, Floats], weights: Mapping[str, Any]) -> Floats:
    """Second layers of all experts, each row times what the expert counts for its token, added up by token."""
    chosen, shares = gates
    found = None
    for expert, rows in hidden.items():
        of = f"{op.tensor}expert{expert}.down"
        part = linear(rows, _f(weights[f"{of}.weights"]), _f(weights[f"{of}.biases"]))
        if found is None:
            found = np.zeros((len(chosen), part.shape[1]))
        token, place = np.nonzero(chosen == expert)
        found[token] += shares[token, place][:, None] * part
    assert found is not None
    return found


def encode(
    work: EncoderConfig, weights: Mapping[str, Any], embedding: Floats, routes: Callable[[int], Routes]
) -> dict[str, Any]:
    """Every result of a forward pass from the embedding on; ``routes``: the experts that tokens go to."""
    values: dict[str, Any] = {"embedding": embedding}
    for op in operations(work, routes):
        found = compute(op, values, weights, work.heads, work.norm_eps)
        if op.kind == "gating":
            chosen = np.array(routes(op.layer))
            found = chosen, np.take_along_axis(found, chosen, axis=1)
        values[op.name] = found
    return values


def _f(values: Any) -> Floats:
    return np.asarray(values, np.float64)


# ---------------------------------------------------------------------------------------------------------------- weights


def weight_shapes(work: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model; a class token has its position added."""
    d, found = work.d_model, dict[str, tuple[int, ...]]()

    def matrix(name: str, outputs: int, inputs: int) -> None:
        found[f"{name}.weights"], found[f"{name}.biases"] = (outputs, inputs), (outputs,)

    def norm(name: str) -> None:
        found[f"{name}.gain"], found[f"{name}.shift"] = (d,), (d,)

    if work.image is not None:
        matrix("patch", d, work.image.channels * work.image.patch**2)
        found["position"] = (work.tokens - work.image.class_token, d)
        if work.image.class_token:
            found["class_token"] = (d,)
    if work.norm == "post":
        norm("embedding_norm")
    for layer in range(work.layers):
        h = f"h{layer}."
        norm(f"{h}norm1")
        norm(f"{h}norm2")
        for name in ("query", "key", "value", "projection"):
            matrix(h + name, d, d)
        if work.moe is not None and work.is_moe(layer):
            found[f"{h}gating.weights"] = (work.moe.experts, d)
            for expert in range(work.moe.experts):
                matrix(f"{h}expert{expert}.up", work.moe.d_expert, d)
                matrix(f"{h}expert{expert}.down", d, work.moe.d_expert)
        else:
            matrix(f"{h}ffn_up", work.d_ff, d)
            matrix(f"{h}ffn_down", d, work.d_ff)
    if work.final_norm:
        norm("final_norm")
    if work.classes is not None:
        matrix("classifier", work.classes, d)
    return found


_APART = {"position", "class_token"}
"""Drawn as large as features, or tokens of a drawn image would be alike and all go to the same experts."""


class DrawnWeights(Mapping[str, npt.NDArray[np.float32]]):
    """Weights that are drawn when they are asked for, each from the seed and its own name: a model takes no memory."""

    def __init__(self, work: EncoderConfig) -> None:
        self._shapes, self._seed = weight_shapes(work), work.seed

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        """Matrices with a variance of 1 / inputs, cut at three deviations; gains around 1, the rest around 0."""
        shape = self._shapes[name]
        draw = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        values = np.clip(draw.standard_normal(shape), -3.0, 3.0)
        if name.endswith(".gain"):
            return (1 + values / 10).astype(np.float32)
        scale = math.sqrt(shape[1]) if name.endswith(".weights") else 1.0 if name in _APART else 10.0
        return (values / scale).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def drawn_features(seed: int, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Standard normal features."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, np.float32)


def drawn_image(work: EncoderConfig, levels: int) -> Floats:
    """Pixels ``[colours, height, width]`` in steps of ``1 / levels`` from 0 to below 1."""
    assert work.image is not None
    shape = (work.image.channels, work.image.height, work.image.width)
    draw = np.random.default_rng([work.seed, zlib.crc32(b"image")])
    return draw.integers(0, levels, shape) / np.float64(levels)


__all__ = [
    "ATTENTION", "DrawnWeights", "EncoderOp", "attention", "compute", "drawn_features", "drawn_image", "encode", "erf", "gelu",
    "layer_norm", "linear", "mixture", "operations", "patch_embedding", "scores", "sentence_embedding", "statistics",
    "weight_shapes",
]  # fmt: skip
