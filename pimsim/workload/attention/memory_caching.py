"""Memory caching: a linear recurrence in segments, whose states at the end of each segment stay and are read again.

Source: arXiv 2602.24281 (no official code known). Inside a segment ``M += k v^T``, fresh at its beginning; M at its end is
cached. A token reads its own state and the cached ones, ``y = sum_i gamma_i M_i q``:

========  ================================================================================================
residual  every gamma is 1: plain linear attention without normalisation
gated     softmax over ``u . mean(features of the segment)``, those of the own segment up to the token
top_k     the same over the own segment and the k cached segments of the largest products, which are gathered
========  ================================================================================================

The gates are folded into the query, so that all states are one matrix. ``u`` and the features are given.
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
    dense_softmax,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Arrange, Gather, Primitive, Shape, Softmax, TopK
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("memory_caching")
class MemoryCaching(Algorithm):
    """States of segments."""

    description: ClassVar[str] = (
        "a linear recurrence whose states of past segments stay: residual, gated or top-k reads"
    )
    source: ClassVar[str] = "arXiv 2602.24281"
    phases: ClassVar[tuple[Phase, ...]] = ("prefill",)
    exact: ClassVar[bool] = False

    segment: PositiveInt = Field(256, description="tokens of a segment")
    read: Literal["residual", "gated", "top_k"] = Field("gated", description="how cached states are weighted")
    k: PositiveInt = Field(2, description="cached states that top_k reads")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if heads share keys, the case is not causal or has tokens before it."""
        super().check(case)
        if case.groups != case.heads or not case.causal or case.queries != case.keys:
            raise WorkloadError(
                "attention memory_caching must be causal with queries equal to keys and as many kv_heads as heads"
            )

    def inputs(self, case: Case) -> dict[str, Shape]:
        """q, k, v, and for gates u and features ``[heads, tokens, d]``."""
        names = ("q", "k", "v") if self.read == "residual" else ("q", "k", "v", "u", "features")
        return dict.fromkeys(names, (case.heads, case.keys, case.d_head))

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Token by token, each state from its tokens."""
        out = np.zeros((case.heads, case.keys, case.d_head))
        for h, t in np.ndindex(case.heads, case.keys):
            q, k, v = (tensors[name][h] for name in "qkv")
            parts = [slice(s, min(s + self.segment, t + 1)) for s in range(0, t + 1, self.segment)]
            gates = np.ones(len(parts))
            if self.read != "residual":
                s = np.array([tensors["u"][h, t] @ tensors["features"][h, part].mean(0) for part in parts])
                if self.read == "top_k":
                    best = sorted(range(len(parts) - 1), key=lambda i, s=s: (-s[i], i))[: self.k]  # type: ignore[misc]
                    s[[i for i in range(len(parts) - 1) if i not in best]] = -np.inf
                gates = dense_softmax(s)
            for gate, part in zip(gates, parts, strict=True):
                out[h, t] += gate * (k[part] @ q[t]) @ v[part]
        return {"output": out}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """``d^2`` MACs to take up a token and for each state that it reads; ``N d`` for the gates."""
        h, n, d = case.heads, case.keys, case.d_head
        gated = self.read != "residual"
        cached = np.arange(n) // self.segment
        read = np.minimum(cached, self.k) if self.read == "top_k" else cached
        others, gates = int(read.sum()), int(cached.sum()) + n
        segments = -(-n // self.segment)
        return Counts(
            scores=h * gates * gated,
            exps=h * (others + n) * gated,
            macs=h * ((2 * n + others) * d * d + gates * d * gated),
            reads=h * (others * d * d + (5 if gated else 3) * n * d),
            gathered=h * others * d * d * (self.read == "top_k"),
            writes=h * (n * d + segments * d * d),
            persistent=h * segments * (d * d + d * gated),
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Token by token."""
        self.check(case)
        b = Expansion(self.inputs(case))
        rows = {name: b.load(b[name]) for name in self.inputs(case)}
        cached: list[Primitive] = []
        means: list[Primitive] = []
        found: list[Primitive] = []
        state: Primitive | None = None
        total: Primitive | None = None
        for t in range(case.keys):
            now = {name: b.rows(x, t, t + 1) for name, x in rows.items()}
            new = b.product(now["k"], now["v"], transpose=True)
            state = b.apply("add", state, new) if state else new
            at = t % self.segment + 1
            mean: list[Primitive] = []
            if self.read != "residual":
                total = b.apply("add", total, now["features"]) if total else now["features"]
                mean = [b.apply("scale", total, constants=(1 / at,))]
            found.append(self._read(b, case, now, cached, state, means + mean))
            if at == self.segment or t == case.keys - 1:
                cached.append(b.keep(b.store(state)))
                means += [b.keep(each) for each in mean]
                state = total = None
        b.store(b.join(found), name="output")
        return b.graph()

    def _read(
        self,
        b: Expansion,
        case: Case,
        now: dict[str, Primitive],
        cached: list[Primitive],
        own: Primitive,
        means: list[Primitive],
    ) -> Primitive:
        """One product of the query, times the gates, with all states below each other."""
        h, d, q = case.heads, case.d_head, now["q"]
        if self.read == "residual":
            states = b.join([*(b.load(each) for each in cached), own])
            return b.product(b.join([q] * (len(cached) + 1), axis=-1), states)
        s = b.scores(now["u"], b.join(means), 1.0)
        if self.read == "top_k" and len(cached) > 0:
            index = b.add(TopK, b.last(s, 0, len(cached)), k=min(self.k, len(cached)))
            s = b.join([b.pick(s, index), b.last(s, len(cached), len(cached) + 1)], axis=-1)
            every = b.join([b.add(Arrange, each, to=(h, 1, d * d)) for each in cached])
            chosen = b.add(Arrange, b.add(Gather, every, index), to=(h, index.shape[-1] * d, d))
            states = b.join([chosen, own])
        else:
            states = b.join([*(b.load(each) for each in cached), own])
        gates = b.add(Softmax, s)
        queries = [b.apply("multiply", q, b.last(gates, i, i + 1)) for i in range(gates.shape[-1])]
        return b.product(b.join(queries, axis=-1), states)
