"""Softmax attention as written down: scores, softmax over whole rows, weighted sum.

With ``materialise`` scores and probabilities go to memory and back (the unfused textbook form: ``4 N d + 4 N^2`` words
for one head of N queries and keys); without it they stay on chip.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pimsim.workload.attention.base import (
    ALGORITHMS,
    Algorithm,
    Case,
    Counts,
    Decided,
    Floats,
    Tensors,
    exact_attention,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Band, Product, Softmax
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("vanilla")
class Vanilla(Algorithm):
    """Scores, softmax over the whole row, weighted sum."""

    description: ClassVar[str] = (
        "every token attends to all tokens before it, with one softmax over the whole row of scores"
    )
    source: ClassVar[str] = "Vaswani et al. 2017, arXiv 1706.03762"

    materialise: bool = Field(True, description="scores and probabilities go through memory")

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Softmax attention in one go."""
        return {"output": exact_attention(case, tensors)}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """One score, exponential and two products of d per pair."""
        h, m, n, d = case.heads, case.queries, case.keys, case.d_head
        pairs, kv = h * case.pairs(), case.groups * n * d
        square = h * m * n * self.materialise
        appended = 2 * case.groups * d * (case.phase == "decode")
        return Counts(
            scores=pairs,
            exps=pairs,
            macs=2 * pairs * d,
            reads=h * m * d + 2 * kv + 2 * square,
            writes=h * m * d + 2 * square + appended,
            persistent=2 * kv,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Each matrix once."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        band = Band(row0=case.offset) if case.causal else None
        s = b.scores(b.load(b["q"]), b.load(k), case.scale, band)
        if self.materialise:
            s = b.load(b.store(s))
        p = b.add(Softmax, s, pairs=s.pairs)
        weights = b.load(b.store(p)) if self.materialise else p
        b.store(b.add(Product, weights, b.load(v), pairs=s.pairs), name="output")
        return b.graph()
