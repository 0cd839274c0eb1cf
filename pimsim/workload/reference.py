"""What a model computes, in float64: token after token over the graph, with no program, layout or number format.

The functions at the top are the definitions; `Reference` walks the graph with them. Vectors have one axis, so a product
is ``x [d_in] @ W [d_in, d_out]``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pimsim.errors import WorkloadError
from pimsim.workload import ops
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

WEIGHT_CACHE_BYTES = 4 << 30
"""Float64 copies of matrices that a `Reference` keeps at most."""


# ------------------------------------------------------------------------------------------------------- definitions


def layer_norm(x: Floats, gain: Floats, shift: Floats, eps: float) -> Floats:
    """``(x - mean) / sqrt(variance + eps) * gain + shift`` over ``[width]``; the variance divides by the width."""
    centred = x - x.mean()
    normed: Floats = centred / np.sqrt(np.mean(centred * centred) + eps) * gain + shift
    return normed


def rms_norm(x: Floats, gain: Floats, eps: float) -> Floats:
    """``x / sqrt(mean(x^2) + eps) * gain`` over ``[width]``."""
    normed: Floats = x / np.sqrt(np.mean(x * x) + eps) * gain
    return normed


def gelu_tanh(x: Floats) -> Floats:
    """``x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``."""
    gated: Floats = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return gated


def gelu_erf(x: Floats) -> Floats:
    """``x Phi(x)`` with the distribution function of the standard normal distribution."""
    erf: Floats = np.array([math.erf(each) for each in (x / math.sqrt(2)).ravel()]).reshape(x.shape)
    return 0.5 * x * (1 + erf)


def relu(x: Floats) -> Floats:
    """``max(x, 0)``."""
    return np.maximum(x, 0.0)


def silu(x: Floats) -> Floats:
    """``x / (1 + exp(-x))``, without overflow."""
    gated: Floats = x * np.exp(-np.logaddexp(0.0, -x))
    return gated


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "gelu_tanh": gelu_tanh,
    "gelu_erf": gelu_erf,
    "relu": relu,
    "silu": silu,
}
"""Nonlinearities by the name that `DecoderConfig.activation` has for them."""


def rotate(x: Floats, angles: Floats, convention: str) -> Floats:
    """Rotate the first elements of every head of ``[heads, d_head]`` in pairs by ``angles [pairs]``.

    Pair i is (i, i + pairs) with the convention ``half`` and (2i, 2i + 1) with ``interleaved``.
    """
    pairs = len(angles)
    if convention == "half":
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    else:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    cos, sin = np.cos(angles), np.sin(angles)
    a, b = x[:, first], x[:, second]
    rotated = x.copy()
    rotated[:, first] = a * cos - b * sin
    rotated[:, second] = a * sin + b * cos
    return rotated


def softmax(x: Floats) -> Floats:
    """``exp(x - max) / sum`` over the last axis."""
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: Floats = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shares


# --------------------------------------------------------------------------------------------------------- reference


class Reference:
    """A model that runs on numbers, one token per `step`; the KV cache is kept between steps."""

    def __init__(
        self,
        graph: WorkloadGraph,
        workload: WorkloadConfig,
        weights: Mapping[str, Array],
        *,
        cache_bytes: int = WEIGHT_CACHE_BYTES,
    ) -> None:
        """``weights`` has the tensors of `weight_shapes`; a tied matrix may be left out.

        Float64 copies of up to ``cache_bytes`` are kept between steps; of what goes beyond, the tensors are taken
        from ``weights`` anew in every step.
        """
        self.graph, self.workload = graph, workload
        self._ops = tuple(graph)
        self._weights = weights
        self._free = cache_bytes
        self._copies: dict[str, Floats] = {}
        self._tables: dict[str, Array] = {}
        self._keys: dict[str, Floats] = {}
        self._values: dict[str, Floats] = {}
        self._states: dict[str, dict[str, Floats]] = {}
        self.decided: dict[str, Mapping[str, Array]] = {}
        """Operation -> what data decided in its attention in the last step, where they decide about its program."""
        self._filled = 0
        self._now = 0

    @property
    def length(self) -> int:
        """Tokens in the KV cache."""
        return self._filled

    def reset(self) -> None:
        """Forget the KV cache."""
        self._filled = 0

    def step(self, token_id: int, position: int) -> dict[str, Array]:
        """One forward pass; ``position`` counts from 0 and may go back, which drops what the cache holds from there on.

        Returns:
            The result of every operation by name, float64. ``context`` is ``position + 1``.

            =======================  =======================================================================
            embedding, norms         ``[d_model]``
            products                 ``[d_out]``, the bias included
            ``rope``                 ``[(heads + 2 kv_heads) * d_head]``, the values unchanged
            ``kv``                   ``[2, kv_heads * d_head]``: the key and the value that were appended
            ``scores``               ``[heads, context]``, scaled
            ``softmax``              ``[heads, context]``, each row divided by its sum
            ``values``               ``[heads * d_head]``
            activations, ``gate``    ``[d_ff]``
            residuals                ``[d_model]``
            ``final.argmax``         ``[]``, a whole number
            =======================  =======================================================================

        Raises:
            WorkloadError: the token is not in the vocabulary, the position leaves a gap or lies beyond the context, or
                a tensor is missing or has another shape.
        """
        self._admit(token_id, position)
        self._now = position
        results: dict[str, Array] = {}
        for op in self._ops:
            inputs = [results[name] for name in op.inputs]
            results[op.name] = self._run(op, inputs, token_id)
        self._filled = position + 1
        return results

    def generate(self, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        """The ``tokens`` most likely continuations, one after the other (greedy), from an empty cache.

        Raises:
            WorkloadError: the prompt is empty, the workload has no ``lm_head``, or as in `step`.
        """
        if not prompt_ids:
            raise WorkloadError("the prompt must have at least one token")
        if not any(isinstance(op, ops.ArgMax) for op in self._ops):
            raise WorkloadError("lm_head must be true to generate tokens")
        self.reset()
        following = -1
        for position, token in enumerate(prompt_ids):
            following = int(self.step(token, position)["final.argmax"])
        found = [following]
        while len(found) < tokens:
            found.append(int(self.step(found[-1], self.length)["final.argmax"]))
        return found[:tokens]

    # -- one operation --------------------------------------------------------------------------------------------

    def _admit(self, token_id: int, position: int) -> None:
        model = self.workload.model
        if not 0 <= token_id < model.vocabulary:
            raise WorkloadError(f"a token must be from 0 to {model.vocabulary - 1}, not {token_id}")
        if not 0 <= position <= self._filled:
            raise WorkloadError(
                f"the position must be from 0 to {self._filled}, the length of the cache, not {position}"
            )
        if position >= model.context:
            raise WorkloadError(f"the position must be below model.context, {model.context}, not {position}")
        if self._states and position not in (0, self._filled):
            raise WorkloadError(f"the position must be 0 or {self._filled}, as attention has a state, not {position}")

    def _run(self, op: ops.OpNode, inputs: list[Array], token_id: int) -> Array:
        if isinstance(op, ops.Embedding):
            return self._embedding(op, token_id)
        rule = self._rules.get(type(op))
        if rule is None:
            raise WorkloadError(f"operation {op.name!r} must be one with a reference, not {type(op).__name__}")
        return rule(self, op, *inputs)

    def _embedding(self, op: ops.Embedding, token_id: int) -> Floats:
        row = self._table(f"{op.name}.tokens", (op.vocabulary, op.width))[token_id].astype(np.float64) * op.scale
        if op.positions:
            row += self._table(f"{op.name}.positions", (op.positions, op.width))[self._now]
        return np.asarray(row, dtype=np.float64)

    def _layer_norm(self, op: ops.LayerNorm, x: Floats) -> Floats:
        gamma, beta = (self._tensor(name, shape) for name, shape in op.tensors().items())
        return layer_norm(x, gamma + op.offset, beta, op.eps)

    def _rms_norm(self, op: ops.RmsNorm, x: Floats) -> Floats:
        return rms_norm(x, self._tensor(f"{op.name}.gamma", (op.width,)) + op.offset, op.eps)

    def _linear(self, op: ops.Linear, x: Floats) -> Floats:
        if op.tied and op.tied in self._weights:
            product: Floats = self._tensor(op.tied, (op.d_out, op.d_in)) @ x
        else:
            product = x @ self._tensor(op.weight_name, (op.d_in, op.d_out))
        return product + self._tensor(op.bias_name, (op.d_out,)) if op.bias_name else product

    def _rope(self, op: ops.Rope, qkv: Floats) -> Floats:
        turned = (op.heads + op.kv_heads) * op.d_head
        heads = qkv[:turned].reshape(op.heads + op.kv_heads, op.d_head)
        rotated = rotate(heads, self._now * np.array(op.frequencies()), op.convention)
        return np.concatenate([rotated.ravel(), qkv[turned:]])

    def _cache_write(self, op: ops.CacheWrite, qkv: Floats) -> Floats:
        """Caches are ``[kv_heads, capacity, d_head]`` and double when they are full."""
        new = qkv[op.heads * op.d_head :].reshape(2, op.kv_heads, op.d_head)
        for cache, rows in ((self._keys, new[0]), (self._values, new[1])):
            if op.name not in cache:
                cache[op.name] = np.zeros((op.kv_heads, 16, op.d_head))
            if self._now == cache[op.name].shape[1]:
                cache[op.name] = np.concatenate([cache[op.name], np.zeros_like(cache[op.name])], axis=1)
            cache[op.name][:, self._now] = rows
        return new.reshape(2, op.kv_heads * op.d_head)

    def _scores(self, op: ops.Scores, qkv: Floats, _kv: Floats) -> Floats:
        queries = qkv[: op.heads * op.d_head].reshape(op.kv_heads, -1, op.d_head)
        keys = self._keys[op.inputs[1]][:, : self._now + 1]
        scores: Floats = (queries @ keys.transpose(0, 2, 1)).reshape(op.heads, -1) * op.scale
        return scores

    def _softmax(self, _op: ops.Softmax, scores: Floats) -> Floats:
        return softmax(scores)

    def _weighted_values(self, op: ops.Values, shares: Floats, _kv: Floats) -> Floats:
        values = self._values[op.inputs[1]][:, : self._now + 1]
        weighted: Floats = (shares.reshape(op.kv_heads, -1, self._now + 1) @ values).ravel()
        return weighted

    def _attention(self, op: ops.Attention, qkv: Floats, *hidden: Floats) -> Floats:
        """By the algorithm's own reference; `decided` gets what a run on these numbers decides."""
        from pimsim.workload.decoder_attention import depends_on_data

        tensors = self.attention_tensors(op, qkv, *hidden)
        found = op.algorithm.reference(op.case(self._now + 1), tensors)
        if depends_on_data(op.algorithm):
            from pimsim.workload.attention.decisions import run

            self.decided[op.name] = run(op.algorithm, op.case(self._now + 1), tensors).decisions
        if op.name in self._states:
            self._states[op.name] = {name: found[f"new_{name}"] for name in self._states[op.name]}
        return found["output"].ravel()

    def attention_tensors(self, op: ops.Attention, qkv: Floats, *hidden: Floats) -> dict[str, Floats]:
        """What an algorithm gets for this token; its key and value join the caches."""
        from pimsim.workload.decoder_attention import parameters_of, states_of

        case, queries = op.case(self._now + 1), op.heads * op.d_head
        shapes = op.algorithm.inputs(case)
        new = qkv[queries:].reshape(2, op.kv_heads, 1, op.d_head)
        found = {"q": qkv[:queries].reshape(op.heads, 1, op.d_head) * op.scale, "k_new": new[0], "v_new": new[1]}
        for name, cache, rows in (("k", self._keys, new[0]), ("v", self._values, new[1])):
            if self._now == 0 or op.name not in cache:
                cache[op.name] = np.zeros((op.kv_heads, 0, op.d_head))
            found[name] = cache[op.name][:, : self._now]
            cache[op.name] = np.concatenate([found[name], rows], axis=1)
        found |= {
            name: self._tensor(f"{op.name}.{name}", shape) for name, shape in parameters_of(op.algorithm, case).items()
        }
        states = states_of(op.algorithm)
        if states and (self._now == 0 or op.name not in self._states):
            self._states[op.name] = {name: np.zeros(shapes[name]) for name in states}
        found |= self._states.get(op.name, {})
        if hidden:
            found["x"] = hidden[0].reshape(shapes["x"])
        return {name: found[name] for name in shapes}

    def _gelu(self, _op: ops.Gelu, x: Floats) -> Floats:
        return gelu_tanh(x)

    def _activation(self, op: ops.Activation, x: Floats) -> Floats:
        return ACTIVATIONS[op.function](x)

    def _gate(self, op: ops.Gate, x: Floats) -> Floats:
        return ACTIVATIONS[op.function](x[: op.width]) * x[op.width :]

    def _residual(self, _op: ops.Residual, x: Floats, y: Floats) -> Floats:
        return x + y

    def _argmax(self, _op: ops.ArgMax, logits: Floats) -> Array:
        return np.array(int(np.argmax(logits)))

    _rules: ClassVar[dict[type[ops.OpNode], Callable[..., Array]]] = {
        ops.LayerNorm: _layer_norm,
        ops.RmsNorm: _rms_norm,
        ops.Linear: _linear,
        ops.Rope: _rope,
        ops.CacheWrite: _cache_write,
        ops.Scores: _scores,
        ops.Softmax: _softmax,
        ops.Values: _weighted_values,
        ops.Attention: _attention,
        ops.Gelu: _gelu,
        ops.Activation: _activation,
        ops.Gate: _gate,
        ops.Residual: _residual,
        ops.ArgMax: _argmax,
    }
    """Operation type -> what it computes from its inputs."""

    # -- tensors --------------------------------------------------------------------------------------------------

    def _fetch(self, name: str, shape: tuple[int, ...]) -> Array:
        try:
            tensor = self._weights[name]
        except KeyError:
            raise WorkloadError(f"weights must have {name!r}, of shape {list(shape)}") from None
        if tensor.shape != shape:
            raise WorkloadError(f"tensor {name!r} must have the shape {list(shape)}, not {list(tensor.shape)}")
        return tensor

    def _table(self, name: str, shape: tuple[int, ...]) -> Array:
        """A table of which single rows are read, as it is given."""
        if name in self._copies:
            return self._copies[name]
        if name not in self._tables:
            self._tables[name] = self._fetch(name, shape)
        return self._tables[name]

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Floats:
        if name in self._copies:
            return self._copies[name]
        copy = np.asarray(self._fetch(name, shape), dtype=np.float64)
        if copy.nbytes <= self._free:
            self._free -= copy.nbytes
            self._copies[name] = copy
        return copy


# ----------------------------------------------------------------------------------------------------------- weights


def weight_shapes(graph: WorkloadGraph) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the graph reads, such as ``h0.qkv.weight``: ``(d_in, d_out)``."""
    return graph.tensors()


def random_weights(graph: WorkloadGraph, seed: int = 0, scale: float = 0.02) -> RandomWeights:
    """Reproducible weights that are made when they are asked for; see `RandomWeights`."""
    return RandomWeights(graph, seed, scale)


class RandomWeights(Mapping[str, Array]):
    """Initial values as for GPT-2, float32; a tensor depends on its name, its shape, the seed and the scale only.

    Matrices, tables, biases and shifts are normal with standard deviation ``scale`` and mean 0, gains with mean 1 (the
    offset of the norm included). Products that end a residual branch have ``scale / sqrt(2 layers)``. Nothing is
    kept: asking twice makes the tensor twice.
    """

    def __init__(self, graph: WorkloadGraph, seed: int = 0, scale: float = 0.02) -> None:
        self._shapes, self._tied = graph.tensors(), graph.tied()
        self._seed, self._scale = seed, scale
        self._means: dict[str, float] = {}
        self._branch_ends: set[str] = set()
        branches = 0
        for op in graph:
            if isinstance(op, ops.LayerNorm | ops.RmsNorm):
                self._means[f"{op.name}.gamma"] = 1.0 - op.offset
            elif isinstance(op, ops.Residual):
                branches += 1
                self._branch_ends.add(f"{op.inputs[1]}.weight")
        self._branch_scale = scale / math.sqrt(max(branches, 1))

    def __getitem__(self, name: str) -> Array:
        if name in self._tied:
            return self[self._tied[name]].T
        shape = self._shapes[name]
        generator = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        tensor = generator.standard_normal(shape, dtype=np.float32)
        tensor *= np.float32(self._branch_scale if name in self._branch_ends else self._scale)
        tensor += np.float32(self._means.get(name, 0.0))
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


__all__ = [
    "ACTIVATIONS",
    "WEIGHT_CACHE_BYTES",
    "RandomWeights",
    "Reference",
    "gelu_erf",
    "gelu_tanh",
    "layer_norm",
    "random_weights",
    "relu",
    "rms_norm",
    "rotate",
    "silu",
    "softmax",
    "weight_shapes",
]
