"""BigBird: blocks of queries attend to blocks of keys: a window, global blocks, and some at random.

Source: Zaheer et al. 2020, arXiv 2007.14062. The first ``global_blocks`` blocks see all and are seen by all; every other block
sees the ``window`` blocks on each side of itself and ``random_blocks`` of the rest, which ``seed`` decides once (all heads
have the same). With a causal mask all of these lie behind.
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
    dense_softmax,
    whole,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Band
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("bigbird")
class BigBird(Algorithm):
    """Window, global and random blocks."""

    description: ClassVar[str] = "blocks of keys: a window, global blocks and some at random"
    source: ClassVar[str] = "Zaheer et al. 2020, arXiv 2007.14062"
    phases: ClassVar[tuple[Phase, ...]] = ("prefill",)
    exact: ClassVar[bool] = False

    block: PositiveInt = Field(64, description="tokens of a block")
    window: int = Field(1, ge=0, description="blocks on each side")
    global_blocks: int = Field(2, ge=0, description="blocks, from the first, that are global")
    random_blocks: int = Field(3, ge=0, description="blocks at random")
    seed: int = Field(0, ge=0, description="of the random blocks")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if the tokens are not whole blocks."""
        super().check(case)
        if case.queries != case.keys or case.keys % self.block:
            raise WorkloadError(
                f"attention bigbird must have queries equal to keys, a multiple of block {self.block}, not {case.queries} "
                f"and {case.keys}"
            )

    def pattern(self, case: Case) -> list[list[int]]:
        """Blocks of keys of each block of queries."""
        rng = np.random.default_rng(self.seed)
        total, found = case.keys // self.block, []
        for c in range(total):
            allowed = range(c + 1 if case.causal else total)
            fixed = [x for x in allowed if x < self.global_blocks or abs(x - c) <= self.window]
            if c < self.global_blocks:
                fixed = list(allowed)
            others = sorted(set(allowed) - set(fixed))
            drawn = rng.permutation(len(others))[: self.random_blocks]
            found.append(sorted(fixed + [others[x] for x in drawn]))
        return found

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Dense, with a mask."""
        seen = np.zeros((case.queries, case.keys), bool)
        for c, blocks in enumerate(self.pattern(case)):
            for x in blocks:
                seen[c * self.block : (c + 1) * self.block, x * self.block : (x + 1) * self.block] = True
        s = np.where(seen, dense_scores(case, tensors), -np.inf)
        return {"output": dense_softmax(s) @ whole(case, tensors, "v")}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Linear in the keys: of a block, window + global + random blocks, whichever blocks these are."""
        h, g, n, d, size = case.heads, case.groups, case.keys, case.d_head, self.block
        total, tiles = n // size, 0
        for c in range(total):
            allowed = c + 1 if case.causal else total
            first = max(0, c - self.window)
            near = min(c + self.window + 1, allowed) - first
            fixed = near + min(first, self.global_blocks) + max(0, min(self.global_blocks, allowed) - first - near)
            tiles += allowed if c < self.global_blocks else min(allowed, fixed + self.random_blocks)
        pairs = h * (tiles * size * size - total * size * (size - 1) // 2 * case.causal)
        return Counts(
            scores=pairs,
            exps=pairs,
            macs=2 * pairs * d,
            reads=h * n * d + 2 * g * tiles * size * d,
            writes=h * n * d,
            persistent=2 * g * n * d,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Block by block."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        found, size = [], self.block
        for c, blocks in enumerate(self.pattern(case)):
            q = b.load(b["q"], c * size, (c + 1) * size)
            scores, values = [], []
            for x in blocks:
                band = Band(row0=c * size, col0=x * size) if case.causal else None
                scores.append(b.scores(q, b.load(k, x * size, (x + 1) * size), case.scale, band))
                values.append(b.load(v, x * size, (x + 1) * size))
            found.append(b.normalise(b.fold(b.join(scores, axis=-1), b.join(values))))
        b.store(b.join(found), name="output")
        return b.graph()
