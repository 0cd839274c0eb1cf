"""Aaren: attention with a learned query as a recurrence; every token sees the attention over all tokens up to it.

Source: Feng et al. 2024, arXiv 2405.13956. ``prefill`` is a parallel prefix scan of softmax states (Hillis-Steele:
``ceil(log2 N)`` rounds); ``update`` takes up one token after the other into a state of ``heads * (d + 2)`` words. Keys
and values are given; their projections are not part of it.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pimsim.errors import WorkloadError
from pimsim.workload.attention.base import (
    ALGORITHMS,
    Algorithm,
    Case,
    Counts,
    Decided,
    Floats,
    Tensors,
    dense_softmax,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Arrange, Merge, Primitive, Shape
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("aaren")
class Aaren(Algorithm):
    """A fixed query, all prefixes."""

    description: ClassVar[str] = "attention as an RNN: a learned query over all prefixes, constant state per head"
    source: ClassVar[str] = "Feng et al. 2024, arXiv 2405.13956"
    phases: ClassVar[tuple[Phase, ...]] = ("prefill", "update")
    exact: ClassVar[bool] = False

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if heads share keys, or queries are not the tokens taken up."""
        super().check(case)
        if case.groups != case.heads:
            raise WorkloadError(f"attention aaren must have as many kv_heads as heads, not {case.kv_heads}")
        if case.phase == "prefill" and case.queries != case.keys:
            raise WorkloadError(f"attention aaren must have queries equal to keys in prefill, not {case.queries}")

    def inputs(self, case: Case) -> dict[str, Shape]:
        """The query, the new tokens' keys and values, and the state before them."""
        shapes: dict[str, Shape] = {"q": (case.heads, 1, case.d_head)}
        kv = (case.heads, case.queries, case.d_head)
        shapes |= {"k": kv, "v": kv}
        if case.phase == "update":
            shapes["state"] = (case.heads, 1, case.d_head + 2)
        return shapes

    def sample(self, case: Case, seed: int = 0) -> dict[str, Floats]:
        """Standard normal; the state's sum of exponentials is at least 1."""
        found = super().sample(case, seed)
        if "state" in found:
            found["state"][..., 1] = 1 + np.abs(found["state"][..., 1])
        return found

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """The softmax of every prefix by itself; an old state is one more key of score ``m + ln l`` and value ``a / l``."""
        s = (tensors["q"] @ tensors["k"].swapaxes(1, 2) * case.scale)[:, 0]
        v = tensors["v"]
        if case.phase == "update":
            old = tensors["state"][:, 0]
            s = np.concatenate([old[:, :1] + np.log(old[:, 1:2]), s], axis=1)
            v = np.concatenate([(old[:, 2:] / old[:, 1:2])[:, None], v], axis=1)
        first = s.shape[1] - case.queries
        rows = [dense_softmax(s[:, None, : j + 1]) @ v[:, : j + 1] for j in range(first, s.shape[1])]
        return {"output": np.concatenate(rows, axis=1)}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Update: two exponentials per token. Scan: one per token and two per merge, round r having ``N - 2^r``."""
        h, n, d = case.heads, case.queries, case.d_head
        if case.phase == "update":
            exps = 2 * n
        else:
            rounds = (n - 1).bit_length()
            exps = n + 2 * (n * rounds - (2**rounds - 1))
        return Counts(scores=h * n, exps=h * exps, macs=2 * h * n * d, persistent=h * (d + 2))

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """A chain of folds, or rounds of merges."""
        self.check(case)
        b = Expansion(self.inputs(case))
        self._chain(b, case) if case.phase == "update" else self._scan(b, case)
        return b.graph()

    def _chain(self, b: Expansion, case: Case) -> None:
        state: Primitive = b["state"]
        found: list[Primitive] = []
        for t in range(case.queries):
            s = b.scores(b["q"], b.rows(b["k"], t, t + 1), case.scale)
            state = b.fold(s, b.rows(b["v"], t, t + 1), state)
            found.append(b.normalise(state))
        b.keep(state, name="new_state")
        b.join(found, name="output")

    def _scan(self, b: Expansion, case: Case) -> None:
        h, n, d = case.heads, case.queries, case.d_head
        s = b.scores(b["q"], b["k"], case.scale)
        alone = b.fold(b.add(Arrange, s, to=(h * n, 1, 1)), b.add(Arrange, b["v"], to=(h * n, 1, d)))
        states: Primitive = b.add(Arrange, alone, to=(h, n, d + 2))
        stride = 1
        while stride < n:
            merged = b.add(Merge, b.rows(states, 0, n - stride), b.rows(states, stride, n))
            states = b.join([b.rows(states, 0, stride), merged])
            stride *= 2
        b.keep(b.rows(states, n - 1, n), name="new_state")
        b.normalise(states, name="output")
