"""Reordered attention: queries wait in lanes while one key passes in each step, so that bandwidth stays that of one token.

Source: Edge-MoE, arXiv 2305.18691, and its code. With p lanes and no reordering one query is held and p keys are fetched
in every step. Reordered, lane j holds query ``b p + j`` of block b and starts j steps after lane 0: it visits the keys
in the rotated order ``j, .., N - 1, 0, .., j - 1``. One key comes in each step, and one query in each of a block's first
p steps: ``ceil(M / p) N + (M - 1) mod p`` steps. Keys and values pass in the same order; each is folded into a running
softmax state of its lane, where the published machine makes a second pass for the values.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

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
    exact_attention,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import EmptyState, Primitive
from pimsim.workload.graph import WorkloadGraph


class Stream(NamedTuple):
    """Cost of one matrix of M queries by N tokens: steps, tokens loaded (queries included), tokens held on chip."""

    steps: int
    tokens: int
    buffers: int

    @property
    def bandwidth(self) -> float:
        """Tokens per step, on average."""
        return self.tokens / self.steps


@ALGORITHMS.register("reordered")
class Reordered(Algorithm):
    """Queries in lanes, tokens in a stream."""

    description: ClassVar[str] = (
        "queries in lanes with rotated key order: the bandwidth of one token whatever the lanes"
    )
    source: ClassVar[str] = "Edge-MoE: Sarkar et al. 2023, arXiv 2305.18691"

    lanes: PositiveInt = Field(4, description="(query, key) pairs of a head in one step (p)")
    reorder: bool = Field(True, description="lanes hold queries; else one query is held and each lane has a key")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if a causal mask would leave lanes without work."""
        super().check(case)
        if case.causal and case.queries > 1:
            raise WorkloadError(
                f"attention reordered must have causal = false or one query, not {case.queries}: all lanes share a key"
            )

    def width(self, case: Case) -> int:
        """Lanes that have work."""
        return min(self.lanes, case.keys, case.queries if self.reorder else case.keys)

    def stream(self, case: Case) -> Stream:
        """Closed form of one head and matrix."""
        m, n, p = case.queries, case.keys, self.width(case)
        if not self.reorder:
            return Stream(m * -(-n // p), m * n + m, p + 1)
        steps = -(-m // p) * n + (m - 1) % p
        return Stream(steps, steps + m, p + 1)

    def steps(self, case: Case) -> list[list[tuple[int, int]]]:
        """(query, key) pairs of each step."""
        m, n, p = case.queries, case.keys, self.width(case)
        if not self.reorder:
            return [[(i, j) for j in range(c, min(c + p, n))] for i in range(m) for c in range(0, n, p)]
        found = []
        for step in range(self.stream(case).steps):
            block, k = divmod(step, n)
            rows = [(block if k >= lane else block - 1) * p + lane for lane in range(p)]
            found.append([(row, k) for row in rows if 0 <= row < m])
        return found

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Softmax attention in one go."""
        return {"output": exact_attention(case, tensors)}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Exponentials as in single_pass with blocks of one key; keys and values as `stream` says."""
        h, g, m, n, d = case.heads, case.groups, case.queries, case.keys, case.d_head
        pairs, tokens = h * m * n, self.stream(case).tokens - m
        appended = 2 * g * d * (case.phase == "decode")
        return Counts(
            scores=pairs,
            exps=2 * pairs,
            macs=2 * pairs * d,
            reads=h * m * d + 2 * g * tokens * d,
            writes=h * m * d + appended,
            persistent=2 * g * n * d,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Step by step, lane by lane."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        queries: dict[int, Primitive] = {}
        states: dict[int, Primitive] = {}
        for pairs in self.steps(case):
            keys = {j: (b.load(k, j, j + 1), b.load(v, j, j + 1)) for j in sorted({j for _, j in pairs})}
            for i, j in pairs:
                if i not in queries:
                    queries[i] = b.load(b["q"], i, i + 1)
                    states[i] = b.add(EmptyState, to=(case.heads, 1, 2 + case.d_head))
                states[i] = b.fold(b.scores(queries[i], keys[j][0], case.scale), keys[j][1], states[i])
        b.store(b.join([b.normalise(states[i]) for i in range(case.queries)]), name="output")
        return b.graph()
