"""Clustered attention: queries are grouped, the mean of a group attends for all of its queries.

Source: Vyas et al. 2020, arXiv 2007.04825. Groups come from Lloyd's algorithm with a fixed number of assignments, from the
first queries as centres; distances are Euclidean on the queries themselves, where the publication hashes them first. An
empty group keeps its centre while searching and attends with a query of zeros. The published second step, exact weights
for the best keys of a group, is not part of it.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pimsim.errors import WorkloadError
from pimsim.model import PositiveInt
from pimsim.workload.attention.base import (
    ALGORITHMS,
    Algorithm,
    Case,
    Counts,
    Decided,
    Floats,
    Tensors,
    dense_softmax,
    whole,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Arrange, Clusters, Gather, GroupMean, Softmax
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("clustered")
class Clustered(Algorithm):
    """One row of attention for each group of queries."""

    description: ClassVar[str] = "queries in groups, of which the mean attends: linear in the keys for a fixed number"
    source: ClassVar[str] = "Vyas et al. 2020, arXiv 2007.04825"
    phases: ClassVar[tuple[Phase, ...]] = ("prefill",)
    exact: ClassVar[bool] = False

    clusters: PositiveInt = Field(100, description="groups of a head, at most as many as there are queries")
    iterations: PositiveInt = Field(10, description="assignments of queries to groups")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if the case is causal: a group spans positions."""
        super().check(case)
        if case.causal:
            raise WorkloadError("attention clustered must have causal = false, as a group of queries spans positions")

    def assign(self, case: Case, tensors: Tensors) -> npt.NDArray[np.int64]:
        """Group of each query ``[heads, queries]``, query by query; for references."""
        found = np.zeros((case.heads, case.queries), np.int64)
        for h, q in enumerate(tensors["q"]):
            centres = [q[c] for c in range(min(self.clusters, case.queries))]
            for turn in range(self.iterations):
                if turn:
                    centres = [
                        q[found[h] == c].mean(0) if (found[h] == c).any() else old for c, old in enumerate(centres)
                    ]
                for i, row in enumerate(q):
                    found[h, i] = np.argmin([((row - centre) ** 2).sum() for centre in centres])
        return found

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """The mean query of each query's group attends to all keys."""
        groups = self.assign(case, tensors)
        k, v = whole(case, tensors, "k"), whole(case, tensors, "v")
        out = np.zeros((case.heads, case.queries, case.d_head))
        for h, i in np.ndindex(case.heads, case.queries):
            mean = tensors["q"][h][groups[h] == groups[h, i]].mean(0)
            out[h, i] = dense_softmax(k[h] @ mean * case.scale) @ v[h]
        return {"output": out}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """``C N`` scores of a head in place of ``M N``, and ``M C d`` MACs for each assignment."""
        h, g, m, n, d = case.heads, case.groups, case.queries, case.keys, case.d_head
        c = min(self.clusters, m)
        pairs = h * c * n
        return Counts(
            scores=pairs,
            exps=pairs,
            macs=self.iterations * h * m * c * d + 2 * pairs * d,
            reads=h * m * d + 2 * g * n * d,
            writes=h * m * d,
            persistent=2 * g * n * d,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Group, attend, hand out."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        q, c = b.load(b["q"]), min(self.clusters, case.queries)
        groups = b.add(Clusters, q, clusters=c, iterations=self.iterations)
        s = b.scores(b.add(GroupMean, q, groups, groups=c), b.load(k), case.scale)
        found = b.product(b.add(Softmax, s), b.load(v))
        index = b.add(Arrange, groups, to=(case.heads, case.queries, 1))
        rows = b.add(Gather, found, index, on_chip=True)
        b.store(b.add(Arrange, rows, to=(case.heads, case.queries, case.d_head)), name="output")
        return b.graph()
