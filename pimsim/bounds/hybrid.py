"""Closed-form time of a piece of work on either side of a hybrid machine, for the tokens of a pass; nothing is simulated.

PIM side: column accesses one per nCCD, a row switch (nRP + nRCD) for each row, the buffer loads and result reads that
nothing hides, and the share of time that refresh takes; more tokens share row switches, and nothing else. Streaming side:
uses of beats, or the port where that is slower, plus the latency of the port and of the pipelines, plus both directions of
the link; a beat of weights, or of the keys of a sequence, meets several tokens at once.
"""

from __future__ import annotations

from math import ceil

from pimsim.arch.dram import DramSpec
from pimsim.arch.formats import format_bytes
from pimsim.arch.functions import cost
from pimsim.arch.hybrid import HybridConfig


class HybridBounds:
    """Seconds of work on the PIM side (``pim_*``) and on the streaming unit (``fpga_*``) of one machine.

    ``tokens`` are those of a pass.
    """

    def __init__(self, arch: HybridConfig, spec: DramSpec) -> None:
        element = format_bytes(arch.pim.format)
        self.arch, self.spec = arch, spec
        self._lanes = spec.burst_bytes // element
        self._buffer = arch.pim.global_buffer_bytes // element
        self._words = arch.fpga.beat_bits // (8 * element)
        self._element_bits = 8 * element

    # -- the PIM side ---------------------------------------------------------------------------------------------

    def pim_linear(self, d_in: int, d_out: int, tokens: int = 1) -> float:
        """Y = X W: each chunk of the inputs is a pass over the rows of the fullest channel.

        As many tokens as there are accumulators share a pass, and the buffer, so that more of them have shorter chunks.
        """
        together = min(tokens, self.arch.pim.accumulators)
        groups = ceil(ceil(d_out / self.spec.banks_per_channel) / self.spec.channels)
        longest = self._buffer // self._lanes // together * self._lanes
        chunks = [ceil(min(longest, d_in - start) / self._lanes) for start in range(0, d_in, longest)]
        shares = [min(together, tokens - start) for start in range(0, tokens, together)]
        return sum(self._row_pass(groups * chunk, chunk, share) for share in shares for chunk in chunks)

    def pim_attention(self, heads: int, kv_heads: int, d_head: int, context: int, tokens: int = 1) -> float:
        """Keys and values written, scores, softmax of the last head, weighted values; all heads of the fullest channel.

        One token after the other; only the last softmax has nothing to hide behind.
        """
        spec, timing = self.spec, self.spec.timing
        banks, columns = spec.banks_per_channel, ceil(d_head / self._lanes)
        slots = ceil(context / (banks * spec.channels))
        scores = self._row_pass(slots * heads * columns, heads * columns)
        groups = ceil(kv_heads * ceil(d_head / banks) / spec.channels)
        rows = [min(self._buffer, context - start) for start in range(0, context, self._buffer)]
        passes = groups * heads // kv_heads
        values = sum(passes * self._row_pass(ceil(row / self._lanes), ceil(row / self._lanes)) for row in rows)
        row_cycle = timing["nRCD"] + timing["nWR"] + timing["nRP"]
        writes = groups * (banks * timing["nCCD"] + row_cycle) + kv_heads * columns * timing["nCCD"] + row_cycle
        softmax = cost("softmax", context, self.arch.asic).latency / (self.arch.asic.clock_mhz * 1e6)
        return tokens * (scores + values + writes * spec.tick_seconds * self._refreshed()) + softmax

    def _row_pass(self, columns: int, loads: int, tokens: int = 1) -> float:
        """For each token ``columns`` column accesses of a channel, row after row, and ``loads`` columns of its buffer."""
        timing = self.spec.timing
        switches = ceil(columns / self.spec.columns)
        ticks = tokens * (columns + loads) * timing["nCCD"] + switches * (timing["nRP"] + timing["nRCD"])
        return ticks * self.spec.tick_seconds * self._refreshed()

    def _refreshed(self) -> float:
        timing = self.spec.timing
        return 1.0 if self.spec.refresh_policy == "none" else 1 / (1 - timing["nRFC"] / timing["nREFI"])

    # -- the streaming unit ---------------------------------------------------------------------------------------

    def fpga_linear(self, d_in: int, d_out: int, tokens: int = 1) -> float:
        """Y = X W: a beat of weights per lane and cycle, until it has met all tokens."""
        unit = self.arch.fpga.linear
        beats = ceil(d_out / unit.lanes) * ceil(d_in / self._words)
        depths = unit.load_depth + unit.product_depth + unit.store_depth
        crossing = self._link(d_in, tokens) + self._link(d_out, tokens)
        return self._stream(beats, ceil(tokens / unit.parallelism), depths) + crossing

    def fpga_attention(
        self,
        heads: int,
        kv_heads: int,
        d_head: int,
        context: int,
        *,
        single_pass: bool,
        sequences: int = 1,
        queries: int = 1,
    ) -> float:
        """Keys and values of the tokens of a lane, together or one after the other, and the tree over lanes.

        Sequences follow each other. ``queries`` tokens of a sequence attend together, ``context`` being what they see on
        average.
        """
        unit = self.arch.fpga.attention
        token_beats = kv_heads * ceil(d_head / self._words)
        beats = ceil((context + (queries - 1) // 2) / unit.lanes) * token_beats
        seen = context / (context + (queries - 1) // 2)
        uses = ceil(queries * (heads // kv_heads) / unit.parallelism) * seen
        results, scores = queries * heads * ceil(d_head / self._words), queries * heads
        tree = unit.merge_depth * (unit.lanes - 1).bit_length() + unit.store_depth
        depth = unit.load_depth + unit.statistics_depth + tree
        tokens = sequences * queries
        crossing = self._link((heads + 2 * kv_heads) * d_head, tokens) + self._link(heads * d_head, tokens)
        if single_pass:
            both = self._stream(beats, uses, depth + unit.product_depth + unit.weighted_depth + results)
        else:
            both = self._stream(beats, uses, depth + unit.product_depth + scores)
            both += self._stream(beats, uses, depth + unit.weighted_depth + results)
        return sequences * both + crossing

    def _stream(self, beats: int, uses: float, depths: int) -> float:
        fpga = self.arch.fpga
        port = fpga.beat_bits / fpga.ports.width_bits * fpga.clock_mhz / fpga.ports.clock_mhz
        return (beats * max(float(uses), port) + fpga.ports.latency + depths) / (fpga.clock_mhz * 1e6)

    def _link(self, elements: int, tokens: int = 1) -> float:
        """Transfers of so many elements, one for each token, without a gap."""
        link = self.arch.link
        return (tokens * ceil(elements * self._element_bits / link.width_bits) + link.latency) / (link.clock_mhz * 1e6)


__all__ = ["HybridBounds"]
