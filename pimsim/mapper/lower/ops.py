"""Lowering of each operation to the steps of a block: what runs where, and who waits for whom.

A lowering function takes the `LayerLowering` (block under construction, layouts, SRAM map, results so far) and the
operation,
adds steps and returns where the result lies. The vector-matrix work goes to the channels, everything else to the ASIC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from pimsim.errors import UnsupportedOp
from pimsim.mapper.builder import BlockBuilder, Part, Result
from pimsim.mapper.layout import KeyLayout, TableLayout, ValueLayout, WeightLayout
from pimsim.mapper.lower.pim import PimLowering
from pimsim.mapper.sram import SramMap
from pimsim.program.isa import Block, Compute, Item
from pimsim.workload import ops
from pimsim.workload.graph import WorkloadGraph


@dataclass
class LayerLowering:
    """Everything that lowering the operations of one block needs."""

    builder: BlockBuilder
    pim: PimLowering
    sram: SramMap
    layouts: Mapping[str, Any]
    """Weight, key, value and table layouts by operation name within the layer."""
    graph: WorkloadGraph
    context: int
    """Tokens that attention sees, the current one included."""
    heads_per_pass: int
    """Heads whose scores fit the SRAM at once."""
    score_pitch: int
    """SRAM elements per score row."""
    results: dict[str, Result] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    """Blocks that are finished."""
    scores_only: bool = False
    """Leave out what follows the scores: the caller has it already."""
    token: int = 0
    """Token whose embedding is read."""

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.pim.shape.channels

    def lower(self, op: ops.OpNode) -> None:
        """Lower one operation.

        Raises:
            UnsupportedOp: no unit of this machine can run it.
        """
        lowering = LOWERINGS.get(type(op))
        if lowering is None:
            raise UnsupportedOp(
                f"operation {op.name!r} must be one that channels or the ASIC can run, not {type(op).__name__}; "
                f"choices: {', '.join(sorted(kind.__name__ for kind in LOWERINGS))}"
            )
        self.results[op.name] = lowering(self, op)

    def cut(self, name: str) -> None:
        """End the block under construction and begin the next one; a border costs no time, tokens cross it."""
        self.blocks.append(self.builder.build())
        self.builder = BlockBuilder(name, self.channels, serial=self.builder.serial, after=self.builder.barrier())

    def finish(self) -> tuple[Block, ...]:
        """End the last block; returns all of them."""
        self.blocks.append(self.builder.build())
        return tuple(self.blocks)

    def short(self, op: ops.OpNode) -> str:
        """Name of an operation within its layer, for tokens, buffers and layouts."""
        return op.name.partition(".")[2] or op.name


def lower_linear(b: LayerLowering, op: ops.Linear) -> Result:
    """Y = x W + b: chunks of the input one after the other on the channels, bias and partial sums on the ASIC.

    The results of the last chunk are handed over in pieces of the size of the global buffer, so that what follows
    can begin.
    """
    name, layout = b.short(op), b.layouts[b.short(op)]
    assert isinstance(layout, WeightLayout)
    source, shape = b.results[op.inputs[0]], b.pim.shape
    target = b.sram[name]
    pitch = shape.banks * shape.channels
    whole = layout.slots(0)
    piece = whole if b.builder.serial else max(1, shape.buffer // pitch)
    parts: list[Part] = []
    for chunk, length in enumerate(layout.chunks):
        last = chunk == len(layout.chunks) - 1
        product = b.builder.op(op.kind, op.name)
        adding = b.builder.op("partial_sum" if chunk else "bias", f"{op.name}.{chunk}")
        start = chunk * shape.buffer
        waits = source.tokens(start, start + length)
        if chunk > 2:  # the buffer of partial results is free again
            waits += (f"{name}.sum{chunk - 2}",)
        into = target if chunk == 0 else b.sram[f"partial{chunk % 2}"]
        step = piece if last else whole
        _product_steps(b, product, layout, chunk, (source.sram, into), step, waits, name)
        for j, group in enumerate(range(0, whole, step)):
            first, stop = group * pitch, min(op.d_out, (group + step) * pitch)
            summed = f"{name}.part{j}" if last else f"{name}.sum{chunk}"
            operands = (target + first,) if chunk == 0 else (target + first, into + first)
            add = Compute("add", stop - first, operands, target + first, f"{name}.bias" if chunk == 0 else "", first)
            b.builder.asic(adding, (add,), (f"{name}.out{chunk}.{j}",), (summed,))
            if last:
                parts.append(Part(first, stop, summed))
    return Result(target, tuple(parts))


def _product_steps(
    b: LayerLowering,
    op: int,
    layout: WeightLayout,
    chunk: int,
    sram: tuple[int, int],
    piece: int,
    waits: tuple[str, ...],
    name: str,
) -> None:
    """The channels' steps for one chunk, channels with equally many groups sharing theirs."""
    by_slots: dict[int, list[int]] = {}
    for channel in range(b.channels):
        by_slots.setdefault(layout.slots(channel), []).append(channel)
    for slots, channels in by_slots.items():
        if not slots:
            continue
        for j, items in enumerate(b.pim.product_items(layout, chunk, slots, *sram, piece)):
            b.builder.pim(op, channels, items, waits if j == 0 else (), (f"{name}.out{chunk}.{j}",))


def lower_cache_write(b: LayerLowering, op: ops.CacheWrite) -> Result:
    """The key goes to its bank at once; in an overlapped program the value follows the scores, while the ASIC is busy."""
    qkv = b.results[op.inputs[0]]
    keys = b.layouts["keys"]
    assert isinstance(keys, KeyLayout)
    width = op.heads * op.d_head
    write = b.builder.op(op.kind, op.name)
    channel, items = b.pim.key_write(keys, b.context - 1, qkv.sram + width)
    b.builder.pim(write, [channel], items, qkv.tokens(width, 2 * width))
    if b.builder.serial:
        _write_values(b, op.kind, op.name, qkv, width, write)
    return qkv


def _write_values(b: LayerLowering, kind: str, name: str, qkv: Result, width: int, op: int | None = None) -> None:
    values = b.layouts["values"]
    assert isinstance(values, ValueLayout)
    op = b.builder.op(kind, name) if op is None else op
    for channel in range(b.channels):
        items = b.pim.value_write(values, channel, b.context - 1, qkv.sram + 2 * width)
        b.builder.pim(op, [channel], items, qkv.tokens(2 * width, 3 * width))


def _head_passes(b: LayerLowering, keys: KeyLayout) -> list[range]:
    """Heads whose scores are in SRAM together."""
    return [range(h, min(h + b.heads_per_pass, keys.heads)) for h in range(0, keys.heads, b.heads_per_pass)]


def lower_scores(b: LayerLowering, op: ops.Scores) -> Result:
    """Scores, softmax and weighted values of one pass of heads after the other; one pass if the SRAM holds all scores.

    The graph names the three operations separately, but a pass of heads must finish before its SRAM is used again, so
    they are lowered together; their own lowering functions then find everything done.
    """
    softmax = b.graph.consumers(op.name)[0]
    values = b.graph.consumers(softmax.name)[0]
    assert isinstance(softmax, ops.Softmax)
    assert isinstance(values, ops.Values)
    keys = b.layouts["keys"]
    qkv = b.results[op.inputs[0]]
    kv = next(b.graph[name] for name in op.inputs if isinstance(b.graph[name], ops.CacheWrite))
    tokens: tuple[str, ...] = ()
    for number, heads in enumerate(_head_passes(b, keys)):
        scored = _score_pass(b, op, heads, number, qkv, tokens)
        if number == 0:
            # what comes before depends on where this token's key goes, what comes after is the same for many tokens
            b.cut("attention")
            if b.scores_only:
                break
        if number == 0 and not b.builder.serial:
            _write_values(b, kv.kind, kv.name, qkv, op.heads * op.d_head)
        ready = _softmax_pass(b, softmax, heads, number, scored)
        tokens = _value_pass(b, values, heads, number, ready)
    return Result(b.sram["scores"], ())


def _score_pass(
    b: LayerLowering, op: ops.Scores, heads: range, number: int, qkv: Result, free: tuple[str, ...]
) -> tuple[str, ...]:
    keys = b.layouts["keys"]
    index = b.builder.op(op.kind, f"{op.name}.{number}")
    signals: list[str] = []
    for chunk, all_heads in enumerate(keys.chunks):
        own = range(max(heads.start, all_heads.start), min(heads.stop, all_heads.stop))
        if not own:
            continue
        token = f"scores{number}.{chunk}"
        target = b.sram["scores"] + (own.start - heads.start) * b.score_pitch
        by_slots: dict[int, list[int]] = {}
        for channel in range(b.channels):
            by_slots.setdefault(keys.slots(channel, b.context), []).append(channel)
        for slots, channels in by_slots.items():
            items = b.pim.score_items(keys, own, slots, qkv.sram, target, b.score_pitch)
            waits = qkv.tokens(own.start * op.d_head, own.stop * op.d_head) + free
            b.builder.pim(index, channels, items, waits, (token,))
        signals.append(token)
    return tuple(signals)


def _softmax_pass(
    b: LayerLowering, op: ops.Softmax, heads: range, number: int, scored: tuple[str, ...]
) -> dict[int, tuple[str, ...]]:
    """Softmax head by head; returns the token of each head."""
    index = b.builder.op(op.kind, f"{op.name}.{number}")
    per_chunk = b.layouts["keys"].heads_per_chunk
    ready: dict[int, tuple[str, ...]] = {}
    for h in heads:
        row = b.sram["scores"] + (h - heads.start) * b.score_pitch
        chunk = h // per_chunk
        wait = next(token for token in scored if token.endswith(f".{chunk}"))
        token = f"softmax.h{h}"
        # exp(s - max) in place, their sum to `sums`; the division follows the weighted sum
        compute = Compute("softmax", b.context, (row,), row, total=b.sram["sums"] + h, group=b.pim.shape.lanes)
        b.builder.asic(index, (compute,), (wait,), (token,))
        ready[h] = (token,)
    sums = b.sram["sums"] + heads.start
    b.builder.asic(index, (Compute("reciprocal", len(heads), (sums,), sums),), (token,), (f"reciprocals{number}",))
    return ready


def _value_pass(
    b: LayerLowering, op: ops.Values, heads: range, number: int, ready: dict[int, tuple[str, ...]]
) -> tuple[str, ...]:
    values = b.layouts["values"]
    assert isinstance(values, ValueLayout)
    chunks = ceil(b.context / values.chunk_tokens)
    own = range(heads.start * values.groups_per_head, heads.stop * values.groups_per_head)
    index = b.builder.op(op.kind, f"{op.name}.{number}")
    adding = b.builder.op("partial_sum", f"{op.name}.{number}.sum") if chunks > 1 else -1
    scale = b.builder.op("softmax", f"{op.name}.{number}.scale")
    finished: dict[str, None] = {}
    for chunk in range(chunks):
        length = min(b.context - chunk * values.chunk_tokens, values.chunk_tokens)
        into = b.sram["values"] if chunk == 0 else b.sram[f"weighted{chunk % 2}"]
        token = f"weighted{number}.{chunk}"
        for channel in range(b.channels):
            for h, groups in _by_head(values, channel, own).items():
                row = b.sram["scores"] + (h - heads.start) * b.score_pitch + chunk * values.chunk_tokens
                columns = ceil(length / b.pim.shape.lanes)
                items = b.pim.value_items(values, channel, groups, chunk, columns, row, into)
                waits = ready[h] + ((f"weighted{number}.sum{chunk - 2}",) if chunk > 2 else ())
                b.builder.pim(index, [channel], items, waits, (token,))
        first, width = heads.start * op.d_head, len(heads) * op.d_head
        if chunk:
            summed = f"weighted{number}.sum{chunk}"
            add = Compute("add", width, (b.sram["values"] + first, into + first), b.sram["values"] + first)
            b.builder.asic(adding, (add,), (token,), (summed,))
            finished = {summed: None}
        else:
            finished = {token: None}
    done = f"attended{number}"
    divide = Compute(
        "scale",
        width,
        (b.sram["values"] + first, b.sram["sums"] + heads.start),
        b.sram["values"] + first,
        group=op.d_head,
    )
    b.builder.asic(scale, (divide,), (*finished, f"reciprocals{number}"), (done,))
    return (done,)


def _by_head(values: ValueLayout, channel: int, groups: range) -> dict[int, range]:
    """Groups of a channel that lie in ``groups``, head by head."""
    mine = values.channel_groups(channel)
    found: dict[int, range] = {}
    for g in range(max(mine.start, groups.start), min(mine.stop, groups.stop)):
        h = g // values.groups_per_head
        found[h] = range(found[h].start, g + 1) if h in found else range(g, g + 1)
    return found


def lower_softmax(b: LayerLowering, op: ops.Softmax) -> Result:
    """Done with the scores."""
    return b.results[op.inputs[0]]


def lower_values(b: LayerLowering, op: ops.Values) -> Result:
    """Done with the scores; only the result is named here."""
    passes = _head_passes(b, b.layouts["keys"])
    parts = tuple(
        Part(heads.start * op.d_head, heads.stop * op.d_head, f"attended{number}")
        for number, heads in enumerate(passes)
    )
    return Result(b.sram["values"], parts)


def lower_layernorm(b: LayerLowering, op: ops.LayerNorm) -> Result:
    """One call over the whole vector."""
    return _whole(b, op, "layernorm", op.width, b.sram["norm"])


def lower_residual(b: LayerLowering, op: ops.Residual) -> Result:
    """In place: the stream keeps its buffer."""
    return _whole(b, op, "add", op.width, b.results[op.inputs[0]].sram)


def lower_argmax(b: LayerLowering, op: ops.ArgMax) -> Result:
    """One call per piece of logits."""
    return _whole(b, op, "argmax", op.width, b.sram["token"])


def _whole(b: LayerLowering, op: ops.OpNode, function: str, width: int, target: int) -> Result:
    name = b.short(op)
    index = b.builder.op(op.kind, op.name)
    sources = [b.results[i] for i in op.inputs]
    waits = tuple(dict.fromkeys(token for source in sources for token in source.tokens()))
    compute = Compute(function, width, tuple(s.sram for s in sources), target, name)
    b.builder.asic(index, (compute,), waits, (name,))
    return Result(target, (Part(0, width, name),))


def lower_gelu(b: LayerLowering, op: ops.Gelu) -> Result:
    """Piece by piece, in place, as the input arrives."""
    name = b.short(op)
    source = b.results[op.inputs[0]]
    index = b.builder.op(op.kind, op.name)
    parts: list[Part] = []
    for j, part in enumerate(source.parts):
        token = f"{name}.{j}"
        at = source.sram + part.start
        b.builder.asic(index, (Compute("gelu", part.stop - part.start, (at,), at),), (part.token,), (token,), soon=True)
        parts.append(Part(part.start, part.stop, token))
    return Result(source.sram, tuple(parts))


def lower_embedding(b: LayerLowering, op: ops.Embedding) -> Result:
    """Read the embeddings of the token and of its position, and add them.

    Which token it is depends on the numbers: the controller fills in its row (every row costs the same).
    """
    tokens, positions = b.layouts["token_table"], b.layouts["position_table"]
    assert isinstance(tokens, TableLayout)
    index = b.builder.op(op.kind, op.name)
    target, second, free = b.sram["x"], b.sram["norm"], b.results["previous"].tokens()
    for table, entry, into, token in (
        (tokens, b.token, target, "embed.token"),
        (positions, (b.context - 1) % positions.entries, second, "embed.position"),
    ):
        channel, items = b.pim.table_read(table, entry, into)
        # what is signalled is the data, so the step ends with the reads; the precharge follows in a step of its own
        b.builder.pim(index, [channel], items[:-1], free, (token,))
        b.builder.pim(index, [channel], items[-1:])
    add = b.builder.op("residual", f"{op.name}.add")
    compute = Compute("add", op.width, (target, second), target)
    b.builder.asic(add, (compute,), ("embed.token", "embed.position"), ("embedded",))
    return Result(target, (Part(0, op.width, "embedded"),))


LOWERINGS: dict[type, Callable[[LayerLowering, Any], Result]] = {
    ops.Embedding: lower_embedding,
    ops.LayerNorm: lower_layernorm,
    ops.Linear: lower_linear,
    ops.CacheWrite: lower_cache_write,
    ops.Scores: lower_scores,
    ops.Softmax: lower_softmax,
    ops.Values: lower_values,
    ops.Gelu: lower_gelu,
    ops.Residual: lower_residual,
    ops.ArgMax: lower_argmax,
}
"""Operation type -> its lowering. An operation without an entry is not supported by this machine."""

__all__ = ["LOWERINGS", "Item", "LayerLowering"]
