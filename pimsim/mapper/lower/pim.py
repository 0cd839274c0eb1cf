"""Lowering onto PIM channels: vector-matrix products, and reads and writes of the KV cache.

Every function returns command items for one channel; who waits for what is decided by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from math import ceil

from pimsim.arch.dram import DramSpec
from pimsim.mapper.layout import KeyLayout, Place, Shape, TableLayout, ValueLayout, WeightLayout
from pimsim.mapper.rows import DotProduct, RowPass
from pimsim.program.isa import Item, Repeat, Run, Where, bank_where


class PimLowering:
    """Command items for the channels of one machine.

    Results that are asked for again are the same objects, which lets the machine recognise them.
    """

    def __init__(self, spec: DramSpec, shape: Shape, accumulators: int) -> None:
        self.spec, self.shape = spec, shape
        self._accumulators = accumulators
        fields = spec.address_fields
        self.none: Where = (-1,) * len(fields)
        self._accumulator_field = fields.index("accumulator") if "accumulator" in fields else None
        self.product_items = lru_cache(maxsize=None)(self._product_items)
        self.score_items = lru_cache(maxsize=4096)(self._score_items)
        self.value_items = lru_cache(maxsize=4096)(self._value_items)

    @cached_property
    def _delay(self) -> int:
        """MACs after which a result has left the MAC pipeline."""
        return max(1, self.spec.commands["MAC_AB"].latency)

    def rows(self, sram_channel: int) -> RowPass:
        """The row pass of this machine, for results that lie ``sram_channel`` elements apart from channel to channel."""
        return RowPass(
            self.shape.columns, self._accumulators, self._delay, self.none, self._accumulator_field, sram_channel
        )

    def load(self, sram: int, elements: int, buffer: int = 0) -> tuple[Run, ...]:
        """Write a vector from SRAM into the global buffer, with zeros behind its end."""
        lanes = self.shape.lanes
        count, carried = ceil(elements / lanes), ragged(elements, lanes)
        return (Run("WR_GB", self.none, count=count, buffer=buffer, sram=sram, sram_step=lanes, elements=carried),)

    def _product_items(
        self, layout: WeightLayout, chunk: int, slots: int, source: int, target: int, parts: int
    ) -> list[tuple[Item, ...]]:
        """One chunk of y = x W for a channel with ``slots`` groups of outputs; cut after every ``parts`` groups.

        Group g of channel c goes to SRAM ``target + (g * channels + c) * banks``.
        """
        shape, cpo = self.shape, layout.columns_per_output(chunk)
        first = layout.chunk_row(chunk) * shape.columns
        pitch = shape.banks * shape.channels
        products = [DotProduct(first + s * cpo, cpo, target + s * pitch) for s in range(slots)]
        load = self.load(source + chunk * layout.shape.buffer, layout.chunks[chunk])
        return self.rows(shape.banks).segments(products, load, range(parts - 1, slots - 1, parts))

    def group_items(
        self, layout: WeightLayout, chunk: int, slots: int, vectors: tuple[tuple[int, int], ...]
    ) -> tuple[Item, ...]:
        """One chunk of y = x W for several vectors at once, each (SRAM of x, SRAM of y): a row is opened once for all.

        The chunks of all vectors lie side by side in the global buffer.
        """
        shape, cpo = self.shape, layout.columns_per_output(chunk)
        first = layout.chunk_row(chunk) * shape.columns
        pitch = shape.banks * shape.channels
        products = [
            DotProduct(
                first + s * cpo,
                cpo,
                vectors[0][1] + s * pitch,
                further=tuple((target + s * pitch, v * cpo) for v, (_, target) in enumerate(vectors[1:], start=1)),
            )
            for s in range(slots)
        ]
        start = chunk * layout.shape.buffer
        load = [
            run
            for v, (source, _) in enumerate(vectors)
            for run in self.load(source + start, layout.chunks[chunk], buffer=v * cpo)
        ]
        return self.rows(shape.banks).segments(products, load)[0]

    def piece_items(self, layout: WeightLayout, chunk: int, slots: range, source: int, target: int) -> tuple[Item, ...]:
        """One chunk of some groups of outputs of y = x W.

        Group g of channel c goes to SRAM ``target + ((g - slots.start) * channels + c) * banks``.
        """
        shape, cpo = self.shape, layout.columns_per_output(chunk)
        first = layout.chunk_row(chunk) * shape.columns
        pitch = shape.banks * shape.channels
        products = [DotProduct(first + s * cpo, cpo, target + (s - slots.start) * pitch) for s in slots]
        load = self.load(source + chunk * layout.shape.buffer, layout.chunks[chunk])
        return self.rows(shape.banks).segments(products, load)[0]

    def _score_items(
        self, layout: KeyLayout, heads: range, slots: int, query: int, target: int, pitch: int
    ) -> tuple[Item, ...]:
        """Dot products of the query with all keys of a channel, for some query heads of one chunk.

        The score of token t for head h goes to SRAM ``target + (h - heads.start) * pitch + t``.
        """
        if not slots:
            return ()
        shape, cph = self.shape, layout.columns_per_head
        chunk = layout.key_head(heads.start) // layout.heads_per_chunk
        first = layout.chunk_row(chunk) * shape.columns
        products = [
            DotProduct(
                first + s * layout.columns_per_key(chunk) + (layout.key_head(h) - layout.chunks[chunk].start) * cph,
                cph,
                target + (h - heads.start) * pitch + s * layout.tokens_per_slot,
                buffer=(h - heads.start) * cph,
            )
            for s in range(slots)
            for h in heads
        ]
        load = self._load_heads(query + heads.start * layout.d_head, len(heads), layout.d_head, cph)
        return self.rows(shape.banks).segments(products, load)[0]

    def _load_heads(self, sram: int, heads: int, d_head: int, columns: int) -> tuple[Run, ...]:
        if columns * self.shape.lanes == d_head:
            return self.load(sram, heads * d_head)
        return tuple(self.load(sram + h * d_head, d_head, buffer=h * columns)[0] for h in range(heads))

    def _value_items(
        self, layout: ValueLayout, channel: int, groups: range, chunk: int, columns: int, source: int, target: int
    ) -> tuple[Item, ...]:
        """Weighted sums of values for some groups of one head; group g goes to SRAM ``target + position of its elements``."""
        shape = self.shape
        products = [
            DotProduct(
                layout.group_row(channel, g, chunk) * shape.columns,
                columns,
                target + group_offset(layout, g, shape.banks),
                results=ragged(group_elements(layout, g, shape.banks), shape.banks),
            )
            for g in groups
        ]
        load = (Run("WR_GB", self.none, count=columns, buffer=0, sram=source, sram_step=shape.lanes),)
        return self.rows(0).segments(products, load)[0]

    def key_write(self, layout: KeyLayout, token: int, sram: int) -> tuple[int, tuple[Item, ...]]:
        """Write the key of a token: (channel, items)."""
        shape, cph = self.shape, layout.columns_per_head
        items: list[Item] = []
        channel = layout.place(token, 0, 0).channel
        for heads in layout.chunks:
            place = layout.place(token, heads.start, 0)
            source = sram + heads.start * layout.d_head
            if cph * shape.lanes == layout.d_head:
                items += self._column_write(place, len(heads) * layout.d_head, source)
            else:
                for h in heads:
                    items += self._column_write(layout.place(token, h, 0), layout.d_head, sram + h * layout.d_head)
        return channel, tuple(items)

    def _column_write(self, place: Place, elements: int, sram: int) -> list[Item]:
        """Write a vector into consecutive columns of one bank."""
        return self._columns("WR", place, elements, sram)

    def _columns(self, command: str, place: Place, elements: int, sram: int) -> list[Item]:
        """Read or write consecutive columns of one bank, over as many rows as it takes."""
        where = bank_where(place.bank, self.spec.counts) + self.none[len(self.spec.counts) :]
        items: list[Item] = []
        lanes, row, column = self.shape.lanes, place.row, place.column
        while elements:
            part = min(elements, (self.shape.columns - column) * lanes)
            items += [
                Run("ACT", where, row=row),
                Run(
                    command,
                    where,
                    row=row,
                    column=column,
                    count=ceil(part / lanes),
                    sram=sram,
                    sram_step=lanes,
                    elements=ragged(part, lanes),
                ),
                Run("PREpb", where),
            ]
            sram, elements, row, column = sram + part, elements - part, row + 1, 0
        return items

    def value_write(self, layout: ValueLayout, channel: int, token: int, sram: int) -> tuple[Item, ...]:
        """Write a channel's elements of a token's value: one masked write per element, all banks' rows open at once."""
        groups = layout.channel_groups(channel)
        if not groups:
            return ()
        shape = self.shape
        chunk, t = divmod(token, layout.chunk_tokens)
        column, lane = divmod(t, shape.lanes)
        body = (
            Run("ACT_AB", self.none, row=layout.group_row(channel, groups.start, chunk)),
            Run(
                "WR",
                self.none,
                row=layout.group_row(channel, groups.start, chunk),
                column=column,
                count=shape.banks,
                sweep=True,
                lane=lane,
                sram=sram + group_offset(layout, groups.start, shape.banks),
                sram_step=1,
            ),
            Run("PREab", self.none),
        )
        if layout.d_head % shape.banks == 0:
            return (Repeat(len(groups), body, layout.rows_per_group, shape.banks),)
        return self._ragged_value_write(layout, channel, groups, chunk, body, sram)

    def _ragged_value_write(
        self, layout: ValueLayout, channel: int, groups: range, chunk: int, body: Sequence[Run], sram: int
    ) -> tuple[Item, ...]:
        """The same where the last group of a head is not full."""
        items: list[Item] = []
        for g in groups:
            count = group_elements(layout, g, self.shape.banks)
            row = layout.group_row(channel, g, chunk)
            start = sram + group_offset(layout, g, self.shape.banks)
            items += [replace(body[0], row=row), replace(body[1], row=row, count=count, sram=start), body[2]]
        return tuple(items)

    def table_read(self, layout: TableLayout, entry: int, sram: int) -> tuple[int, tuple[Item, ...]]:
        """Read an entry of a table into SRAM: (channel, items)."""
        place = layout.place(entry, 0)
        return place.channel, tuple(self._columns("RD", place, layout.width, sram))


def ragged(elements: int, unit: int) -> int:
    """The number of elements for `Run.elements`: -1 where they fill whole units."""
    return elements if elements % unit else -1


def group_elements(layout: ValueLayout, group: int, banks: int) -> int:
    """Elements of a group of values: those of all banks, or what is left at the end of a head."""
    return min(banks, layout.d_head - group % layout.groups_per_head * banks)


def group_offset(layout: ValueLayout, group: int, banks: int) -> int:
    """Position of a group's first element in the concatenated heads."""
    head, inner = divmod(group, layout.groups_per_head)
    return head * layout.d_head + inner * banks
