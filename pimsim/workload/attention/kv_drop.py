"""Budgeted KV cache: keys that recent queries hardly attended to are dropped, head by head.

Sources: CORM, Dai et al. 2024, arXiv 2404.15949 (attention of a window of recent queries); SpecKV, Galim et al. 2025, arXiv
2506.08373 (attention of a draft model). With ``score: recent`` a key's score is the sum of its probabilities over the last
``window`` queries (CORM compares them with a threshold; here a budget decides), with ``draft`` it is given. The last
``window`` tokens always stay.

A prefill attends in full, then compacts the cache to ``budget`` tokens if there are more. Decode attends to all that is
there, and compacts once the cache has ``slack`` tokens more than the budget; kept rows are gathered and written in order
of score, recent tokens last, ``piece`` rows of a head at a time. The probabilities of the window are part of the state.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
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
    dense_scores,
    dense_softmax,
    whole,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import (
    Append,
    Arrange,
    Band,
    Constant,
    Gather,
    Primitive,
    Product,
    Shape,
    Softmax,
    TopK,
)
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("kv_drop")
class KvDrop(Algorithm):
    """A cache of bounded length."""

    description: ClassVar[str] = (
        "KV cache with a budget: keys that recent queries (or a draft model) ignored are dropped"
    )
    source: ClassVar[str] = "Dai et al. 2024, arXiv 2404.15949; Galim et al. 2025, arXiv 2506.08373"
    exact: ClassVar[bool] = False

    budget: PositiveInt = Field(1024, description="tokens of a head that compaction leaves")
    window: PositiveInt = Field(32, description="recent queries whose attention counts, and recent tokens that stay")
    slack: PositiveInt = Field(1, description="tokens above the budget at which decode compacts")
    piece: PositiveInt = Field(1024, description="rows of a head that compaction has on chip at once")
    score: Literal["recent", "draft"] = Field("recent", description="attention of recent queries, or a given score")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if heads share keys."""
        super().check(case)
        if case.groups != case.heads:
            raise WorkloadError(f"attention kv_drop must have as many kv_heads as heads, not {case.kv_heads}")

    def drops(self, case: Case) -> bool:
        """Whether this case compacts the cache."""
        return case.keys >= self.budget + (self.slack if case.phase == "decode" else 1)

    def keys_in_cache(self, keys: int) -> int:
        """At most as many as make decode compact."""
        return min(keys, self.budget + self.slack)

    def recent(self) -> int:
        """Tokens that stay without a score."""
        return min(self.window, self.budget)

    def inputs(self, case: Case) -> dict[str, Shape]:
        """As softmax attention; scores ``draft [heads, 1, keys]``, or in decode the window's probabilities so far."""
        shapes = super().inputs(case)
        if self.score == "draft":
            shapes["draft"] = (case.heads, 1, case.keys)
        elif case.phase == "decode":
            shapes["recent"] = (case.heads, self.window, case.keys - 1)
        return shapes

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Attention in full; key by key, what stays."""
        p, k, v = dense_softmax(dense_scores(case, tensors)), whole(case, tensors, "k"), whole(case, tensors, "v")
        found = {"output": p @ v}
        n = case.keys
        recent = np.zeros((case.heads, self.window, n))
        if case.phase == "decode" and self.score == "recent":
            recent[:, :-1, :-1] = tensors["recent"][:, 1:]
        rows = min(self.window, case.queries)
        recent[:, self.window - rows :] = p[:, case.queries - rows :]
        total = tensors["draft"][:, 0] if self.score == "draft" else recent.sum(1)
        kept = [list(range(n))] * case.heads
        if self.drops(case):
            old = range(n - self.recent())
            kept = [
                sorted(old, key=lambda j, t=row: (-t[j], j))[: self.budget - self.recent()] + list(range(len(old), n))  # type: ignore[misc]
                for row in total
            ]
        found["new_k"], found["new_v"] = (np.stack([x[h][kept[h]] for h in range(case.heads)]) for x in (k, v))
        if self.score == "recent":
            found["new_recent"] = np.stack([recent[h][:, kept[h]] for h in range(case.heads)])
        return found

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """As vanilla on chip; compaction reads and writes the budget, and gathers all of it but the recent tokens."""
        h, m, n, d = case.heads, case.queries, case.keys, case.d_head
        pairs, decode = h * case.pairs(), case.phase == "decode"
        kept = self.budget if self.drops(case) else n
        state = h * self.window * kept if self.score == "recent" else 0
        found = Counts(
            scores=pairs,
            exps=pairs,
            macs=2 * pairs * d,
            reads=h * m * d + 2 * h * n * d,
            writes=h * m * d + 2 * h * d * decode,
            persistent=2 * h * kept * d + state,
        )
        if not self.drops(case):
            return found
        moved = 2 * h * kept * d
        return found + Counts(reads=moved, writes=moved, gathered=moved - 2 * h * self.recent() * d)

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Attend, score, compact."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b["k"], b["v"]
        if case.phase == "decode":
            k, v = b.add(Append, k, b["k_new"]), b.add(Append, v, b["v_new"])
        s = b.scores(b.load(b["q"]), b.load(k), case.scale, Band(row0=case.offset) if case.causal else None)
        p = b.add(Softmax, s, pairs=s.pairs)
        b.store(b.add(Product, p, b.load(v), pairs=s.pairs), name="output")
        recent = self._window(b, case, p) if self.score == "recent" else None
        index = None
        if self.drops(case) and self.budget > self.recent():
            total = b.reduce("sum", recent, axis=-2) if recent else b["draft"]
            old = b.last(total, 0, case.keys - self.recent())
            index = b.add(TopK, old, k=self.budget - self.recent())
        for name, cache in (("new_k", k), ("new_v", v)):
            b.keep(b.store(self._compacted(b, case, cache, index)) if self.drops(case) else cache, name=name)
        if recent:
            b.keep(self._columns(b, case, recent, index) if self.drops(case) else recent, name="new_recent")
        return b.graph()

    def _window(self, b: Expansion, case: Case, p: Primitive) -> Primitive:
        """Probabilities of the last queries: ``[heads, window, keys]``."""
        h, n, rows = case.heads, case.keys, min(self.window, case.queries)
        parts = [b.rows(p, case.queries - rows, case.queries)]
        if case.phase == "decode" and self.window > 1:
            before = b.rows(b["recent"], 1, self.window)
            parts.insert(0, b.join([before, b.add(Constant, to=(h, self.window - 1, 1))], axis=-1))
        elif rows < self.window:
            parts.insert(0, b.add(Constant, to=(h, self.window - rows, n)))
        return b.join(parts)

    def _compacted(self, b: Expansion, case: Case, cache: Primitive, index: Primitive | None) -> Primitive:
        """Rows that stay, brought on chip."""
        parts: list[Primitive] = []
        kept = index.shape[-1] if index else 0
        for start in range(0, kept, self.piece):
            assert index
            some = index if kept <= self.piece else b.last(index, start, min(kept, start + self.piece))
            rows = b.add(Gather, cache, some)
            parts.append(b.add(Arrange, rows, to=(case.heads, some.shape[-1], case.d_head)))
        return b.join([*parts, b.load(cache, case.keys - self.recent(), case.keys)])

    def _columns(self, b: Expansion, case: Case, recent: Primitive, index: Primitive | None) -> Primitive:
        """Columns of the window that stay."""
        h, n, w = case.heads, case.keys, self.window
        parts = [b.last(recent, n - self.recent(), n)]
        if index:
            turned = b.add(Arrange, recent, order=(0, 2, 1), to=(h, n, w))
            kept = index.shape[-1]
            rows = b.add(Gather, turned, index, on_chip=True)
            parts.insert(0, b.add(Arrange, rows, split=(h, kept, w), order=(0, 2, 1), to=(h, w, kept)))
        return b.join(parts, axis=-1)
