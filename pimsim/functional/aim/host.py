"""The host of GDDR6-AiM on numbers: it walks the graph, sends the operands of products, and does the rest itself.

Vectors of the host hold numbers of the device's format. It computes in float32 with the algorithms that an ASIC has
(`AsicMath`): those of the machine's configuration, or `PLAIN_HOST` where the machine leaves its host open. The factor of
the scores lies in the projection of the queries, and what a softmax sums up to divides the weighted values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pimsim.arch.dram import DramSpec
from pimsim.arch.system import AsicConfig, AsicFunctions
from pimsim.errors import UnsupportedOp
from pimsim.functional.aim.device import AimDevice
from pimsim.functional.functions import Arithmetic, AsicMath, rope_tables
from pimsim.functional.numerics import FloatSpec, MacArithmetic
from pimsim.program.aim_segments import PlacedSegment, Transfer
from pimsim.workload import ops
from pimsim.workload.graph import WorkloadGraph

Array = npt.NDArray[Any]
Work = Sequence[tuple[PlacedSegment, Sequence[Transfer]]]
"""The segments of an operation, and what the host sends and takes in each."""

PLAIN_HOST = AsicConfig(
    clock_mhz=1000.0,
    sram_bytes=1 << 30,
    adders=8,
    multipliers=8,
    adder_latency=1,
    multiplier_latency=1,
    functions=AsicFunctions(exp_taylor_terms=9, reciprocal_newton_steps=4, rsqrt_newton_steps=3),
    function_units="pipelined",
)
"""A host that computes in float32 with vectors of eight elements; its algorithms err less than float32 rounds."""


class AimExecutor:
    """A model on GDDR6-AiM, token by token; weights are in place, keys and values stay.

    Attributes:
        device: memories of all channels.
    """

    def __init__(
        self,
        graph: WorkloadGraph,
        weights: Mapping[str, Array],
        spec: DramSpec,
        mac: MacArithmetic,
        host: AsicConfig | None,
        matrix_row: Callable[[ops.Linear, int, int], int],
    ) -> None:
        """Place the matrices; ``matrix_row(op, group, tile)`` says where."""
        assert isinstance(mac.format, FloatSpec)
        self.graph, self._weights, self._format = graph, weights, mac.format
        self._ops = tuple(graph)
        self.host = host or PLAIN_HOST
        self.device = AimDevice(spec, mac)
        self._math = AsicMath(self.host.functions, Arithmetic.of(self.host))
        self._columns: dict[str, Array] = {}
        """Append -> values of the tokens that share a column with the last one, ``[lanes, kv_heads * d_head]``."""
        self._sums: dict[str, Array] = {}
        """Softmax -> sums of its exponentials, one for each head."""
        self._position = self._token = 0
        self._results: dict[str, Array] = {}
        for op in self._ops:
            if isinstance(op, ops.Linear):
                self._place(op, matrix_row)

    def run(self, token: int, position: int, work: Mapping[str, Work]) -> dict[str, Array]:
        """One forward pass; the result of each operation by name, float32 (what it lacks is NaN), of a softmax its shares.

        Args:
            token: that the pass reads.
            position: of the token, from 0.
            work: operation -> its segments, with the transfers of each.
        """
        self._token, self._position = token, position
        self._results, shares = {}, {}
        for op in self._ops:
            inputs = [self._results[name] for name in op.inputs if name in self._results]
            rule = self._rules.get(type(op))
            if rule is None:
                raise UnsupportedOp(f"operation {op.name!r} must be one that can be checked, not {type(op).__name__}")
            found = rule(self, op, work.get(op.name, ()), *inputs)
            if found is not None:
                self._results[op.name] = found
            if isinstance(op, ops.Softmax):
                shares[op.name] = found.astype(np.float64) * self._reciprocals(op.name)[:, np.newaxis]
        return self._results | shares

    def _rounded(self, values: Array) -> Array:
        return self._format.round_to(values).astype(np.float32)

    def _device(self, work: Work, size: int, **vectors: Array) -> Array:
        """Carry out segments that give ``size`` numbers."""
        named = {"bias": np.zeros(0, np.float32), "output": np.full(size, np.nan, np.float32), **vectors}
        for placed, transfers in work:
            self.device.run(placed, transfers, named)
        return named["output"]

    # -- constants ------------------------------------------------------------------------------------------------

    def _place(self, op: ops.Linear, matrix_row: Callable[[ops.Linear, int, int], int]) -> None:
        device = self.device
        matrix = self._weights[op.tied].T if op.tied and op.tied in self._weights else self._weights[op.weight_name]
        matrix = matrix * self._fold(op)
        width, height = device.channels * device.banks, device.columns * device.lanes
        for group, first in enumerate(range(0, op.d_out, width)):
            for tile, start in enumerate(range(0, op.d_in, height)):
                row = matrix_row(op, group, tile)
                device.place(row, matrix[start : start + height, first : first + width])

    def _fold(self, op: ops.Linear) -> Array:
        """The factor of the scores for queries, 1 for other outputs."""
        fold = np.ones(op.d_out, np.float32)
        if op.kind == "qkv_projection":
            scores = next(each for each in self._ops if isinstance(each, ops.Scores))
            fold[: scores.heads * scores.d_head] = scores.scale
        return fold

    # -- products -------------------------------------------------------------------------------------------------

    def _linear(self, op: ops.Linear, work: Work, x: Array) -> Array:
        bias = self._weights[op.bias_name] * self._fold(op) if op.bias_name else np.zeros(op.d_out, np.float32)
        return self._device(work, op.d_out, input=x, bias=bias)

    def _append(self, op: ops.CacheWrite, work: Work, qkv: Array) -> None:
        width = op.kv_heads * op.d_head
        column = self._columns.setdefault(op.name, np.zeros((self.device.lanes, width), np.float32))
        column[self._position % self.device.lanes] = qkv[-width:]
        self._device(work, 0, input=qkv, column=column.ravel())

    def _scores(self, op: ops.Scores, work: Work, qkv: Array) -> Array:
        context = self._position + 1
        return self._device(work, op.heads * context, input=qkv).reshape(op.heads, context)

    def _values(self, op: ops.Values, work: Work, exponentials: Array) -> Array:
        found = self._device(work, op.heads * op.d_head, input=exponentials.ravel()).reshape(op.heads, op.d_head)
        softmax = next(name for name in op.inputs if name in self._sums)
        return self._rounded(self._math.scale(found, self._reciprocals(softmax)[:, np.newaxis])).ravel()

    def _reciprocals(self, softmax: str) -> Array:
        return self._rounded(self._math.reciprocal(self._sums[softmax]))

    # -- the host itself ------------------------------------------------------------------------------------------

    def _embedding(self, op: ops.Embedding, _work: Work) -> Array:
        row = self._rounded(self._weights[f"{op.name}.tokens"][self._token] * np.float32(op.scale))
        if op.positions:
            row = self._math.add(row, self._rounded(self._weights[f"{op.name}.positions"][self._position]))
        return self._rounded(row)

    def _layer_norm(self, op: ops.LayerNorm, _work: Work, x: Array) -> Array:
        gamma, beta = self._weights[f"{op.name}.gamma"] + np.float32(op.offset), self._weights[f"{op.name}.beta"]
        return self._rounded(self._math.layernorm(x, gamma, beta, op.eps))

    def _rms_norm(self, op: ops.RmsNorm, _work: Work, x: Array) -> Array:
        return self._rounded(self._math.rmsnorm(x, self._weights[f"{op.name}.gamma"] + np.float32(op.offset), op.eps))

    def _rope(self, op: ops.Rope, _work: Work, qkv: Array) -> Array:
        turned = (op.heads + op.kv_heads) * op.d_head
        cos, sin = rope_tables(self._position, op.rotary, op.theta, op.factors or None)
        heads = qkv[:turned].reshape(-1, op.d_head)
        rotated = self._rounded(self._math.rope(heads, cos, sin, op.convention == "interleaved"))
        return np.concatenate([rotated.ravel(), qkv[turned:]])

    def _softmax(self, op: ops.Softmax, _work: Work, scores: Array) -> Array:
        exponentials, sums = self._math.softmax(scores)
        self._sums[op.name] = self._rounded(sums[:, 0])
        return self._rounded(exponentials)

    def _gelu(self, _op: ops.Gelu, _work: Work, x: Array) -> Array:
        return self._rounded(self._math.gelu(x))

    def _activation(self, op: ops.Activation, _work: Work, x: Array) -> Array:
        return self._rounded(getattr(self._math, op.function)(x))

    def _gate(self, op: ops.Gate, _work: Work, x: Array) -> Array:
        function = "gelu" if op.function == "gelu_tanh" else op.function
        gate = self._rounded(getattr(self._math, function)(x[: op.width]))
        return self._rounded(self._math.multiply(gate, x[op.width :]))

    def _residual(self, _op: ops.Residual, _work: Work, x: Array, y: Array) -> Array:
        return self._rounded(self._math.add(x, y))

    def _argmax(self, _op: ops.ArgMax, _work: Work, logits: Array) -> Array:
        return np.array([self._math.argmax(logits)], np.float32)

    _rules: ClassVar[dict[type[ops.OpNode], Callable[..., Any]]] = {
        ops.Embedding: _embedding,
        ops.LayerNorm: _layer_norm,
        ops.RmsNorm: _rms_norm,
        ops.Linear: _linear,
        ops.Rope: _rope,
        ops.CacheWrite: _append,
        ops.Scores: _scores,
        ops.Softmax: _softmax,
        ops.Values: _values,
        ops.Gelu: _gelu,
        ops.Activation: _activation,
        ops.Gate: _gate,
        ops.Residual: _residual,
        ops.ArgMax: _argmax,
    }
    """Operation type -> what host and device make of it; None for what leaves nothing on the host."""


__all__ = ["PLAIN_HOST", "AimExecutor", "Work"]
