"""Fast Multipole Attention: near keys one by one, far ones as summaries of cells that grow with the distance.

Source: Kang et al. 2023, arXiv 2310.11960. Cells of m tokens; at coarse level l = 1..L, ``L = log2(n / m) - 1``, cells of
``m 2^(l-1)`` tokens with p summaries each: means of consecutive tokens, or, if ``learned``, per element of a head p filters
over the cell, one set for keys and one for values at every level, which all heads share and which have no biases. A cell
is used where it is not adjacent at its level, but its parent is. One softmax covers all levels, and cells outside of the
sequence are masked (one released code lets zero-padded ones into the denominator). With ``weighted`` a summary counts as
the tokens that it stands for.

`sample` draws filters from a normal distribution with the variance ``1 / cell size``, so that summaries vary as tokens do.
"""

from __future__ import annotations

from math import log
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
    whole,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Band, Pool, Primitive, Shape
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("fma")
class FastMultipole(Algorithm):
    """Near field exact, far field in summaries."""

    description: ClassVar[str] = "Fast Multipole Attention: far keys as averages of cells that grow with the distance"
    source: ClassVar[str] = "Kang et al. 2023, arXiv 2310.11960"
    phases: ClassVar[tuple[Phase, ...]] = ("prefill",)
    exact: ClassVar[bool] = False

    cell: PositiveInt = Field(64, description="tokens of a cell of the near field (m)")
    summaries: PositiveInt = Field(4, description="summaries of a coarse cell (p); must divide cell")
    weighted: bool = Field(False, description="a summary counts as the number of tokens that it stands for")
    learned: bool = Field(
        False, description="summaries by filters k_filters.L and v_filters.L of level L, not by averages"
    )

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if the tokens are not cell times a power of two, at least 2."""
        super().check(case)
        n, times = case.keys, case.keys // self.cell
        if case.queries != n or n % self.cell or times < 2 or times & (times - 1):
            raise WorkloadError(
                f"attention fma must have queries equal to keys, a power of two (2 at least) times cell {self.cell}, not "
                f"{case.queries} and {n}"
            )
        if self.cell % self.summaries:
            raise WorkloadError(
                f"parameter summaries of attention fma must divide cell {self.cell}, not {self.summaries}"
            )

    def levels(self, case: Case) -> int:
        """Coarse levels L."""
        return (case.keys // self.cell).bit_length() - 2

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Queries, keys, values; if learned, the filters of each level ``[d, summaries, cell size]``."""
        filters = {
            f"{name}_filters.{level + 1}": (case.d_head, self.summaries, self.cell << level)
            for level in range(self.levels(case))
            for name in ("k", "v")
            if self.learned
        }
        return super().inputs(case) | filters

    def sample(self, case: Case, seed: int = 0) -> dict[str, Floats]:
        """See the module."""
        found = super().sample(case, seed)
        return {name: x * x.shape[-1] ** -0.5 if "_filters." in name else x for name, x in found.items()}

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Pair by pair: the level of a pair is the first whose parent cells are adjacent."""
        q, k, v = tensors["q"], whole(case, tensors, "k"), whole(case, tensors, "v")
        out = np.zeros((case.heads, case.queries, case.d_head))
        for i in range(case.queries):
            near: list[int] = []
            far: dict[tuple[int, int], list[int]] = {}
            for j in range(i + 1 if case.causal else case.keys):
                level, size = 0, self.cell
                while abs(i // size - j // size) > 1:  # not adjacent here: at most the next level up takes it
                    level, size = level + 1, size * 2
                if level:
                    far.setdefault((level, j // (self.cell * 2 ** (level - 1) // self.summaries)), []).append(j)
                else:
                    near.append(j)
            groups = [[j] for j in near] + list(far.values())
            keys, values = (
                np.concatenate([x[:, near], *(self._summary(x, tensors, name, at)[:, None] for at in far)], axis=1)
                for name, x in (("k", k), ("v", v))
            )
            s = np.einsum("hd,hgd->hg", q[:, i], keys) * case.scale
            if self.weighted:
                s = s + np.log([len(g) for g in groups])
            out[:, i] = np.einsum("hg,hgd->hd", dense_softmax(s), values)
        return {"output": out}

    def _summary(self, x: Floats, tensors: Tensors, name: str, at: tuple[int, int]) -> Floats:
        """Summary ``[heads, d]`` of the tokens x ``[heads, n, d]``: which one of level ``at[0]``; for the reference."""
        level, number = at
        size = self.cell << (level - 1)
        cell, which = divmod(number, self.summaries)
        tokens = x[:, cell * size : (cell + 1) * size]
        if self.learned:
            weights = tensors[f"{name}_filters.{level}"][:, which]
            return np.stack([tokens[..., e] @ weights[e] for e in range(x.shape[2])], axis=1)
        part = size // self.summaries
        return np.asarray(tokens[:, which * part : (which + 1) * part].mean(1))

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Near and far scores. An average has no product; filters have ``p d`` for each token, level, and keys or values."""
        n, m, p, levels = case.keys, self.cell, self.summaries, self.levels(case)
        if case.causal:
            near, far = n * (m + 1) // 2 + n * m - m * m, 3 * p * (n * levels - n + 2 * m) // 2
        else:
            near, far = 3 * n * m - 2 * m * m, 3 * p * (n * levels - n + 2 * m)
        pairs = case.heads * (near + far)
        summaries = sum(n // (m << level) * p for level in range(levels))
        return Counts(
            scores=pairs,
            exps=pairs,
            macs=2 * (pairs + self.learned * case.groups * p * n * levels) * case.d_head,
            persistent=2 * (case.groups * (n + summaries) + self.learned * p * (n // 2 - m)) * case.d_head,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Cell by cell of the queries: near tokens, then the interaction list of each level."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        m, p, n = self.cell, self.summaries, case.keys
        coarse: list[tuple[Primitive, Primitive]] = []
        for level in range(self.levels(case)):
            pooled = []
            for name, x in (("k", k), ("v", v)):
                filters = [b.keep(b[f"{name}_filters.{level + 1}"])] if self.learned else []
                pooled.append(b.keep(b.add(Pool, x, *filters, cell=m << level, per_cell=p)))
            coarse.append((pooled[0], pooled[1]))
        found: list[Primitive] = []
        for c in range(n // m):
            q = b.rows(b["q"], c * m, (c + 1) * m)
            start, stop = max(0, c - 1) * m, min(n, (c + (1 if case.causal else 2)) * m)
            band = Band(row0=c * m, col0=start) if case.causal else None
            scores = [b.scores(q, b.rows(k, start, stop), case.scale, band)]
            values = [b.rows(v, start, stop)]
            for level, (keys, sums) in enumerate(coarse):
                for cell in self._interactions(c >> level, n // (m << level), case.causal):
                    s = b.scores(q, b.rows(keys, cell * p, (cell + 1) * p), case.scale)
                    weight = (m << level) // p
                    scores.append(b.apply("shift", s, constants=(log(weight),)) if self.weighted else s)
                    values.append(b.rows(sums, cell * p, (cell + 1) * p))
            found.append(b.normalise(b.fold(b.join(scores, axis=-1), b.join(values))))
        b.join(found, name="output")
        return b.graph()

    @staticmethod
    def _interactions(c: int, cells: int, causal: bool) -> list[int]:
        """Cells of a level that cell c uses."""
        offsets = ((-2,) if causal else (-2, 2, 3)) if c % 2 == 0 else ((-3, -2) if causal else (-3, -2, 2))
        return [c + offset for offset in offsets if 0 <= c + offset < cells]
