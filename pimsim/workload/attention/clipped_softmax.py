"""Clipped softmax: probabilities are stretched and clipped, so that a head can attend to nothing without large scores.

Source: Bondarenko et al. 2023, arXiv 2306.12929: ``clip((zeta - gamma) softmax(s) + gamma, 0, 1)``. Rows no longer sum to 1.
Masked entries have probability 0 and stay 0, as gamma is not above 0.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

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
from pimsim.workload.attention.primitives import Band, Product, Softmax
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("clipped_softmax")
class ClippedSoftmax(Algorithm):
    """Softmax with exact zeros."""

    description: ClassVar[str] = "softmax whose probabilities are stretched and clipped to exact zeros and ones"
    source: ClassVar[str] = "Bondarenko et al. 2023, arXiv 2306.12929"
    exact: ClassVar[bool] = False

    gamma: float = Field(-0.03, le=0, description="lower end of the stretched range")
    zeta: float = Field(1.0, ge=1, description="upper end of the stretched range")

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """The formula."""
        p = dense_softmax(dense_scores(case, tensors))
        clipped = np.minimum(np.maximum((self.zeta - self.gamma) * p + self.gamma, 0), 1)
        return {"output": clipped @ whole(case, tensors, "v")}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """As vanilla on chip: what is clipped to zero is not skipped."""
        pairs, kv = case.heads * case.pairs(), case.groups * case.keys * case.d_head
        rows = case.heads * case.queries * case.d_head
        appended = 2 * case.groups * case.d_head * (case.phase == "decode")
        return Counts(
            scores=pairs,
            exps=pairs,
            macs=2 * pairs * case.d_head,
            reads=rows + 2 * kv,
            writes=rows + appended,
            persistent=2 * kv,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """One matrix after the other, on chip."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        s = b.scores(b.load(b["q"]), b.load(k), case.scale, Band(row0=case.offset) if case.causal else None)
        p = b.apply("clip", b.add(Softmax, s, pairs=s.pairs), constants=(self.zeta - self.gamma, self.gamma))
        b.store(b.add(Product, p, b.load(v), pairs=s.pairs), name="output")
        return b.graph()
