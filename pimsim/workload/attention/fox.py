"""Forgetting attention with adaptive computation pruning: tiles whose decay makes them negligible are not computed.

Sources: Lin et al. 2025, arXiv 2503.02130 (gate) and 2504.06949 (pruning). With the logarithm of the forget gate ``log_f``,
its running sum ``lambda`` and ``D_ij = lambda_i - lambda_j``, the weights are ``softmax(s_ij + D_ij)``. A pair is
negligible if ``D_ij < delta``, ``delta = -(2 U + ln N) + ln eps`` with an upper bound U of the scores' magnitude, so that what
is pruned of a row weighs at most eps. D grows with j and falls with i: a tile is dropped iff its first row and last
column are negligible, and a pointer that never moves back finds the first tile that is kept (``start``).

`sample` draws queries, keys and values of unit norm per element and the constant gate ``log_f = -gate``.
"""

from __future__ import annotations

from math import log
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pimsim.errors import WorkloadError
from pimsim.model import PositiveFloat, PositiveInt
from pimsim.workload.attention.base import (
    ALGORITHMS,
    Algorithm,
    Case,
    Counts,
    Decided,
    Floats,
    Tensors,
    dense_scores,
    dense_softmax,
    whole,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Band, Boundary, EmptyState, Primitive, Shape
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("fox")
class Fox(Algorithm):
    """Tiles from a boundary that the gates decide."""

    description: ClassVar[str] = "forgetting attention with adaptive computation pruning of negligible tiles"
    source: ClassVar[str] = "Lin et al. 2025, arXiv 2503.02130, 2504.06949"
    phases: ClassVar[tuple[Phase, ...]] = ("prefill",)
    exact: ClassVar[bool] = False
    decides: ClassVar[bool] = True

    block_rows: PositiveInt = Field(128, description="queries of a tile")
    block_columns: PositiveInt = Field(64, description="keys of a tile")
    bound: PositiveFloat = Field(8.0, description="upper bound U of the magnitude of a score")
    log_eps: float = Field(-10.0, lt=0, description="logarithm of the weight that may be pruned in a row")
    gate: PositiveFloat = Field(0.01, description="-log f of the distribution from which `sample` draws")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if heads share keys or the case is not causal."""
        super().check(case)
        if case.groups != case.heads or not case.causal:
            raise WorkloadError("attention fox must be causal with as many kv_heads as heads")

    def delta(self, case: Case) -> float:
        """Threshold of the decay."""
        return -(2 * self.bound + log(case.keys)) + self.log_eps

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Queries, keys, values, running sums ``lambda [heads, keys]`` of log f, and the threshold per head."""
        return super().inputs(case) | {"lambda": (case.heads, case.keys), "delta": (case.heads,)}

    def sample(self, case: Case, seed: int = 0) -> dict[str, Floats]:
        """See the module."""
        found = super().sample(case, seed)
        found["lambda"] = np.tile(-self.gate * np.arange(1, case.keys + 1), (case.heads, 1))
        found["delta"] = np.full(case.heads, self.delta(case))
        return found

    def decide(self, case: Case, tensors: Tensors) -> dict[str, npt.NDArray[np.int64]]:
        """First key that each tile row keeps, by trying every tile."""
        m, n, rows, columns = case.queries, case.keys, self.block_rows, self.block_columns
        first = tensors["lambda"][:, case.offset + np.arange(0, m, rows)]
        last = tensors["lambda"][:, np.minimum(np.arange(0, n, columns) + columns, n) - 1]
        dropped = first[:, :, None] - last[:, None, :] < tensors["delta"][:, None, None]
        return {"start": dropped.sum(-1) * columns}

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Dense, with the pairs of dropped tiles masked."""
        s, lam = dense_scores(case, tensors), tensors["lambda"]
        s = s + lam[:, case.offset :, None] - lam[:, None, :]
        start = np.repeat(self.decide(case, tensors)["start"], self.block_rows, axis=1)[:, : case.queries]
        s = np.where(np.arange(case.keys) < start[:, :, None], -np.inf, s)
        return {"output": dense_softmax(s) @ whole(case, tensors, "v")}

    def tiles(self, case: Case, start: npt.NDArray[np.int64]) -> int:
        """Tiles of all heads that are computed."""
        ends = case.offset + np.minimum(np.arange(0, case.queries, self.block_rows) + self.block_rows, case.queries)
        return int((-((start - ends[None, :]) // self.block_columns)).sum())

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:
        """What is right of the boundary; one exponential to rescale each row of a kept tile."""
        start, m, d = self.need(decided)["start"], case.queries, case.d_head
        pairs = visits = columns = 0
        for block, r in enumerate(range(0, m, self.block_rows)):
            size = min(self.block_rows, m - r)
            for first in start[:, block].tolist():
                end = case.offset + r + size
                pairs += size * (case.offset + r - first) + size * (size + 1) // 2
                visits += size * -(-(end - first) // self.block_columns)
                columns += end - first
        # a boundary lies at most at its first row, whose own key is never dropped
        return Counts(
            scores=pairs + self._clipped(case, start),
            exps=pairs + self._clipped(case, start) + visits,
            macs=2 * (pairs + self._clipped(case, start)) * d,
            reads=case.heads * m * d + 2 * columns * d,
            writes=case.heads * m * d,
            persistent=case.heads * case.keys * (2 * d + 1),
        )

    def _clipped(self, case: Case, start: npt.NDArray[np.int64]) -> int:
        """Pairs that the closed form of a row's length counts below zero, where the boundary lies behind a row."""
        rows = case.offset + np.arange(case.queries) + 1
        length = rows[None, :] - np.repeat(start, self.block_rows, axis=1)[:, : case.queries]
        return int(-length[length < 0].sum())

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:
        """Head by head, tile row by tile row, from the boundary to the diagonal."""
        self.check(case)
        start = self.need(decided)["start"]
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        lam = b.keep(b["lambda"])
        b.add(
            Boundary, b["lambda"], b["delta"], name="start", rows=case.queries, block_rows=self.block_rows,
            block_columns=self.block_columns,
        )  # fmt: skip
        heads: list[Primitive] = []
        for h in range(case.heads):
            q, keys, values = (b.head(x, h) for x in (b["q"], k, v))
            mine = b.head(lam, h)
            heads.append(
                b.join([self._row(b, case, r, int(start[h, r]), q, keys, values, mine) for r in range(start.shape[1])])
            )
        b.store(b.join(heads, axis=0), name="output")
        return b.graph()

    def _row(
        self, b: Expansion, case: Case, block: int, start: int, q: Primitive, k: Primitive, v: Primitive, lam: Primitive
    ) -> Primitive:
        r = block * self.block_rows
        stop = min(r + self.block_rows, case.queries)
        end = case.offset + stop
        mine = b.load(q, r, stop)
        state: Primitive = b.add(EmptyState, to=(1, stop - r, 2 + case.d_head))
        for c in range(start, end, self.block_columns):
            last = min(c + self.block_columns, end)
            decay = b.decay(lam, case.offset + r, end, c, last)
            s = b.scores(mine, b.load(k, c, last), case.scale, Band(row0=case.offset + r, col0=c), decay)
            state = b.fold(s, b.load(v, c, last), state)
        return b.normalise(state)
