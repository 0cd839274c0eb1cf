"""Longformer: a sliding window, and some tokens that see all and are seen by all.

Source: Beltagy et al. 2020, arXiv 2004.05150. A query attends to the keys at most ``side`` positions away (half of the window)
and to the first ``global_tokens`` tokens, whose own rows attend to everything. Queries, keys and values are given, so that the
separate projections of global tokens are the caller's. With a causal mask nothing lies ahead.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from pimsim.model import PositiveInt
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
from pimsim.workload.attention.primitives import Band, Primitive
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("longformer")
class Longformer(Algorithm):
    """Window and global tokens."""

    description: ClassVar[str] = "a sliding window, and global tokens that see all and are seen by all"
    source: ClassVar[str] = "Beltagy et al. 2020, arXiv 2004.05150"
    exact: ClassVar[bool] = False

    side: int = Field(256, ge=0, description="keys on each side of a query: half of the window")
    global_tokens: int = Field(0, ge=0, description="tokens, from the first, that are global")
    block: PositiveInt = Field(64, description="queries that are processed together")

    def _blocks(self, case: Case) -> list[range]:
        """Positions of the queries of each block; the global ones are one."""
        split = min(max(case.offset, self.global_tokens), case.keys)
        found = [range(case.offset, split)] if split > case.offset else []
        return found + [range(p, min(p + self.block, case.keys)) for p in range(split, case.keys, self.block)]

    def _window(self, case: Case, rows: range) -> range:
        """Keys of a block of rows that are not global, without the global ones."""
        stop = rows.stop if case.causal else min(case.keys, rows.stop + self.side)
        return range(max(self.global_tokens, rows.start - self.side), stop)

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Dense, with a mask."""
        i, j = case.offset + np.arange(case.queries)[:, None], np.arange(case.keys)[None, :]
        seen = (abs(i - j) <= self.side) | (j < self.global_tokens) | (i < self.global_tokens)
        s = np.where(seen, dense_scores(case, tensors), -np.inf)
        return {"output": dense_softmax(s) @ whole(case, tensors, "v")}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Linear in the keys: of a row, the window behind the global tokens, and these."""
        h, g, m, n, d = case.heads, case.groups, case.queries, case.keys, case.d_head
        at = np.arange(case.offset, n)
        last = at if case.causal else np.minimum(at + self.side, n - 1)
        near = last - np.maximum(at - self.side, self.global_tokens) + 1 + self.global_tokens
        pairs = h * int(np.where(at < self.global_tokens, at + 1 if case.causal else n, near).sum())
        columns, ahead = 0, 0 if case.causal else self.side
        first = min(max(case.offset, self.global_tokens), n)
        if first > case.offset:
            columns += first if case.causal else n
        if first < n:
            columns += self.global_tokens
        for start in range(first, n, self.block):
            stop = min(start + self.block, n)
            columns += min(stop + ahead, n) - max(start - self.side, self.global_tokens)
        appended = 2 * g * d * (case.phase == "decode")
        return Counts(
            scores=pairs,
            exps=pairs,
            macs=2 * pairs * d,
            reads=h * m * d + 2 * g * columns * d,
            writes=h * m * d + appended,
            persistent=2 * g * n * d,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Block by block; keys of global tokens stay on chip."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        g = self.global_tokens
        shared: list[Primitive] = []
        found = []
        for rows in self._blocks(case):
            q = b.load(b["q"], rows.start - case.offset, rows.stop - case.offset)
            if rows.start < g:
                stop = rows.stop if case.causal else case.keys
                s = b.scores(q, b.load(k, 0, stop), case.scale, Band(row0=rows.start) if case.causal else None)
                found.append(b.normalise(b.fold(s, b.load(v, 0, stop))))
                continue
            if g and not shared:
                shared = [b.load(x, 0, g) for x in (k, v)]
            keys = self._window(case, rows)
            band = Band(0 if case.causal else -self.side, self.side, rows.start, keys.start)
            s = b.scores(q, b.load(k, keys.start, keys.stop), case.scale, band)
            values = b.load(v, keys.start, keys.stop)
            if g:
                s = b.join([b.scores(q, shared[0], case.scale), s], axis=-1)
                values = b.join([shared[1], values])
            found.append(b.normalise(b.fold(s, values)))
        b.store(b.join(found), name="output")
        return b.graph()
