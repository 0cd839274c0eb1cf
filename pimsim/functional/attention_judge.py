"""The result of every primitive of an attention program against float64, from what the program had as its operands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pimsim.functional.numerics import Array, FloatSpec
from pimsim.functional.verdict import Verdict, summary
from pimsim.program.isa import Placed, Step
from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.primitives import Primitive

Look = Callable[[str], Any]
"""Name of an operation -> its result, from where the program leaves it."""


@dataclass
class Snapshots:
    """Results at the moment at which the last step of their operation is done; later the place may be somebody else's."""

    look: Look
    besides: frozenset[str] = frozenset()
    """Kinds of operations of the program that are no primitives."""
    taken: dict[str, Any] = field(default_factory=dict)
    left: Counter[int] = field(default_factory=Counter)
    """Operation of the block -> steps that are to come."""

    def begin(self, placed: Placed) -> None:
        """A program is about to run: note how many steps each operation has."""
        self.left = Counter(step.op for stream in {id(s): s for s in placed.block.streams}.values() for step in stream)

    def after_step(self, step: Step, placed: Placed) -> None:
        """Take the result of an operation that is complete."""
        self.left[step.op] -= 1
        op = placed.block.ops[step.op]
        if not self.left[step.op] and op.kind not in self.besides:
            self.taken[op.name] = self.look(op.name)


@dataclass(frozen=True)
class Judge:
    """Compares; ``amplitude`` says how far off a primitive may be, relative to what it adds up."""

    spec: FloatSpec
    amplitude: Callable[[Primitive], float]

    def compare(
        self, ops: Sequence[Primitive], given: Mapping[str, Any], taken: Mapping[str, Any], exact: tuple[type, ...]
    ) -> tuple[dict[str, dict[str, float]], str]:
        """(figures by kind, message of the first result that is wrong or nothing)."""
        results: dict[str, Any] = {}
        verdicts: list[Verdict] = []
        message = ""
        for op in ops:
            if op.name in given:
                results[op.name] = given[op.name]
                continue
            wanted = op.meaning(*(results[name] for name in op.inputs))
            found = taken.get(op.name)
            if found is not None and _is_whole(wanted):
                found = np.rint(found).astype(np.int64)
            if found is None or isinstance(op, prim.Decision):  # a view, or what data decide
                results[op.name] = wanted if found is None else found
                continue
            results[op.name] = found
            used, error, allowed = self._used(op, found, wanted, [results[name] for name in op.inputs], exact)
            verdicts.append(_verdict(op, wanted, used, error, allowed))
            if not used <= 1 and not message:
                message = (
                    f"{op.name} ({op.KIND}) must be what its operands give, within {allowed:.3g} in the 2-norm, not "
                    f"{error:.3g} off"
                )
        return summary(verdicts), message

    def _used(
        self, op: Primitive, found: Any, wanted: Any, inputs: Sequence[Any], exact: tuple[type, ...]
    ) -> tuple[float, float, float]:
        """(error over what is allowed, error, what is allowed); of weights the worst of their three parts."""
        if isinstance(wanted, prim.Weights):
            top = _largest(wanted.head[..., 0]) + _largest(inputs[0])
            sizes = [np.abs(wanted.head) + 1, wanted.factor, wanted.weights]
            parts = [
                self._part(one, other, size, self.amplitude(op) + self._of_exponent(op, top))
                for one, other, size in zip(found, wanted, sizes, strict=True)
                if other is not None
            ]
            return max(parts)
        size = 0.0 if isinstance(op, exact) else self.amplitude(op)
        if isinstance(op, prim.Softmax):
            size += self._of_exponent(op, _largest(inputs[0]))
        return self._part(found, wanted, _magnitude(op, wanted, inputs), size)

    def _of_exponent(self, op: Primitive, largest: float) -> float:
        """What rounding the exponent costs: relative, an absolute error of the argument."""
        unit = 2.0**-self.spec.precision if getattr(op, "layout", "") == "log" else 0.0
        return float(np.expm1(min(20.0, largest * (unit + 2.0**-22))))

    def _part(self, found: Any, wanted: Any, magnitude: Any, amplitude: float) -> tuple[float, float, float]:
        finite = np.isfinite(wanted)
        if not np.array_equal(np.isfinite(found), finite):
            return np.inf, np.inf, 0.0
        error = float(np.linalg.norm(np.where(finite, found - np.where(finite, wanted, 0.0), 0.0)))
        tiny = self.spec.smallest_normal * float(np.sqrt(np.size(wanted)))
        allowed = amplitude * float(np.linalg.norm(np.where(finite, magnitude, 0.0))) + tiny * bool(amplitude)
        return (error / allowed if allowed else float(error > 0) * np.inf if error else 0.0), error, allowed


def _verdict(op: Primitive, wanted: Any, used: float, error: float, allowed: float) -> Verdict:
    """All of the 2-norm: of the error, of what is exact and of what is allowed."""
    parts = [each for each in wanted if each is not None] if isinstance(wanted, prim.Weights) else [wanted]
    size = max(float(np.linalg.norm(np.where(np.isfinite(each), each, 0.0))) for each in parts)
    nowhere = float("nan")
    return Verdict(op, error, size, allowed, used, error / size if size else error, (), nowhere, nowhere)


def _is_whole(x: Any) -> bool:
    return isinstance(x, np.ndarray) and bool(np.issubdtype(x.dtype, np.integer))


def _largest(x: Any) -> float:
    values = np.abs(np.asarray(x, float))
    return float(np.max(values[np.isfinite(values)], initial=0.0))


def _magnitude(op: Primitive, wanted: Any, inputs: Sequence[Any]) -> Any:
    """What errors of a result are relative to: the sum of the magnitudes of what is added up."""
    if isinstance(
        op, prim.Scores | prim.Product | prim.WeightedSum | prim.Merge | prim.Pool | prim.GroupMean | prim.Depthwise
    ):
        sizes = [_sizes(each) for each in inputs]
        if isinstance(op, prim.Merge):  # its first element is a maximum, not a magnitude
            sizes = [
                np.concatenate([each[..., :1], size[..., 1:]], -1) for each, size in zip(inputs, sizes, strict=True)
            ]
        return np.abs(op.meaning(*sizes))
    if isinstance(op, prim.Norm):
        x, gain, shift = inputs
        over = tuple(range(-op.axes, 0))
        square, variance = (x**2).mean(over, keepdims=True), x.var(over, keepdims=True) + op.eps
        return (np.abs(wanted - shift) + np.abs(gain) * np.sqrt(square / variance)) * (1 + square / variance) + np.abs(
            shift
        )
    if isinstance(op, prim.Normalise) and op.also == "lse":
        return np.abs(wanted) + 1
    if isinstance(op, prim.Elementwise | prim.Outer | prim.Reduce):
        return np.abs(wanted) + sum(np.abs(np.where(np.isfinite(each), each, 0.0)).max(initial=0.0) for each in inputs)
    return np.abs(wanted)


def _sizes(x: Any) -> Any:
    if isinstance(x, prim.Weights):
        return prim.Weights(np.abs(x.head), None if x.factor is None else np.abs(x.factor), np.abs(x.weights))
    values: Array = np.asarray(x)
    return values if _is_whole(values) else np.abs(values)


__all__ = ["Judge", "Snapshots"]
