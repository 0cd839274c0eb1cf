"""What a decoder on GDDR6-AiM may differ from float64 by, operation by operation.

As `pimsim.functional.check`, but sums stay in the MAC registers over all tiles of a vector, beginning with the bias: they
are rounded to the format once, when they are read. With u the unit roundoff of the format, u_acc that of the registers, eta
the smallest subnormal number of the format, k the roundings on the way (a tree for each column, one addition per column):

    product   ``(|x| |W| (1 + u) + |x|_1 eta / 2 + |b| (1 + u)) (1 + u_acc)^k - |x| |W| - |b| + u |y|``, W and b rounded to the
              format, x as the program had it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, log2
from typing import Any, ClassVar

import numpy as np

from pimsim.arch.system import AsicConfig
from pimsim.functional.check import A, Judge, Places
from pimsim.functional.numerics import Array, MacArithmetic, float_spec
from pimsim.workload import ops
from pimsim.workload.graph import WorkloadGraph

WHOLE = 1 << 40
"""Elements of a vector that are added up before a sum is rounded: all."""


class AimJudge(Judge):
    """A `Judge` of vectors by name, as `AimExecutor.run` gives them."""

    def __init__(
        self, graph: WorkloadGraph, weights: Mapping[str, Array], mac: MacArithmetic, host: AsicConfig, lanes: int
    ) -> None:
        every = {op.name: 0 for op in graph}
        places = Places(every, 0, 0, 1, 0, buffer=WHOLE, lanes=lanes, chunk=WHOLE)
        super().__init__(graph, weights, mac, host, places)

    def _result(self, op: ops.OpNode, written: Mapping[str, Array], position: int) -> Array:  # noqa: ARG002
        values = written[op.name].astype(np.float64)
        scores = self._scores_after(op)
        if scores is not None:  # its factor is folded into the projection
            values[: scores.heads * scores.d_head] /= scores.scale
        return values

    def _linear(self, op: ops.Linear, x: Array) -> tuple[Array, Array]:
        matrix = self._matrix(op)
        bias = self.weights[op.bias_name].astype(np.float64) if op.bias_name else np.zeros(op.d_out)
        exact = x @ matrix.astype(np.float64) + bias
        size = np.abs(x).astype(np.float32) @ np.abs(matrix) * (1 + 2 * op.d_in * A)  # float32 will do for a bound
        accumulator, lanes = float_spec(self.mac.accumulator), self.places.lanes
        columns = ceil(op.d_in / lanes)
        k = 1 + (ceil(log2(lanes)) + columns if self.mac.tree else columns * lanes)
        subnormal = (np.sum(np.abs(x)) + 1) * self.spec.smallest_subnormal / 2 / self._fold(op)
        operands = (size + np.abs(bias)) * (1 + self.u) * (1 + 2 * A) + subnormal  # 2 A: the factor of the scores
        bound = operands * (1 + accumulator.unit_roundoff) ** k - size - np.abs(bias)
        bound = bound + op.d_in * accumulator.smallest_subnormal / self._fold(op)
        return exact, bound * (1 + self.u) + self.u * np.abs(exact) + self.spec.smallest_subnormal / self._fold(op)

    _rules: ClassVar[dict[type[ops.OpNode], Callable[..., tuple[Any, Any]]]] = {
        **Judge._rules,  # noqa: SLF001 (its own)
        ops.Linear: _linear,
    }


__all__ = ["AimJudge"]
