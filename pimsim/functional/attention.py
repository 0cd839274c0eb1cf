"""The programs of attention algorithms on numbers: functions of the ASIC over tensors, and the memories around them.

Each function reads its operands from the SRAM in the shapes that its constants say, computes with the adders and multipliers of
`AsicMath` (every step rounded to float32, results to the format of the SRAM) and writes its result back. Products on chip add up
in float32; in which order is not modelled. What only moves or compares is exact, indices stand as whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf, log, prod
from typing import Any, ClassVar, Protocol

import numpy as np

from pimsim.functional.executor import Executor
from pimsim.functional.functions import AsicMath
from pimsim.functional.numerics import Array
from pimsim.program.isa import Compute, Placed, Step
from pimsim.workload.attention.primitives import Decision

LN2 = log(2.0)


class PieceLike(Protocol):
    """A matrix of dots in the banks; `pimsim.mapper.attention.banks.Piece` is one."""

    @property
    def orientation(self) -> str:
        """Whether dots are ``rows`` or ``columns``."""

    @property
    def dots(self) -> int:
        """Vectors."""

    @property
    def inner(self) -> int:
        """Elements of a vector."""

    @property
    def chunks(self) -> tuple[range, ...]:
        """Elements that lie together."""

    def columns(self, chunk: int) -> int:
        """Columns of a dot in a chunk."""

    def place(self, dot: int, element: int) -> Any:
        """Channel, bank, row, column and lane of an element."""


class AttentionExecutor(Executor):
    """An executor that also knows the functions over tensors."""

    replay: Mapping[str, Any] = {}
    """Decisions that are taken instead of what the numbers say, by operation."""

    after_step: Callable[[Step, Placed], None] | None = None
    """Called when a step has been carried out."""

    def step(self, step: Step, placed: Placed, channels: Sequence[int]) -> None:
        """Carry out one step, and tell."""
        super().step(step, placed, channels)
        if self.after_step is not None:
            self.after_step(step, placed)

    def fill(self, piece: PieceLike, values: Array, row_base: int = 0) -> None:
        """Put the rows ``[rows, width]`` of a piece into the banks; DRAM rows count from ``row_base``."""
        dots = values if piece.orientation == "rows" else values.T
        for dot in range(piece.dots):
            for chunk, inner in enumerate(piece.chunks):
                place = piece.place(dot, inner.start)
                column = (place.row + row_base) * self.spec.columns + place.column
                part = np.zeros(piece.columns(chunk) * self.lanes, np.float32)
                part[: len(inner)] = dots[dot, inner.start : inner.stop]
                found = self.format.encode(part).reshape(-1, self.lanes)
                self._columns[column : column + len(found), :, place.channel, place.bank] = found

    def content(self, piece: PieceLike, row_base: int = 0) -> Array:
        """The rows ``[rows, width]`` of a piece; DRAM rows count from ``row_base``."""
        dots = np.zeros((piece.dots, piece.inner), np.float32)
        for dot in range(piece.dots):
            for chunk, inner in enumerate(piece.chunks):
                place = piece.place(dot, inner.start)
                column = (place.row + row_base) * self.spec.columns + place.column
                cells = self._columns[column : column + piece.columns(chunk), :, place.channel, place.bank]
                dots[dot, inner.start : inner.stop] = self.format.decode(cells).ravel()[: len(inner)]
        return dots if piece.orientation == "rows" else dots.T

    def load(self, at: int, values: Array) -> None:
        """Put a tensor into the SRAM."""
        self.sram[at : at + values.size] = self.format.round_to(np.ravel(values).astype(np.float32))

    def tensor(self, at: int, shape: Sequence[int]) -> Array:
        """A tensor in the SRAM."""
        return self.sram[at : at + prod(shape)].reshape(tuple(shape)).copy()

    def tensor_call(self, compute: Compute, constants: Mapping[str, Any]) -> None:
        """A function of the ASIC over tensors."""
        operands = [self.tensor(at, shape) for at, shape in zip(compute.sources, constants["shapes"], strict=True)]
        op = constants.get("op")
        if isinstance(op, Decision):
            found: Any = self.replay[op.name] if op.name in self.replay else op.meaning(*operands)
            self._store_whole(compute.target, found)
            return
        found = _OWN[compute.function](self.math, constants, *operands)
        second = None
        if isinstance(found, tuple):
            found, second = found
        if op is not None or compute.function in ("move", "compare"):
            self._store_whole(compute.target, found)  # moved, not computed
        else:
            self._put(compute.target, np.ravel(found).astype(np.float32))
        if second is not None:
            self._put(compute.total, np.ravel(second).astype(np.float32))

    def _store_whole(self, at: int, values: Any) -> None:
        flat = np.ravel(np.asarray(values)).astype(np.float32)
        self._store(slice(at, at + flat.size), flat)

    functions: ClassVar[dict[str, Callable[..., None]]] = {**Executor.functions}


Constants = Mapping[str, Any]
Function = Callable[..., Any]


def _safe_difference(x: Array, by: Array, math: AsicMath) -> Array:
    """``x - by``, minus infinity where x is (`by` may be, too)."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(x), np.float32(-inf), math.arithmetic.subtract(x, by))


def _exp(math: AsicMath, x: Array) -> Array:
    """Zero for minus infinity."""
    return np.where(np.isneginf(x), np.float32(0), math.exp(np.where(np.isneginf(x), np.float32(0), x)))


def log_of(math: AsicMath, x: Array) -> Array:
    """``log x = k log 2 + 2 atanh(z)``, ``z = (m - 1) / (m + 1)``, m in [0.7, 1.4]; minus infinity for zero."""
    a = math.arithmetic
    with np.errstate(divide="ignore", invalid="ignore"):
        m, k = np.frexp(x.astype(np.float32))
        low = m < np.float32(0.70710678)
        m, k = np.where(low, m * 2, m).astype(np.float32), np.where(low, k - 1, k)
        z = a.multiply(a.add(m, np.float32(-1)), math.reciprocal(a.add(m, np.float32(1))))
        square = a.multiply(z, z)
        series = np.full_like(z, np.float32(1 / (2 * math.functions.exp_taylor_terms - 1)))
        for i in reversed(range(math.functions.exp_taylor_terms - 1)):
            series = a.add(a.multiply(series, square), np.float32(1 / (2 * i + 1)))
        found = a.add(a.multiply(k.astype(np.float32), np.float32(LN2)), a.multiply(a.multiply(series, z), 2.0))
    return np.where(x > 0, found, np.float32(-inf))


def _move(_math: AsicMath, c: Constants, *operands: Array) -> Array:
    if "fill" in c:
        return np.full(c["shape"], c["fill"], np.float32)
    if "state" in c:  # head and sums next to each other
        return np.concatenate(operands, axis=-1)
    if "transpose" in c:
        return np.swapaxes(operands[0], -1, -2)
    if "drop" in c:
        return operands[0][..., c["drop"] :]
    if "lead" in c:
        return np.pad(operands[0], [(0, 0)] * (operands[0].ndim - 1) + [(c["lead"], 0)])
    op = c.get("op")
    return op.meaning(*_with_indices(op, operands)) if op is not None else operands[0]


def _with_indices(op: Any, operands: Sequence[Array]) -> list[Array]:
    """Operands of look-ups are indices from the second on (of children: all)."""
    whole = {"gather": 1, "pick": 1, "children": 0, "exclude": 1, "mask_beyond": 1, "group_mean": 1}.get(
        op.KIND, len(operands)
    )
    return [x if i < whole else np.rint(x).astype(np.int64) for i, x in enumerate(operands)]


def _compare(_math: AsicMath, c: Constants, *operands: Array) -> Array:
    if "band" in c:
        return np.where(c["band"].array(*operands[0].shape[-2:]), operands[0], np.float32(-inf))
    found: Array = c["op"].meaning(*_with_indices(c["op"], operands))
    return found


def _matmul(_math: AsicMath, c: Constants, *operands: Array) -> Array:
    if "op" in c:
        found: Array = c["op"].meaning(*_with_indices(c["op"], operands)).astype(np.float32)
        return found
    a, b = operands
    kind = c["product"]
    if b.ndim > 2 and a.shape[0] != b.shape[0]:
        b = np.repeat(b, a.shape[0] // b.shape[0], axis=0)
    if kind == "scores":
        return np.asarray(np.einsum("hrd,hrcd->hrc" if b.ndim == 4 else "hrd,hcd->hrc", a, b))
    if kind == "weighted":
        return np.asarray(np.einsum("hrn,hrnd->hrd" if b.ndim == 4 else "hrn,hnd->hrd", a, b))
    return np.asarray((np.swapaxes(a, -1, -2) if kind == "transposed" else a) @ b)


def _row_max(_math: AsicMath, _c: Constants, s: Array, *old: Array) -> Array:
    m = s.max(axis=-1, keepdims=True, initial=-inf)
    return np.asarray(np.maximum(m, old[0][..., :1]) if old else m)


def _exponentials(math: AsicMath, _c: Constants, s: Array, by: Array) -> tuple[Array, Array]:
    e = _exp(math, _safe_difference(s, by, math))
    return e, math.arithmetic.sum(e)


def _rescale(math: AsicMath, _c: Constants, old: Array, new: Array) -> Array:
    return _exp(math, _safe_difference(old[..., :1], new, math))


def _softplus(math: AsicMath, _c: Constants, old: Array, new: Array) -> Array:
    """log(exp old + exp new) = old + log(1 + exp(new - old)), without overflow by exchanging both where new is larger."""
    a = math.arithmetic
    one, other = np.maximum(old[..., :1], new), np.minimum(old[..., :1], new)
    grown = a.add(one, log_of(math, a.add(_exp(math, _safe_difference(other, one, math)), np.float32(1))))
    return np.where(np.isneginf(one), one, grown)


def _logarithm(math: AsicMath, c: Constants, x: Array, *by: Array) -> Array:
    if "state" in c:
        x, by = x[..., 1:2], (x[..., :1],)
    with np.errstate(invalid="ignore"):
        found = math.arithmetic.add(log_of(math, x), np.where(np.isneginf(by[0]), np.float32(0), by[0]))
    return np.where(x > 0, found, np.float32(-inf))


def _combine(math: AsicMath, c: Constants, *operands: Array) -> Array:
    a = math.arithmetic
    if c["state"] == "head":
        top, sums, *rest = operands
        if rest:
            sums = a.add(sums, a.multiply(rest[0], rest[1][..., 1:2]))
        return np.concatenate([top, sums], -1)
    head, sums, factor, old = operands
    return np.concatenate([head, a.add(sums, a.multiply(factor, old[..., head.shape[-1] :]))], -1)


def _merge_factors(math: AsicMath, _c: Constants, one: Array, other: Array) -> Array:
    top = np.maximum(one[..., :1], other[..., :1])
    return np.concatenate([top, *(_exp(math, _safe_difference(each[..., :1], top, math)) for each in (one, other))], -1)


def _merge(math: AsicMath, _c: Constants, one: Array, other: Array, factors: Array) -> Array:
    a = math.arithmetic
    sums = a.add(a.multiply(one[..., 1:], factors[..., 1:2]), a.multiply(other[..., 1:], factors[..., 2:3]))
    return np.concatenate([factors[..., :1], sums], -1)


def _rows_reciprocal(math: AsicMath, c: Constants, x: Array) -> Array:
    sums = x[..., c["column"] : c["column"] + 1]
    return np.where(sums > 0, math.reciprocal(np.where(sums > 0, sums, np.float32(1))), np.float32(0))


def _scale_rows(math: AsicMath, c: Constants, x: Array, *rest: Array) -> Array:
    a = math.arithmetic
    if "state" not in c:
        return a.multiply(x, rest[0])
    if c["also"] == "sum":
        return np.concatenate([x[..., :2], a.multiply(x[..., 2:], x[..., 1:2])], -1)
    front = {"": [], "state": [x[..., :2]], "lse": list(rest[1:])}[c["also"]]
    return np.concatenate([*front, a.multiply(x[..., 2:], rest[0])], -1)


def _norm_sums(math: AsicMath, c: Constants, x: Array) -> Array:
    rows = x.reshape(c["rows"], -1)
    a = math.arithmetic
    return np.concatenate([a.sum(rows), a.sum(a.multiply(rows, rows))], -1)


def _norm_statistics(math: AsicMath, c: Constants, sums: Array) -> Array:
    a, share = math.arithmetic, np.float32(1 / c["width"])
    mean, square = a.multiply(sums[:, :1], share), a.multiply(sums[:, 1:], share)
    variance = np.maximum(a.subtract(square, a.multiply(mean, mean)), np.float32(0))
    return np.concatenate([mean, math.rsqrt(a.add(variance, np.float32(c["eps"])))], -1)


def _norm_scale(math: AsicMath, c: Constants, x: Array, statistics: Array, gain: Array, shift: Array) -> Array:
    a, rows = math.arithmetic, x.reshape(c["rows"], -1)
    normed = a.multiply(a.subtract(rows, statistics[:, :1]), statistics[:, 1:]).reshape(x.shape)
    return a.add(a.multiply(normed, gain), shift)


def _sigmoid(math: AsicMath, x: Array) -> Array:
    return math.reciprocal(math.arithmetic.add(math.exp(-x), np.float32(1)))


ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "add": lambda m, x, y: m.arithmetic.add(x, y),
    "subtract": lambda m, x, y: m.arithmetic.subtract(x, y),
    "multiply": lambda m, x, y: m.arithmetic.multiply(x, y),
    "scale": lambda m, x, by: m.arithmetic.multiply(x, by),
    "shift": lambda m, x, by: m.arithmetic.add(x, by),
    "child": lambda _m, parent, choice, branching: parent * branching + choice,
    "clip": lambda m, x, factor, shift: np.clip(
        m.arithmetic.add(m.arithmetic.multiply(x, factor), shift), np.float32(0), np.float32(1)
    ),
    "divide": lambda m, x, y: m.arithmetic.multiply(x, m.reciprocal(np.broadcast_to(y, x.shape))),
    "elu_plus_one": lambda m, x: np.where(
        x > 0, m.arithmetic.add(x, np.float32(1)), m.exp(np.minimum(x, np.float32(0)))
    ),
    "exp": lambda m, x: m.exp(x),
    "gelu_gate": lambda m, x, gate: m.arithmetic.multiply(x, m.gelu_erf(gate)),
    "inverse_root": lambda m, x, eps: m.rsqrt(m.arithmetic.add(x, eps)),
    "magnitude": lambda _m, x: np.abs(x),
    "quantise": lambda m, x, top: np.rint(
        m.arithmetic.multiply(
            m.arithmetic.multiply(x, np.float32(127)), m.reciprocal(np.where(top > 0, top, np.float32(1)))
        )
    ),
    "relu": lambda m, x: m.relu(x),
    "sigmoid": _sigmoid,
    "sigmoid_of_magnitude": lambda m, x: _sigmoid(m, m.arithmetic.multiply(np.abs(x), np.float32(2))),
    "unless_at_least": lambda _m, x, limit: np.where(np.abs(x) >= limit, np.float32(0), x),
    "zero_where": lambda _m, x, where: np.where(where > 0, np.float32(0), x),
    "zero_if_masked": lambda _m, x: np.where(np.isneginf(x), np.float32(0), x),
}
"""Function of the entries -> how the ASIC computes it."""


def _elementwise(math: AsicMath, c: Constants, *operands: Array) -> Array:
    numbers = [np.float32(number) for number in c.get("numbers", ())]
    with np.errstate(invalid="ignore", over="ignore"):
        return ELEMENTWISE[c["function"]](math, *operands, *numbers)


def _reduce(math: AsicMath, c: Constants, *operands: Array) -> Array:
    if "op" in c:
        found: Array = c["op"].meaning(*_with_indices(c["op"], operands)).astype(np.float32)
        return found
    x, a = np.moveaxis(operands[0], c["axis"], -1), math.arithmetic
    if c["function"] == "abs_max":
        reduced = np.abs(x).max(-1, keepdims=True)
    elif c["function"] == "product":
        reduced = x[..., :1]
        for i in range(1, x.shape[-1]):
            reduced = a.multiply(reduced, x[..., i : i + 1])
    else:
        reduced = a.sum(x)
        if c["function"] == "mean":
            reduced = a.multiply(reduced, np.float32(1 / x.shape[-1]))
    return np.moveaxis(reduced, -1, c["axis"])


_OWN: dict[str, Function] = {
    "move": _move,
    "compare": _compare,
    "select": _compare,
    "matmul": _matmul,
    "row_max": _row_max,
    "exponentials": _exponentials,
    "rescale": _rescale,
    "softplus": _softplus,
    "logarithm": _logarithm,
    "combine": _combine,
    "merge_factors": _merge_factors,
    "merge": _merge,
    "rows_reciprocal": _rows_reciprocal,
    "scale_rows": _scale_rows,
    "norm_sums": _norm_sums,
    "norm_statistics": _norm_statistics,
    "norm_scale": _norm_scale,
    **{f"elementwise.{name}": _elementwise for name in ELEMENTWISE},
    **{f"reduce.{name}": _reduce for name in ("abs_max", "mean", "product", "sum")},
}
"""Function of the ASIC over tensors -> what it computes."""

AttentionExecutor.functions |= dict.fromkeys(_OWN, AttentionExecutor.tensor_call)

__all__ = ["ELEMENTWISE", "AttentionExecutor", "log_of"]
