"""Whether a streaming program of attention primitives computed its algorithm: call by call, at the end, and in both orders.

Each call is compared with the meaning of its primitive in float64 on the very operands that it had. What may differ is derived:
in fixed point by `pimsim.functional.fixed_primitive_bounds`, in float32 here.
With u = 2^-24 the unit roundoff of the words, n the length of the longest sum, and magnitudes instead of signed values:

=====================  =====================================================================================================
kind                   bound of an entry
=====================  =====================================================================================================
scores, products       ``(n + 3) u |A| |B|``, sums of a weighted sum with the rescaled state (Higham 2002, section 3.1)
exponentials           ``(|x - m| + 4) u w``: one rounding of the argument, which is absolute, and one ulp of exp and its result
softmax, sums of them  ``(max |x - m| + n + 8) u`` relative
log state              the same of the sum, absolute after the logarithm, and then of the weights
norm                   ``(k + 3) u (|x| + E|x|) |gain| / sd + (k + 6) u (1 + E[x^2] / var) |y - shift| + 2 u |y|``
sums, means            ``(n + 2) u`` times the sum (mean) of magnitudes
other functions        a few roundings of the result, or of the terms of a sum
moves, selections      none; 127 x / top may round to the other neighbour where it lies within its own error of a half
=====================  =====================================================================================================

The end is compared with the algorithm's reference, which knows neither primitives nor the program. Errors grow on their way there
as the data have it, so the tolerance is found by Monte Carlo arithmetic (Parker 1997): the program is carried out in float64 with
every entry of every result moved by its whole bound, up or down at random, and the decisions of the run; how far the largest of
`DRAWS` such ends lies from the undisturbed one is how far the end may lie from the reference. Errors of a format that truncates
have one sign, and add up where random ones cancel: in fixed point, two more runs move all entries down, and all up.

In fixed point a result that does not fit its format fails the check, whatever it does to the end, and the message names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pimsim.functional.fixed_primitive_bounds import FixedBounds
from pimsim.functional.fixed_primitives import FixedUnits, Overflow, whole_numbers
from pimsim.functional.primitives import (
    FloatUnits,
    Step,
    StreamMemory,
    Units,
    execute,
    execute_changed,
    execute_in_time,
    results_of,
)
from pimsim.functional.streaming.fixed import Formats
from pimsim.functional.verdict import relative_error
from pimsim.program.streaming import StreamProgram
from pimsim.workload.attention import primitives as p
from pimsim.workload.attention.base import Algorithm, Case
from pimsim.workload.attention.primitives import Primitive, Weights

Array = npt.NDArray[Any]

U = 2.0**-24
"""Unit roundoff of float32."""

EXACT = {
    "load", "store", "append", "gather", "pick", "part", "join", "arrange", "select", "constant", "empty_state", "exclude",
    "mask_beyond", "children", "top_k", "boundary", "sign_hash", "outlier_columns", "clusters", "patches",
}  # fmt: skip
"""Kinds that only move or choose: any difference is wrong."""


def _gap(x: Array, m: Array) -> Array:
    """``|x - m|``, 0 where either is infinite."""
    with np.errstate(invalid="ignore"):
        found: Array = np.abs(x - m)
    gap: Array = np.where(np.isfinite(found), found, 0.0)
    return gap


def _size(x: Array) -> Array:
    """Magnitudes, 0 where infinite."""
    found: Array = np.where(np.isfinite(x), np.abs(x), 0.0)
    return found


def _top(x: Array) -> Array:
    found: Array = x.max(axis=-1, keepdims=True, initial=0.0)
    return found


def _scores(op: Primitive, inputs: Sequence[Array], exact: Array) -> Array:
    assert isinstance(op, p.Scores)
    plain = p.Scores("", "", (), sources=op.sources[:2], scale=abs(op.scale))
    terms = plain.meaning(np.abs(inputs[0]), np.abs(inputs[1]))
    bias = _size(inputs[2]) if len(inputs) > 2 else 0.0
    found: Array = (op.sources[0][-1] + 3) * U * (terms + bias) + U * _size(exact)
    return found


def _product(op: Primitive, inputs: Sequence[Array], _exact: Array) -> Array:
    found: Array = op.meaning(*(np.abs(each) for each in inputs))
    return (op.sources[1][-2] + 2) * U * found


def _weighted_sum(op: Primitive, inputs: Sequence[Any], _exact: Array) -> Array:
    weights = inputs[0]
    states = [np.abs(np.where(np.isfinite(each), each, 0.0)) for each in inputs[2:]]
    found: Array = op.meaning(weights, np.abs(inputs[1]), *states)
    head = found.shape[-1] - inputs[1].shape[-1]
    bound = (op.sources[1][-2] + 3) * U * np.abs(found)
    bound[..., :head] = 0.0
    return bound


def _exponentiate(op: Primitive, inputs: Sequence[Array], exact: Weights) -> Weights:
    assert isinstance(op, p.Exponentiate)
    x, n = inputs[0], op.shape[-1]
    old = inputs[1][..., :1] if len(inputs) > 1 else None
    m = exact.head[..., :1]
    gaps = _gap(x, m)
    widest = np.maximum(_top(gaps), 0.0 if old is None else _gap(old, m))
    if op.layout == "mla":
        head = np.concatenate([np.zeros_like(m), (widest + n + 6) * U * exact.head[..., 1:2]], -1)
        weights, factor = (gaps + 4) * U * exact.weights, None
        if old is not None and exact.factor is not None:
            factor = (_gap(old, m) + 4) * U * exact.factor
        return Weights(head, factor, weights)
    largest = x.max(axis=-1, keepdims=True, initial=-np.inf)
    log_error = (2 * _top(_gap(x, largest)) + 2 * widest + n + 16) * U + 4 * U * (_size(m) + _size(largest))
    if old is not None:
        log_error = log_error + 4 * U * _size(old)
    weights = (log_error + (gaps + 4) * U) * exact.weights
    factor = None if old is None or exact.factor is None else (log_error + (_gap(old, m) + 4) * U) * exact.factor
    return Weights(log_error, factor, weights)


def _softmax(_op: Primitive, inputs: Sequence[Array], exact: Array) -> Array:
    x = inputs[0]
    gaps = _gap(x, x.max(axis=-1, keepdims=True, initial=-np.inf))
    found: Array = (gaps + _top(gaps) + x.shape[-1] + 8) * U * exact
    return found


def _merge(op: Primitive, inputs: Sequence[Array], exact: Array) -> Array:
    a, b = [np.concatenate([each[..., :1], np.abs(each[..., 1:])], -1) for each in inputs]
    found = op.meaning(a, b)
    m = exact[..., :1]
    bound: Array = (np.maximum(_gap(a[..., :1], m), _gap(b[..., :1], m)) + 6) * U * np.abs(found)
    bound[..., :1] = 0.0
    return bound


def _normalise(op: Primitive, inputs: Sequence[Array], exact: Array) -> Array:
    assert isinstance(op, p.Normalise)
    bound = 4 * U * _size(exact)
    if op.also == "lse":
        bound[..., :1] += 4 * U * (1 + _size(inputs[0][..., :1]))
    return bound


def _norm(op: Primitive, inputs: Sequence[Array], exact: Array) -> Array:
    assert isinstance(op, p.Norm)
    x, gain, shift = inputs
    over = tuple(range(-op.axes, 0))
    k = int(np.prod([x.shape[axis] for axis in over]))
    var = x.var(over, keepdims=True) + op.eps
    terms = (np.abs(x) + np.abs(x).mean(over, keepdims=True)) * np.abs(gain) / np.sqrt(var)
    grown = (k + 6) * U * (1 + (x**2).mean(over, keepdims=True) / var) * np.abs(exact - shift)
    found: Array = (k + 3) * U * terms + grown + 2 * U * (np.abs(exact) + np.abs(shift))
    return found


def _pool(op: Primitive, inputs: Sequence[Array], _exact: Array) -> Array:
    assert isinstance(op, p.Pool)
    found: Array = (op.cell + 2) * U * op.meaning(*(np.abs(each) for each in inputs))
    return found


def _depthwise(op: Primitive, inputs: Sequence[Array], _exact: Array) -> Array:
    found: Array = (op.sources[1][-1] ** 2 + 2) * U * op.meaning(*(np.abs(each) for each in inputs))
    return found


def _group_mean(op: Primitive, inputs: Sequence[Array], _exact: Array) -> Array:
    found: Array = (op.sources[0][-2] + 2) * U * op.meaning(np.abs(inputs[0]), inputs[1])
    return found


def _reduce(op: Primitive, inputs: Sequence[Array], exact: Array) -> Array:
    assert isinstance(op, p.Reduce)
    if op.function == "abs_max":
        return np.zeros_like(exact)
    found: Array = (op.sources[0][op.axis] + 2) * U * op.meaning(np.abs(inputs[0]))
    return found


def _elementwise(op: Primitive, inputs: Sequence[Array], exact: Array) -> Any:
    assert isinstance(op, p.Elementwise)
    x, name = inputs[0], op.function
    if name in {"unless_at_least", "zero_where", "zero_if_masked", "magnitude", "relu", "child"}:
        return np.zeros_like(exact)
    if name in {"exp", "elu_plus_one"}:
        return (_size(x) + 4) * U * np.abs(exact)
    if name == "quantise":
        scaled = 127 * x / np.where(inputs[1] > 0, inputs[1], 1.0)
        near = np.abs(np.abs(scaled - np.trunc(scaled)) - 0.5) <= 4 * U * np.abs(scaled)
        return np.where(near, 1.0, 0.0)
    if name in {"add", "shift"}:
        return 2 * U * (_size(x) + (_size(inputs[1]) if len(inputs) > 1 else abs(op.constants[0])))
    if name == "clip":
        return 4 * U * (np.abs(op.constants[0] * x) + abs(op.constants[1]))
    if name == "gelu_gate":  # 1 + erf cancels where the gate is negative
        return 6 * U * (np.abs(exact) + np.abs(x * inputs[1]))
    if name in {"sigmoid", "sigmoid_of_magnitude"}:
        return 4 * U * np.ones_like(exact) + 4 * U * _size(x) * np.abs(exact)
    return 6 * U * _size(exact)


def _outer(_op: Primitive, inputs: Sequence[Array], _exact: Array) -> Array:
    return 2 * U * (_size(inputs[0]) + _size(inputs[1]))


def _rounded(_op: Primitive, _inputs: Sequence[Array], exact: Array) -> Array:
    return 2 * U * _size(exact)


BOUNDS: dict[str, Any] = {
    "scores": _scores,
    "product": _product,
    "weighted_sum": _weighted_sum,
    "exponentiate": _exponentiate,
    "softmax": _softmax,
    "merge": _merge,
    "normalise": _normalise,
    "denormalise": _rounded,
    "norm": _norm,
    "pool": _pool,
    "depthwise": _depthwise,
    "group_mean": _group_mean,
    "reduce": _reduce,
    "elementwise": _elementwise,
    "outer": _outer,
}
"""Kind -> bound of its errors, given operands and exact result."""


Bounds = Callable[[Primitive, Sequence[Any], Any], Any]
"""How far each entry of a result may be off, given the operation, its operands and the exact result."""


@dataclass
class PrimitiveJudge:
    """Compares every step; use it as the observer of `pimsim.functional.primitives.execute`."""

    units: Units
    bounds: Bounds
    compared: int = 0
    message: str = ""
    """What differs first, or nothing."""
    decisions: dict[str, Array] = field(default_factory=dict)
    """What the data decided, by operation."""

    def __call__(self, step: Step) -> None:
        """Compare a call; after the first difference nothing is looked at any more."""
        if self.message:
            return
        operands = [
            _wide(self.units.opened(name, each)) for name, each in zip(step.op.inputs, step.operands, strict=False)
        ]
        exact = step.op.meaning(*operands)
        self.compared += 1
        if isinstance(step.op, p.Decision):
            self.decisions[step.op.name] = step.stored
        for got, want, bound in zip(
            _parts(self.units.opened(step.op.name, step.stored)),
            _parts(exact),
            _parts(self.bounds(step.op, operands, exact)),
            strict=True,
        ):
            self.message = self.message or _difference(step.op, got, want, bound)


def bounds_of(op: Primitive, operands: Sequence[Any], exact: Any) -> Any:
    """How far each entry of a result may be off, in the shape of the result."""
    if op.KIND in EXACT:
        return _zeros(exact)
    with np.errstate(invalid="ignore", over="ignore"):
        return BOUNDS[op.KIND](op, operands, exact)


class Disturbance:
    """Moves every entry of a result by its bound; decisions are those of the run that is judged.

    ``signs``: what bounds are multiplied with, at random: up or down, or always the same.
    """

    def __init__(
        self, seed: int, decisions: Mapping[str, Array], bounds: Bounds, signs: tuple[float, ...] = (-1.0, 1.0)
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._decisions = decisions
        self._bounds = bounds
        self._signs = signs

    def __call__(self, op: Primitive, operands: Sequence[Any], found: Any) -> Any:
        """The result that is put down."""
        if op.name in self._decisions:
            return self._decisions[op.name]
        bounds = self._bounds(op, operands, found)
        if isinstance(found, Weights):
            factor = None if found.factor is None else self._moved(found.factor, bounds.factor)
            return Weights(self._moved(found.head, bounds.head), factor, self._moved(found.weights, bounds.weights))
        return self._moved(found, bounds)

    def _moved(self, value: Array, by: Array) -> Any:
        return value + by * self._random.choice(self._signs, np.shape(value))


def _parts(value: Any) -> list[Array]:
    return [part for part in value if part is not None] if isinstance(value, Weights) else [np.asarray(value)]


def _wide(value: Any) -> Any:
    if isinstance(value, Weights):
        return Weights(*(None if part is None else part.astype(np.float64) for part in value))  # type: ignore[arg-type]
    return value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value


def _zeros(value: Any) -> Array:
    return np.zeros(np.asarray(value).shape)


def _difference(op: Primitive, got: Array, want: Array, bound: Array) -> str:
    """What is wrong with a result, or nothing. Results smaller than the smallest normal number may lose all their digits."""
    with np.errstate(invalid="ignore"):
        error = np.where(got == want, 0.0, np.abs(got - want))
    allowed = np.broadcast_to(bound, want.shape) * (1 + 2.0**-10) + np.finfo(np.float32).tiny
    wrong = ~(error <= allowed)
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{op.name} ({op.KIND}) must be {want[at]:.9g} at {list(at)}, within {allowed[at]:.3g}, not {got[at]:.9g}"


@dataclass(frozen=True)
class EndError:
    """How far one result of the whole program is off, and how far it may be; relative figures are of 2-norms."""

    name: str
    largest: float
    relative: float
    tolerance: float

    @property
    def message(self) -> str:
        """What is wrong, or nothing."""
        if self.relative <= self.tolerance:
            return ""
        return (
            f"{self.name} must be within {self.tolerance:.3g} of the algorithm's reference, as far as errors within the "
            f"bounds of all calls move it, not {self.relative:.3g} off"
        )


def compare_end(
    found: Mapping[str, Any],
    reference: Mapping[str, Any],
    undisturbed: Mapping[str, Any],
    disturbed: Sequence[Mapping[str, Any]],
) -> list[EndError]:
    """Every result of the reference: how far the program's is off, and how far the disturbed ones are from the undisturbed."""
    errors = []
    for name, want in reference.items():
        got = np.asarray(found[name], np.float64)
        with np.errstate(invalid="ignore"):
            error = np.where(got == want, 0.0, np.abs(got - want))
        tolerance = max(relative_error(np.asarray(each[name]), np.asarray(undisturbed[name])) for each in disturbed)
        relative = relative_error(got, want)
        relative = float("inf") if np.isnan(relative) else relative
        errors.append(EndError(name, float(error.max(initial=0.0)), relative, tolerance))
    return errors


DRAWS = 3
"""Disturbed runs whose entries move at random."""


@dataclass(frozen=True)
class FixedPoint:
    """The formats of a machine and the words of its beats; without one it computes in float32."""

    formats: Formats
    beat: int


def check(
    program: StreamProgram,
    times: Sequence[tuple[int, int]],
    method: Algorithm,
    case: Case,
    seed: int,
    decided: Mapping[str, Any] | None,
    fixed: FixedPoint | None = None,
) -> dict[str, Any]:
    """Carry the program out and compare it: call by call, at the end, and in the machine's order.

    Args:
        program: The program.
        times: (start, end) of every call, as the machine runs them.
        method: The algorithm, ``case`` its sizes and ``seed`` that of its sample, on which the program runs.
        decided: Decisions that the program was built on.
        fixed: What the machine computes in, if it is not float32.
    """
    units, bounds, signs = _machine(fixed, method, case, decided)
    name = "float32" if fixed is None else fixed.formats.features.name
    tensors = units.given(method.sample(case, seed))
    judge = PrimitiveJudge(units, bounds)
    memory = filled(program, tensors, units)
    execute(program.calls, memory, judge)
    overflows: dict[str, Overflow] = dict(getattr(units, "overflows", {}))
    results = results_of(memory, program.results, program.assembled)
    wide = {name: given.astype(np.float64) for name, given in tensors.items()}
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        undisturbed = _changed(program, wide, lambda op, _operands, value: judge.decisions.get(op.name, value))
        disturbed = [
            _changed(program, wide, Disturbance(seed, judge.decisions, bounds, drawn))
            for seed, drawn in enumerate(signs)
        ]
        ends = {name: units.opened(name, value) for name, value in results.items()}
        errors = compare_end(ends, method.reference(case, wide), undisturbed, disturbed)
    message = _overflowed(overflows) or judge.message or next((error.message for error in errors if error.message), "")
    message = message or _against(decided, results, name) or _in_time(program, times, tensors, results, units)
    worst = max(errors, key=lambda error: error.relative - error.tolerance)
    found = {
        "passed": not message,
        "format": name,
        "max_abs_error": max(error.largest for error in errors),
        "max_rel_error": worst.relative,
        "tolerance": worst.tolerance,
        "compared": judge.compared,
        "message": message or None,
    }
    return found if fixed is None else found | {"overflows": {op: each.count for op, each in overflows.items()}}


def _machine(
    fixed: FixedPoint | None, method: Algorithm, case: Case, decided: Mapping[str, Any] | None
) -> tuple[Units, Bounds, list[tuple[float, ...]]]:
    """(what computes, bounds of its errors, signs of the disturbances of each disturbed run)."""
    drawn: list[tuple[float, ...]] = [(-1.0, 1.0)] * DRAWS
    if fixed is None:
        return FloatUnits(), bounds_of, drawn
    whole = whole_numbers(op for op in method.expand(case, decided) if isinstance(op, Primitive))
    bounds = FixedBounds(fixed.formats, fixed.beat, frozenset(whole))
    return FixedUnits(fixed.formats, fixed.beat, whole), bounds, [*drawn, (-1.0,), (1.0,)]


def _overflowed(overflows: Mapping[str, Overflow]) -> str:
    """The first operation whose results do not fit, or nothing."""
    for name, each in overflows.items():
        return (
            f"{name} ({each.kind}) must fit {each.format}; {each.count} of its numbers do not, the largest of which has the "
            f"magnitude {each.largest:.6g}"
        )
    return ""


def filled(program: StreamProgram, tensors: Mapping[str, Any], units: Units) -> StreamMemory:
    """The words of the machine before the program begins."""
    memory = StreamMemory(program.memory_words, program.buffer_words, units)
    for name, places in program.inputs.items():
        for place in places:
            memory.write((place,), tensors[name])
    for op, place in program.presets:
        memory.write((place,), units.closed(op.meaning()))
    return memory


def _changed(program: StreamProgram, tensors: Mapping[str, Any], change: Any) -> dict[str, Any]:
    memory = filled(program, tensors, FloatUnits(np.float64))
    execute_changed(program.calls, memory, change)
    return results_of(memory, program.results, program.assembled)


def _against(decided: Mapping[str, Any] | None, results: Mapping[str, Any], number_format: str) -> str:
    """Whether what the data decide on the machine is what the program was built on."""
    for name, expected in (decided or {}).items():
        if name in results and not np.array_equal(results[name], expected):
            return f"{name} must be what the program was built on; the data decide otherwise in {number_format}"
    return ""


def _in_time(
    program: StreamProgram,
    times: Sequence[tuple[int, int]],
    tensors: Mapping[str, Any],
    expected: Mapping[str, Any],
    units: Units,
) -> str:
    memory = filled(program, tensors, units)
    execute_in_time(program.calls, memory, times)
    found = results_of(memory, program.results, program.assembled)
    for name, value in expected.items():
        if not _same(value, found[name]):
            return f"{name} must be the same in program order and in the machine's order; a call does not wait for what it reads"
    return ""


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return all(_same(a, b) for a, b in zip(one, other, strict=True))
    return one is other is None or np.array_equal(one, other, equal_nan=True)


__all__ = [
    "BOUNDS", "DRAWS", "EXACT", "Disturbance", "EndError", "FixedPoint", "PrimitiveJudge", "bounds_of", "check", "compare_end",
    "filled",
]  # fmt: skip
