"""How far results of attention primitives in fixed point may be off, derived from the formats; shares no code with what computes.

With c(F) the largest rounding error of a format F (a step where it truncates, half of one to nearest), f the features', a the
accumulator's, s the step of the softmax's format, t what features lose on their way into that format (0 where it is no coarser),
and g what its numbers lose as features:

======================  ====================================================================================================
kind                    bound of an entry
======================  ====================================================================================================
scores, products        ``c(a)`` for each beat of words and ``c(f)``; twice, and ``2^-30`` of the magnitudes, with an odd scale
exponentials            ``e = s + t``: the argument, which is negative or zero, and the last step; then g
sums of n of them       ``n e``, and of an old state ``e`` times its sum
reciprocal of S +- E    ``r = E / (S (S - E)) + s``
softmax                 ``w r + (1/S + r) e + s + g``
merge                   ``e`` times the magnitudes of both states, two ``c(a)`` and ``c(f)``
normalise, divide       ``|x| r + c(f)``
log of S +- E           ``E / (S - E) + s + g``, and ``e^bound - 1`` of it in the weights
norm                    ``5 + 2 |mean|`` steps in the variance, through the root; three roundings behind it
sigmoid                 two exponentials, a reciprocal and a rounding
GELU                    that of its table (`pimsim.functional.streaming.judge.gelu_error`), times the other factor
means                   a step: the division drops the rest
sums, moves, choices    none; 127 x / top may round to the other neighbour where it lies in the middle
======================  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, frexp
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pimsim.functional.numerics import FixedSpec
from pimsim.functional.streaming.fixed import Formats
from pimsim.functional.streaming.judge import cut, gelu_error
from pimsim.workload.attention import primitives as p
from pimsim.workload.attention.primitives import Primitive, Weights

Array = npt.NDArray[Any]

CONSTANT = 2.0**-30
"""Relative error of a constant factor of 31 significant bits, doubled for the product."""


@dataclass(frozen=True)
class FixedBounds:
    """Bounds for the formats of a machine; ``beat``: words whose products are added exactly; ``whole``: integer results."""

    formats: Formats
    beat: int
    whole: frozenset[str]

    def __call__(self, op: Primitive, operands: Sequence[Any], exact: Any) -> Any:
        """How far each entry of a result may be off, in the shape of the result."""
        rule = self.kinds.get(op.KIND)
        if rule is None or (op.name in self.whole and op.KIND != "elementwise"):
            return np.zeros(np.shape(exact))
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return rule(self, op, operands, exact)

    # -- what the formats lose ------------------------------------------------------------------------------------

    @property
    def c(self) -> float:
        """Rounding of a feature."""
        return cut(self.formats.features)

    @property
    def a(self) -> float:
        """Rounding of a sum."""
        return cut(self.formats.accumulator)

    @property
    def s(self) -> float:
        """Step of the softmax's format."""
        return self.formats.softmax.step

    def _lost(self, source: FixedSpec, target: FixedSpec) -> float:
        return 0.0 if target.fraction_bits >= source.fraction_bits else cut(target)

    @property
    def into(self) -> float:
        """Of a feature on its way into the softmax's format."""
        return self._lost(self.formats.features, self.formats.softmax)

    @property
    def out(self) -> float:
        """Of a number of the softmax's format that becomes a feature."""
        return self._lost(self.formats.softmax, self.formats.features)

    @property
    def e(self) -> float:
        """Of an exponential."""
        return self.s + self.into

    def inverse(self, total: Array, error: Any) -> Array:
        """Of the reciprocal of something positive that is off by ``error``."""
        found: Array = error / (total * np.maximum(total - error, self.s)) + self.s
        return found

    def _dot(self, n: int, magnitude: Array, scale: float = 1.0) -> Array:
        beats = ceil(n / self.beat)
        if abs(frexp(scale)[0]) == 0.5:
            return np.full(magnitude.shape, beats * self.a + self.c)
        bound: Array = beats * self.a * (1 + abs(scale)) + CONSTANT * abs(scale) * magnitude + self.c
        return bound

    # -- kinds ----------------------------------------------------------------------------------------------------

    def _scores(self, op: Primitive, x: Sequence[Array], _exact: Array) -> Array:
        assert isinstance(op, p.Scores)
        plain = p.Scores("", "", (), sources=op.sources[:2])
        return self._dot(op.sources[0][-1], plain.meaning(np.abs(x[0]), np.abs(x[1])), op.scale)

    def _product(self, op: Primitive, _x: Sequence[Array], exact: Array) -> Array:
        return self._dot(op.sources[1][-2], exact)

    def _weighted_sum(self, op: Primitive, x: Sequence[Any], exact: Array) -> Array:
        bound = self._dot(op.sources[1][-2], exact) + (self.a if len(x) > 2 else 0.0)
        bound[..., : exact.shape[-1] - x[1].shape[-1]] = 0.0
        return bound

    def _pool(self, op: Primitive, x: Sequence[Array], exact: Array) -> Array:
        assert isinstance(op, p.Pool)
        return self._dot(op.cell, exact) if len(x) > 1 else self._mean(op, x, exact)

    def _depthwise(self, op: Primitive, _x: Sequence[Array], exact: Array) -> Array:
        return self._dot(op.sources[1][-1] ** 2, exact)

    def _mean(self, _op: Primitive, _x: Sequence[Array], exact: Array) -> Array:
        return np.full(exact.shape, self.formats.features.step)

    def _exponentiate(self, op: Primitive, x: Sequence[Array], exact: Weights) -> Weights:
        assert isinstance(op, p.Exponentiate)
        count = np.isfinite(x[0]).sum(-1, keepdims=True)
        old = x[1] if len(x) > 1 else None
        if op.layout == "log":
            return self._log_state(x[0], old, exact)
        total = count * self.e
        if old is not None:
            assert exact.factor is not None
            total = (
                total
                + self.e * (np.abs(old[..., 1:2]) + self.into)
                + self.into * exact.factor
                + cut(self.formats.softmax)
            )
        head = np.concatenate([np.zeros_like(total), total + self.out], -1)
        factor = None if old is None else np.full(exact.head[..., :1].shape, self.e + self.out)
        return Weights(head, factor, np.where(np.isfinite(x[0]), self.e + self.out, 0.0))

    def _log_state(self, scores: Array, old: Array | None, exact: Weights) -> Weights:
        m = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        terms = np.where(np.isfinite(scores), np.exp(scores - m), 0.0)
        total, error = terms.sum(-1, keepdims=True), np.isfinite(scores).sum(-1, keepdims=True) * self.e
        off = error / np.maximum(total - error, self.s) + self.s + self.out
        if old is not None:  # the larger of two logarithms, and one of the sum of two exponentials beside it
            off = off + 2 * self.e / (1 - 2 * self.e) + self.s + self.out
        found = [
            None if part is None else part * np.expm1(off) + self.e + self.out for part in (exact.factor, exact.weights)
        ]
        return Weights(off, found[0], found[1])  # type: ignore[arg-type]

    def _softmax(self, _op: Primitive, x: Sequence[Array], _exact: Array) -> Array:
        scores = x[0]
        terms = np.where(np.isfinite(scores), np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf)), 0.0)
        total = np.maximum(terms.sum(-1, keepdims=True), 1.0)
        off = self.inverse(total, np.isfinite(scores).sum(-1, keepdims=True) * self.e)
        bound = terms * off + (1 / total + off) * self.e + self.s + self.out
        return np.where(np.isfinite(scores), bound, 0.0)

    def _merge(self, _op: Primitive, x: Sequence[Array], _exact: Array) -> Array:
        bound: Array = self.e * (_size(x[0]) + _size(x[1])) + 2 * self.a + self.c
        bound[..., :1] = 0.0
        return bound

    def _quotient(self, x: Array, by: Array) -> Array:
        """Of ``x`` times the reciprocal of ``by``, which is not zero."""
        bound: Array = np.abs(x) * self.inverse(np.abs(by), self.into) + self.c
        return bound

    def _normalise(self, op: Primitive, x: Sequence[Array], exact: Array) -> Array:
        assert isinstance(op, p.Normalise)
        state, head = x[0], p.HEAD[op.layout]
        kept = {"": 0, "state": head, "lse": 1}[op.also]
        bound = np.zeros(exact.shape)
        if op.layout == "mla":
            total = state[..., 1:2]
            quotient = self._quotient(state[..., head:], np.where(total > 0, total, 1.0))
            bound[..., kept:] = np.where(total > 0, quotient, 0.0)
            if op.also == "lse":
                bound[..., :1] = self.into / np.maximum(total - self.into, self.s) + self.s + self.out
        return bound

    def _denormalise(self, _op: Primitive, _x: Sequence[Array], exact: Array) -> Array:
        bound = np.full(exact.shape, self.c)
        bound[..., :2] = 0.0
        return bound

    def _norm(self, op: Primitive, x: Sequence[Array], _exact: Array) -> Array:
        assert isinstance(op, p.Norm)
        step, over = self.formats.features.step, tuple(range(-op.axes, 0))
        mean = x[0].mean(over, keepdims=True)
        variance = ((x[0] - mean) ** 2).mean(over, keepdims=True) + op.eps
        off = (5 + 2 * np.abs(mean)) * step + step * step
        root = 1 / np.sqrt(variance)
        high = 1 / np.sqrt(np.maximum(variance - off, step))
        error = np.maximum(high - root, root - 1 / np.sqrt(variance + off)) + step
        unit = np.abs(x[0] - mean) * error + step * (root + error) + self.c
        bound: Array = np.abs(x[1]) * unit + self.c
        return bound

    def _reduce(self, op: Primitive, x: Sequence[Array], exact: Array) -> Array:
        assert isinstance(op, p.Reduce)
        if op.function == "mean":
            return self._mean(op, x, exact)
        if op.function != "product":
            return np.zeros(exact.shape)
        values = np.moveaxis(np.abs(x[0]), op.axis, 0)
        error = np.zeros_like(values[0])
        for number, each in enumerate(values):
            error = error * each + (self.c if number else 0.0)
        return np.expand_dims(error, op.axis)

    def _elementwise(self, op: Primitive, x: Sequence[Array], exact: Array) -> Array:
        assert isinstance(op, p.Elementwise)
        rule = self.functions.get(op.function)
        return np.zeros(exact.shape) if rule is None else rule(self, op, x, exact) + np.zeros(exact.shape)

    def _rounded(self, _op: p.Elementwise, _x: Sequence[Array], _exact: Array) -> Any:
        return self.c

    def _scale(self, op: p.Elementwise, x: Sequence[Array], _exact: Array) -> Any:
        return CONSTANT * np.abs(op.constants[0] * _size(x[0])) + self.c

    def _divide(self, _op: p.Elementwise, x: Sequence[Array], _exact: Array) -> Any:
        return self._quotient(x[0], x[1])

    def _exp(self, _op: p.Elementwise, _x: Sequence[Array], exact: Array) -> Any:
        return self.s + np.expm1(self.into) * np.abs(exact) + self.out

    def _elu_plus_one(self, _op: p.Elementwise, x: Sequence[Array], _exact: Array) -> Any:
        return np.where(x[0] > 0, 0.0, self.e + self.out)

    def _sigmoid(self, _op: p.Elementwise, _x: Sequence[Array], _exact: Array) -> Any:
        return 2 * self.e + 2 * self.s + self.into + self.out

    def _gelu_gate(self, _op: p.Elementwise, x: Sequence[Array], _exact: Array) -> Any:
        return np.abs(x[0]) * gelu_error(self.formats.gelu, self.formats.features) + self.c

    def _inverse_root(self, op: p.Elementwise, x: Sequence[Array], exact: Array) -> Any:
        step, value = self.formats.features.step, x[0] + op.constants[0]
        high = 1 / np.sqrt(np.maximum(value - step, step))
        return np.maximum(high - exact, exact - 1 / np.sqrt(np.maximum(value, step))) + step

    def _clip(self, op: p.Elementwise, x: Sequence[Array], _exact: Array) -> Any:
        return CONSTANT * np.abs(op.constants[0] * _size(x[0])) + 2 * self.c

    def _quantise(self, _op: p.Elementwise, x: Sequence[Array], _exact: Array) -> Any:
        scaled = 127 * x[0] / np.where(x[1] > 0, x[1], 1.0)
        return np.where(np.abs(np.abs(scaled - np.trunc(scaled)) - 0.5) < 1e-9, 1.0, 0.0)

    kinds: ClassVar[dict[str, Callable[..., Any]]] = {
        "scores": _scores,
        "product": _product,
        "weighted_sum": _weighted_sum,
        "pool": _pool,
        "depthwise": _depthwise,
        "group_mean": _mean,
        "exponentiate": _exponentiate,
        "softmax": _softmax,
        "merge": _merge,
        "normalise": _normalise,
        "denormalise": _denormalise,
        "norm": _norm,
        "reduce": _reduce,
        "elementwise": _elementwise,
    }
    """Kind -> bound of its errors, given operands and exact result; kinds that are not here are exact."""

    functions: ClassVar[dict[str, Callable[..., Any]]] = {
        "shift": _rounded,
        "multiply": _rounded,
        "scale": _scale,
        "divide": _divide,
        "exp": _exp,
        "elu_plus_one": _elu_plus_one,
        "sigmoid": _sigmoid,
        "sigmoid_of_magnitude": _sigmoid,
        "gelu_gate": _gelu_gate,
        "inverse_root": _inverse_root,
        "clip": _clip,
        "quantise": _quantise,
    }
    """Function of entries -> bound; functions that are not here are exact."""


def _size(x: Array) -> Array:
    """Magnitudes, 0 where infinite."""
    found: Array = np.where(np.isfinite(x), np.abs(x), 0.0)
    return found


__all__ = ["FixedBounds"]
