"""FlashAttention: exact attention in tiles that fit on chip.

Sources: version 1, Dao et al. 2022, arXiv 2205.14135 (keys outside, the output is normalised and goes to memory after
every tile); version 2, Dao 2023, arXiv 2307.08691 (queries outside, one division at the end, the logarithm of the sum is
stored beside the output). Tiles follow from the on-chip size M in words as in version 1: ``Bc = ceil(M / 4d)``,
``Br = min(Bc, d)``. With a causal mask, tiles that lie wholly behind it are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

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
from pimsim.workload.attention.primitives import Band, Denormalise, EmptyState, Merge, Normalise, Primitive
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("flash")
class Flash(Algorithm):
    """Tiles of queries and keys."""

    description: ClassVar[str] = "FlashAttention 1 or 2: exact attention in tiles that fit the on-chip memory"
    source: ClassVar[str] = "Dao et al. 2022, arXiv 2205.14135; Dao 2023, arXiv 2307.08691"

    version: Literal[1, 2] = Field(2, description="1: keys outside; 2: queries outside")
    on_chip_words: PositiveInt = Field(51_200, description="words of on-chip memory, from which tiles follow")
    block_rows: PositiveInt | None = Field(None, description="queries of a tile, instead of the rule")
    block_columns: PositiveInt | None = Field(None, description="keys of a tile, instead of the rule")

    def tile(self, d: int) -> tuple[int, int]:
        """(rows, columns) of a tile."""
        columns = -(-self.on_chip_words // (4 * d))
        return self.block_rows or min(columns, d), self.block_columns or columns

    def _tiles(self, case: Case) -> Iterator[tuple[range, range]]:
        """Tiles that are not skipped: (queries, keys), queries outside."""
        rows, columns = self.tile(case.d_head)
        for r in range(0, case.queries, rows):
            stop = min(r + rows, case.queries)
            for c in range(0, case.keys, columns):
                if not case.causal or c <= case.offset + stop - 1:
                    yield range(r, stop), range(c, min(c + columns, case.keys))

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Softmax attention in one go."""
        return {"output": exact_attention(case, tensors)}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Traffic of section 3.1 of each paper, tile by tile."""
        h, g, m, n, d = case.heads, case.groups, case.queries, case.keys, case.d_head
        rows, columns = self.tile(d)
        kv_rows = visits = 0  # key rows read by all query blocks, and query rows visited by all key blocks
        for r in range(0, m, rows):
            last = min(r + rows, m)
            seen = min(n, -(-(case.offset + last) // columns) * columns) if case.causal else n
            kv_rows += seen
            visits += -(-seen // columns) * (last - r)
        pairs = h * case.pairs()
        appended = 2 * g * d * (case.phase == "decode")
        common = Counts(scores=pairs, macs=2 * pairs * d, persistent=2 * g * n * d)
        if self.version == 1:
            return common + Counts(
                exps=pairs + 2 * h * visits,
                reads=2 * g * n * d + h * visits * (2 * d + 2),
                writes=h * visits * (d + 2) + appended,
            )
        return common + Counts(
            exps=pairs + h * visits,
            logs=h * m,
            reads=h * m * d + 2 * g * kv_rows * d,
            writes=h * m * (d + 1) + appended,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Tile by tile."""
        self.check(case)
        b = Expansion(self.inputs(case))
        k, v = b.keys_and_values(case)
        found = self._keys_outside(b, case, k, v) if self.version == 1 else self._queries_outside(b, case, k, v)
        b.last(b.join(found), found[0].shape[-1] - case.d_head, found[0].shape[-1], name="output")
        return b.graph()

    def _keys_outside(self, b: Expansion, case: Case, k: Primitive, v: Primitive) -> list[Primitive]:
        states: dict[int, Primitive] = {}
        tiles = sorted(self._tiles(case), key=lambda tile: (tile[1].start, tile[0].start))
        loaded: dict[int, tuple[Primitive, Primitive]] = {}
        for rows, keys in tiles:
            if keys.start not in loaded:
                loaded[keys.start] = b.load(k, keys.start, keys.stop), b.load(v, keys.start, keys.stop)
            q = b.load(b["q"], rows.start, rows.stop)
            if rows.start not in states:
                states[rows.start] = b.add(EmptyState, to=(case.heads, len(rows), 2 + case.d_head))
            old = b.add(Denormalise, b.load(states[rows.start]))
            tile = b.fold(
                b.scores(q, loaded[keys.start][0], case.scale, _band(case, rows, keys)), loaded[keys.start][1]
            )
            merged = b.add(Merge, old, tile)
            states[rows.start] = b.store(b.add(Normalise, merged, also="state"))
        return [states[start] for start in sorted(states)]

    def _queries_outside(self, b: Expansion, case: Case, k: Primitive, v: Primitive) -> list[Primitive]:
        by_rows: dict[range, list[range]] = {}
        for rows, keys in self._tiles(case):
            by_rows.setdefault(rows, []).append(keys)
        found: list[Primitive] = []
        for rows, blocks in by_rows.items():
            q = b.load(b["q"], rows.start, rows.stop)
            state: Primitive = b.add(EmptyState, to=(case.heads, len(rows), 2 + case.d_head))
            for keys in blocks:
                s = b.scores(q, b.load(k, keys.start, keys.stop), case.scale, _band(case, rows, keys))
                state = b.fold(s, b.load(v, keys.start, keys.stop), state)
            found.append(b.store(b.add(Normalise, state, also="lse")))
        return found


def _band(case: Case, rows: range, keys: range) -> Band | None:
    return Band(row0=case.offset + rows.start, col0=keys.start) if case.causal else None
