"""Gated attention: a sigmoid of the token scales the output of each head, so that a head can do nothing.

Source: Bondarenko et al. 2023, arXiv 2306.12929: ``sigmoid(x_h g_h + b_h) * attention_h`` with one scalar for each head and
token, from that head's part of the layer's input; ``heads (d_head + 1)`` parameters.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

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
from pimsim.workload.attention.primitives import Band, Product, Shape, Softmax
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("gated")
class Gated(Algorithm):
    """Softmax attention times a gate."""

    description: ClassVar[str] = "softmax attention whose heads are scaled by a sigmoid gate of the token"
    source: ClassVar[str] = "Bondarenko et al. 2023, arXiv 2306.12929"
    exact: ClassVar[bool] = False

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Queries, keys, values, and for the gate x ``[heads, queries, d]``, a vector and a bias per head."""
        gate: dict[str, Shape] = {"x": (case.heads, case.queries, case.d_head)}
        return super().inputs(case) | gate | {"gate": (case.heads, case.d_head, 1), "bias": (case.heads, 1, 1)}

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """The formula."""
        z = np.einsum("hnd,hd->hn", tensors["x"], tensors["gate"][:, :, 0]) + tensors["bias"][:, :, 0]
        return {"output": exact_attention(case, tensors) / (1 + np.exp(-z))[:, :, None]}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """As vanilla on chip, d more products, one more exponential and one more row in for each head and token."""
        pairs, kv = case.heads * case.pairs(), case.groups * case.keys * case.d_head
        rows = case.heads * case.queries
        appended = 2 * case.groups * case.d_head * (case.phase == "decode")
        return Counts(
            scores=pairs,
            exps=pairs + rows,
            macs=(2 * pairs + rows) * case.d_head,
            reads=2 * rows * case.d_head + 2 * kv,
            writes=rows * case.d_head + appended,
            persistent=2 * kv,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Attention, gate, product."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        s = b.scores(b.load(b["q"]), b.load(k), case.scale, Band(row0=case.offset) if case.causal else None)
        found = b.add(Product, b.add(Softmax, s, pairs=s.pairs), b.load(v), pairs=s.pairs)
        z = b.apply("add", b.product(b.load(b["x"]), b["gate"]), b["bias"])
        b.store(b.apply("multiply", found, b.apply("sigmoid", z)), name="output")
        return b.graph()
