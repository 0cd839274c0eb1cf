"""Lowering of each operation to the steps of a block: what runs where, and who waits for whom.

A lowering function takes the `LayerLowering` (block under construction, layouts, SRAM map, results so far) and the
operation,
adds steps and returns where the result lies. The vector-matrix work goes to the channels, everything else to the ASIC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    freed: dict[str, str] = field(default_factory=dict)
    """SRAM buffer -> token after which it may be written again."""
    head_piece: int = 0
    """Groups of outputs (per channel) in a piece of the logits; 0 where the SRAM holds all logits at once."""
    places: dict[str, int] = field(default_factory=dict)
    """Filled with the SRAM address of every operation's result."""

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
        self.results[op.name] = result = lowering(self, op)
        self.places[op.name] = result.sram

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
    if b.head_piece and name == "lm_head":
        return _head_in_pieces(b, op, layout)
    source, shape = b.results[op.inputs[0]], b.pim.shape
    target = b.sram[name]
    pitch = shape.banks * shape.channels
    whole = layout.slots(0)
    piece = whole if b.builder.serial else max(1, shape.buffer // pitch)
    parts: list[Part] = []
    for chunk, length in enumerate(layout.chunks):
        last = chunk == len(layout.chunks) - 1
        product = b.builder.op(op.kind, op.name)
        adds = chunk > 0 or op.bias
        adding = b.builder.op("partial_sum" if chunk else "bias", f"{op.name}.{chunk}") if adds else -1
        start = chunk * layout.shape.buffer
        waits = source.tokens(start, start + length)
        partial = f"partial{chunk % 2}" if chunk else ""
        if (partial or name) in b.freed:
            waits += (b.freed[partial or name],)
        into = b.sram[partial] if chunk else target
        step = piece if last else whole
        _product_steps(b, product, layout, chunk, (source.sram, into), step, waits, name)
        for j, group in enumerate(range(0, whole, step)):
            first, stop = group * pitch, min(op.d_out, (group + step) * pitch)
            ready = f"{name}.out{chunk}.{j}"
            summed = f"{name}.part{j}" if last else f"{name}.sum{chunk}"
            if adds:
                operands = (target + first,) if chunk == 0 else (target + first, into + first)
                bias = f"{name}.bias" if chunk == 0 else ""
                add = Compute("add", stop - first, operands, target + first, bias, first if bias else 0)
                b.builder.asic(adding, (add,), (ready,), (summed,))
            else:
                summed = ready
            if chunk:
                b.freed[partial] = summed
            if last:
                parts.append(Part(first, stop, summed))
    return Result(target, tuple(parts))


def _head_in_pieces(b: LayerLowering, op: ops.Linear, layout: WeightLayout) -> Result:
    """Logits that do not fit the SRAM: piece by piece, each one reduced to its largest logit before the next but one comes.

    The token and its logit are kept next to each other. Pieces and partial sums take turns in two buffers each.
    """
    argmax = b.graph.consumers(op.name)[0]
    assert isinstance(argmax, ops.ArgMax)
    source, pitch = b.results[op.inputs[0]], b.pim.shape.banks * b.channels
    indices: dict[str, int] = {}

    def index(kind: str, name: str) -> int:
        """One operation for all pieces; in a serial program one for each, as a barrier follows each operation."""
        if b.builder.serial or name not in indices:
            indices[name] = b.builder.op(kind, name)
        return indices[name]

    pieces = range(0, layout.slots(0), b.head_piece)
    last = b.short(argmax)
    for number, start in enumerate(pieces):
        first, stop = start * pitch, min(op.d_out, (start + b.head_piece) * pitch)
        into, ready = f"lm_head{number % 2}", ""
        for chunk in range(len(layout.chunks)):
            buffer = into if chunk == 0 else f"head_partial{chunk % 2}"
            ready = f"lm_head.out{number}.{chunk}"
            at = chunk * layout.shape.buffer
            waits = source.tokens(at, at + layout.chunks[chunk])
            waits += (b.freed[buffer],) if buffer in b.freed else ()
            slots = range(start, start + b.head_piece)
            product = index(op.kind, op.name)
            _piece_steps(b, product, layout, chunk, slots, (source.sram, b.sram[buffer]), waits, ready)
            if chunk or op.bias:
                operands = (b.sram[into], b.sram[buffer])[: 2 if chunk else 1]
                bias = "" if chunk else "lm_head.bias"
                add = Compute("add", stop - first, operands, b.sram[into], bias, 0 if chunk else first)
                adding = index("partial_sum", f"{op.name}.sum")
                b.builder.asic(adding, (add,), (ready,), (f"lm_head.sum{number}.{chunk}",))
                ready = b.freed[buffer] = f"lm_head.sum{number}.{chunk}"
        b.freed[into] = f"{last}.{number}"
        search = Compute(
            "argmax", stop - first, (b.sram[into],), b.sram["token"], offset=first, total=b.sram["token"] + 1
        )
        ended = (last,) if start == pieces[-1] else ()
        searching = index(argmax.kind, argmax.name)
        b.builder.asic(searching, (search,), (ready,), (b.freed[into], *ended))
    return Result(b.sram["token"], (Part(0, op.d_out, last),))


def _piece_steps(
    b: LayerLowering,
    op: int,
    layout: WeightLayout,
    chunk: int,
    slots: range,
    sram: tuple[int, int],
    waits: tuple[str, ...],
    ready: str,
) -> None:
    """The channels' steps for one chunk of a piece, channels with equally many groups sharing theirs."""
    by_slots: dict[int, list[int]] = {}
    for channel in range(b.channels):
        by_slots.setdefault(min(slots.stop, layout.slots(channel)), []).append(channel)
    for stop, channels in by_slots.items():
        if stop > slots.start:
            items = b.pim.piece_items(layout, chunk, range(slots.start, stop), *sram)
            b.builder.pim(op, channels, items, waits, (ready,))


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
    queries, width = op.heads * op.d_head, op.kv_heads * op.d_head
    write = b.builder.op(op.kind, op.name)
    channel, items = b.pim.key_write(keys, b.context - 1, qkv.sram + queries)
    b.builder.pim(write, [channel], items, qkv.tokens(queries, queries + width))
    if b.builder.serial:
        _write_values(b, op, qkv, write)
    return qkv


def _write_values(b: LayerLowering, kv: ops.CacheWrite, qkv: Result, op: int | None = None) -> None:
    values = b.layouts["values"]
    assert isinstance(values, ValueLayout)
    op = b.builder.op(kv.kind, kv.name) if op is None else op
    start, width = (kv.heads + kv.kv_heads) * kv.d_head, kv.kv_heads * kv.d_head
    for channel in range(b.channels):
        items = b.pim.value_write(values, channel, b.context - 1, qkv.sram + start)
        b.builder.pim(op, [channel], items, qkv.tokens(start, start + width))


def _head_passes(b: LayerLowering, keys: KeyLayout) -> list[range]:
    """Query heads whose scores are in SRAM together."""
    heads = keys.query_heads
    return [range(h, min(h + b.heads_per_pass, heads)) for h in range(0, heads, b.heads_per_pass)]


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
    kv = next(node for node in map(b.graph.__getitem__, op.inputs) if isinstance(node, ops.CacheWrite))
    tokens: tuple[str, ...] = ()
    for number, heads in enumerate(_head_passes(b, keys)):
        scored = _score_pass(b, op, heads, number, qkv, tokens)
        if number == 0:
            # what comes before depends on where this token's key goes, what comes after is the same for many tokens
            b.cut("attention")
            if b.scores_only:
                break
        if number == 0 and not b.builder.serial:
            _write_values(b, kv, qkv)
        ready = _softmax_pass(b, softmax, heads, number, scored)
        tokens = _value_pass(b, values, heads, number, ready)
    return Result(b.sram["scores"], ())


def lower_attention_together(
    lowerings: Sequence[LayerLowering], write: ops.CacheWrite, op: ops.Scores, softmax: ops.Softmax, values: ops.Values
) -> None:
    """Attention of several tokens: while the ASIC works on one, channels go on with the next.

    Each token has buffers of its own. Keys are written and scores taken token by token, then values are; so a token's
    scores come before the keys of later ones, and what lies behind its context meets zeros.
    """
    if len(_head_passes(lowerings[0], lowerings[0].layouts["keys"])) > 1:
        for b in lowerings:  # the scores of one token fill its buffer several times
            for each in (write, op, softmax, values):
                b.lower(each)
        return
    scored = []
    for b in lowerings:
        b.lower(write)
        heads = range(b.layouts["keys"].query_heads)
        scored.append(_score_pass(b, op, heads, 0, b.results[op.inputs[0]], ()))
    for b, tokens in zip(lowerings, scored, strict=True):
        heads = range(b.layouts["keys"].query_heads)
        if not b.builder.serial:
            _write_values(b, write, b.results[op.inputs[0]])
        _value_pass(b, values, heads, 0, _softmax_pass(b, softmax, heads, 0, tokens))
        b.results[values.name] = lower_values(b, values)
        b.places |= {op.name: b.sram["scores"], softmax.name: b.sram["scores"], values.name: b.sram["values"]}


def _score_pass(
    b: LayerLowering, op: ops.Scores, heads: range, number: int, qkv: Result, free: tuple[str, ...]
) -> tuple[str, ...]:
    keys = b.layouts["keys"]
    index = b.builder.op(op.kind, f"{op.name}.{number}")
    signals: list[str] = []
    for chunk, shared in enumerate(keys.chunks):
        own = range(max(heads.start, shared.start * keys.group), min(heads.stop, shared.stop * keys.group))
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
    keys = b.layouts["keys"]
    ready: dict[int, tuple[str, ...]] = {}
    for h in heads:
        row = b.sram["scores"] + (h - heads.start) * b.score_pitch
        chunk = keys.key_head(h) // keys.heads_per_chunk
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
    index = b.builder.op(op.kind, f"{op.name}.{number}")
    adding = b.builder.op("partial_sum", f"{op.name}.{number}.sum") if chunks > 1 else -1
    finished: dict[str, None] = {}
    for chunk in range(chunks):
        if chunk > 2 and b.builder.serial:  # it waits for a partial sum, so that must have an operation before it
            index = b.builder.op(op.kind, f"{op.name}.{number}")
            adding = b.builder.op("partial_sum", f"{op.name}.{number}.sum")
        length = min(b.context - chunk * values.chunk_tokens, values.chunk_tokens)
        into = b.sram["values"] if chunk == 0 else b.sram[f"weighted{chunk % 2}"]
        token = f"weighted{number}.{chunk}"
        for channel in range(b.channels):
            for h in heads:
                shared = op.kv_heads * h // op.heads
                groups = _groups_of(values, channel, shared)
                if not groups:
                    continue
                row = b.sram["scores"] + (h - heads.start) * b.score_pitch + chunk * values.chunk_tokens
                columns = ceil(length / b.pim.shape.lanes)
                own = into + (h - shared) * op.d_head
                items = b.pim.value_items(values, channel, groups, chunk, columns, row, own)
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
    scale, done = b.builder.op("softmax", f"{op.name}.{number}.scale"), f"attended{number}"
    divide = Compute(
        "scale",
        width,
        (b.sram["values"] + first, b.sram["sums"] + heads.start),
        b.sram["values"] + first,
        group=op.d_head,
    )
    b.builder.asic(scale, (divide,), (*finished, f"reciprocals{number}"), (done,))
    return (done,)


def _groups_of(values: ValueLayout, channel: int, head: int) -> range:
    """Groups of a head that lie in a channel."""
    mine, n = values.channel_groups(channel), values.groups_per_head
    return range(max(mine.start, head * n), min(mine.stop, (head + 1) * n))


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


def lower_rmsnorm(b: LayerLowering, op: ops.RmsNorm) -> Result:
    """One call over the whole vector."""
    return _whole(b, op, "rmsnorm", op.width, b.sram["norm"])


def lower_rope(b: LayerLowering, op: ops.Rope) -> Result:
    """Queries and keys of all heads in one call, in place; the values stay as they are."""
    qkv, name = b.results[op.inputs[0]], b.short(op)
    turned = (op.heads + op.kv_heads) * op.d_head
    index = b.builder.op(op.kind, op.name)
    compute = Compute("rope", turned, (qkv.sram,), qkv.sram, name, group=op.d_head)
    b.builder.asic(index, (compute,), qkv.tokens(0, turned), (name,))
    values = tuple(Part(max(part.start, turned), part.stop, part.token) for part in qkv.parts if part.stop > turned)
    return Result(qkv.sram, (Part(0, turned, name), *values))


def lower_residual(b: LayerLowering, op: ops.Residual) -> Result:
    """In place: the stream keeps its buffer."""
    return _whole(b, op, "add", op.width, b.results[op.inputs[0]].sram)


def lower_argmax(b: LayerLowering, op: ops.ArgMax) -> Result:
    """One call over all logits; logits in pieces have been searched already."""
    if b.head_piece:
        return b.results[op.inputs[0]]
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
    """Piece by piece, in place."""
    return _elementwise(b, op, "gelu")


def _elementwise(b: LayerLowering, op: ops.OpNode, function: str) -> Result:
    """A function of each element, piece by piece as the input arrives, in place."""
    name = b.short(op)
    source = b.results[op.inputs[0]]
    index = b.builder.op(op.kind, op.name)
    parts: list[Part] = []
    for j, part in enumerate(source.parts):
        token = f"{name}.{j}"
        at = source.sram + part.start
        call = Compute(function, part.stop - part.start, (at,), at)
        b.builder.asic(index, (call,), (part.token,), (token,), soon=True)
        parts.append(Part(part.start, part.stop, token))
    return Result(source.sram, tuple(parts))


def _asic_function(op: ops.Gate | ops.Activation) -> str:
    """Name of the ASIC's function for a nonlinearity.

    Raises:
        UnsupportedOp: the ASIC has none.
    """
    known = {"silu": "silu", "gelu_tanh": "gelu", "gelu_erf": "gelu_erf", "relu": "relu"}
    if op.function not in known:
        raise UnsupportedOp(
            f"activation of {op.name!r} must be one that the ASIC has, not {op.function}; choices: {', '.join(known)}"
        )
    return known[op.function]


def lower_activation(b: LayerLowering, op: ops.Activation) -> Result:
    """Piece by piece, in place."""
    return _elementwise(b, op, _asic_function(op))


def lower_gate(b: LayerLowering, op: ops.Gate) -> Result:
    """The nonlinearity of the first half as it arrives, then its product with the second half; in place."""
    name, source, width = b.short(op), b.results[op.inputs[0]], op.width
    index, function = b.builder.op(op.kind, op.name), _asic_function(op)
    opened: list[Part] = []
    parts: list[Part] = []
    for j, part in enumerate(source.parts):
        if part.start < width:
            at, stop, token = source.sram + part.start, min(part.stop, width), f"{name}.open{j}"
            call = Compute(function, stop - part.start, (at,), at)
            b.builder.asic(index, (call,), (part.token,), (token,), soon=True)
            opened.append(Part(part.start, stop, token))
        if part.stop > width:
            start, stop, token = max(part.start, width) - width, part.stop - width, f"{name}.{j}"
            gates = tuple(gate.token for gate in opened if gate.stop > start and gate.start < stop)
            at = source.sram + start
            call = Compute("multiply", stop - start, (at, at + width), at)
            b.builder.asic(index, (call,), (part.token, *gates), (token,))
            parts.append(Part(start, stop, token))
    return Result(source.sram, tuple(parts))


def lower_embedding(b: LayerLowering, op: ops.Embedding) -> Result:
    """Read the embedding of the token and, where positions have a table, that of its position, and add them.

    Which token it is depends on the numbers: the controller fills in its row (every row costs the same).
    """
    tokens = b.layouts["token_table"]
    assert isinstance(tokens, TableLayout)
    index = b.builder.op(op.kind, op.name)
    target, second, free = b.sram["x"], b.sram["norm"], b.results["previous"].tokens()
    reads = [(tokens, b.token, target, "embed.token" if op.positions else "embedded")]
    if op.positions:
        positions = b.layouts["position_table"]
        reads.append((positions, (b.context - 1) % positions.entries, second, "embed.position"))
    for table, entry, into, token in reads:
        channel, items = b.pim.table_read(table, entry, into)
        # what is signalled is the data, so the step ends with the reads; the precharge follows in a step of its own
        b.builder.pim(index, [channel], items[:-1], free, (token,))
        b.builder.pim(index, [channel], items[-1:])
    if not op.positions:
        return Result(target, (Part(0, op.width, "embedded"),))
    add = b.builder.op("residual", f"{op.name}.add")
    compute = Compute("add", op.width, (target, second), target)
    b.builder.asic(add, (compute,), ("embed.token", "embed.position"), ("embedded",))
    return Result(target, (Part(0, op.width, "embedded"),))


LOWERINGS: dict[type, Callable[[LayerLowering, Any], Result]] = {
    ops.Embedding: lower_embedding,
    ops.LayerNorm: lower_layernorm,
    ops.RmsNorm: lower_rmsnorm,
    ops.Rope: lower_rope,
    ops.Linear: lower_linear,
    ops.CacheWrite: lower_cache_write,
    ops.Scores: lower_scores,
    ops.Softmax: lower_softmax,
    ops.Values: lower_values,
    ops.Gelu: lower_gelu,
    ops.Activation: lower_activation,
    ops.Gate: lower_gate,
    ops.Residual: lower_residual,
    ops.ArgMax: lower_argmax,
}
"""Operation type -> its lowering. An operation without an entry is not supported by this machine."""

__all__ = ["LOWERINGS", "Item", "LayerLowering", "lower_attention_together"]
