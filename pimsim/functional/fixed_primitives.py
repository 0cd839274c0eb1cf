"""Attention primitives in the fixed-point formats of a streaming machine, bit for bit.

* A word has the format ``features``. Sums of products have the format ``accumulator``: the products of a beat of words are added
  exactly, and what they make is narrowed as it is added. Exponentials, their sums, reciprocals and logarithms have the format
  ``softmax`` inside of their units, which are those of the encoder (`pimsim.functional.streaming.fixed`).
* Masked scores, and the maximum of no scores, are the smallest number of the format. It stands for minus infinity.
* Differences that an exponential takes have a bit more than their words, so they do not overflow.
* Indices, and integers that quantisation makes, are words without bits behind the point; so are sums of their products.
* What only moves, chooses or compares is exact.

What does not fit its format is counted and named (`Overflow`); whether it wraps or saturates is up to the format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import frexp
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pimsim.functional.numerics import FixedSpec
from pimsim.functional.streaming.fixed import (
    Formats,
    Ints,
    exponential,
    fit,
    inverse_root,
    logarithm,
    reciprocal,
    rounded,
)
from pimsim.workload.attention import primitives as p
from pimsim.workload.attention.primitives import Primitive, Weights

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

CONSTANT_BITS = 31
"""Significant bits of a constant factor: those of a word but the sign."""


@dataclass
class Overflow:
    """Results of one operation that did not fit."""

    kind: str
    count: int
    largest: float
    """Largest magnitude among them."""
    format: str


def whole_numbers(ops: Iterable[Primitive]) -> set[str]:
    """Operations whose results are integers rather than features: indices, quantised values, sums of products of these."""
    found: set[str] = set()
    for op in ops:
        takes = [name in found for name in op.inputs]
        if isinstance(op, p.Decision | p.Constant | p.Children):
            is_whole = True
        elif isinstance(op, p.Elementwise):
            kept = op.function in {"zero_where", "unless_at_least", "magnitude", "relu"} and takes[0]
            is_whole = kept or op.function in {"quantise", "child"} or (op.function == "add" and all(takes))
        elif isinstance(op, p.Product):
            is_whole = all(takes)
        else:
            is_whole = isinstance(op, MOVES) and bool(takes) and takes[0]
        if is_whole:
            found.add(op.name)
    return found


MOVES = (p.Load, p.Store, p.Keep, p.Append, p.Gather, p.Pick, p.Part, p.Join, p.Arrange, p.Select, p.Patches)
"""Primitives whose results are entries of their first operand."""


@dataclass
class FixedUnits:
    """What the units of a machine compute; words are float64 numbers that are exact multiples of a step.

    Attributes:
        formats: of the machine.
        beat: words whose products are added exactly before they are narrowed.
        whole: operations whose results are integers (`whole_numbers`).
        overflows: operation -> what did not fit.
    """

    formats: Formats
    beat: int
    whole: set[str]
    overflows: dict[str, Overflow] = field(default_factory=dict)

    dtype: ClassVar[type] = np.float64

    @property
    def lowest(self) -> float:
        """What stands for minus infinity."""
        return self.formats.features.limits[0] * self.formats.features.step

    def given(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Tensors as words of the machine."""
        features = self.formats.features
        words = {}
        for name, values in tensors.items():
            rounder = np.floor if features.rounding == "truncate" else np.rint
            steps = rounder(np.asarray(values, np.float64) / features.step)
            outside = (steps < features.limits[0]) | (steps > features.limits[1])
            self._count(name, "given", outside, np.asarray(values), features)
            words[name] = features.encode(values).astype(np.float64) * features.step
        return words

    def opened(self, name: str, value: Any) -> Any:
        """Words of an operation as numbers: the smallest one is minus infinity."""
        if isinstance(value, Weights):
            return Weights(*(None if part is None else self.opened(name, part) for part in value))  # type: ignore[arg-type]
        return value if name in self.whole else np.where(value == self.lowest, -np.inf, value)

    def closed(self, value: Any) -> Any:
        """Numbers as words."""
        if isinstance(value, Weights):
            return Weights(*(None if part is None else self.closed(part) for part in value))  # type: ignore[arg-type]
        return np.where(np.isneginf(value), self.lowest, value)

    def compute(self, op: Primitive, operands: Sequence[Any]) -> Any:
        """The result of a primitive. Where an operand was never written, nothing of the result is a number."""
        opened = [self.opened(name, value) for name, value in zip(op.inputs, operands, strict=False)]
        handler = self.kinds.get(op.KIND)
        if handler is None:
            return self.closed(op.meaning(*opened))
        if any(np.isnan(part).any() for value in opened for part in _parts(value)):
            return _unknown(op)
        return self.closed(handler(self, op, opened))

    # -- words and integers ---------------------------------------------------------------------------------------

    @property
    def f(self) -> int:
        """Bits of a feature behind the point."""
        return self.formats.features.fraction_bits

    def bits(self, op: Primitive, position: int) -> int:
        """Bits behind the point of an operand's words."""
        return 0 if op.inputs[position] in self.whole else self.f

    def features(self, op: Primitive, values: Ints, fraction: int, live: Mask | None = None) -> Array:
        """Integers with ``fraction`` bits behind the point as features; what does not fit is counted where it is ``live``."""
        spec = self.formats.features
        return self.narrowed(op, values, fraction, spec, live) * spec.step

    def narrowed(self, op: Primitive, values: Ints, fraction: int, spec: FixedSpec, live: Mask | None = None) -> Ints:
        """Integers in steps of a format and in its range."""
        steps = rounded(values, fraction, spec)
        outside = _outside(steps, spec)
        self._count(op.name, op.KIND, outside if live is None else outside & live, steps * spec.step, spec)
        return fit(steps, spec)

    def _count(self, name: str, kind: str, outside: Mask, values: Array, spec: FixedSpec) -> None:
        count = int(np.count_nonzero(outside))
        if count:
            largest = float(np.abs(values[outside]).max())
            found = self.overflows.setdefault(name, Overflow(kind, 0, 0.0, spec.name))
            found.count, found.largest = found.count + count, max(found.largest, largest)

    def into_softmax(self, values: Ints) -> Ints:
        """Features in steps of the softmax's format, without its range: arguments of exponentials have a bit more."""
        return rounded(values, self.f, self.formats.softmax)

    def exp(self, x: Array, by: Array) -> Ints:
        """``exp(x - by)`` in steps of the softmax's format, for ``x <= by``; 0 where x is minus infinity."""
        known = np.isfinite(x)
        difference = steps_of(x, self.f) - steps_of(by, self.f)
        return np.where(known, exponential(self.into_softmax(difference), self.formats.softmax), 0)

    def dot(
        self, op: Primitive, left: Ints, right: Ints, fraction: int, scale: float = 1.0, live: Mask | None = None
    ) -> Ints:
        """``left [.., rows, n] @ right [.., n, columns]`` times ``scale`` in steps of the accumulator.

        Products of a beat are added exactly. Where the scale is no power of two they are narrowed before and after it.
        """
        starts = range(0, left.shape[-1], self.beat)
        exact = (left[..., at : at + self.beat] @ right[..., at : at + self.beat, :] for at in starts)
        shape = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        estimate = np.abs(np.asarray(left, np.float64) @ np.asarray(right, np.float64)) * 2.0**-fraction * abs(scale)
        total = self._added(op, exact, fraction, scale, (*shape, left.shape[-2], right.shape[-1]), live)
        spec = self.formats.accumulator
        beyond = estimate > spec.limits[1] * spec.step * (1 + 2.0**-20)  # also where 64 bits were not enough
        self._count(
            op.name, op.KIND, (beyond if live is None else beyond & live) & ~_outside(total, spec), estimate, spec
        )
        self._count(op.name, op.KIND, _outside(total, spec) & (True if live is None else live), total * spec.step, spec)
        return fit(total, spec)

    def _added(
        self,
        op: Primitive,
        parts: Iterable[Ints],
        fraction: int,
        scale: float,
        shape: tuple[int, ...],
        live: Mask | None = None,
    ) -> Ints:
        """Exact sums narrowed one by one and added up; a format that saturates does so after every addition."""
        spec = self.formats.accumulator
        total = np.zeros(shape, np.int64)
        mantissa, shift = constant(scale)
        for part in parts:
            if abs(mantissa) == 1:
                total = total + rounded(part * mantissa, fraction + shift, spec)
            else:
                narrow = self.narrowed(op, part, fraction, spec, live)
                total = total + rounded(narrow * mantissa, spec.fraction_bits + shift, spec)
            if spec.overflow == "saturate":
                outside = _outside(total, spec)
                self._count(op.name, op.KIND, outside if live is None else outside & live, total * spec.step, spec)
                total = fit(total, spec)
        return total

    # -- products -------------------------------------------------------------------------------------------------

    def _scores(self, op: Primitive, x: Sequence[Array]) -> Array:
        assert isinstance(op, p.Scores)
        q, k = steps_of(x[0], self.f), steps_of(p.shared(x[1], len(x[0])), self.f)
        attends = np.ones(op.shape[1:], bool) if op.band is None else op.band.array(*op.shape[1:])
        live = np.broadcast_to(attends, op.shape)
        if k.ndim == 4:
            rows = (q[..., None, :], np.swapaxes(k, -1, -2))
            found = self.dot(op, *rows, 2 * self.f, op.scale, live[..., None, :])[..., 0, :]
        else:
            found = self.dot(op, q, np.swapaxes(k, -1, -2), 2 * self.f, op.scale, live)
        scores = self.features(op, found, self.formats.accumulator.fraction_bits, live)
        if len(x) > 2:
            live = live & np.isfinite(x[2])
            scores = self.features(op, steps_of(scores, self.f) + steps_of(x[2], self.f), self.f, live)
        return np.where(live, scores, -np.inf)

    def _product(self, op: Primitive, x: Sequence[Array]) -> Array:
        assert isinstance(op, p.Product)
        one, other = self.bits(op, 0), self.bits(op, 1)
        a = steps_of(np.swapaxes(x[0], -1, -2) if op.transpose else x[0], one)
        b = steps_of(p.shared(x[1], len(x[0])) if x[1].ndim > 2 else x[1], other)
        if op.name in self.whole:
            found: Ints = a @ b
            spec = FixedSpec(self.formats.features.bits, self.formats.features.bits)
            self._count(op.name, op.KIND, _outside(found, spec), found, spec)
            return found.astype(np.float64)
        found = self.dot(op, a, b, one + other)
        result = self.features(op, found, self.formats.accumulator.fraction_bits)
        return self._sum(op, result, x[2]) if len(x) > 2 else result

    def _weighted_sum(self, op: Primitive, x: Sequence[Any]) -> Array:
        assert isinstance(op, p.WeightedSum)
        given: Weights = x[0]
        weights, values = steps_of(given.weights, self.f), steps_of(p.shared(x[1], len(given.weights)), self.f)
        if values.ndim == 4:
            found = self.dot(op, weights[..., None, :], values, 2 * self.f)[..., 0, :]
        else:
            found = self.dot(op, weights, values, 2 * self.f)
        spec = self.formats.accumulator
        if len(x) > 2:
            assert given.factor is not None
            old = steps_of(x[2][..., p.HEAD[op.layout] :], self.f)
            found = found + rounded(steps_of(given.factor, self.f) * old, 2 * self.f, spec)
        return np.concatenate([given.head, self.features(op, found, spec.fraction_bits)], -1)

    def _depthwise(self, op: Primitive, x: Sequence[Array]) -> Array:
        assert isinstance(op, p.Depthwise)
        kernel = x[1].shape[-1]
        image = np.pad(
            steps_of(x[0], self.f).reshape(op.side, op.side, -1), ((kernel // 2,) * 2, (kernel // 2,) * 2, (0, 0))
        )
        windows = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel), (0, 1))[:: op.stride, :: op.stride]
        taps = windows.reshape(*windows.shape[:3], 1, kernel * kernel)
        filters = steps_of(x[1], self.f).reshape(-1, kernel * kernel, 1)
        found = self.dot(op, taps, filters, 2 * self.f).reshape(op.shape)
        return self._sum(op, self.features(op, found, self.formats.accumulator.fraction_bits), x[2])

    def _pool(self, op: Primitive, x: Sequence[Array]) -> Array:
        assert isinstance(op, p.Pool)
        heads, n, d = x[0].shape
        cells = steps_of(x[0], self.f)
        if len(x) == 1:
            size = op.cell // op.per_cell
            total = cells.reshape(heads, op.shape[1], size, d).sum(2)
            return self.features(op, total // size, self.f)
        rows = np.moveaxis(cells.reshape(heads, n // op.cell, 1, op.cell, d), -1, 2)  # [heads, cells, d, 1, cell]
        filters = np.swapaxes(steps_of(x[1], self.f), -1, -2)  # [d, cell, summaries]
        found = np.moveaxis(self.dot(op, rows, filters, 2 * self.f)[..., 0, :], 2, -1)
        return self.features(op, found.reshape(op.shape), self.formats.accumulator.fraction_bits)

    # -- softmax --------------------------------------------------------------------------------------------------

    def _exponentiate(self, op: Primitive, x: Sequence[Array]) -> Weights:
        assert isinstance(op, p.Exponentiate)
        old = x[1] if len(x) > 1 else None
        return self._log_state(op, x[0], old) if op.layout == "log" else self._running_state(op, x[0], old)

    def _running_state(self, op: Primitive, s: Array, old: Array | None) -> Weights:
        soft = self.formats.softmax
        m = s.max(axis=-1, keepdims=True, initial=-np.inf)
        if old is not None:
            m = np.maximum(m, old[..., :1])
        weights = self.exp(s, m)
        total, factor = weights.sum(-1, keepdims=True), None
        if old is not None:
            grown = self.exp(old[..., :1], m)
            before = self.into_softmax(steps_of(old[..., 1:2], self.f))
            total = total + rounded(grown * before, 2 * soft.fraction_bits, soft)
            factor = self._leave(op, grown)
        return Weights(np.concatenate([m, self._leave(op, total)], -1), factor, self._leave(op, weights))

    def _log_state(self, op: Primitive, s: Array, old: Array | None) -> Weights:
        m = s.max(axis=-1, keepdims=True, initial=-np.inf)
        head = self._plus_log(op, m, self.exp(s, m).sum(-1, keepdims=True))
        if old is None:
            return Weights(head, None, self._leave(op, self.exp(s, head)))
        before = old[..., :1]
        m = np.maximum(before, head)
        head = self._plus_log(op, m, self.exp(before, m) + self.exp(head, m))
        return Weights(head, self._leave(op, self.exp(before, head)), self._leave(op, self.exp(s, head)))

    def _plus_log(self, op: Primitive, m: Array, total: Ints) -> Array:
        """``m + ln(total)``; minus infinity where there is nothing."""
        soft = self.formats.softmax
        live = np.isfinite(m) & (total > 0)
        logarithms = rounded(logarithm(total, soft), soft.fraction_bits, self.formats.features)
        found = self.features(op, steps_of(m, self.f) + logarithms, self.f, live)
        return np.where(live, found, -np.inf)

    def _leave(self, op: Primitive, values: Ints) -> Array:
        """What a unit of the softmax puts down as features."""
        soft = self.formats.softmax
        return self.features(op, self.narrowed(op, values, soft.fraction_bits, soft), soft.fraction_bits)

    def _softmax(self, op: Primitive, x: Sequence[Array]) -> Array:
        soft = self.formats.softmax
        weights = self.exp(x[0], x[0].max(axis=-1, keepdims=True, initial=-np.inf))
        total = self.narrowed(op, weights.sum(-1, keepdims=True), soft.fraction_bits, soft)
        shares = rounded(weights * reciprocal(total, soft), 2 * soft.fraction_bits, soft)
        return self._leave(op, shares)

    def _merge(self, op: Primitive, x: Sequence[Array]) -> Array:
        soft, spec = self.formats.softmax, self.formats.accumulator
        m = np.maximum(x[0][..., :1], x[1][..., :1])
        total = np.zeros(x[0][..., 1:].shape, np.int64)
        for state in x:
            factor = self.exp(state[..., :1], m)
            total = total + rounded(factor * steps_of(state[..., 1:], self.f), soft.fraction_bits + self.f, spec)
        return np.concatenate([m, self.features(op, total, spec.fraction_bits)], -1)

    def _divided(self, op: Primitive, values: Ints, fraction: int, by: Array) -> Array:
        """Values times the reciprocal of features; 0 where these are not positive."""
        soft = self.formats.softmax
        below = self.narrowed(op, self.into_softmax(steps_of(by, self.f)), soft.fraction_bits, soft)
        inverse = np.where(by != 0, self.narrowed(op, reciprocal(below, soft), soft.fraction_bits, soft), 0)
        return self.features(op, values * inverse, fraction + soft.fraction_bits)

    def _normalise(self, op: Primitive, x: Sequence[Array]) -> Array:
        assert isinstance(op, p.Normalise)
        state, head = x[0], p.HEAD[op.layout]
        values = state[..., head:]
        if op.layout == "mla":
            total = np.where(state[..., 1:2] > 0, state[..., 1:2], 0.0)
            values = self._divided(op, steps_of(values, self.f), self.f, total)
        if not op.also:
            return values
        if op.also == "state":
            return np.concatenate([state[..., :head], values], -1)
        soft = self.formats.softmax
        total = self.narrowed(op, self.into_softmax(steps_of(state[..., 1:2], self.f)), soft.fraction_bits, soft)
        return np.concatenate([self._plus_log(op, state[..., :1], total), values], -1)

    def _denormalise(self, op: Primitive, x: Sequence[Array]) -> Array:
        grown = steps_of(x[0][..., 2:], self.f) * steps_of(x[0][..., 1:2], self.f)
        return np.concatenate([x[0][..., :2], self.features(op, grown, 2 * self.f)], -1)

    # -- everything else ------------------------------------------------------------------------------------------

    def _norm(self, op: Primitive, x: Sequence[Array]) -> Array:
        """Mean and mean square from single sums of cut squares, as the LayerNorm of the encoder."""
        assert isinstance(op, p.Norm)
        over = tuple(range(-op.axes, 0))
        rows = steps_of(x[0], self.f)
        size = int(np.prod(rows.shape[-op.axes :]))
        mean = rows.sum(over, keepdims=True) // size
        squares = (rows * rows >> self.f).sum(over, keepdims=True) // size
        variance = squares - (mean * mean >> self.f) + int(op.eps / self.formats.features.step)
        root = inverse_root(variance, self.formats.features)
        unit = self.narrowed(op, (rows - mean) * root, 2 * self.f, self.formats.features)
        scaled = self.features(op, unit * steps_of(x[1], self.f), 2 * self.f)
        return self._sum(op, scaled, x[2])

    def _group_mean(self, op: Primitive, x: Sequence[Array]) -> Array:
        assert isinstance(op, p.GroupMean)
        member = (x[1][:, None] == np.arange(op.groups)[:, None]).astype(np.int64)
        total = member @ steps_of(x[0], self.f)
        return self.features(op, total // np.maximum(member.sum(-1, keepdims=True), 1), self.f)

    def _reduce(self, op: Primitive, x: Sequence[Array]) -> Array:
        assert isinstance(op, p.Reduce)
        if op.function == "abs_max":
            exact: Array = op.meaning(*x)
            return exact
        values = np.moveaxis(steps_of(x[0], self.f), op.axis, 0)
        if op.function == "product":
            found = values[:1]
            for each in values[1:]:
                found = self.narrowed(op, found * each, 2 * self.f, self.formats.features)
        else:
            found = values.sum(axis=0, keepdims=True)
            found = found // len(values) if op.function == "mean" else found
        return self.features(op, np.moveaxis(found, 0, op.axis), self.f)

    def _outer(self, op: Primitive, x: Sequence[Array]) -> Array:
        return self._sum(op, x[0], -x[1])

    def _sum(self, op: Primitive, one: Array, other: Array) -> Array:
        """Features added; minus infinity where one of them is."""
        live = np.isfinite(one) & np.isfinite(other)
        found = self.features(op, steps_of(one, self.f) + steps_of(other, self.f), self.f, live)
        return np.where(live, found, -np.inf)

    def _elementwise(self, op: Primitive, x: Sequence[Array]) -> Array:
        assert isinstance(op, p.Elementwise)
        function = self.functions.get(op.function)
        if function is None or op.name in self.whole:
            exact: Array = op.meaning(*x)  # it moves, compares, or rounds exact integers
            return exact
        return function(self, op, x)

    def _add(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        return self._sum(op, x[0], x[1])

    def _shift(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        return self._sum(op, x[0], self._constant_word(op.constants[0]))

    def _constant_word(self, value: float) -> Array:
        spec = self.formats.features
        return np.asarray(spec.encode(value), np.float64) * spec.step

    def _multiply(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        one, other = self.bits(op, 0), self.bits(op, 1)
        return self.features(op, steps_of(x[0], one) * steps_of(x[1], other), one + other)

    def _scale(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        mantissa, shift = constant(op.constants[0])
        bits = self.bits(op, 0)
        return self.features(op, steps_of(x[0], bits) * mantissa, bits + shift)

    def _divide(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        return self._divided(op, steps_of(x[0], self.f), self.f, x[1])

    def _exp(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        soft = self.formats.softmax
        arguments = self.into_softmax(steps_of(x[0], self.f)) * soft.step
        most = 2.0 ** (soft.integer_bits + 2)  # more is beyond the range, however much more
        found = np.where(np.isfinite(x[0]), np.floor(np.minimum(np.exp(arguments), most) / soft.step), 0)
        return self._leave(op, found.astype(np.int64))

    def _elu_plus_one(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        one = np.int64(1) << self.f
        low = self._leave(op, self.exp(np.minimum(x[0], 0.0), np.zeros_like(x[0])))
        high = self.features(op, steps_of(x[0], self.f) + one, self.f, x[0] > 0)
        return np.where(x[0] > 0, high, low)

    def _sigmoid(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        """``1 / (1 + exp(-|x|))``, times the exponential where x is negative."""
        return self._logistic(op, x[0])

    def _sigmoid_of_magnitude(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        return self._logistic(op, 2 * np.abs(x[0]))

    def _logistic(self, op: Primitive, x: Array) -> Array:
        soft = self.formats.softmax
        small = self.exp(-np.abs(x), np.zeros_like(x))
        one = np.int64(1) << soft.fraction_bits
        share = reciprocal(one + small, soft)
        below = rounded(small * share, 2 * soft.fraction_bits, soft)
        return self._leave(op, np.where(x < 0, below, share))

    def _gelu_gate(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        gate = self.formats.gelu.apply(steps_of(x[1], self.f), self.formats.features)
        return self.features(op, steps_of(x[0], self.f) * gate, 2 * self.f)

    def _inverse_root(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        features = self.formats.features
        values = steps_of(x[0], self.f) + int(op.constants[0] / features.step)
        return self.features(op, inverse_root(values, features), self.f)

    def _clip(self, op: p.Elementwise, x: Sequence[Array]) -> Array:
        mantissa, shift = constant(op.constants[0])
        stretched = self.features(op, steps_of(x[0], self.f) * mantissa, self.f + shift)
        return np.clip(self._sum(op, stretched, self._constant_word(op.constants[1])), 0.0, 1.0)

    kinds: ClassVar[dict[str, Callable[..., Any]]] = {
        "scores": _scores,
        "product": _product,
        "weighted_sum": _weighted_sum,
        "depthwise": _depthwise,
        "pool": _pool,
        "exponentiate": _exponentiate,
        "softmax": _softmax,
        "merge": _merge,
        "normalise": _normalise,
        "denormalise": _denormalise,
        "norm": _norm,
        "group_mean": _group_mean,
        "reduce": _reduce,
        "outer": _outer,
        "elementwise": _elementwise,
    }
    """Kind of primitive -> what its units compute; other kinds are exact."""

    functions: ClassVar[dict[str, Callable[..., Array]]] = {
        "add": _add,
        "shift": _shift,
        "multiply": _multiply,
        "scale": _scale,
        "divide": _divide,
        "exp": _exp,
        "elu_plus_one": _elu_plus_one,
        "sigmoid": _sigmoid,
        "sigmoid_of_magnitude": _sigmoid_of_magnitude,
        "gelu_gate": _gelu_gate,
        "inverse_root": _inverse_root,
        "clip": _clip,
    }
    """Function of entries -> what its units compute; other functions are exact."""


def steps_of(x: Array, bits: int) -> Ints:
    """Numbers with so many bits behind the point as integers; what is infinite counts as 0."""
    return np.rint(np.ldexp(np.where(np.isfinite(x), x, 0.0), bits)).astype(np.int64)


def constant(value: float) -> tuple[int, int]:
    """(mantissa, bits behind the point) of a factor: `CONSTANT_BITS` significant bits, and one where it is a power of two.

    >>> constant(0.125), constant(-2.0), constant(0.0)
    ((1, 3), (-1, -1), (0, 0))
    """
    share, exponent = frexp(value)
    if abs(share) == 0.5:
        return (1 if value > 0 else -1), 1 - exponent
    if not value:
        return 0, 0
    return round(share * 2**CONSTANT_BITS), CONSTANT_BITS - exponent


def _outside(steps: Ints, spec: FixedSpec) -> Mask:
    low, high = spec.limits
    outside: Mask = (steps < low) | (steps > high)
    return outside


def _parts(value: Any) -> list[Array]:
    return [part for part in value if part is not None] if isinstance(value, Weights) else [value]


def _unknown(op: Primitive) -> Any:
    """A result of which nothing is a number."""
    if not isinstance(op, p.Exponentiate):
        return np.full(op.shape, np.nan)
    outer = op.shape[:-1]
    factor = np.full((*outer, 1), np.nan) if len(op.sources) > 1 else None
    return Weights(np.full((*outer, p.HEAD[op.layout]), np.nan), factor, np.full(op.shape, np.nan))


__all__ = ["FixedUnits", "Overflow", "constant", "steps_of", "whole_numbers"]
