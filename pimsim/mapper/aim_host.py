"""Decoders on GDDR6-AiM: what the host sends with each instruction, and where what it reads goes.

For every segment of `AimMapping.forward_pass` there are the transfers of its instructions, as elements of vectors:

=========  ============================================  ==========================  =========================
operation  ``input``                                     ``column``                  ``output``
=========  ============================================  ==========================  =========================
product    ``[d_in]``; ``bias`` is ``[d_out]``                                       ``[d_out]``
append     ``[queries, keys, values]`` of the token      ``[lanes, values]``: the    -
                                                         tokens of a column
scores     ``[queries, keys, values]`` of the token                                  ``[heads, context]``
values     ``[heads, context]``                                                      ``[heads * d_head]``
=========  ============================================  ==========================  =========================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from pimsim.mapper.aim import AimMapping
from pimsim.program.aim_segments import NOTHING, Transfer
from pimsim.workload import ops

Elements = tuple[tuple[int, ...], ...]


class AimHostData:
    """The transfers of a mapping."""

    def __init__(self, mapping: AimMapping) -> None:
        self._mapping = mapping
        self._product = lru_cache(maxsize=64)(self._product_transfers)
        self._zeros = (NOTHING,) * mapping.banks

    def transfers(self, op: ops.OpNode, context: int) -> Iterator[tuple[Transfer, ...]]:
        """Those of each segment of an operation, in the order of the program; nothing for what the host does itself."""
        if isinstance(op, ops.Linear):
            yield from self._product(op.d_in, op.d_out)
        elif isinstance(op, ops.CacheWrite):
            yield from self._append(op, context - 1)
        elif isinstance(op, ops.Scores):
            yield from self._scores(op, context)
        elif isinstance(op, ops.Values):
            yield from self._values(op, context)

    # -- products -------------------------------------------------------------------------------------------------

    def _product_transfers(self, d_in: int, d_out: int) -> tuple[tuple[Transfer, ...], ...]:
        mapping, found = self._mapping, []
        tiles = mapping.tiles(d_in)
        width = mapping.channels * mapping.banks
        for group in range(-(-d_out // width)):
            outputs = self._outputs(group * width, d_out)
            loads = [self._load("input", [range(d_in)], tile) for tile in range(tiles) if tiles > 1 or not group]
            found.append((Transfer("WR_BIAS", "bias", outputs), *loads, Transfer("RD_MAC", "output", outputs)))
        return tuple(found)

    def _outputs(self, first: int, end: int) -> Elements:
        """Outputs from ``first`` on, one for each bank; `NOTHING` from ``end`` on."""
        banks = self._mapping.banks
        starts = (first + channel * banks for channel in range(self._mapping.channels))
        return tuple(tuple(at if at < end else NOTHING for at in range(start, start + banks)) for start in starts)

    def _load(self, vector: str, rows: Sequence[range], tile: int) -> Transfer:
        """A tile of a vector, of each channel or of all, filled up to whole columns."""
        buffer, lanes = self._mapping.buffer, self._mapping.lanes
        parts = [tuple(row[tile * buffer : (tile + 1) * buffer]) for row in rows]
        return Transfer("WR_GB", vector, tuple((*part, *(NOTHING,) * (-len(part) % lanes)) for part in parts))

    # -- attention ------------------------------------------------------------------------------------------------

    def _head(self, local: int, channel: int) -> tuple[int, int] | None:
        """(head of keys and values, turn) of a channel; None if it has none."""
        mapping = self._mapping
        first = local * mapping.channels if mapping.kv_heads > mapping.channels else 0
        head, turn = divmod(channel, mapping.channels_per_head)
        return (first + head, turn) if first + head < mapping.kv_heads and head < mapping.channels else None

    def _vectors(self, local: int, start: Callable[[int], int], length: int) -> list[range]:
        """For each channel, ``length`` elements from ``start(head)`` on; none where there is no head."""
        heads = (self._head(local, channel) for channel in range(self._mapping.channels))
        return [range(0) if found is None else range(start(found[0]), start(found[0]) + length) for found in heads]

    def _append(self, op: ops.CacheWrite, token: int) -> Iterator[tuple[Transfer, ...]]:
        mapping = self._mapping
        d, keys = op.d_head, op.heads * op.d_head
        for local in range(mapping.heads_per_channel):
            load = self._load("input", self._vectors(local, lambda head: keys + head * d, d), 0)
            yield (load, *(self._column(op, local, group, token) for group in range(mapping.element_groups)))

    def _column(self, op: ops.CacheWrite, local: int, group: int, token: int) -> Transfer:
        """A group of elements of the tokens that share a column with this one, up to it: in each bank an element."""
        mapping, rows = self._mapping, []
        so_far = token % mapping.lanes + 1
        for channel in range(mapping.channels):
            row: list[int] = []
            for bank in range(mapping.banks):
                element = self._element(op, local, group, channel, bank)
                row += (
                    lane * op.kv_heads * op.d_head + element if lane < so_far and element != NOTHING else NOTHING
                    for lane in range(mapping.lanes)
                )
            rows.append(tuple(row))
        return Transfer("WR_ABK", "column", tuple(rows))

    def _element(self, op: ops.CacheWrite | ops.Values, local: int, group: int, channel: int, bank: int) -> int:
        """Element of all values of a token that a bank has."""
        found = self._head(local, channel)
        if found is None:
            return NOTHING
        head, turn = found
        element = (turn * self._mapping.element_groups + group) * self._mapping.banks + bank
        return head * op.d_head + element if element < op.d_head else NOTHING

    def _scores(self, op: ops.Scores, context: int) -> Iterator[tuple[Transfer, ...]]:
        mapping = self._mapping
        blocks, d = -(-context // mapping.banks), op.d_head
        bias = Transfer("WR_BIAS", "bias", (self._zeros,) * mapping.channels)
        for local in range(mapping.heads_per_channel):
            for query in range(mapping.queries):
                start = self._query_start(query, d)
                for slot in range(-(-blocks // mapping.channels_per_head)):
                    load = () if slot else (self._load("input", self._vectors(local, start, d), 0),)
                    yield (*load, bias, Transfer("RD_MAC", "output", self._tokens(local, query, slot, context)))

    def _query_start(self, query: int, width: int) -> Callable[[int], int]:
        """First element of a query head, by its head of keys and values, where each has ``width``."""
        return lambda head: (head * self._mapping.queries + query) * width

    def _tokens(self, local: int, query: int, slot: int, context: int) -> Elements:
        """Scores that a block of tokens in each bank gives."""
        mapping, rows = self._mapping, []
        for channel in range(mapping.channels):
            found = self._head(local, channel)
            first = context if found is None else (slot * mapping.channels_per_head + found[1]) * mapping.banks
            head = 0 if found is None else found[0] * mapping.queries + query
            tokens = range(first, first + mapping.banks)
            rows.append(tuple(head * context + token if token < context else NOTHING for token in tokens))
        return tuple(rows)

    def _values(self, op: ops.Values, context: int) -> Iterator[tuple[Transfer, ...]]:
        mapping = self._mapping
        tiles = mapping.tiles(context)
        bias = Transfer("WR_BIAS", "bias", (self._zeros,) * mapping.channels)
        for local in range(mapping.heads_per_channel):
            for query in range(mapping.queries):
                shares = self._vectors(local, self._query_start(query, context), context)
                for group in range(mapping.element_groups):
                    loads = [self._load("input", shares, tile) for tile in range(tiles) if tiles > 1 or not group]
                    yield (bias, *loads, Transfer("RD_MAC", "output", self._sums(op, local, query, group)))

    def _sums(self, op: ops.Values, local: int, query: int, group: int) -> Elements:
        """Weighted sums that the banks give: those of a head of values, for one of its query heads."""
        mapping, rows = self._mapping, []
        for channel in range(mapping.channels):
            elements = (self._element(op, local, group, channel, bank) for bank in range(mapping.banks))
            rows.append(tuple(at if at == NOTHING else self._of_query(at, query, op.d_head) for at in elements))
        return tuple(rows)

    def _of_query(self, element: int, query: int, d_head: int) -> int:
        head, within = divmod(element, d_head)
        return (head * self._mapping.queries + query) * d_head + within


__all__ = ["AimHostData"]
