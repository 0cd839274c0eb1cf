"""Where tensors lie in DRAM: pure, invertible arithmetic from element to (channel, bank, row, column, lane).

All layouts use the same rows in every bank of every channel, because an all-bank command opens the same row in all
banks
of a channel. ``banks`` below is the number of banks of one channel, ``lanes`` the elements in one column.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import NamedTuple


class Place(NamedTuple):
    """Address of one element."""

    channel: int
    bank: int
    row: int
    column: int
    lane: int


@dataclass(frozen=True)
class Shape:
    """The part of a DRAM that a layout needs to know."""

    channels: int
    banks: int
    columns: int
    lanes: int
    buffer: int
    """Elements that the global buffer of a channel holds."""

    @property
    def row(self) -> int:
        """Elements in one row of one bank."""
        return self.columns * self.lanes


@dataclass(frozen=True)
class WeightLayout:
    """A matrix for y = x W, one dot product per bank at a time.

    Outputs form groups of ``banks``; group g belongs to channel ``g mod channels`` and is that channel's slot
    ``g div channels``. The input dimension is cut into chunks that fit the global buffer. Within a chunk, the weights
    of one output lie in consecutive columns, and outputs follow each other without a gap, so rows are used whole.
    """

    shape: Shape
    d_in: int
    d_out: int
    row0: int

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """Inputs in each chunk."""
        full, rest = divmod(self.d_in, self.shape.buffer)
        return (self.shape.buffer,) * full + ((rest,) if rest else ())

    @cached_property
    def groups(self) -> int:
        """Groups of outputs."""
        return ceil(self.d_out / self.shape.banks)

    def slots(self, channel: int) -> int:
        """Groups that a channel holds."""
        return len(range(channel, self.groups, self.shape.channels))

    def columns_per_output(self, chunk: int) -> int:
        """Columns that the weights of one output occupy in a chunk."""
        return ceil(self.chunks[chunk] / self.shape.lanes)

    def chunk_row(self, chunk: int) -> int:
        """First row of a chunk."""
        return self.row0 + sum(self._chunk_rows(k) for k in range(chunk))

    def _chunk_rows(self, chunk: int) -> int:
        return ceil(self.slots(0) * self.columns_per_output(chunk) / self.shape.columns)

    @cached_property
    def rows(self) -> int:
        """Rows in each bank."""
        return sum(self._chunk_rows(k) for k in range(len(self.chunks)))

    def place(self, i: int, o: int) -> Place:
        """Where the weight from input ``i`` to output ``o`` lies."""
        chunk, inner = divmod(i, self.shape.buffer)
        group, bank = divmod(o, self.shape.banks)
        slot, channel = divmod(group, self.shape.channels)
        linear = slot * self.columns_per_output(chunk) + inner // self.shape.lanes
        row, column = divmod(linear, self.shape.columns)
        return Place(channel, bank, self.chunk_row(chunk) + row, column, inner % self.shape.lanes)


@dataclass(frozen=True)
class KeyLayout:
    """Keys, row-major: the key of a token lies in consecutive columns of one bank.

    Tokens fill the banks of a channel, then the next channel; after ``banks * channels`` tokens the next slot
    begins. Heads
    are concatenated; as many whole heads as have their queries in the global buffer form a chunk, and the keys of a chunk
    follow each other slot by slot.
    """

    shape: Shape
    heads: int
    d_head: int
    tokens: int
    row0: int
    group: int = 1
    """Query heads that share the keys of a head."""

    @property
    def query_heads(self) -> int:
        """Heads of a query."""
        return self.heads * self.group

    def key_head(self, query_head: int) -> int:
        """Head whose keys a query head meets."""
        return query_head // self.group

    @property
    def columns_per_head(self) -> int:
        """Columns of one head of one key."""
        return ceil(self.d_head / self.shape.lanes)

    @cached_property
    def heads_per_chunk(self) -> int:
        """Whole heads whose queries fit the global buffer."""
        return self.shape.buffer // (self.columns_per_head * self.shape.lanes * self.group)

    @cached_property
    def chunks(self) -> tuple[range, ...]:
        """Heads of each chunk."""
        step = self.heads_per_chunk
        return tuple(range(h, min(h + step, self.heads)) for h in range(0, self.heads, step))

    @property
    def tokens_per_slot(self) -> int:
        """Tokens that one slot of all banks holds."""
        return self.shape.banks * self.shape.channels

    def slots(self, channel: int, context: int) -> int:
        """Slots of a channel that hold a key when ``context`` tokens are stored."""
        full, rest = divmod(context, self.tokens_per_slot)
        return full + (rest > channel * self.shape.banks)

    def columns_per_key(self, chunk: int) -> int:
        """Columns of one key in a chunk."""
        return len(self.chunks[chunk]) * self.columns_per_head

    def chunk_row(self, chunk: int) -> int:
        """First row of a chunk."""
        return self.row0 + sum(self._chunk_rows(k) for k in range(chunk))

    def _chunk_rows(self, chunk: int) -> int:
        slots = ceil(self.tokens / self.tokens_per_slot)
        return ceil(slots * self.columns_per_key(chunk) / self.shape.columns)

    @cached_property
    def rows(self) -> int:
        """Rows in each bank."""
        return sum(self._chunk_rows(k) for k in range(len(self.chunks)))

    def place(self, token: int, head: int, j: int) -> Place:
        """Where element ``j`` of a head of a token's key lies."""
        slot, rest = divmod(token, self.tokens_per_slot)
        channel, bank = divmod(rest, self.shape.banks)
        chunk, inner = divmod(head, self.heads_per_chunk)
        linear = slot * self.columns_per_key(chunk) + inner * self.columns_per_head + j // self.shape.lanes
        row, column = divmod(linear, self.shape.columns)
        return Place(channel, bank, self.chunk_row(chunk) + row, column, j % self.shape.lanes)


@dataclass(frozen=True)
class ValueLayout:
    """Values, column-major: element j of all tokens lies along a row, one element per bank.

    The elements of a head form groups of ``banks``; the groups of all heads are dealt to the channels in contiguous,
    balanced ranges, so that a softmax row goes to few channels. A group owns one row per ``row`` tokens.
    """

    shape: Shape
    heads: int
    d_head: int
    tokens: int
    row0: int

    @property
    def groups_per_head(self) -> int:
        """Groups of elements in one head."""
        return ceil(self.d_head / self.shape.banks)

    @property
    def groups(self) -> int:
        """Groups of all heads."""
        return self.heads * self.groups_per_head

    @property
    def chunk_tokens(self) -> int:
        """Tokens whose weights fit the global buffer and whose values fit one row."""
        return min(self.shape.row, self.shape.buffer)

    @property
    def rows_per_group(self) -> int:
        """Rows that one group owns."""
        return ceil(self.tokens / self.chunk_tokens)

    def channel_groups(self, channel: int) -> range:
        """Groups of a channel."""
        n, c = self.groups, self.shape.channels
        return range(channel * n // c, (channel + 1) * n // c)

    @cached_property
    def rows(self) -> int:
        """Rows in each bank."""
        return max(len(self.channel_groups(c)) for c in range(self.shape.channels)) * self.rows_per_group

    def group_row(self, channel: int, group: int, chunk: int) -> int:
        """Row of a group for a chunk of tokens."""
        return self.row0 + (group - self.channel_groups(channel).start) * self.rows_per_group + chunk

    def place(self, token: int, head: int, j: int) -> Place:
        """Where element ``j`` of a head of a token's value lies."""
        inner, bank = divmod(j, self.shape.banks)
        group = head * self.groups_per_head + inner
        channel = self._channel_of[group]
        chunk, t = divmod(token, self.chunk_tokens)
        return Place(channel, bank, self.group_row(channel, group, chunk), t // self.shape.lanes, t % self.shape.lanes)

    @cached_property
    def _channel_of(self) -> tuple[int, ...]:
        return tuple(c for c in range(self.shape.channels) for _ in self.channel_groups(c))


@dataclass(frozen=True)
class TableLayout:
    """A table whose entries are read whole (embeddings): entry e lies in bank ``e mod banks`` of all, in consecutive columns."""

    shape: Shape
    entries: int
    width: int
    row0: int

    @property
    def columns_per_entry(self) -> int:
        """Columns of one entry."""
        return ceil(self.width / self.shape.lanes)

    @cached_property
    def rows(self) -> int:
        """Rows in each bank; an entry may span rows."""
        per_bank = ceil(self.entries / (self.shape.banks * self.shape.channels))
        return ceil(per_bank * self.columns_per_entry / self.shape.columns)

    def place(self, entry: int, j: int) -> Place:
        """Where element ``j`` of an entry lies."""
        slot, rest = divmod(entry, self.shape.banks * self.shape.channels)
        channel, bank = divmod(rest, self.shape.banks)
        row, column = divmod(slot * self.columns_per_entry + j // self.shape.lanes, self.shape.columns)
        return Place(channel, bank, self.row0 + row, column, j % self.shape.lanes)
