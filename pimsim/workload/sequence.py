"""A whole text through a model at once: every position sees the tokens before it, attention may be another algorithm.

For judging what an approximation does to a model. A position's result is that of `reference.Reference` after as many
steps (``tests/unit/test_sequence.py``), in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from pimsim.errors import WorkloadError
from pimsim.workload import ops
from pimsim.workload.graph import WorkloadGraph, layer_of
from pimsim.workload.reference import ACTIVATIONS

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

Attend = Callable[[int, Floats, Floats, Floats], Array]
"""(layer, queries ``[heads, n, d]``, keys and values ``[kv_heads, n, d]``) -> ``[heads, n, d]``; queries are scaled by 1."""

Multiply = Callable[[Floats, Floats], Array]
"""(``x [n, d_in]``, ``W [d_in, d_out]``) -> ``[n, d_out]``, in place of a linear layer of a block."""


def attend(_layer: int, q: Floats, k: Floats, v: Floats) -> Array:
    """Causal softmax attention."""
    heads, n, d = q.shape
    grouped = q.reshape(len(k), -1, n, d)
    scores = grouped @ k.swapaxes(1, 2)[:, None] / np.float32(np.sqrt(d))
    scores[..., np.triu(np.ones((n, n), bool), 1)] = -np.inf
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = exponentials / exponentials.sum(axis=-1, keepdims=True)
    found: Array = (shares @ v[:, None]).reshape(heads, n, d)
    return found


def multiply(x: Floats, weights: Floats) -> Array:
    """The product."""
    found: Array = x @ weights
    return found


class _Heads(NamedTuple):
    """What scores hand on until the values are there."""

    queries: Floats
    keys: Floats
    values: Floats


class TextModel:
    """A decoder with its weights, for whole texts."""

    def __init__(self, graph: WorkloadGraph, weights: Mapping[str, Array]) -> None:
        """``weights`` as for `pimsim.workload.reference.Reference`."""
        self.graph, self._weights = graph, weights
        self._attend: Attend = attend
        self._multiply: Multiply = multiply

    def logits(self, tokens: Sequence[int], attend: Attend = attend, multiply: Multiply = multiply) -> Floats:
        """Logits ``[tokens, vocabulary]`` behind every token.

        Raises:
            WorkloadError: an operation has no rule here, or a token is outside the vocabulary.
        """
        self._attend, self._multiply = attend, multiply
        results: dict[str, Any] = {}
        for op in self.graph:
            if isinstance(op, ops.ArgMax):
                continue
            inputs = [results[name] for name in op.inputs]
            rule = self._rules.get(type(op))
            if rule is None:
                raise WorkloadError(f"operation {op.name!r} must be one with a rule for texts, not {type(op).__name__}")
            results[op.name] = rule(self, op, *(inputs or [np.asarray(tokens)]))
            last = op.name
        found: Floats = results[last]
        return found

    def _tensor(self, name: str) -> Floats:
        if name not in self._weights:
            raise WorkloadError(f"weights must have {name!r}")
        return np.asarray(self._weights[name], np.float32)

    def _embedding(self, op: ops.Embedding, tokens: Array) -> Floats:
        if tokens.min() < 0 or tokens.max() >= op.vocabulary:
            raise WorkloadError(f"tokens must be from 0 to {op.vocabulary - 1}, not {tokens.min()} to {tokens.max()}")
        rows = self._tensor(f"{op.name}.tokens")[tokens] * np.float32(op.scale)
        return rows + self._tensor(f"{op.name}.positions")[: len(tokens)] if op.positions else rows

    def _layer_norm(self, op: ops.LayerNorm, x: Floats) -> Floats:
        gamma, beta = (self._tensor(name) for name in op.tensors())
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + np.float32(op.eps))
        found: Floats = centred / spread * (gamma + np.float32(op.offset)) + beta
        return found

    def _rms_norm(self, op: ops.RmsNorm, x: Floats) -> Floats:
        size = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(op.eps))
        found: Floats = x / size * (self._tensor(f"{op.name}.gamma") + np.float32(op.offset))
        return found

    def _linear(self, op: ops.Linear, x: Floats) -> Floats:
        tied = op.tied and op.tied in self._weights
        weights = self._tensor(op.tied).T if tied else self._tensor(op.weight_name)
        of_block = layer_of(op.name) >= 0
        product = np.asarray((self._multiply if of_block else multiply)(x, weights), np.float32)
        return product + self._tensor(op.bias_name) if op.bias_name else product

    def _rope(self, op: ops.Rope, qkv: Floats) -> Floats:
        n, turned = len(qkv), (op.heads + op.kv_heads) * op.d_head
        heads = qkv[:, :turned].reshape(n, -1, op.d_head)
        angles = np.arange(n)[:, None] * np.array(op.frequencies())
        cos, sin = (function(angles)[:, None].astype(np.float32) for function in (np.cos, np.sin))
        pairs = angles.shape[1]
        halves = op.convention == "half"
        first = slice(0, pairs) if halves else slice(0, 2 * pairs, 2)
        second = slice(pairs, 2 * pairs) if halves else slice(1, 2 * pairs, 2)
        rotated = heads.copy()
        rotated[..., first] = heads[..., first] * cos - heads[..., second] * sin
        rotated[..., second] = heads[..., first] * sin + heads[..., second] * cos
        return np.concatenate([rotated.reshape(n, -1), qkv[:, turned:]], axis=1)

    def _cache_write(self, op: ops.CacheWrite, qkv: Floats) -> Array:
        """Keys and values ``[2, kv_heads, n, d_head]``."""
        return qkv[:, op.heads * op.d_head :].reshape(len(qkv), 2, op.kv_heads, op.d_head).transpose(1, 2, 0, 3)

    def _scores(self, op: ops.Scores, qkv: Floats, kv: Array) -> _Heads:
        queries = qkv[:, : op.heads * op.d_head].reshape(len(qkv), op.heads, op.d_head).swapaxes(0, 1)
        return _Heads(queries * np.float32(op.scale * np.sqrt(op.d_head)), kv[0], kv[1])

    def _softmax(self, _op: ops.Softmax, heads: _Heads) -> _Heads:
        return heads

    def _values(self, op: ops.Values, heads: _Heads, _kv: Array) -> Floats:
        found = np.asarray(self._attend(layer_of(op.name), *heads), np.float32)
        return found.swapaxes(0, 1).reshape(found.shape[1], -1)

    def _activation(self, op: ops.Gelu | ops.Activation, x: Floats) -> Array:
        return ACTIVATIONS["gelu_tanh" if isinstance(op, ops.Gelu) else op.function](x)  # type: ignore[arg-type]

    def _gate(self, op: ops.Gate, x: Floats) -> Array:
        return ACTIVATIONS[op.function](x[:, : op.width]) * x[:, op.width :]  # type: ignore[arg-type]

    def _residual(self, _op: ops.Residual, x: Floats, y: Floats) -> Floats:
        return x + y

    _rules: ClassVar[dict[type[ops.OpNode], Callable[..., Any]]] = {
        ops.Embedding: _embedding,
        ops.LayerNorm: _layer_norm,
        ops.RmsNorm: _rms_norm,
        ops.Linear: _linear,
        ops.Rope: _rope,
        ops.CacheWrite: _cache_write,
        ops.Scores: _scores,
        ops.Softmax: _softmax,
        ops.Values: _values,
        ops.Gelu: _activation,
        ops.Activation: _activation,
        ops.Gate: _gate,
        ops.Residual: _residual,
    }
    """Operation type -> what it computes of all positions."""


__all__ = ["Attend", "Multiply", "TextModel", "attend", "multiply"]
