"""Linear attention: a kernel feature map in place of the softmax, so that all keys are one state.

Source: Katharopoulos et al. 2020, arXiv 2006.16236: ``phi(x) = elu(x) + 1``, ``out = phi(q) S / (phi(q) z)`` with
``S = sum phi(k) v^T`` and ``z = sum phi(k)``. The state is ``[S, z]``, ``d (d + 1)`` words of a head. A causal prefill goes
in chunks: pairs inside of the chunk, the state for what lies before. Queries and keys are not scaled.
"""

from __future__ import annotations

from typing import ClassVar

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
    whole,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Band, Constant, Primitive, Product, Shape
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("linear")
class Linear(Algorithm):
    """A running state of products."""

    description: ClassVar[str] = "linear attention: elu + 1 in place of the softmax, a running state of d (d + 1) words"
    source: ClassVar[str] = "Katharopoulos et al. 2020, arXiv 2006.16236"
    exact: ClassVar[bool] = False

    chunk: PositiveInt = Field(64, description="tokens that a causal prefill takes together")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if a causal prefill has keys before its queries."""
        super().check(case)
        if case.phase == "prefill" and case.causal and case.queries != case.keys:
            raise WorkloadError(
                f"attention linear must have queries equal to keys in a causal prefill, not {case.queries} and {case.keys}"
            )

    def inputs(self, case: Case) -> dict[str, Shape]:
        """As softmax attention; in decode the state in place of the caches."""
        shapes = super().inputs(case)
        if case.phase == "decode":
            del shapes["k"], shapes["v"]
            shapes["state"] = (case.groups, case.d_head, case.d_head + 1)
        return shapes

    def sample(self, case: Case, seed: int = 0) -> dict[str, Floats]:
        """Standard normal; the state's z is at least 1."""
        found = super().sample(case, seed)
        if "state" in found:
            found["state"][..., -1] = 1 + np.abs(found["state"][..., -1])
        return found

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """All pairs, or the recurrence."""
        q = _phi(tensors["q"])
        if case.phase == "decode":
            k, v = _phi(tensors["k_new"]), tensors["v_new"]
            state = tensors["state"].copy()
            state[..., :-1] += np.einsum("gnd,gne->gde", k, v)
            state[..., -1] += k.sum(1)
            each = np.repeat(state, case.heads // case.groups, axis=0)
            return {"output": q @ each[..., :-1] / (q @ each[..., -1:]), "new_state": state}
        k, v = _phi(whole(case, tensors, "k")), whole(case, tensors, "v")
        weights = q @ k.swapaxes(1, 2)
        if case.causal:
            weights = np.tril(weights)
        return {"output": weights @ v / weights.sum(-1, keepdims=True)}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """One exponential per element of queries and keys; ``d (d + 1)`` MACs to take up a token and to read."""
        h, g, m, d = case.heads, case.groups, case.queries, case.d_head
        n = 1 if case.phase == "decode" else case.keys
        state = d * (d + 1)
        reads, writes = h * m * d, h * m * d
        if case.phase == "decode":
            reads, writes = reads + g * state, writes + g * state
        else:
            reads += 2 * g * n * d
        pairs, asking = 0, h * m
        if case.phase == "prefill" and case.causal:
            full, rest = divmod(n, self.chunk)
            pairs = h * (full * self.chunk * (self.chunk + 1) + rest * (rest + 1)) // 2
            asking = h * (n - min(n, self.chunk))
        return Counts(
            scores=pairs,
            exps=h * m * d + g * n * d,
            macs=(g * n + asking) * state + pairs * (2 * d + 1),
            reads=reads,
            writes=writes,
            persistent=g * state,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Chunk by chunk."""
        self.check(case)
        b = Expansion(self.inputs(case))
        q = b.apply("elu_plus_one", b.load(b["q"]))
        if case.phase == "decode":
            old = b.load(b["state"])
            state = b.apply("add", old, self._taken(b, *self._keys(b, b["k_new"], b["v_new"])))
            found = [b.product(q, b.keep(b.store(state), name="new_state"))]
        elif case.causal:
            found = self._chunks(b, case, q)
        else:
            found = [b.product(q, b.keep(self._taken(b, *self._keys(b, b.load(b["k"]), b.load(b["v"])))))]
        divided = [b.apply("divide", b.last(x, 0, case.d_head), b.last(x, case.d_head, case.d_head + 1)) for x in found]
        b.store(b.join(divided), name="output")
        return b.graph()

    @staticmethod
    def _keys(b: Expansion, k: Primitive, v: Primitive) -> tuple[Primitive, Primitive]:
        """phi(k), and values with a column of ones."""
        ones = b.apply("shift", b.add(Constant, to=(*v.shape[:-1], 1)), constants=(1.0,))
        return b.apply("elu_plus_one", k), b.join([v, ones], axis=-1)

    @staticmethod
    def _taken(b: Expansion, k: Primitive, v: Primitive) -> Primitive:
        return b.product(k, v, transpose=True)

    def _chunks(self, b: Expansion, case: Case, q: Primitive) -> list[Primitive]:
        found: list[Primitive] = []
        state: Primitive | None = None
        for start in range(0, case.keys, self.chunk):
            stop = min(start + self.chunk, case.keys)
            rows = b.rows(q, start, stop)
            k, v = self._keys(b, b.load(b["k"], start, stop), b.load(b["v"], start, stop))
            s = b.scores(rows, k, 1.0, Band())
            inside = b.add(Product, b.apply("zero_if_masked", s), v, pairs=s.live)
            found.append(b.apply("add", inside, b.product(rows, state)) if state else inside)
            new = self._taken(b, k, v)
            state = b.apply("add", state, new) if state else new
        assert state is not None
        b.keep(state)
        return found


def _phi(x: Floats) -> Floats:
    found: Floats = np.where(x > 0, x, np.expm1(np.minimum(x, 0))) + 1
    return found
