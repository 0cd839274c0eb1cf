"""Top-k attention: only the k largest scores of each row take part, queries in chunks.

Source: Gupta et al. 2021, arXiv 2106.06899, and its code: queries are cut into ``max(1, floor(M / chunk))`` equal parts, so
that a part may exceed the chunk. The softmax is over the k scores that are kept; ties go to the lower index. A row with
fewer than k keys before it selects masked ones, whose weight is 0.
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
from pimsim.workload.attention.primitives import Band, Gather, TopK
from pimsim.workload.graph import WorkloadGraph


def chunked(m: int, chunk: int) -> list[range]:
    """Rows of each chunk, in equal parts as the code cuts them."""
    size = -(-m // max(1, m // chunk))
    return [range(r, min(r + size, m)) for r in range(0, m, size)]


@ALGORITHMS.register("topk")
class TopKAttention(Algorithm):
    """The k largest scores of each row."""

    description: ClassVar[str] = "softmax over the k largest scores of each row, queries in chunks"
    source: ClassVar[str] = "Gupta et al. 2021, arXiv 2106.06899"
    exact: ClassVar[bool] = False

    k: PositiveInt = Field(128, description="scores that are kept in each row")
    chunk: PositiveInt = Field(1024, description="queries that are processed together")

    def parts(self, m: int) -> list[range]:
        """Queries of each chunk."""
        return chunked(m, self.chunk)

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Scores below the k-th of their row are dropped, those that equal it from the right."""
        s = dense_scores(case, tensors)
        kept = np.full_like(s, -np.inf)
        for at in np.ndindex(*s.shape[:2]):
            best = sorted(range(case.keys), key=lambda j: (-s[at][j], j))[: self.k]
            kept[at][best] = s[at][best]
        return {"output": dense_softmax(kept) @ whole(case, tensors, "v")}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """All scores, k exponentials and k random rows of V per query; K is read once per chunk."""
        h, g, m, n, d = case.heads, case.groups, case.queries, case.keys, case.d_head
        pairs, kept = h * case.pairs(), h * m * min(self.k, n)
        appended = 2 * g * d * (case.phase == "decode")
        chunk = -(-m // max(1, m // self.chunk))
        return Counts(
            scores=pairs,
            exps=kept,
            macs=(pairs + kept) * d,
            reads=h * m * d + -(-m // chunk) * g * n * d + kept * d,
            writes=h * m * d + appended,
            gathered=kept * d,
            persistent=2 * g * n * d,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Chunk by chunk."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        found = []
        for rows in self.parts(case.queries):
            band = Band(row0=case.offset + rows.start) if case.causal else None
            s = b.scores(b.load(b["q"], rows.start, rows.stop), b.load(k), case.scale, band)
            index = b.add(TopK, s, k=min(self.k, case.keys))
            found.append(b.normalise(b.fold(b.pick(s, index), b.add(Gather, v, index))))
        b.store(b.join(found), name="output")
        return b.graph()
