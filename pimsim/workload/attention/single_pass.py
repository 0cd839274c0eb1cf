"""Softmax in a single pass over the keys: a running (maximum, sum, values) per row, block after block.

Source: Milakov and Gimelshein 2018, arXiv 1805.02867. Each block of keys is folded into the state at one
exponential per pair and one per row to rescale.
"""

from __future__ import annotations

from typing import ClassVar

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
    exact_attention,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Band, EmptyState, Primitive
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("single_pass")
class SinglePass(Algorithm):
    """One pass over the keys, no score is stored."""

    description: ClassVar[str] = "softmax in one pass over the keys, with a running maximum and sum for each row"
    source: ClassVar[str] = "Milakov and Gimelshein 2018, arXiv 1805.02867"

    block: PositiveInt = Field(1, description="keys that are folded into the state together")

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Softmax attention in one go."""
        return {"output": exact_attention(case, tensors)}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """As vanilla on chip, and one exponential to rescale each row for each block."""
        h, m, n, d = case.heads, case.queries, case.keys, case.d_head
        pairs, kv = h * case.pairs(), case.groups * n * d
        appended = 2 * case.groups * d * (case.phase == "decode")
        return Counts(
            scores=pairs,
            exps=pairs + h * m * -(-n // self.block),
            macs=2 * pairs * d,
            reads=h * m * d + 2 * kv,
            writes=h * m * d + appended,
            persistent=2 * kv,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """A chain of folds."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        q = b.load(b["q"])
        state: Primitive = b.add(EmptyState, to=(case.heads, case.queries, 2 + case.d_head))
        for start in range(0, case.keys, self.block):
            stop = min(start + self.block, case.keys)
            band = Band(row0=case.offset, col0=start) if case.causal else None
            s = b.scores(q, b.load(k, start, stop), case.scale, band)
            state = b.fold(s, b.load(v, start, stop), state)
        b.store(b.normalise(state), name="output")
        return b.graph()
