"""LeanAttention: decode attention cut into equal tiles that workers share evenly, across the borders of heads (stream-K).

Source: Sanovar et al. 2024, arXiv 2405.10480; the schedule is that of its implementations. A worker owns a run of
consecutive tiles; its part of one head is a segment with one softmax state. The worker of a head's first tile merges the
other segments, which go through memory, and writes the output.
"""

from __future__ import annotations

from typing import ClassVar

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
    exact_attention,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Arrange, Merge, Primitive
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph

Segment = tuple[int, int, int, int]
"""(worker, head, first tile, tile behind the last)."""


def partition(heads: int, tiles: int, workers: int) -> list[Segment]:
    """Segments of ``heads`` times ``tiles`` tiles on workers, in order of tiles.

    >>> partition(2, 5, 4)
    [(0, 0, 0, 3), (1, 0, 3, 5), (1, 1, 0, 1), (2, 1, 1, 3), (3, 1, 3, 5)]
    """
    total = heads * tiles
    most = -(-total // workers)
    full = total - (most - 1) * workers
    segments: list[Segment] = []
    at = 0
    for worker in range(workers):
        stop = at + (most if worker < full else most - 1)
        while at < stop:
            head, first = divmod(at, tiles)
            end = min(stop, (head + 1) * tiles)
            segments.append((worker, head, first, first + end - at))
            at = end
    return segments


def makespan(heads: int, tiles: int, workers: int) -> int:
    """Tiles that the busiest worker has: ``ceil(heads * tiles / workers)``."""
    return -(-heads * tiles // workers)


def default_columns(d: int) -> int:
    """Keys of a tile: 256 up to 64 elements, 128 up to 128, 64 above."""
    return 256 if d <= 64 else 128 if d <= 128 else 64


@ALGORITHMS.register("lean")
class Lean(Algorithm):
    """Decode attention in equal shares."""

    description: ClassVar[str] = "LeanAttention: decode tiles shared evenly by workers, partial softmax states merged"
    source: ClassVar[str] = "Sanovar et al. 2024, arXiv 2405.10480"
    phases: ClassVar[tuple[Phase, ...]] = ("decode",)

    workers: PositiveInt = Field(8, description="workers or channels that share the tiles")
    block: PositiveInt | None = Field(None, description="keys of a tile; default by d_head: 256, 128 or 64")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if heads share keys."""
        super().check(case)
        if case.groups != case.heads:
            raise WorkloadError(
                f"attention lean must have as many kv_heads as heads, not {case.kv_heads} and {case.heads}: query heads "
                "that share keys are not folded into rows"
            )

    def segments(self, case: Case) -> list[Segment]:
        """Who does what."""
        return partition(case.heads, -(-case.keys // self._columns(case)), self.workers)

    def _columns(self, case: Case) -> int:
        return self.block or default_columns(case.d_head)

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Softmax attention in one go."""
        return {"output": exact_attention(case, tensors)}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """As single-pass with tiles; a segment's first tile has nothing to rescale; each further segment is merged."""
        h, n, d = case.heads, case.keys, case.d_head
        tiles = -(-n // self._columns(case))
        most = -(-h * tiles // self.workers)
        full = h * tiles - (most - 1) * self.workers
        starts = {g * most if g < full else full * most + (g - full) * (most - 1) for g in range(self.workers)}
        # a segment begins where a worker begins and where a head begins
        segments = len({s for s in starts if s < h * tiles} | {head * tiles for head in range(h)})
        more = segments - h
        return Counts(
            scores=h * n,
            exps=h * n + h * tiles - segments + 2 * more,
            macs=2 * h * n * d,
            reads=segments * d + 2 * h * n * d + more * (d + 2),
            writes=h * d + more * (d + 2) + 2 * h * d,
            persistent=2 * h * n * d,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Segment by segment, merged at each head's first."""
        self.check(case)
        b = Expansion(self.inputs(case))
        h, n, d, columns = case.heads, case.keys, case.d_head, self._columns(case)
        k, v = (b.add(Arrange, x, to=(1, h * n, d)) for x in b.keys_and_values(case))
        q = b.add(Arrange, b["q"], to=(1, h, d))
        states: dict[int, Primitive] = {}
        for _, head, first, end in self.segments(case):
            state: Primitive | None = None
            mine = b.load(q, head, head + 1)
            for tile in range(first, end):
                rows = head * n + tile * columns, head * n + min(n, (tile + 1) * columns)
                state = b.fold(b.scores(mine, b.load(k, *rows), case.scale), b.load(v, *rows), state)
            assert state is not None
            states[head] = b.add(Merge, states[head], b.load(b.store(state))) if head in states else state
        joined = b.join([b.normalise(states[head]) for head in range(h)])
        b.store(b.add(Arrange, joined, to=(h, 1, d)), name="output")
        return b.graph()
