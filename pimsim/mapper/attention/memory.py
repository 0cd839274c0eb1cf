"""Lowerings of primitives that move words: what comes from memory, goes there, or changes its place."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from pimsim.errors import UnsupportedOp
from pimsim.mapper.attention.banks import View
from pimsim.mapper.attention.values import Value, WeightsValue, flat
from pimsim.program.isa import Run
from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.primitives import Primitive

if TYPE_CHECKING:
    from pimsim.mapper.attention.lowering import AttentionLowering


def source(b: AttentionLowering, op: prim.Source) -> None:
    """An operand that is there before the program begins: in the banks, on chip, or both."""
    if op.name in b.given:
        b.values[op.name] = b.given[op.name]
        return
    value = Value(op.shape, view=b.views.get(op.name))
    direct = [
        (reader, position)
        for reader, position in b.readers[op.name]
        if not (value.view is not None and b.reads_memory(reader, position))
    ]
    if op.name not in b.in_banks and (value.view is None or direct):
        value.buffer = b.space.take(op.name, op.size)
        value.buffer.uses = 1
    b.values[op.name] = value


def keep(b: AttentionLowering, op: prim.Keep) -> None:
    """A result that outlives the program, where it lies."""
    kept = b.alias(op.name, b.values[op.inputs[0]], op.shape)
    b.persistent[op.name] = kept


def store(b: AttentionLowering, op: prim.Store) -> None:
    """A result is written to memory."""
    value = b.on_chip(op.inputs[0])
    view = b.views[op.name]
    tokens = b.write_rows(view, value)
    if all(b.reads_memory(reader, position) for reader, position in b.readers[op.name]):
        b.values[op.name] = Value(op.shape, view=view, tokens=tokens, band=value.band)
        return
    stored = b.alias(op.name, value, op.shape)
    stored.view, stored.tokens = view, tokens


def load(b: AttentionLowering, op: prim.Load) -> None:
    """Rows are read, or stay in the banks if only products use them."""
    value = b.values[op.inputs[0]]
    if isinstance(value, WeightsValue) or value.view is None:
        raise UnsupportedOp(
            f"{op.name} must load rows of a tensor as they lie in memory, not of {op.inputs[0]}, which cuts them another way "
            "or is on chip"
        )
    if op.name in b.views:
        b.values[op.name] = Value(op.shape, view=b.views[op.name], tokens=value.tokens, load=op.name)
        return
    view = value.view.part(1, op.rows.start, op.rows.stop, op.rows.step)
    if view is None:
        raise UnsupportedOp(f"{op.name} must load rows of one head of {op.inputs[0]}, not of several")
    b.values[op.name] = b.read_view(view, op.name, op.shape, value.tokens)
    b.values[op.name].band = value.band


def append(b: AttentionLowering, op: prim.Append) -> None:
    """New rows are written behind those of a cache."""
    cache, new = b.values[op.inputs[0]], b.on_chip(op.inputs[1])
    view = b.views[op.name]
    added = View(view.tensor, view.heads, range(view.rows.stop - op.sources[1][-2], view.rows.stop))
    b.values[op.name] = Value(op.shape, view=view, tokens={**cache.tokens, **b.write_rows(added, new)})


def gather(b: AttentionLowering, op: prim.Gather) -> None:
    """Chosen rows are read, those of a DRAM row together, and other banks at the same time."""
    if op.on_chip:
        moved(b, op)
        return
    source = b.values[op.inputs[0]]
    if source.view is None:
        raise UnsupportedOp(f"{op.name} must gather from a tensor in memory, not from a result on chip")
    index = b.on_chip(op.inputs[1])  # addresses are known when it is there
    if op.inputs[1] not in b.indices:
        raise UnsupportedOp(f"{op.name} must be given the outcome of {op.inputs[1]}, on which its addresses depend")
    view, width = source.view, source.view.tensor.shape[2]
    target = b.new(op.name, op.shape)
    chosen = [row for index in flat(b.indices[op.inputs[1]]) for row in op.rows_of(index)]
    per_head = len(chosen) // op.shape[0]
    read: dict[int, list[Run]] = {}
    for number, row in enumerate(chosen):
        head = view.heads[number // per_head * len(view.heads) // op.shape[0]]
        piece = view.tensor.piece_of(head, view.rows[row])
        dot = piece.number_of(view.rows[row])
        runs = b.row_access("RD", piece, dot, target.at + number * width)
        read.setdefault(piece.owner(dot // b.shape.banks), []).extend(runs)
    items = {channel: b.scattered(runs) for channel, runs in read.items()}
    token = b.on_channels(items, (*source.tokens, *b.waits([index], [target])))
    b.mark(token, [index], [target])
    b.values[op.name] = target


def moved(b: AttentionLowering, op: Primitive) -> None:
    """Elements that go to other places on chip."""
    sources = [b.on_chip(name) for name in op.inputs]
    target = b.new(op.name, op.shape)
    b.call("move", op.size, sources, target, op=op)
    b.values[op.name] = target


def part(b: AttentionLowering, op: prim.Part) -> None:
    """Some heads, rows or columns: a view of where they lie if they lie behind each other."""
    value = b.values[op.inputs[0]]
    if op.name in b.views:
        b.values[op.name] = Value(op.shape, view=b.views[op.name], tokens=value.tokens, load=value.load)
        if value.buffer is None:
            return
    value = b.on_chip(op.inputs[0])
    axis = op.axis % len(op.sources[0])
    if prod(op.sources[0][:axis]) == 1:  # entries of the first axis lie behind each other
        part = b.alias(op.name, value, op.shape, op.start * prod(op.sources[0][axis + 1 :]))
        part.view = b.views.get(op.name)
        part.band = None
        return
    moved(b, op)
    b.values[op.name].view = b.views.get(op.name)


def arrange(b: AttentionLowering, op: prim.Arrange) -> None:
    """Another shape or order of axes: only a name where elements keep their order."""
    value = b.values[op.inputs[0]]
    if value.buffer is None and op.name in b.views:
        b.values[op.name] = Value(op.shape, view=b.views[op.name], tokens=value.tokens)
        return
    value = b.on_chip(op.inputs[0])
    split = op.split or op.sources[0]
    if not op.order or _keeps_order(split, op.order):
        found = b.alias(op.name, value, op.shape)
        found.view, found.band = b.views.get(op.name), None
        return
    moved(b, op)


def _keeps_order(split: Sequence[int], order: Sequence[int]) -> bool:
    """Whether a permutation moves axes of one entry only."""
    long = [axis for axis in order if split[axis] > 1]
    return long == sorted(long)


__all__ = ["append", "arrange", "gather", "keep", "load", "moved", "part", "source", "store"]
