"""Clustered attention: queries are grouped, the mean of a group attends for all of its queries.

Source: Vyas et al. 2020, arXiv 2007.04825. Groups come from Lloyd's algorithm with a fixed number of assignments, from the
first queries as centres; distances are Euclidean on the queries themselves, where the publication hashes them first. An
empty group keeps its centre while searching and attends with a query of zeros.

``improved`` is the published second step: the probability m that a group gives to its k likeliest keys is shared out anew
among these keys, by each query's own scores. A query gets m times its own attention over them, and from all other keys
what its group gets. That rest is the group's attention less m times the group's attention over the k keys, so that no row
of probabilities is scattered. Ties go to the lower index.
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
from pimsim.workload.attention.primitives import Arrange, Clusters, Gather, GroupMean, Primitive, Softmax, TopK
from pimsim.workload.attention.topk import chunked
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
    improved: bool = Field(False, description="whether each query weighs the k likeliest keys of its group itself")
    k: PositiveInt = Field(32, description="keys of a group that its queries weigh themselves, if improved")
    chunk: PositiveInt = Field(
        64, description="queries that weigh keys together, if improved, in parts as those of topk"
    )

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
        """The mean query of each query's group attends to all keys; if improved, probability by probability."""
        groups = self.assign(case, tensors)
        k, v = whole(case, tensors, "k"), whole(case, tensors, "v")
        out = np.zeros((case.heads, case.queries, case.d_head))
        for h, i in np.ndindex(case.heads, case.queries):
            mean = tensors["q"][h][groups[h] == groups[h, i]].mean(0)
            shares = dense_softmax(k[h] @ mean * case.scale)
            if self.improved:
                best = sorted(range(case.keys), key=lambda j: (-shares[j], j))[: self.k]
                own = dense_softmax(k[h][best] @ tensors["q"][h, i] * case.scale)
                shares[best] = shares[best].sum() * own
            out[h, i] = shares @ v[h]
        return {"output": out}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """``C N`` scores of a head in place of ``M N``, and ``M C d`` MACs for each assignment.

        If improved, k scores more for each query and k random rows of K and V; and k rows of V for each group.
        """
        h, g, m, n, d = case.heads, case.groups, case.queries, case.keys, case.d_head
        c = min(self.clusters, m)
        pairs = h * c * n
        own, shared = (h * rows * min(self.k, n) * self.improved for rows in (m, c))
        return Counts(
            scores=pairs + own,
            exps=pairs + own + shared,
            macs=self.iterations * h * m * c * d + 2 * pairs * d + (2 * own + shared) * d,
            reads=h * m * d + 2 * g * n * d + (2 * own + shared) * d,
            gathered=(2 * own + shared) * d,
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
        shares = b.add(Softmax, s)
        found = b.product(shares, b.load(v))
        index = b.add(Arrange, groups, to=(case.heads, case.queries, 1))
        of_groups = (s, shares, found)
        rows = self._improve(b, case, (q, k, v), of_groups, index) if self.improved else _hand_out(b, found, index)
        b.store(rows, name="output")
        return b.graph()

    def _improve(
        self,
        b: Expansion,
        case: Case,
        given: tuple[Primitive, Primitive, Primitive],
        of_groups: tuple[Primitive, Primitive, Primitive],
        index: Primitive,
    ) -> Primitive:
        """Queries' own attention over the best keys of their groups ``[heads, queries, d]``.

        ``given`` are queries, keys and values, ``of_groups`` scores, probabilities and attention of the groups, and ``index``
        is the group of each query ``[heads, queries, 1]``.
        """
        q, k, v = given
        s, shares, attended = of_groups
        best = b.add(TopK, shares, k=min(self.k, case.keys))
        mass = b.reduce("sum", b.pick(shares, best))
        within = b.normalise(b.fold(b.pick(s, best), b.add(Gather, v, best)))
        taken = b.apply("scale", b.apply("multiply", within, mass), constants=(-1.0,))
        rest = b.join([b.apply("add", attended, taken), mass], axis=-1)
        found: list[Primitive] = []
        for rows in chunked(case.queries, self.chunk):
            here = b.rows(index, rows.start, rows.stop)
            mine, handed = _hand_out(b, best, here), _hand_out(b, rest, here)
            scores = b.scores(b.rows(q, rows.start, rows.stop), b.add(Gather, k, mine), case.scale)
            own = b.normalise(b.fold(scores, b.add(Gather, v, mine)))
            weighted = b.apply("multiply", own, b.last(handed, case.d_head, case.d_head + 1))
            found.append(b.apply("add", b.last(handed, 0, case.d_head), weighted))
        return b.join(found)


def _hand_out(b: Expansion, rows: Primitive, index: Primitive) -> Primitive:
    """The row ``[width]`` of each query's group: ``[heads, groups, width]`` -> ``[heads, queries, width]``."""
    heads, queries, _ = index.shape
    return b.add(Arrange, b.add(Gather, rows, index, on_chip=True), to=(heads, queries, rows.shape[-1]))
