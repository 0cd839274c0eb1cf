"""Tree Cross Attention: a query descends a tree of summaries and attends to the few nodes that it passed by.

Source: Feng et al. 2023, arXiv 2309.17388, and the code BorealisAI/tree-cross-attention. N leaves in given order, branching
b: ``k = floor(log_b(N - 1))`` levels of nodes below the root, the last of which have groups of ``P = ceil(N / b^k)``
leaves. Phase ``update`` builds the tree: an encoder layer (attention and feed-forward part) over the children of a node,
whose mean is the node; the root is not needed. Padding has no part in it: only real children are computed. Keys and
values of all nodes and leaves are projected once and kept.

Phase ``query``: at each level the targets attend to the b children of their node; the child with the largest weight, averaged
over heads, is where the search goes on, the others are retrieved, and so are the leaves of the last group. The scores of
the search serve in the final attention (the code computes them again). Children that do not exist are masked, but
count: ``b k + P`` scores of each head and query.
"""

from __future__ import annotations

from itertools import pairwise
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
    dense_softmax,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.latent_blocks import (
    attend,
    attend_macs,
    attended,
    attention_shapes,
    fed_forward,
    feed_forward,
    feed_forward_shapes,
    layer_norm,
)
from pimsim.workload.attention.primitives import (
    Arrange,
    Children,
    Constant,
    Exclude,
    Gather,
    MaskBeyond,
    Primitive,
    Shape,
    Softmax,
    TopK,
)
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("tca")
class TreeCrossAttention(Algorithm):
    """A search in a tree."""

    description: ClassVar[str] = "Tree Cross Attention: a query descends a tree and attends to O(log N) of its nodes"
    source: ClassVar[str] = "Feng et al. 2023, arXiv 2309.17388"
    phases: ClassVar[tuple[Phase, ...]] = ("update", "query")
    exact: ClassVar[bool] = False

    branching: int = Field(2, ge=2, description="children of a node (b)")
    d_ff: PositiveInt = Field(128, description="width of feed-forward parts")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if heads share keys."""
        super().check(case)
        if case.groups != case.heads:
            raise WorkloadError(f"attention tca must have as many kv_heads as heads, not {case.kv_heads}")

    def levels(self, n: int) -> int:
        """Levels below the root (k): the largest with ``b^k <= N - 1``."""
        k, nodes = 0, self.branching
        while nodes <= n - 1:
            k, nodes = k + 1, nodes * self.branching
        return k

    def leaves(self, n: int) -> int:
        """Leaves of a group (P)."""
        return -(-n // int(self.branching ** self.levels(n)))

    def scored(self, n: int) -> int:
        """Nodes that a query scores."""
        return self.branching * self.levels(n) + self.leaves(n)

    def rows(self, n: int) -> list[int]:
        """Nodes that exist at each level, and the leaves."""
        b, k, p = self.branching, self.levels(n), self.leaves(n)
        return [-(-n // (p * b ** (k - level))) for level in range(1, k + 1)] + [n]

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Update: the leaves. Query: targets, keys and values ``[1, nodes, heads * d]`` of each level."""
        d = case.width
        shapes: dict[str, Shape] = attention_shapes("ca", d, cross=True)
        if case.phase == "query":
            shapes["targets"] = (case.queries, d)
            for level, rows in enumerate(self.rows(case.keys)):
                shapes |= {f"{level}.k": (1, rows, d), f"{level}.v": (1, rows, d)}
            return shapes | feed_forward_shapes("ff", d, self.d_ff)
        shapes |= attention_shapes("sa", d) | feed_forward_shapes("sa.ff", d, self.d_ff)
        return shapes | {"data": (case.keys, d)}

    # -- reference

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Group by group; query by query."""
        return self._searched(case, tensors) if case.phase == "query" else self._built(case, tensors)

    def _built(self, case: Case, t: Tensors) -> dict[str, Floats]:
        rows = self.rows(case.keys)
        nodes, size = t["data"], self.leaves(case.keys)
        levels = [nodes]
        for _ in rows[:-1]:
            groups = [nodes[i : i + size] for i in range(0, len(nodes), size)]
            nodes = np.stack([fed_forward(t, "sa.ff", attended(case, t, "sa", group)).mean(0) for group in groups])
            levels.insert(0, nodes)
            size = self.branching
        found: dict[str, Floats] = {}
        for level, nodes in enumerate(levels):
            x = layer_norm(nodes, t["ca.context_gain"], t["ca.context_shift"])
            found |= {f"{level}.new_k": (x @ t["ca.wk"])[None], f"{level}.new_v": (x @ t["ca.wv"])[None]}
        return found

    def _searched(self, case: Case, t: Tensors) -> dict[str, Floats]:
        targets = layer_norm(t["targets"], t["ca.gain"], t["ca.shift"])
        heads = [slice(h * case.d_head, (h + 1) * case.d_head) for h in range(case.heads)]
        rows, found = self.rows(case.keys), np.zeros_like(targets)
        for i, q in enumerate(targets @ t["ca.wq"]):
            node, retrieved = 0, []
            for level, real in enumerate(rows):
                last = level == len(rows) - 1
                size = self.leaves(case.keys) if last else self.branching
                children = range(node * size, min((node + 1) * size, real))
                k = t[f"{level}.k"][0, children.start : children.stop]
                weights = [dense_softmax(k[:, own] @ q[own] * case.scale) for own in heads]
                chosen = None if last else children.start + int(np.argmax(np.sum(weights, axis=0)))
                retrieved += [(level, child) for child in children if child != chosen]
                node = chosen or 0
            k, v = (np.stack([t[f"{level}.{w}"][0, child] for level, child in retrieved]) for w in "kv")
            for own in heads:
                found[i, own] = dense_softmax(k[:, own] @ q[own] * case.scale) @ v[:, own]
        return {"output": fed_forward(t, "ff", found @ t["ca.wo"] + t["ca.bo"] + targets)}

    # -- closed forms

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """``b k + P`` nodes of a query, whose keys and values are gathered; or groups of b, the last of the rest."""
        b, d, h, n = self.branching, case.width, case.heads, case.keys
        rows = self.rows(n)
        kept = 2 * sum(rows) * d
        if case.phase == "query":
            m, k, scored = case.queries, self.levels(n), self.scored(n)
            final = scored - k
            return Counts(
                scores=h * m * scored,
                exps=h * m * (b * k + final),
                macs=m * d * (scored + final) + 2 * m * d * d + 3 * m * d * self.d_ff,
                reads=2 * m * scored * d,
                gathered=2 * m * scored * d,
                persistent=kept,
            )
        total = Counts(macs=2 * sum(rows) * d * d, persistent=kept)
        for below, size in zip(rows[::-1][: len(rows) - 1], [self.leaves(n), *[b] * len(rows)], strict=False):
            full, rest = divmod(below, size)
            for times, r in ((full, size), (1, rest)):
                one = Counts(scores=h * r * r, exps=h * r * r, macs=attend_macs(r, r, d) + 3 * r * d * self.d_ff)
                total = total + one * times
        return total

    # -- expansion

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Level by level, upwards to build and downwards to search."""
        self.check(case)
        e = Expansion(self.inputs(case))
        self._search(e, case) if case.phase == "query" else self._build(e, case)
        return e.graph()

    def _build(self, e: Expansion, case: Case) -> None:
        rows = self.rows(case.keys)
        levels: list[Primitive] = [e["data"]]
        size = self.leaves(case.keys)
        for _ in rows[:-1]:
            below, n = levels[0], levels[0].shape[0]
            bounds = [*range(0, n, size), n]
            means = [
                e.reduce("mean", feed_forward(e, "sa.ff", attend(e, case, "sa", e.rows(below, start, stop))), axis=-2)
                for start, stop in pairwise(bounds)
            ]
            levels.insert(0, e.join(means))
            size = self.branching
        for level, nodes in enumerate(levels):
            x = e.norm(nodes, e["ca.context_gain"], e["ca.context_shift"])
            for w in "kv":
                y = e.product(x, e[f"ca.w{w}"])
                e.keep(e.add(Arrange, y, to=(1, *y.shape)), name=f"{level}.new_{w}")

    def _search(self, e: Expansion, case: Case) -> None:
        b, m, h, d, n = self.branching, case.queries, case.heads, case.d_head, case.keys
        rows = self.rows(n)
        x = e.norm(e["targets"], e["ca.gain"], e["ca.shift"])
        q = e.split_heads(e.product(x, e["ca.wq"]), h)
        node: Primitive = e.add(Constant, to=(1, m, 1))
        scores: list[Primitive] = []
        values: list[Primitive] = []
        for level, real in enumerate(rows):
            last = level == len(rows) - 1
            size = self.leaves(n) if last else b
            index = e.add(Children, node, branching=size, limit=real)
            k, v = (
                e.add(
                    Arrange, e.add(Gather, e.keep(e[f"{level}.{w}"]), index),
                    split=(m, size, h, d), order=(2, 0, 1, 3), to=(h, m, size, d),
                )
                for w in "kv"
            )  # fmt: skip
            s = e.add(MaskBeyond, e.scores(q, k, case.scale), node, limit=real)
            values.append(v)
            if last:
                scores.append(s)
                break
            choice = e.add(TopK, e.reduce("mean", e.add(Softmax, s), axis=0), k=1)
            scores.append(e.add(Exclude, s, choice))
            node = e.apply("child", node, choice, constants=(b,))
        found = e.join_heads(e.normalise(e.fold(e.join(scores, axis=-1), e.join(values, axis=-2))))
        y = e.apply("add", e.product(found, e["ca.wo"], e["ca.bo"]), x)
        feed_forward(e, "ff", y, name="output")
