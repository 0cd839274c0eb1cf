"""The feed-forward layer as top-k attention: of the hidden units of a token only the k with the largest input take part.

Source: Gupta et al. 2021, arXiv 2106.06899, and its code. Tokens are queries, the rows of the first matrix are keys and those
of the second (transposed) values; the activation ReLU stands in place of the softmax, without a scale and without a
mask. The result is that of the whole layer wherever at most k inputs of a token's units are positive. A layer has no
biases (T5 has none). Tokens are processed in chunks as in `topk`, and ties go to the lower index.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from pimsim.model import PositiveInt
from pimsim.workload.attention.base import ALGORITHMS, Algorithm, Case, Counts, Decided, Floats, Tensors
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Arrange, Gather, Primitive, Shape, TopK
from pimsim.workload.attention.topk import chunked
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("topk_ffn")
class TopKFeedForward(Algorithm):
    """The k hidden units with the largest input."""

    description: ClassVar[str] = "feed-forward layer as top-k attention: the k largest of d_ff hidden units, ReLU"
    source: ClassVar[str] = "Gupta et al. 2021, arXiv 2106.06899"
    exact: ClassVar[bool] = False

    d_ff: PositiveInt = Field(2048, description="hidden units")
    k: PositiveInt = Field(512, description="hidden units of a token that take part")
    chunk: PositiveInt = Field(16_384, description="tokens that are processed together")

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Tokens ``[1, tokens, d]``, and both matrices with one row for each hidden unit ``[1, d_ff, d]``."""
        rows = (1, self.d_ff, case.width)
        return {"x": (1, case.queries, case.width), "w1": rows, "w2": rows}

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Unit by unit of each token."""
        x, w1, w2 = (tensors[name][0] for name in ("x", "w1", "w2"))
        out = np.zeros((case.queries, case.width))
        for t, row in enumerate(x):
            given = w1 @ row
            for unit in sorted(range(self.d_ff), key=lambda j: (-given[j], j))[: self.k]:
                out[t] += max(given[unit], 0.0) * w2[unit]
        return {"output": out}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """All inputs of hidden units, and k random rows of the second matrix per token; no exponentials."""
        m, d, f = case.queries, case.width, self.d_ff
        kept = m * min(self.k, f)
        return Counts(
            scores=m * f,
            macs=(m * f + kept) * d,
            reads=m * d + len(chunked(m, self.chunk)) * f * d + kept * d,
            gathered=kept * d,
            writes=m * d,
            persistent=2 * f * d,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Chunk by chunk."""
        self.check(case)
        b = Expansion(self.inputs(case))
        w1, w2, k = b.keep(b["w1"]), b.keep(b["w2"]), min(self.k, self.d_ff)
        found: list[Primitive] = []
        for tokens in chunked(case.queries, self.chunk):
            s = b.scores(b.load(b["x"], tokens.start, tokens.stop), b.load(w1), 1.0)
            index = b.add(TopK, s, k=k)
            hidden = b.add(Arrange, b.apply("relu", b.pick(s, index)), to=(len(tokens), 1, k))
            rows = b.add(Arrange, b.add(Gather, w2, index), to=(len(tokens), k, case.width))
            found.append(b.add(Arrange, b.product(hidden, rows), to=(len(tokens), case.width)))
        b.store(b.join(found), name="output")
        return b.graph()
