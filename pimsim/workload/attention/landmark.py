"""Landmark attention: a landmark token behind each block of tokens decides how much of a row its block gets.

Source: Mohtashami and Jaggi 2023, arXiv 2305.16300, and the code epfml/landmark-attention. The keys contain the landmarks: every
``block`` tokens are followed by one. A row has one softmax over the tokens of its own block and the landmarks of the blocks
before it, and one over the tokens of each of these; a token of another block weighs its share there times that of its
landmark. Landmarks have no value of their own, and a block's own landmark takes no part.

In ``decode`` only the landmarks' keys are read in full; the tokens of the ``retrieved`` blocks with the largest landmark
scores of each head are fetched. The code's further local blocks are not modelled: what is local is the unfinished block.
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
    dense_scores,
    whole,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Arrange, Band, Gather, Load, Primitive, Product, Select, Softmax, TopK
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("landmark")
class Landmark(Algorithm):
    """Grouped softmax; retrieval of blocks."""

    description: ClassVar[str] = "landmark tokens stand for their blocks in the softmax; decode fetches the best blocks"
    source: ClassVar[str] = "Mohtashami and Jaggi 2023, arXiv 2305.16300"
    exact: ClassVar[bool] = False

    block: PositiveInt = Field(50, description="tokens before each landmark")
    retrieved: PositiveInt = Field(4, description="blocks that decode fetches")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if the case is not causal."""
        super().check(case)
        if not case.causal and case.phase == "prefill":
            raise WorkloadError("attention landmark must be causal")

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Row by row: the groups of the publication."""
        s, v = dense_scores(case, tensors), whole(case, tensors, "v")
        out = np.zeros((case.heads, case.queries, case.d_head))
        for h, i in np.ndindex(case.heads, case.queries):
            weights = self._weights(s[h, i], case.offset + i, case.phase == "decode")
            out[h, i] = sum((w * v[h, j] for j, w in weights.items()), np.zeros(case.d_head))
        return {"output": out}

    def _weights(self, s: Floats, i: int, fetch: bool) -> dict[int, float]:
        stride = self.block + 1
        own = i // stride
        blocks = list(range(own))
        if fetch:
            blocks = sorted(blocks, key=lambda x: (-s[x * stride + self.block], x))[: self.retrieved]
        groups: dict[int, list[int]] = {own: [j for j in range(own * stride, i + 1) if j % stride != self.block]}
        groups[own] += [x * stride + self.block for x in blocks]
        groups |= {x: list(range(x * stride, x * stride + self.block)) for x in blocks}
        share: dict[int, float] = {}
        for members in groups.values():
            e = np.exp(s[members] - s[members].max())
            share |= dict(zip(members, (e / e.sum()).tolist(), strict=True))
        return {
            j: share[j] * (1 if x == own else share[x * stride + self.block])
            for x, members in groups.items()
            for j in members
            if j % stride != self.block
        }

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Prefill: all pairs but those with the own landmark. Decode: landmarks, the own block, and what is fetched."""
        h, g, m, n, d = case.heads, case.groups, case.queries, case.keys, case.d_head
        stride, size = self.block + 1, self.block
        at = np.arange(case.offset, n)
        before, own = at // stride, np.minimum(at % stride + 1, size)
        kept = Counts(persistent=2 * g * n * d)
        if case.phase == "prefill":
            pairs = h * int((own + before * stride).sum())
            values = h * int((own + before * size).sum())
            moved = Counts(reads=h * m * d + 2 * g * n * d, writes=h * m * d)
            return kept + moved + Counts(scores=pairs, exps=pairs, macs=(pairs + values) * d)
        blocks, local = int(before[0]), int(own[0])
        fetched = min(self.retrieved, blocks)
        scores, tokens = blocks + local + fetched * size, local + fetched * size
        return kept + Counts(
            scores=h * scores,
            exps=h * (tokens + fetched),
            macs=h * d * (scores + tokens + fetched),
            reads=h * d + g * d * (blocks + 2 * local) + 2 * h * fetched * size * d,
            writes=h * d + 2 * g * d,
            gathered=2 * h * fetched * size * d,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Block by block of the queries, or one query and what it retrieves."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        q = b.load(b["q"])
        if case.phase == "decode":
            found = self._retrieve(b, case, q, k, v)
        else:
            stride = self.block + 1
            k, v = b.load(k), b.load(v)
            blocks = range(case.offset // stride, (case.keys - 1) // stride + 1)
            found = b.join([self._block(b, case, c, q, k, v) for c in blocks])
        b.store(found, name="output")
        return b.graph()

    def _block(self, b: Expansion, case: Case, c: int, q: Primitive, k: Primitive, v: Primitive) -> Primitive:
        stride, size, n = self.block + 1, self.block, case.keys
        first, stop = max(case.offset, c * stride), min(n, (c + 1) * stride)
        rows = b.rows(q, first - case.offset, stop - case.offset)
        start, end = c * stride, min(n, c * stride + size)
        parts = [b.scores(rows, b.rows(k, start, end), case.scale, Band(row0=first, col0=start))]
        own = parts[0].live
        if c:
            landmarks = b.add(Select, k, axis=-2, index=tuple(x * stride + size for x in range(c)))
            parts.append(b.scores(rows, landmarks, case.scale))
        s = b.join(parts, axis=-1)
        p = b.add(Softmax, s, pairs=s.pairs)
        weights = b.last(p, 0, end - start)
        found: Primitive = b.add(Product, weights, b.rows(v, start, end), pairs=own)
        for x in range(c):
            members = x * stride, x * stride + size
            shares = b.add(Softmax, b.scores(rows, b.rows(k, *members), case.scale))
            of_block = b.product(shares, b.rows(v, *members))
            at = end - start + x
            found = b.apply("add", found, b.apply("multiply", of_block, b.last(p, at, at + 1)))
        return found

    def _retrieve(self, b: Expansion, case: Case, q: Primitive, k: Primitive, v: Primitive) -> Primitive:
        stride, size, n = self.block + 1, self.block, case.keys
        h, d, blocks = case.heads, case.d_head, (case.keys - 1) // (self.block + 1)
        start, end = blocks * stride, min(n, blocks * stride + size)
        local = b.scores(q, b.load(k, start, end), case.scale)
        values = b.load(v, start, end)
        if not blocks:
            return b.product(b.add(Softmax, local), values)
        s = b.scores(q, b.add(Load, k, start=size, stop=start, step=stride), case.scale)
        top = min(self.retrieved, blocks)
        index = b.add(TopK, s, k=top)
        keys, tokens = (b.add(Gather, x, index, block=size, stride=stride) for x in (k, v))
        inside = b.scores(q, keys, case.scale)
        shares = b.add(Softmax, b.add(Arrange, inside, to=(h * top, 1, size)))
        of_blocks = b.product(shares, b.add(Arrange, tokens, to=(h * top, size, d)))
        p = b.add(Softmax, b.join([local, b.pick(s, index)], axis=-1))
        far = b.product(b.last(p, end - start, end - start + top), b.add(Arrange, of_blocks, to=(h, top, d)))
        return b.apply("add", b.product(b.last(p, 0, end - start), values), far)
