"""What attention by an algorithm does in a decoder, counted in the program of every token and layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pimsim.program.isa import Block, Placed
from pimsim.runners.attention import counts_section

if TYPE_CHECKING:
    from pimsim.mapper.attention.decoder import DecoderAttention


class AttentionCounter:
    """Sees the program of a decoder go by, and adds up what its attention does."""

    def __init__(self, attention: DecoderAttention, layers: int) -> None:
        self.attention, self.layers = attention, layers
        self.totals: dict[str, int] = {}
        self._persistent = 0
        self._known: tuple[Block, dict[str, int]] | None = None

    def watch(self, passes: Iterable[list[Placed]]) -> Iterator[list[Placed]]:
        """The same passes."""
        for blocks in passes:
            self._persistent = 0
            for placed in blocks:
                if placed.block in self.attention.programs:
                    self._add(self._of(placed.block))
            yield blocks

    def _add(self, counts: dict[str, int]) -> None:
        for name, number in counts.items():
            self.totals[name] = self.totals.get(name, 0) + number
        self._persistent += counts["persistent"]

    def _of(self, block: Block) -> dict[str, int]:
        """Counts of a block; layers share it, so the last one is remembered."""
        if self._known is None or self._known[0] is not block:
            from pimsim.mapper.attention.count import count_program

            program = self.attention.programs[block]
            counts = asdict(count_program(block, program.lowering))
            at_home = {"resident_reads": program.home.reads, "resident_writes": program.home.writes}
            self._known = block, counts | at_home
        return self._known[1]

    def section(self) -> dict[str, Any]:
        """The ``counts`` section: totals over layers and tokens; what is persistent is that behind the last token."""
        from pimsim.workload.attention.base import Counts

        attention, closed = self.attention, Counts()
        for context in range(1, attention.tokens + 1):
            of_token = attention.method.counts(attention.op.case(context))
            closed = replace(closed + of_token, persistent=of_token.persistent)
        origin = attention.origin if attention.depends_on_data else None
        return counts_section(self.totals | {"persistent": self._persistent}, closed * self.layers, origin)


__all__ = ["AttentionCounter"]
