"""Decoders on GDDR6-AiM: where tensors lie, and the instructions of every forward pass.

A matrix of ``[d_in, d_out]`` is cut as the traces of aim_simulator cut it: output ``(g * channels + c) * banks + b`` lies
in bank b of channel c, a tile of as many inputs as the global buffer holds has a row of its own, row ``g * tiles + k``.
The tiles of a group accumulate in the MAC registers, which start from the bias.

A head of keys and values has ``channels // heads`` channels to itself (or heads share one). Keys: token t in bank
``t % banks``, blocks of that many tokens take turns over the channels of the head, a row for each block. Values: a bank
has an element of the head, its tokens along the row. Whatever is not a product is left to the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from math import ceil

from pimsim.arch.aim import AimConfig
from pimsim.arch.dram import DramSpec
from pimsim.arch.functions import cost
from pimsim.errors import CapacityExceeded, MappingError, UnsupportedOp
from pimsim.program.aim_isr import Instruction
from pimsim.program.aim_segments import PlacedSegment, Segment
from pimsim.workload import ops
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph, layer_of

ELEMENT_BYTES = 2
"""Of a number in the FP16 format of the MAC units."""

Channels = tuple[int, ...]


class AimMapping:
    """The rows of every tensor, and the segments that follow."""

    def __init__(self, workload: WorkloadConfig, graph: WorkloadGraph, arch: AimConfig, spec: DramSpec) -> None:
        """Place the tensors.

        Raises:
            CapacityExceeded: weights and KV cache do not fit the DRAM, or a head does not fit a row.
            MappingError: a forward pass has more than one token, or attention is not vanilla.
        """
        if workload.attention != "vanilla":
            raise MappingError(f"attention on {arch.name} must be vanilla, not {workload.attention!r}")
        if workload.together > 1:
            raise MappingError(
                f"a forward pass on {arch.name} must have one token (batch: 1, prefill: token_by_token), not "
                f"{workload.together}"
            )
        self.workload, self.graph, self.arch, self.spec = workload, graph, arch, spec
        self.channels, self.banks = spec.channels, spec.banks_per_channel
        self.lanes = spec.burst_bytes // ELEMENT_BYTES
        self.buffer = spec.columns * self.lanes
        self.passes = workload.prompt_tokens + workload.generate_tokens - 1
        model = workload.model
        self.kv_heads, self.d_head, self.queries = (
            model.key_value_heads,
            model.head_width,
            model.heads // model.key_value_heads,
        )
        self.channels_per_head = max(1, self.channels // self.kv_heads)
        self.heads_per_channel = ceil(self.kv_heads / self.channels)
        self.key_columns = ceil(self.d_head / self.lanes)
        if self.key_columns > spec.columns:
            raise CapacityExceeded(f"dram.columns must hold a head: {self.key_columns}, not {spec.columns}")
        self._layers = graph.layers()
        self._rows: dict[str, int] = {}
        """Operation, by its name within its layer -> first row, counted from that of the layer."""
        self._place()
        self._linear = lru_cache(maxsize=None)(self._linear_segments)
        self._product = lru_cache(maxsize=None)(self._product_segment)
        self._score = lru_cache(maxsize=None)(self._score_segment)
        self._value = lru_cache(maxsize=4096)(self._value_segment)
        self._append = lru_cache(maxsize=None)(self._append_segment)
        self._wait = lru_cache(maxsize=None)(self._wait_segment)

    # --- places ---

    def _place(self) -> None:
        row = 0
        for op in self._layers[0]:
            if isinstance(op, ops.Linear):
                self._rows[_short(op)] = row
                row += self.groups(op) * self.tiles(op.d_in)
        self._rows["keys"] = row
        row += self.heads_per_channel * self._key_rows
        self._rows["values"] = row
        row += self.heads_per_channel * self._value_rows
        self.layer_rows = row
        self.rows_used = row * self.workload.model.layers
        for op in self._layers.get(-2, []):
            if isinstance(op, ops.Linear):
                self._rows[_short(op)] = self.rows_used
                self.rows_used += self.groups(op) * self.tiles(op.d_in)
        if self.rows_used > self.spec.rows:
            raise CapacityExceeded(
                f"dram.rows must hold {self.workload.name} with a KV cache of {self.passes} tokens: {self.rows_used:,} "
                f"rows per bank, not {self.spec.rows:,}"
            )

    def groups(self, op: ops.Linear) -> int:
        """Groups of outputs, one for each bank of the machine."""
        return ceil(op.d_out / (self.channels * self.banks))

    def tiles(self, length: int) -> int:
        """Global buffers that a vector fills."""
        return ceil(length / self.buffer)

    @property
    def _key_rows(self) -> int:
        """Rows of the keys of a head in each of its channels, a row for each block of tokens."""
        return ceil(ceil(self.passes / self.banks) / self.channels_per_head)

    @property
    def _element_groups(self) -> int:
        """Groups of elements of a head, one for each bank, in each of its channels."""
        return ceil(ceil(self.d_head / self.banks) / self.channels_per_head)

    @property
    def _value_rows(self) -> int:
        return self._element_groups * self.tiles(self.passes)

    def head_channels(self, local: int, turn: int) -> Channels:
        """For each head that is the ``local``-th of its channels, the channel whose turn it is among those of the head."""
        first = local * self.channels if self.kv_heads > self.channels else 0
        heads = range(first, min(self.kv_heads, first + self.channels))
        return tuple((head - first) * self.channels_per_head + turn for head in heads)

    def addressed(self) -> list[Channels]:
        """Every set of channels that an instruction addresses."""
        sets = {tuple(range(self.channels))}
        for op in (*self._layers[0], *self._layers.get(-2, [])):
            if isinstance(op, ops.Linear):
                sets |= {self._group_channels(op.d_out, group) for group in range(self.groups(op))}
        for local in range(self.heads_per_channel):
            turns = [self.head_channels(local, turn) for turn in range(self.channels_per_head)]
            sets |= {*turns, *(self._merged(turns[:count]) for count in range(1, len(turns) + 1))}
        return sorted(sets)

    @staticmethod
    def _merged(parts: list[Channels]) -> Channels:
        return tuple(sorted(channel for part in parts for channel in part))

    def _group_channels(self, d_out: int, group: int) -> Channels:
        left = d_out - group * self.channels * self.banks
        return tuple(range(min(self.channels, ceil(left / self.banks))))

    # --- program ---

    def forward_pass(self, context: int) -> Iterator[PlacedSegment]:
        """The segments of one token that sees ``context`` tokens, itself included.

        Raises:
            UnsupportedOp: an operation is none that banks or the host can do.
        """
        for op in self.graph:
            layer = max(layer_of(op.name), -1)
            base = layer * self.layer_rows if layer >= 0 else 0
            first = True
            for segment, row in self._lower(op, context):
                yield PlacedSegment(segment, base + row, op.kind, layer, first)
                first = False

    def _lower(self, op: ops.OpNode, context: int) -> Iterator[tuple[Segment, int]]:
        """The segments of an operation and their rows."""
        if isinstance(op, ops.Linear):
            row = self._rows[_short(op)]
            yield from ((segment, row + start) for segment, start in self._linear(op.d_in, op.d_out))
        elif isinstance(op, ops.CacheWrite):
            yield from self._appended(context - 1)
        elif isinstance(op, ops.Scores):
            yield from self._scores(context)
        elif isinstance(op, ops.Values):
            yield from self._values(context)
        calls = tuple(_host_calls(op, context))
        if calls and self.arch.asic is not None:
            yield self._wait(calls), 0

    def _linear_segments(self, d_in: int, d_out: int) -> tuple[tuple[Segment, int], ...]:
        """A segment for each group of outputs, as in the traces ``acc`` of aim_simulator, and its first row.

        Groups after the first that address the same channels are the same segment.
        """
        tiles, groups = self.tiles(d_in), ceil(d_out / (self.channels * self.banks))
        return tuple(
            (self._product(d_in, self._group_channels(d_out, group), group == 0), group * tiles)
            for group in range(groups)
        )

    def _product_segment(self, d_in: int, channels: Channels, first: bool) -> Segment:
        """A group of outputs; the input comes with the first group, or with every tile of several."""
        tiles = self.tiles(d_in)
        body = [_make("WR_BIAS", channels)]
        for tile in range(tiles):
            columns = ceil(min(self.buffer, d_in - tile * self.buffer) / self.lanes)
            if tiles > 1 or first:
                body.append(_make("WR_GB", tuple(range(self.channels)) if first else channels, columns))
            body.append(_make("MAC_ABK", channels, columns, row=tile))
        return Segment((*body, _make("RD_MAC", channels)))

    def _appended(self, token: int) -> Iterator[tuple[Segment, int]]:
        """The key and the value of a token go to their rows."""
        block, bank = divmod(token, self.banks)
        slot, turn = divmod(block, self.channels_per_head)
        tile = token // self.buffer
        keys, values = self._rows["keys"], self._rows["values"]
        for local in range(self.heads_per_channel):
            key = keys + local * self._key_rows + slot
            value = values + local * self._value_rows + tile - key  # rows of a segment count from that of the key
            yield self._append(local, turn, bank, value), key

    def _append_segment(self, local: int, turn: int, bank: int, value: int) -> Segment:
        """Key: through the global buffer into one bank. Value: a column of each bank, over all groups of elements.

        The host keeps the tokens of a column that is not full, so that it can write the column as a whole.
        """
        one = self.head_channels(local, turn)
        every = self._merged([self.head_channels(local, each) for each in range(self.channels_per_head)])
        rows = [value + group * self.tiles(self.passes) for group in range(self._element_groups)]
        return Segment(
            (
                _make("WR_GB", one, self.key_columns),
                _make("COPY_GBBK", one, self.key_columns, bank=bank, row=0),
                *(_make("WR_ABK", every, row=row) for row in rows),
                _make("SYNC", ()),
            )
        )

    def _scores(self, context: int) -> Iterator[tuple[Segment, int]]:
        blocks = ceil(context / self.banks)
        for local in range(self.heads_per_channel):
            row = self._rows["keys"] + local * self._key_rows
            for _ in range(self.queries):
                for slot in range(ceil(blocks / self.channels_per_head)):
                    turns = min(self.channels_per_head, blocks - slot * self.channels_per_head)
                    yield self._score(local, turns, slot == 0), row + slot

    def _score_segment(self, local: int, turns: int, load: bool) -> Segment:
        """A block of tokens in each of some channels of every head; the query comes with the first."""
        channels = self._merged([self.head_channels(local, turn) for turn in range(turns)])
        query = (_make("WR_GB", channels, self.key_columns),) if load else ()
        return Segment(
            (
                *query,
                _make("WR_BIAS", channels),
                _make("MAC_ABK", channels, self.key_columns, row=0),
                _make("RD_MAC", channels),
            )
        )

    def _values(self, context: int) -> Iterator[tuple[Segment, int]]:
        for local in range(self.heads_per_channel):
            row = self._rows["values"] + local * self._value_rows
            for _ in range(self.queries):
                for group in range(self._element_groups):
                    columns = ceil(context / self.lanes)
                    yield self._value(local, columns, group == 0), row + group * self.tiles(self.passes)

    def _value_segment(self, local: int, columns: int, load: bool) -> Segment:
        """The weighted sum of a group of elements; the weights come with the first group, or with every tile of several."""
        channels = self._merged([self.head_channels(local, turn) for turn in range(self.channels_per_head)])
        body = [_make("WR_BIAS", channels)]
        tiles = ceil(columns / self.spec.columns)
        for tile in range(tiles):
            size = min(self.spec.columns, columns - tile * self.spec.columns)
            if load or tiles > 1:
                body.append(_make("WR_GB", channels, size))
            body.append(_make("MAC_ABK", channels, size, row=tile))
        return Segment((*body, _make("RD_MAC", channels)))

    def _wait_segment(self, calls: tuple[Call, ...]) -> Segment:
        """The time of the host for some calls, one kind after the other; memory clocks are rounded up."""
        asic = self.arch.asic
        assert asic is not None
        costs = [(cost(function, length, asic), times) for function, length, times in calls]
        busy = sum(times * each.busy for each, times in costs)
        latency = sum(each.latency + (times - 1) * each.busy for each, times in costs)
        return Segment(
            wait=ceil(Fraction(latency * 10**6) / Fraction(asic.clock_mhz) / Fraction(self.spec.tck_ps)), cycles=busy
        )


Call = tuple[str, int, int]
"""(function, elements, calls)"""


def _host_calls(op: ops.OpNode, context: int) -> list[Call]:
    """What of an operation is left to the host."""
    match op:
        case ops.Linear() | ops.CacheWrite() | ops.Scores() | ops.Embedding():
            return []
        case ops.LayerNorm():
            return [("layernorm", op.width, 1)]
        case ops.RmsNorm():
            return [("rmsnorm", op.width, 1)]
        case ops.Rope():
            return [("rope", op.rotary, op.heads + op.kv_heads)]
        case ops.Softmax():
            return [("softmax", context, op.heads)]
        case ops.Values():  # what the exponentials were not divided by
            return [("reciprocal", op.heads, 1), ("scale", op.d_head, op.heads)]
        case ops.Gelu():
            return [("gelu", op.width, 1)]
        case ops.Activation():
            return [(op.function, op.width, 1)]
        case ops.Gate():
            function = "gelu" if op.function == "gelu_tanh" else op.function
            return [(function, op.width, 1), ("multiply", op.width, 1)]
        case ops.Residual():
            return [("add", op.width, 1)]
        case ops.ArgMax():
            return [("argmax", op.width, 1)]
    raise UnsupportedOp(f"operation {op.name!r} must be one that banks or the host can do, not {type(op).__name__}")


def _make(name: str, channels: Channels, size: int = 1, *, bank: int = -1, row: int = -1) -> Instruction:
    return Instruction(name, size, channels, bank, row, 0, 0)


def _short(op: ops.OpNode) -> str:
    return op.name.partition(".")[2] or op.name


__all__ = ["ELEMENT_BYTES", "AimMapping"]
