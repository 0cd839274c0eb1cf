"""Whether a program computed what its graph says: the result of every operation against float64, op by op.

A `Capture` notes what the steps of each operation write into the SRAM. A `Judge` then applies the operation in float64
to what the *program* had as inputs, so an error does not hide in those that came before it, and the first operation
that differs is the one that is wrong. The vectors come from the captured SRAM, the weights from the model, unrounded.

What may differ is derived, not chosen. With u the unit roundoff of the SRAM's format, a = 2^-24 that of the ASIC, and e_exp,
e_rec, e_rsqrt the errors of the ASIC's algorithms (`AsicMath` has their sources):

===============  =======================================================================================================
product x W + b  ``|x| |W| ((1 + u)(1 + u_acc)^k - 1)``, k roundings of the longest chunk in the format of the accumulator
                 (`dot_bound` has the source), plus u times the magnitude of every partial sum that is rounded on its way
scores, values   likewise, but keys and values are exact in the format
norms            ``(e_rsqrt + k a (1 + E[x^2] / var)) |y - shift| + u |y|``
softmax          ``2 e_exp + e_rec + 4 u`` relative to each share
gelu, silu       ``(e_exp + e_rec + 8 a (1 + |z|) + 3 u) |y|``, z the argument of exp
gelu_erf         ``(7.5e-8 + (e_exp + 4 e_rec + 8 a (1 + |z|) + 100 a) Phi(-|x|)) |x| + (a + u) |y|``
relu             ``u |y|``
attention by an  what stochastic arithmetic on its expansion gives, in the 2-norm (`attention_check`); each primitive is
algorithm        compared, too
residual, rope   one rounding of the result, and a few of the ASIC
arg-max          none
streaming unit   scores are not compared: with e their error, ``exp(2 e) - 1`` of each share, and its running sums
int8             plus the rounding of both factors: half a unit of the weights' (or the cache's) scale times |x|, and
                 half a unit of the vector's scale times |W|; the SRAM is float32, so u = a
fixed point      likewise, a unit being that of the format, and half a unit for every sum that leaves a MAC unit (a whole
                 one if the format truncates); what overflows is wrong
===============  =======================================================================================================

The end of a pass is compared with a reference that has seen nothing of the program. There the relative errors (in the
2-norm) of the operations, each measured as above and within its bound, are added up: what the triangle inequality
gives if no operation magnifies the relative error of its input. This sum is the tolerance of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, factorial, log, log2, sqrt
from typing import Any, ClassVar, Protocol

import numpy as np

from pimsim.arch.system import AsicConfig
from pimsim.errors import WorkloadError
from pimsim.functional.numerics import FLOAT32, Array, FixedSpec, FloatSpec, MacArithmetic, float_spec
from pimsim.functional.verdict import Verdict, compare, compare_whole
from pimsim.program.isa import Op
from pimsim.workload import ops, reference
from pimsim.workload.graph import WorkloadGraph, layer_of

A = 2.0**-24
"""Unit roundoff of float32, in which the ASIC computes."""

HALF_UNIT = 1 / 254 + 2.0**-22
"""Largest error of int8 relative to the largest magnitude, the rounding of its scale included (`Int8Spec`)."""


@dataclass(frozen=True)
class Places:
    """Where the mapper puts results, in elements of the SRAM."""

    results: Mapping[str, int]
    """Operation of the first layer, or outside the layers -> first element of its result."""
    scores: int
    score_pitch: int
    """From one head's row of scores to the next."""
    heads_per_pass: int
    """Heads whose scores are in SRAM together."""
    sums: int
    """Sums of the softmax, later their reciprocals, one per head."""
    buffer: int
    """Elements of the global buffer: longest chunk of a dot product."""
    lanes: int
    streamed: frozenset[str] = frozenset()
    """Work of a streaming unit: kinds of products, which are whole there, and ``attention``, whose scores stay there."""
    chunk: int = 0
    """Longest piece of an input that a matrix product takes at once; 0: `buffer`."""

    def shifted(self, elements: int) -> Places:
        """The places of another token of a group, so many elements further."""
        results = {name: place + elements for name, place in self.results.items()}
        return replace(self, results=results, scores=self.scores + elements, sums=self.sums + elements)


class AttentionRuleLike(Protocol):
    """Knows what attention by an algorithm gives; `pimsim.functional.decoder_attention.AttentionRule` is one."""

    def exact(
        self, op: ops.Attention, layer: int, shapes: Mapping[str, Any], operands: Mapping[str, Array], context: int
    ) -> tuple[Array, float]:
        """(float64 result, allowed relative error in the 2-norm)."""


class Capture:
    """An observer of the executor: what each operation has written, in the order of the program or of the machine."""

    def __init__(self, graph: WorkloadGraph, elements: int) -> None:
        """``elements``: size of the SRAM."""
        self._graph = {op.name: op for op in graph}
        self._elements = elements
        self._keys: dict[tuple[str, int], str] = {}
        self._now = ""
        self.written: dict[str, Array] = {}
        """Operation (scores and softmax: with the number of the pass of heads) -> SRAM as it wrote it, else NaN."""

    def begin(self, op: Op, layer: int) -> None:
        """A step of this operation begins."""
        key = self._keys.get((op.name, layer))
        if key is None:
            key = self._keys[op.name, layer] = self._key(op.name, layer)
        self._now = key

    def _key(self, name: str, layer: int) -> str:
        """``h0.scores.1`` of layer 3 -> ``h3.scores.1``, and ``h0.qkv.0`` -> ``h3.qkv``; behind a ``#`` stands the wave."""
        name, wave, number = name.partition("#")
        if layer >= 0:
            name = f"h{layer}.{name.partition('.')[2]}"
        owner = name
        while owner and owner not in self._graph:
            owner = owner.rpartition(".")[0]
        if not isinstance(self._graph.get(owner), ops.Scores | ops.Softmax):
            return (owner or name) + wave + number
        return f"{owner}.{name[len(owner) + 1 :].partition('.')[0]}{wave}{number}"

    def store(self, at: Array | slice, values: Array) -> None:
        """The step writes."""
        memory = self.written.get(self._now)
        if memory is None:
            memory = self.written[self._now] = np.full(self._elements, np.nan, np.float32)
        memory[at] = values

    def take(self) -> dict[str, Array]:
        """What was written since the last call."""
        taken, self.written = self.written, {}
        return taken


@dataclass
class Judge:
    """Compares captured results with float64, and keeps the keys and values that the program should see."""

    graph: WorkloadGraph
    weights: Mapping[str, Array]
    mac: MacArithmetic
    asic: AsicConfig
    places: Places
    cache_scales: Mapping[int, tuple[float, float]] | None = None
    """Value of one unit of keys and values of each layer, in int8."""
    found: dict[str, Array] = field(default_factory=dict)
    """Operation -> what the program computed in the last pass that was compared, float64."""
    attention: AttentionRuleLike | None = None
    """What attention by an algorithm should give."""
    _position: int = 0
    _kv: dict[str, list[Array]] = field(default_factory=dict)
    _score_error: float = 0.0
    """Largest error of the scores of the last attention that a streaming unit carried out."""

    def __post_init__(self) -> None:
        f = self.asic.functions
        seed = 0.035
        for _ in range(f.rsqrt_newton_steps):
            seed = 1.5 * seed**2 + 0.5 * seed**3
        terms = f.exp_taylor_terms
        self.e_rsqrt = seed + 8 * A
        self.e_exp = sqrt(2) * (log(2) / 2) ** terms / factorial(terms) + 8 * A
        self.e_rec = 17.0 ** -(2**f.reciprocal_newton_steps) + 8 * A

    @property
    def spec(self) -> FloatSpec:
        """The format of the SRAM."""
        return self.mac.format if isinstance(self.mac.format, FloatSpec) else FLOAT32

    @property
    def u(self) -> float:
        """Its unit roundoff."""
        return self.spec.unit_roundoff

    def _stored(self, largest: Any) -> Any:
        """Error of an element of a tensor of this largest magnitude, in formats of integers; of others, 0: it is relative."""
        if isinstance(self.mac.format, FixedSpec):
            return self.mac.format.operand_error(0.0)
        return 0.0 if isinstance(self.mac.format, FloatSpec) else largest * HALF_UNIT

    @property
    def _leaving(self) -> float:
        """Error of a sum that leaves a MAC unit, beyond the SRAM's: of fixed point."""
        return self.mac.format.operand_error(0.0) if isinstance(self.mac.format, FixedSpec) else 0.0

    def _multiplied(self, n: int, w: Array, x: Array, of_w: Any, of_x: Any) -> Array:
        """Error of a product of ``n`` terms with sums of magnitudes ``w``, ``x`` and with errors of each element."""
        error: Array = of_w * x + of_x * w + n * of_w * of_x
        return error

    def stream(self, token: int, position: int) -> Array:
        """The embedding in the format: what a program without embeddings finds in the SRAM. ``[d_model]``."""
        embedding = next(op for op in self.graph if isinstance(op, ops.Embedding))
        return self.spec.round_to(self._embedding(embedding, token, position)[0])

    def compare(
        self, written: Mapping[str, Array], token: int, position: int, logits: Array | None = None
    ) -> list[Verdict]:
        """Every operation of a pass that leaves a result in the SRAM, in the order of the graph.

        Args:
            written: `Capture.take` of the pass.
            token: that the pass reads.
            position: of the token, from 0.
            logits: ``[vocabulary]`` where the SRAM holds them a piece at a time.
        """
        found = self.found = {}
        self._position = position
        differences: list[Verdict] = []
        for op in self.graph:
            if isinstance(op, ops.CacheWrite):  # nothing in the SRAM: scores and values read what was written
                qkv = found[op.inputs[0]][op.heads * op.d_head :].reshape(2, op.kv_heads, op.d_head)
                self._kv.setdefault(op.name, [])[position:] = [qkv]
                continue
            if layer_of(op.name) == -2 and op.name not in self.places.results:
                break  # the workload leaves the head out
            if isinstance(op, ops.Embedding) and op.name not in self.places.results:
                found[op.name] = self.stream(token, position).astype(np.float64)  # put there, not computed
                continue
            if isinstance(op, ops.Embedding):
                exact, bound = self._embedding(op, token, position)
            else:
                exact, bound = self._exact(op, [found[name] for name in op.inputs if name in found])
            if isinstance(op, ops.Scores | ops.Softmax) and "attention" in self.places.streamed:
                found[op.name] = exact  # nothing in the SRAM; its error is part of what the weighted values may have
                if isinstance(op, ops.Scores):
                    self._score_error = float(np.max(bound))
                continue
            found[op.name] = self._result(op, written, position)
            if isinstance(op, ops.Rope):  # in place: the values behind the keys stay what the projection wrote
                turned = (op.heads + op.kv_heads) * op.d_head
                found[op.name][turned:] = found[op.inputs[0]][turned:]
            if logits is not None and op.name == "final.lm_head":
                found[op.name] = logits.astype(np.float64)
            if isinstance(op, ops.Attention):  # its bound is of the whole output
                differences.append(compare_whole(op, found[op.name], exact, float(bound), _place(op, position)))
            else:
                differences.append(compare(op, found[op.name], exact, bound, _place(op, position)))
            if not differences[-1].passed:
                break  # what follows has wrong inputs
        return differences

    # -- what the program has computed ----------------------------------------------------------------------------

    def _result(self, op: ops.OpNode, written: Mapping[str, Array], position: int) -> Array:
        """NaN where nothing was written."""
        if isinstance(op, ops.Scores | ops.Softmax):
            return self._rows(op, written, position + 1)
        if op.name not in written:
            return np.full(_width(op), np.nan)
        first = f"h0.{op.name.partition('.')[2]}" if layer_of(op.name) >= 0 else op.name
        start = self.places.results[first]
        values = written[op.name][start : start + _width(op)].astype(np.float64)
        scores = self._scores_after(op)
        if scores is not None:  # its factor is folded into the projection
            values[: scores.heads * scores.d_head] /= scores.scale
        return values

    def _scores_after(self, op: ops.OpNode) -> ops.Scores | ops.Attention | None:
        """The scores, or the attention, whose queries this projection or rotation makes."""
        if not isinstance(op, ops.Linear | ops.Rope):
            return None
        readers = self.graph.consumers(op.name)
        rotated = [
            reader for each in readers if isinstance(each, ops.Rope) for reader in self.graph.consumers(each.name)
        ]
        return next((each for each in (*readers, *rotated) if isinstance(each, ops.Scores | ops.Attention)), None)

    def _rows(self, op: ops.Scores | ops.Softmax, written: Mapping[str, Array], context: int) -> Array:
        """Scores, or shares: exponentials times the reciprocal of their sum. ``[heads, context]``."""
        places, rows = self.places, []
        for h in range(op.heads):
            number, within = divmod(h, places.heads_per_pass)
            memory = written.get(f"{op.name}.{number}")
            if memory is None:
                return np.full((op.heads, context), np.nan)
            start = places.scores + within * places.score_pitch
            row = memory[start : start + context].astype(np.float64)
            rows.append(row * float(memory[places.sums + h]) if isinstance(op, ops.Softmax) else row)
        return np.array(rows)

    # -- what it should have computed -----------------------------------------------------------------------------

    def _exact(self, op: ops.OpNode, inputs: Sequence[Array]) -> tuple[Array, Array]:
        """(float64 result, allowed error), of the same shape; of attention by name, a relative error of the whole."""
        rule = self._rules.get(type(op))
        if rule is None:
            raise WorkloadError(f"operation {op.name!r} must be one that can be checked, not {type(op).__name__}")
        exact, bound = rule(self, op, *inputs)
        return exact, bound + self.spec.smallest_subnormal + 2.0**-126

    def _embedding(self, op: ops.Embedding, token: int, position: int) -> tuple[Array, Array]:
        rows = [self.weights[f"{op.name}.tokens"][token] * np.float64(op.scale)]
        if op.positions:
            rows.append(self.weights[f"{op.name}.positions"][position].astype(np.float64))
        exact = np.sum(rows, axis=0)
        bound = self.u * (np.sum(np.abs(rows), axis=0) * (1 + self.u) + np.abs(exact)) + 4 * A * np.abs(exact)
        bound = bound + sum(self._stored(np.max(np.abs(row))) for row in rows)
        return exact, bound + 2 * self.spec.smallest_subnormal

    def _norm(self, op: ops.LayerNorm | ops.RmsNorm, x: Array) -> tuple[Array, Array]:
        gamma = self.weights[f"{op.name}.gamma"].astype(np.float64) + op.offset
        k = 8 + ceil(len(x) / self.asic.multipliers) + log2(self.asic.multipliers)
        mean_square = np.mean(x * x)
        if isinstance(op, ops.LayerNorm):
            shift = self.weights[f"{op.name}.beta"].astype(np.float64)
            exact, spread = reference.layer_norm(x, gamma, shift, op.eps), np.var(x) + op.eps
        else:
            shift, spread = np.zeros(op.width), mean_square + op.eps
            exact = reference.rms_norm(x, gamma, op.eps)
        relative = self.e_rsqrt + k * A * (1 + mean_square / spread)
        lost = k * A * np.abs(gamma) * np.sqrt(mean_square / spread)  # of the mean, which is subtracted
        return exact, (relative * np.abs(exact - shift) + lost + 2 * A * np.abs(shift)) * (
            1 + self.u
        ) + self.u * np.abs(exact)

    def _linear(self, op: ops.Linear, x: Array) -> tuple[Array, Array]:
        matrix = self._matrix(op)
        chunk = op.d_in if op.kind in self.places.streamed else self.places.chunk or self.places.buffer
        size = np.abs(x).astype(np.float32) @ np.abs(matrix) * (1 + 2 * op.d_in * A)  # float32 will do for a bound
        parts = np.array(
            [x[i : i + chunk] @ matrix[i : i + chunk].astype(np.float64) for i in range(0, op.d_in, chunk)]
        )
        bias = self.weights[op.bias_name].astype(np.float64) if op.bias_name else np.zeros(op.d_out)
        sums = bias + np.cumsum(parts, axis=0)
        bound = self._dot(min(chunk, op.d_in), size, self.u)
        bound = bound + self.u * (np.sum(np.abs(parts), axis=0) + np.sum(np.abs(sums), axis=0))
        if self._integers:
            fold = self._fold(op)
            of_weights, of_vector = (
                self._stored(np.max(np.abs(matrix), axis=0) * fold) / fold,
                self._stored(np.max(np.abs(x))),
            )
            sums_of_weights, sum_of_vector = np.sum(np.abs(matrix), axis=0), np.sum(np.abs(x))
            bound = bound + self._multiplied(op.d_in, sums_of_weights, sum_of_vector, of_weights, of_vector)
            bound = bound + len(parts) * self._leaving / fold
        return sums[-1], bound * (1 + 2 * len(parts) * self.u) + 4 * A * np.abs(sums[-1])

    @property
    def _integers(self) -> bool:
        return not isinstance(self.mac.format, FloatSpec)

    def _fold(self, op: ops.Linear) -> Array:
        """Factors that are folded into the weights of each output: that of the scores, for queries."""
        fold, scores = np.ones(op.d_out), self._scores_after(op)
        if scores is not None:
            fold[: scores.heads * scores.d_head] = scores.scale
        return fold

    def _matrix(self, op: ops.Linear) -> Array:
        return self.weights[op.tied].T if op.tied and op.tied in self.weights else self.weights[op.weight_name]

    def _dot(self, n: int, size: Array, operand: float) -> Array:
        """Error of dot products of ``n`` terms whose magnitudes sum to ``size``; ``operand``: error of one factor."""
        if self._integers:
            return size * 4 * A  # the sums are exact; the unit and the result are rounded to float32
        accumulator, lanes = float_spec(self.mac.accumulator), self.places.lanes
        exact_product = 2 * self.spec.precision <= accumulator.precision
        k = (0 if exact_product else 1) + (ceil(log2(lanes)) + ceil(n / lanes) if self.mac.tree else n)
        error: Array = size * ((1 + operand) * (1 + accumulator.unit_roundoff) ** k - 1)
        return error + n * accumulator.smallest_subnormal

    def _rope(self, op: ops.Rope, qkv: Array) -> tuple[Array, Array]:
        turned = (op.heads + op.kv_heads) * op.d_head
        heads, rest = qkv[:turned].reshape(-1, op.d_head), qkv[turned:]
        rotated = reference.rotate(heads, self._position * np.array(op.frequencies()), op.convention)
        exact = np.concatenate([rotated.ravel(), rest])
        size = np.concatenate([np.repeat(np.linalg.norm(heads, axis=1), op.d_head), np.abs(rest)])
        return exact, self.u * np.abs(exact) + 8 * A * size

    def _cached(self, op: ops.Scores | ops.Values) -> tuple[Array, Array]:
        """Keys and values ``[kv_heads, d_head, context]`` of the tokens so far, as the program had them."""
        write = next(name for name in op.inputs if isinstance(self.graph[name], ops.CacheWrite))
        kv = np.stack(self._kv[write], axis=-1)
        return kv[0], kv[1]

    def _cached_error(self, cached: Array, layer: int, part: int) -> Array:
        """Errors of cached keys (0) or values (1): half a unit, in int8 or what is beyond its range."""
        if self.cache_scales is None:
            return np.full_like(cached, self._stored(1.0))
        unit = self.cache_scales[layer][part]
        error: Array = np.maximum(unit / 2, np.abs(cached) - 127 * unit) + 2.0**-22 * np.abs(cached)
        return error

    def _scores(self, op: ops.Scores, qkv: Array) -> tuple[Array, Array]:
        queries = qkv[: op.heads * op.d_head].reshape(op.kv_heads, -1, op.d_head) * op.scale
        keys, _ = self._cached(op)
        exact = (queries @ keys).reshape(op.heads, -1)
        size = (np.abs(queries) @ np.abs(keys)).reshape(op.heads, -1)
        bound = self._dot(op.d_head, size, 0.0) * (1 + self.u) + self.u * np.abs(exact)
        if self._integers:
            of_keys, of_query = self._cached_error(keys, layer_of(op.name), 0), self._stored(np.max(np.abs(queries)))
            bound = bound + (np.abs(queries) @ of_keys).reshape(op.heads, -1) + self._leaving
            bound = bound + of_query * np.repeat(
                np.sum(np.abs(keys) + of_keys, axis=1), op.heads // op.kv_heads, axis=0
            )
        return exact, bound

    def _softmax(self, _op: ops.Softmax, scores: Array) -> tuple[Array, Array]:
        exact = reference.softmax(scores)
        distance = np.max(scores, axis=1, keepdims=True) - scores
        sums = A * (ceil(scores.shape[1] / self.asic.multipliers) + log2(self.asic.multipliers))
        relative = 2 * self.e_exp + self.e_rec + 4 * self.u + sums + 8 * A * distance
        # an exponential below the format's normal numbers keeps no relative accuracy
        return exact, relative * exact + self.spec.smallest_normal

    def _values(self, op: ops.Values, shares: Array) -> tuple[Array, Array]:
        _, values = self._cached(op)
        context, chunk = values.shape[-1], self.places.buffer
        grouped = shares.reshape(op.kv_heads, -1, context)
        parts = np.array(
            [
                (grouped[..., i : i + chunk] @ values[..., i : i + chunk].transpose(0, 2, 1)).ravel()
                for i in range(0, context, chunk)
            ]
        )
        size = (grouped @ np.abs(values).transpose(0, 2, 1)).ravel()
        sums = np.cumsum(parts, axis=0)
        bound = self._dot(min(chunk, context), size, 0.0) + 4 * A * size
        bound = bound + self.u * (np.sum(np.abs(parts), axis=0) + np.sum(np.abs(sums), axis=0))
        if self._integers:  # the program multiplies exponentials, of which the largest is 1, and scales the sums
            of_values = self._cached_error(values, layer_of(op.name), 1).transpose(0, 2, 1)
            largest = np.max(grouped, axis=-1, keepdims=True)
            sizes = np.abs(values).transpose(0, 2, 1) + of_values
            bound = bound + (grouped @ of_values + np.ones_like(grouped) * largest * self._stored(1.0) @ sizes).ravel()
            bound = (
                bound
                + len(parts) * np.broadcast_to(largest * self._leaving, (*grouped.shape[:2], values.shape[1])).ravel()
            )
        if "attention" in self.places.streamed:
            bound = bound + self._streamed(context) * size
        return sums[-1], bound * (1 + 2 * len(parts) * self.u) + self.u * np.abs(sums[-1])

    def _streamed(self, context: int) -> float:
        """Relative error of a share where scores are not rounded: theirs, and the roundings of running sums.

        A score's error e changes a share by at most exp(2 e) - 1; each of ``context`` steps rescales a sum and adds to it,
        with three roundings and an exponential of two roundings; the argument of an exponential is rounded once.
        """
        return float(np.expm1(2 * self._score_error)) + A * (5 * context + 16) * 2

    def _attention(self, op: ops.Attention, qkv: Array, *hidden: Array) -> tuple[Array, Array]:
        """By the algorithm's own reference, with parameters as the banks have them."""
        assert self.attention is not None
        shapes = op.algorithm.inputs(op.case(self._position + 1))
        queries, heads = op.heads * op.d_head, (op.kv_heads, -1, op.d_head)
        new = qkv[queries:].reshape(2, op.kv_heads, 1, op.d_head)
        kept = self._kv.setdefault(op.name, [])
        kept[self._position :] = [new]
        cached = np.concatenate([np.zeros((2, op.kv_heads, 0, op.d_head)), *kept[:-1]], axis=2)
        tensors = {"q": qkv[:queries].reshape(op.heads, 1, op.d_head) * op.scale, "k_new": new[0], "v_new": new[1]}
        tensors |= {"k": cached[0].reshape(heads), "v": cached[1].reshape(heads)}
        if hidden:
            tensors["x"] = hidden[0].reshape(op.heads, 1, op.d_head)
        for name in op.tensors():
            rounded = self.spec.round_to(np.asarray(self.weights[name], np.float32))
            tensors[name.rpartition(".")[2]] = rounded.astype(np.float64)
        exact, allowed = self.attention.exact(op, layer_of(op.name), shapes, tensors, self._position + 1)
        return exact, np.asarray(allowed)

    def _activation(self, op: ops.Gelu | ops.Activation, x: Array) -> tuple[Array, Array]:
        function = "gelu_tanh" if isinstance(op, ops.Gelu) else op.function
        exact = reference.ACTIVATIONS[function](x)
        return exact, self._curve(function, x, exact) + self.u * np.abs(exact)

    def _gate(self, op: ops.Gate, x: Array) -> tuple[Array, Array]:
        gate, up = x[: op.width], x[op.width :]
        curve = reference.ACTIVATIONS[op.function](gate)
        bound = (self._curve(op.function, gate, curve) + 2 * self.u * np.abs(curve)) * (1 + self.u) * np.abs(up)
        return curve * up, bound + self.spec.smallest_subnormal * np.abs(up)

    def _curve(self, function: str, x: Array, y: Array) -> Array:
        """Error of an activation before it is rounded to the format.

        Of x / (1 + e^z): an error of z is one of e^z, relative to it. Of the erf form, with t and its polynomial P: the
        formula's own error (`AsicMath.gelu_erf`); ``t P'(t) / P(t)`` is at most 3.5 and ``sum |b_i| t^i / P(t)`` at most 5
        for t in (0, 1], and each step of Horner's rule rounds twice.
        """
        if function == "relu":
            return np.zeros_like(x)
        if function == "gelu_erf":
            tail = np.abs(reference.gelu_erf(-np.abs(x)))
            relative = self.e_exp + 4 * self.e_rec + 8 * A * (1 + x * x / 2) + 100 * A
            found: Array = 7.5e-8 * np.abs(x) + relative * tail + A * np.abs(y) + 2.0**-100
            return found
        z = np.abs(x) * (1.6 + 0.0714 * x * x)  # GELU's; SiLU's is smaller
        bound: Array = (self.e_exp + self.e_rec + 8 * A * (1 + z)) * np.abs(y) + 2.0**-100
        return bound

    def _residual(self, _op: ops.Residual, x: Array, y: Array) -> tuple[Array, Array]:
        exact = x + y
        return exact, (self.u + 2 * A) * np.abs(exact)

    def _argmax(self, _op: ops.ArgMax, logits: Array) -> tuple[Array, Array]:
        """The first of the largest, no other."""
        return np.array([float(np.argmax(logits))]), np.zeros(1)

    _rules: ClassVar[dict[type[ops.OpNode], Callable[..., tuple[Array, Array]]]] = {
        ops.LayerNorm: _norm,
        ops.RmsNorm: _norm,
        ops.Linear: _linear,
        ops.Rope: _rope,
        ops.Scores: _scores,
        ops.Softmax: _softmax,
        ops.Values: _values,
        ops.Attention: _attention,
        ops.Gelu: _activation,
        ops.Activation: _activation,
        ops.Gate: _gate,
        ops.Residual: _residual,
        ops.ArgMax: _argmax,
    }
    """Operation type -> its float64 result and the allowed error, from what the program had as inputs."""


def _width(op: ops.OpNode) -> int:
    if isinstance(op, ops.Linear):
        return op.d_out
    if isinstance(op, ops.Rope):
        return (op.heads + 2 * op.kv_heads) * op.d_head
    if isinstance(op, ops.Values | ops.Attention):
        return op.heads * op.d_head
    return 1 if isinstance(op, ops.ArgMax) else int(getattr(op, "width", 0))


def _place(op: ops.OpNode, position: int) -> str:
    layer = layer_of(op.name)
    return f"{f'layer {layer}, ' if layer >= 0 else ''}pass {position}, "


def first_unequal(program: Mapping[str, Array], machine: Mapping[str, Array]) -> tuple[str, int, float, float] | None:
    """Where two captures of one pass differ bit for bit, in the order of the first: (operation, element, one, other)."""
    for name, one in program.items():
        other = machine.get(name)
        if other is None:
            other = np.full_like(one, np.nan)
        unequal = one.view(np.uint32) != other.view(np.uint32)
        if np.any(unequal):
            at = int(np.argmax(unequal))
            return name, at, float(one[at]), float(other[at])
    return None


__all__ = ["Capture", "Judge", "Places", "first_unequal"]
